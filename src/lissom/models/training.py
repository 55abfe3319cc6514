"""Training: a model, a loss, and Lightning's loop around them.

The loop is Lightning's; what is here says which samples make a batch, which optimiser and schedule are
used, and where the figures of each epoch go. Batches depend on the seed alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lissom.artifact import Artifact
from lissom.errors import DataError, ModelError
from lissom.logs import Advance, Progress, quiet_libraries
from lissom.models.data import Data
from lissom.models.loading import factory_for, model_for
from lissom.models.stages import Context, call_positionally, save_torch
from lissom.recipe import OptimizationConfig, TrainConfig
from lissom.structure import factory_of, load_model

if TYPE_CHECKING:
    from lissom.artifact import Factory

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs, labels, positions of the samples in the train split) to a scalar."""


def train(parents: Mapping[str, Artifact], config: TrainConfig, context: Context) -> Artifact:
    """Train on the train split with cross-entropy."""
    model, factory = starting_model(parents, context)
    loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    history = fit(
        model,
        context.data,
        config,
        loss=lambda outputs, labels, positions: loss(outputs, labels),
        seed=context.seed,
        progress=context.progress,
        description=f"train {context.fields['name']}",
    )
    return save_torch(model, factory, context, notes={"history": history})


def starting_model(parents: Mapping[str, Artifact], context: Context) -> tuple[nn.Module, Factory]:
    """The model of the parent, or a new one from the recipe's factory."""
    if parent := parents.get("input"):
        return load_model(parent), factory_of(parent)
    factory = factory_for(context.model, context.data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        return model_for(context.model, factory), factory


def fit(
    model: nn.Module,
    data: Data,
    config: OptimizationConfig,
    *,
    loss: Loss,
    seed: int,
    progress: Progress,
    description: str,
) -> list[dict[str, float]]:
    """Optimise `model` in place; gives loss and accuracy of every epoch.

    Raises:
        DataError: the loss becomes NaN or infinite; the message names epoch and step.
    """
    import lightning

    _check_outputs(model, data)
    loader = _loader(data, config.batch_size, seed)
    module = _lightning_module(
        model, config, loss, num_steps=config.epochs * len(loader), num_classes=data.num_classes
    )
    with (
        quiet_libraries(),
        torch.random.fork_rng(devices=[]),
        progress.task(description, config.epochs) as advance,
    ):
        torch.manual_seed(seed)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_epoch_callback(advance)],
        )
        _fit_or_interrupt(trainer, module, loader)
    model.cpu().eval()
    history: list[dict[str, float]] = module.history
    return history


def _loader(data: Data, batch_size: int, seed: int) -> DataLoader[Any]:
    inputs = [torch.from_numpy(array) for array in data.tensors("train").values()]
    labels = torch.from_numpy(data.labels("train"))
    if len(labels) < 2:
        raise DataError(f"{data.source}: {len(labels)} training samples are too few")
    samples = TensorDataset(*inputs, labels, torch.arange(len(labels)))
    order = RandomSampler(samples, generator=torch.Generator().manual_seed(seed))
    # The last batch may be short, but never of one sample: batch normalisation cannot use it.
    drop_last = len(labels) % batch_size == 1
    batches = BatchSampler(order, batch_size, drop_last=drop_last)
    return DataLoader(samples, sampler=batches, batch_size=None)


def _lightning_module(
    model: nn.Module, config: OptimizationConfig, loss: Loss, *, num_steps: int, num_classes: int
) -> Any:
    import lightning
    from torchmetrics import MeanMetric
    from torchmetrics.classification import Accuracy

    class Module(lightning.LightningModule):
        """Calls the model, keeps the figures of each epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.mean_loss = MeanMetric()
            self.accuracy = Accuracy(task="multiclass", num_classes=num_classes)
            self.history: list[dict[str, float]] = []

        def training_step(self, batch: Sequence[Tensor], step: int) -> Tensor:
            *inputs, labels, positions = batch
            outputs = self.model(*inputs)
            value = loss(outputs, labels, positions)
            if not torch.isfinite(value):
                raise DataError(
                    f"the loss is {value.item()} in epoch {self.current_epoch + 1}, step {step + 1}",
                    hint="lower learning_rate, or look for extreme values in the data",
                )
            self.mean_loss.update(value.detach())
            self.accuracy.update(outputs.detach(), labels)
            return value

        def on_train_epoch_end(self) -> None:
            figures = {"loss": float(self.mean_loss.compute()), "accuracy": float(self.accuracy.compute())}
            self.history.append(figures)
            self.mean_loss.reset()
            self.accuracy.reset()

        def configure_optimizers(self) -> Any:
            optimizer = _optimizer(self.model, config)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": _scheduler(optimizer, config, num_steps), "interval": "step"},
            }

    module = Module()
    model.train()
    return module


def _optimizer(model: nn.Module, config: OptimizationConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=config.weight_decay,
    )


def _scheduler(optimizer: torch.optim.Optimizer, config: OptimizationConfig, num_steps: int) -> Any:
    if config.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=config.learning_rate, total_steps=num_steps
        )
    if config.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _epoch_callback(advance: Advance) -> Any:
    import lightning

    class EpochProgress(lightning.Callback):
        """Moves the progress bar by one after each epoch."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            advance(1)

    return EpochProgress()


def _fit_or_interrupt(trainer: Any, module: Any, loader: DataLoader[Any]) -> None:
    """Lightning turns Ctrl-C into exit(1); we want the interrupt itself."""
    try:
        trainer.fit(module, loader)
    except SystemExit as exc:
        raise KeyboardInterrupt from exc


def _check_outputs(model: nn.Module, data: Data) -> None:
    if data.num_classes < 2:
        raise DataError(f"{data.source} has {data.num_classes} class; classification needs two")
    sample = {name: array[:2] for name, array in data.tensors("train").items()}
    outputs = call_positionally(model.eval(), data, sample)
    if len(outputs) != 1 or outputs[0].ndim != 2 or outputs[0].shape[1] != data.num_classes:
        found = " and ".join(" x ".join(str(size) for size in tensor.shape[1:]) for tensor in outputs)
        raise ModelError(
            f"the model gives {found} outputs, but {data.source} has {data.num_classes} classes",
            hint=f"build it with as many outputs, for example model.kwargs.num_classes={data.num_classes}",
        )
