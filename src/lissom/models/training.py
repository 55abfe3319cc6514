"""Training: a model, a task's loss, and Lightning's loop around them.

    work folder   .training-<stage folder>/last.ckpt   written after every epoch, removed when all is done
    logs          <run folder>/logs/<stage>/           what TensorBoard reads; MLflow too when installed

A run that was killed goes on from the last epoch's checkpoint and ends with the same bits.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lissom.artifact import Artifact
from lissom.errors import DataError, MachineError
from lissom.logs import log, quiet_libraries
from lissom.models.augmentation import Augmenter
from lissom.models.data import Data
from lissom.models.forward import taken_by_torch
from lissom.models.loading import start
from lissom.models.masks import keep_zeros, recount_zeros
from lissom.models.processes import place
from lissom.models.score_kinds import kind_of_torch
from lissom.models.stages import Context, save_torch, signature_of, tell_kind
from lissom.models.target_scale import TargetScale, find_target_scale, standardized
from lissom.models.tasks import Task
from lissom.optional import is_installed
from lissom.recipe import Optimization, TrainConfig
from lissom.runtime.arrays import shared_tensor_of
from lissom.structure import factory_of, load_model

if TYPE_CHECKING:
    from lissom.artifact import Factory
    from lissom.models.loop import BatchLoss

LOGS_NAME = "logs"
_LAST, _BEST = "last.ckpt", "best.ckpt"
_PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
_DAMAGE = (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def train(parents: Mapping[str, Artifact], config: TrainConfig, context: Context) -> Artifact:
    """Train on the train split with the loss of the task."""
    model, factory = starting_model(parents, context)
    if not parents:
        context = context.with_data(taken_by_torch(model, context.data))
    before = parents["input"].manifest.notes if "input" in parents else {}
    context = with_known_scores(model, context)
    scale = find_target_scale(model, context.data, context.task)
    history = fit(model, context, config, after_step=keep_zeros(model, before))
    notes: dict[str, Any] = {"history": history} | ({"targets": scale.notes()} if scale else {})
    return save_torch(model, factory, context, notes=notes | recount_zeros(model, before))


def with_known_scores(model: nn.Module, context: Context) -> Context:
    """The context of a new model with what its first output holds, which decides the loss."""
    if "scores" in context.fields or not len(context.data.indices["train"]):
        return context
    sample = {name: array[:2] for name, array in context.data.tensors("train").items()}
    signature = signature_of(model.eval(), context.data, sample)
    kind = kind_of_torch(model, signature, context.data, context.fields["task"])
    tell_kind(kind, context)
    return context.with_scores(kind)


def starting_model(parents: Mapping[str, Artifact], context: Context) -> tuple[nn.Module, Factory]:
    """The model of the parent, or a new one from the recipe's factory."""
    if parent := parents.get("input"):
        return load_model(parent), factory_of(parent)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        return start(context.model, context.data)


def fit(
    model: nn.Module,
    context: Context,
    config: Optimization,
    *,
    loss: BatchLoss | None = None,
    added: Callable[[], Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
    part: str = "",
    targets: TargetScale | None = None,
) -> list[dict[str, float]]:
    """Optimise `model` in place, by the loss of the task unless another is given; gives each epoch's figures.

    Args:
        model: Model that is changed; its weights are those of the last epoch, or the best.
        context: Of the stage.
        config: How weights are optimised.
        loss: Of outputs and batch, in place of the task's.
        added: Gives what is added to every batch's loss, such as a penalty of weights.
        after_step: Called after every step of the optimiser, such as to keep zeros zero.
        part: Names the training where a stage has several.
        targets: Scale of the targets where the model gives standardised outputs; default: a scale is found,
            taken out of the model, and put back when it is trained.

    Raises:
        ModelError: the outputs of the model do not fit the labels.
        DataError: a class is missing, or the loss becomes NaN or infinite; the message names epoch, step and
            samples, and the last good checkpoint is kept.
        MachineError: float16 was asked for without a GPU.
    """
    data, task = context.data, context.task
    check_trainable(model, data, task, config)
    own = find_target_scale(model, data, task) if targets is None else None
    with standardized(model, own, data):
        return _optimize(model, context, config, _Hooks(loss, added, after_step), part, own or targets)


class _Hooks(NamedTuple):
    """What is done beside the steps; see `fit`."""

    loss: BatchLoss | None
    added: Callable[[], Tensor] | None
    after_step: Callable[[], None] | None


def _optimize(
    model: nn.Module,
    context: Context,
    config: Optimization,
    hooks: _Hooks,
    part: str,
    targets: TargetScale | None,
) -> list[dict[str, float]]:
    data = context.data
    augment = Augmenter(config.augment, data) if config.augment.active else None
    work = context.work_folder / part
    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        from lissom.models.loop import TrainingModule

        checkpoint = _usable_checkpoint(work / _LAST)
        if checkpoint is None:
            (work / _BEST).unlink(missing_ok=True)
        loader = _train_loader(data, config, context.seed, epoch=_num_epochs(checkpoint))
        steps_per_epoch = -(-len(loader) // config.accumulate)
        module = TrainingModule(
            model,
            config,
            context.task,
            hooks.loss,
            augment=augment,
            targets=targets,
            steps_per_epoch=steps_per_epoch,
            seed=context.seed,
            samples=data.indices["train"],
        )
        module.added, module.after_step = hooks.added, hooks.after_step
        if checkpoint is None or not _finished(checkpoint, config):
            _run_loop(module, loader, context, config, part, resumes=checkpoint is not None)
            checkpoint = _checkpoint(work / _LAST)
        chosen = _checkpoint(work / _BEST) if config.selects else checkpoint
        _take_weights(model, chosen)
        history: list[dict[str, float]] = checkpoint["lissom"]["history"]
    return history


def check_trainable(model: nn.Module, data: Data, task: Task, config: Optimization) -> None:
    """Refuse what cannot be trained, before any step is made."""
    if config.precision == "float16" and not torch.cuda.is_available():
        raise MachineError(
            "float16 training needs a GPU; this machine has none", hint="set precision to bfloat16"
        )
    if len(data.indices["train"]) < 2:
        raise DataError(f"{data.source}: {len(data.indices['train'])} training samples are too few")
    _check_batches(model, data, config)
    if data.kind == "classes":
        if data.num_classes < 2:
            raise DataError(f"{data.source} has {data.num_classes} class; classification needs two")
        data.check_classes(("train",))
    sample = {name: array[:2] for name, array in data.tensors("train").items()}
    task.check(signature_of(model.eval(), data, sample).outputs, data)


def _check_batches(model: nn.Module, data: Data, config: Optimization) -> None:
    """Refuse batches that leave a process without a sample, or batch normalisation with one."""
    world = place().world
    normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    least = 2 * world if normalises else world
    found = min(config.batch_size, len(data.indices["train"]))
    if found < least:
        why = "batch normalisation needs two samples" if normalises else "every process needs a sample"
        raise DataError(
            f"a batch of {found} is too small for {world} processes: {why}", hint="raise batch_size"
        )


def _run_loop(
    module: Any,
    loader: DataLoader[Any],
    context: Context,
    config: Optimization,
    part: str,
    *,
    resumes: bool,
) -> None:
    import lightning

    from lissom.models.loop import StepProgress

    module.model.train()
    if config.channels_last:
        module.model.to(memory_format=torch.channels_last)
    num_steps = config.epochs * len(loader)
    here, work = place(), context.work_folder / part
    what = " ".join(filter(None, (context.fields["stage"], context.fields["name"], part)))
    with context.progress.task(what, num_steps) as advance:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            accelerator="auto",
            devices=here.local_world,
            num_nodes=here.world // here.local_world,
            strategy="ddp" if here.world > 1 else "auto",
            precision=_PRECISIONS[config.precision],
            accumulate_grad_batches=config.accumulate,
            logger=_loggers(context, part),
            callbacks=[*_callbacks(config, work), StepProgress(advance, num_steps)],
            default_root_dir=work,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with _interruptible():
            trainer.fit(
                module,
                loader,
                DataLoader(_samples(context.data, "select"), batch_size=max(64, config.batch_size)),
                ckpt_path=work / _LAST if resumes else None,
                weights_only=True,
            )
    module.model.cpu().to(memory_format=torch.contiguous_format)


def _callbacks(config: Optimization, work: Path) -> list[Any]:
    from lightning.pytorch import callbacks

    found: list[Any] = []
    if config.ema is not None:
        found.append(callbacks.EMAWeightAveraging(decay=config.ema))
    if config.early_stopping is not None:
        rule = config.early_stopping
        found.append(
            callbacks.EarlyStopping(
                "select_score", mode="max", patience=rule.patience, min_delta=rule.min_delta
            )
        )
    if config.selects:
        found.append(_checkpoint_callback(work, _BEST, monitor="select_score", mode="max", save_top_k=1))
    return [*found, _checkpoint_callback(work, _LAST, save_top_k=1)]


def _checkpoint_callback(work: Path, name: str, **rule: Any) -> Any:
    from lissom.models.loop import Keeper

    return Keeper(
        dirpath=work,
        filename=name.removesuffix(".ckpt"),
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        **rule,
    )


def _loggers(context: Context, part: str) -> list[Any]:
    """TensorBoard always, and MLflow when it is installed."""
    from lightning.pytorch.loggers import TensorBoardLogger

    folder, name = context.folder.parent, "-".join(filter(None, (str(context.fields["name"]), part)))
    found: list[Any] = [TensorBoardLogger(folder / LOGS_NAME, name=name, version="")]
    if is_installed("mlflow") and (logger := _mlflow_logger(folder, str(context.fields["recipe"]), name)):
        found.append(logger)
    return found


def _mlflow_logger(folder: Path, recipe: str, name: str) -> Any:
    """Writes into the folder of the run unless MLFLOW_TRACKING_URI names a server; None if it cannot."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before it is imported: nothing phones home
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow.exceptions import MlflowException

    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    logger = MLFlowLogger(recipe, run_name=name, tracking_uri=store)
    try:
        logger.run_id  # noqa: B018  (opens the store)
    except (MlflowException, ImportError) as exc:
        log.warning("MLflow at %s cannot be written, so only TensorBoard is: %s", store, exc)
        return None
    return logger


def _train_loader(data: Data, config: Optimization, seed: int, *, epoch: int) -> DataLoader[Any]:
    from lissom.models.loop import EpochBatches

    here, samples = place(), _samples(data, "train")
    batches = EpochBatches(
        len(samples), config.batch_size, seed=seed, epoch=epoch, rank=here.rank, world=here.world
    )
    workers = config.num_workers
    return DataLoader(
        samples, sampler=batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )


def _samples(data: Data, split: str) -> TensorDataset:
    """Inputs, labels and positions of a split."""
    inputs = [shared_tensor_of(array) for array in data.tensors(split).values()]
    labels = shared_tensor_of(data.labels(split))
    return TensorDataset(*inputs, labels, torch.arange(len(labels)))


def _usable_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint that an earlier process left; with a damaged one training starts anew."""
    if not path.exists():
        return None
    try:
        return _checkpoint(path)
    except _DAMAGE as exc:
        log.warning("%s is damaged (%s); training starts at the first epoch", path, exc)
        return None


def _checkpoint(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def _finished(checkpoint: Mapping[str, Any], config: Optimization) -> bool:
    """True when a checkpoint is that of the last epoch, or of the one after which training stopped early."""
    stopped = any(
        state.get("stopped_epoch")
        for name, state in checkpoint["callbacks"].items()
        if "EarlyStopping" in name
    )
    return bool(stopped) or _num_epochs(checkpoint) >= config.epochs


def _num_epochs(checkpoint: Mapping[str, Any] | None) -> int:
    return len(checkpoint["lissom"]["history"]) if checkpoint else 0


def _take_weights(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    prefix = "model."
    state = {name.removeprefix(prefix): tensor for name, tensor in checkpoint["state_dict"].items()}
    model.load_state_dict(state)
    model.eval()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning turns Ctrl-C into exit(1) and leaves it ignored; we want the interrupt and the handler."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as exc:
        raise KeyboardInterrupt from exc
    finally:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN is not handler:
            signal.signal(signal.SIGINT, handler)
