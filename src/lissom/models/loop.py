"""The module and the callbacks that Lightning's loop calls. Importing this takes seconds: only `fit` does.

Everything random in an epoch follows from the seed and the number of the epoch, so that a run that goes on
from a checkpoint, which is always the end of an epoch, computes what the unbroken run would have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import Sampler

from lissom.errors import DataError, ModelError
from lissom.logs import Advance
from lissom.models.augmentation import Augmenter
from lissom.models.diagnostics import STEPS_WATCHED, Watcher
from lissom.models.losses import loss_for, penalty
from lissom.models.optimization import normalize_gradients, optimizer_for, plateau_for, schedule_for
from lissom.models.target_scale import TargetScale
from lissom.models.tasks import Task
from lissom.recipe import Optimization


@dataclass(frozen=True)
class Batch:
    """What a loss may look at.

    Attributes:
        inputs: Tensors of shape [batch, ...] as the model got them, augmented.
        targets: Labels, or shares of the classes when samples were mixed.
        positions: Positions of the samples in the train split, shape [batch].
        scale: By which targets and outputs are standardised; None where they are not.
    """

    inputs: Sequence[Tensor]
    targets: Tensor
    positions: Tensor
    scale: TargetScale | None = None


_SCORED_ELEMENTS = 2_000_000
"""Outputs of a batch up to which every batch is scored."""

BatchLoss = Callable[[Any, Batch], Tensor]
"""(outputs of the model, batch) to a scalar."""


class EpochBatches(Sampler[list[int]]):
    """Batches of one epoch: a permutation decided by seed and epoch; each process gets its share of a batch.

    The last batch may be short, but never leaves a process one sample, which batch normalisation cannot use.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int, epoch: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.epoch, self.rank, self.world = epoch, rank, world

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch but the first of a resumed run."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch))
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.world]

    def __len__(self) -> int:
        whole, rest = divmod(self.num_samples, self.batch_size)
        return whole + (rest >= 2 * self.world)


class TrainingModule(lightning.LightningModule):
    """Calls the model and keeps the figures of every epoch in `history`.

    Args:
        model: Model that is trained.
        config: How weights are optimised.
        task: What the model is trained to do.
        loss: In place of the task's.
        augment: Varies the images.
        steps_per_epoch: Steps of the optimiser.
        seed: Of everything random.
        samples: Where each sample of the train split stands in the source, to name it by.
        targets: Scale of the targets; None where they stay as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Optimization,
        task: Task,
        loss: BatchLoss | None,
        *,
        augment: Augmenter | None,
        steps_per_epoch: int,
        seed: int,
        samples: np.ndarray,
        targets: TargetScale | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._samples = samples
        self.config, self.task, self.augment, self.seed = config, task, augment, seed
        self.targets = targets
        self.task_loss = loss_for(task, _in_deviations(config, targets))
        self.loss = loss or (lambda outputs, batch: self.task_loss(outputs, batch.targets))
        self.added: Callable[[], Tensor] | None = None
        self.after_step: Callable[[], None] | None = None
        self.steps_per_epoch = steps_per_epoch
        self.history: list[dict[str, float]] = []
        self._watcher = Watcher(model)
        self._watch_every = max(1, steps_per_epoch // STEPS_WATCHED)
        self._plateau: Any = None
        self._plateau_state: dict[str, Any] | None = None
        self._num_steps = 0
        self._rate = config.learning_rate
        self._started = 0.0
        self._train, self._select = _Tally(), _Tally()

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule; plateau is stepped by us, as Lightning loses that step on resume."""
        optimizer = optimizer_for(self.model, self.config)
        self._plateau = plateau_for(optimizer, self.config)
        if self._plateau is not None and self._plateau_state is not None:
            self._plateau.load_state_dict(self._plateau_state)
        schedule = schedule_for(optimizer, self.config, steps_per_epoch=self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Begin an epoch: seed everything random. Lightning leaves its own hook out for a resumed epoch."""
        if batch_idx:
            return
        torch.manual_seed(_mixed(self.seed, self.current_epoch, self.global_rank))
        self._watcher.begin()
        self._train, self._num_steps, self._started = _Tally(), 0, time.perf_counter()

    def training_step(self, batch: Sequence[Tensor], step: int) -> Tensor:
        """Loss of one batch."""
        *inputs, targets, positions = batch
        if self.augment is not None:
            with torch.no_grad():
                varied, targets = self.augment(inputs[0], targets)
            inputs = [varied]
        with self._watcher.activations() if self._watched else nullcontext():
            outputs = self._answer(inputs)
        value = self.loss(outputs, Batch(inputs, self._wanted(targets), positions, self.targets))
        if not torch.isfinite(value):
            names = ", ".join(str(sample) for sample in self._samples[positions[:5].cpu().numpy()])
            where = f"step {step + 1}, on samples {names}, ... (train split)"
            raise self._not_finite(f"the loss is {value.item()}", where)
        self._train.add(value, self._score(outputs, targets) if self._scores(outputs) else None)
        extra = penalty(self.model, self.config) + (self.added() if self.added else 0.0)
        return (value + extra) * self._share(step, len(positions))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Look at the gradients, then normalise them when asked to."""
        if self._watched:
            self._watcher.gradients()
        self._num_steps += 1
        self._rate = float(optimizer.param_groups[0]["lr"])
        if self.config.normalize_gradient:
            normalize_gradients(self.model)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Make a step, and what is to be done after each."""
        super().optimizer_step(*arguments, **named)
        if self.after_step is not None:
            self.after_step()

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip by norm, then by value."""
        for limit, algorithm in ((self.config.clip_norm, "norm"), (self.config.clip_value, "value")):
            if limit:
                self.clip_gradients(optimizer, gradient_clip_val=limit, gradient_clip_algorithm=algorithm)

    def on_validation_epoch_start(self) -> None:
        """Forget the figures of the epoch before."""
        self._select = _Tally()

    def validation_step(self, batch: Sequence[Tensor], step: int) -> None:
        """Loss and scores of one batch of the select split."""
        *inputs, targets, _ = batch
        outputs = self._answer(inputs)
        self._select.add(self.task_loss(outputs, self._wanted(targets)), self._score(outputs, targets))

    def on_validation_epoch_end(self) -> None:
        """Tell Lightning the score that early stopping and the choice of weights go by."""
        figures = self._select.figures()
        if not math.isfinite(figures["loss"]):
            raise self._not_finite(
                f"the loss on the select split is {figures['loss']}", "after its last step"
            )
        self.log("select_score", figures["score"], logger=False)

    def on_train_epoch_end(self) -> None:
        """Write the figures of the epoch down, and let the plateau schedule see them."""
        figures = {name: self._over_processes(value) for name, value in self._train.figures().items()}
        figures |= {f"select_{name}": value for name, value in self._select.figures().items()}
        figures["learning_rate"] = self._rate
        figures |= self._watcher.figures()
        self.history.append(figures)
        if self._plateau is not None:
            self._plateau.step(figures["select_score"])
        seconds = time.perf_counter() - self._started
        for logger in self.trainer.loggers:
            logger.log_metrics({**figures, "seconds": seconds}, step=self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what Lightning does not know of."""
        plateau = self._plateau.state_dict() if self._plateau is not None else None
        checkpoint["lissom"] = {"history": self.history, "plateau": plateau}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there; Lightning calls this before it asks for the optimiser."""
        self.history = list(checkpoint["lissom"]["history"])
        self._plateau_state = checkpoint["lissom"]["plateau"]

    @property
    def _watched(self) -> bool:
        return self._num_steps % self._watch_every == 0

    def _answer(self, inputs: Sequence[Tensor]) -> Any:
        if self.config.channels_last:
            inputs = [_channels_last(tensor) for tensor in inputs]
        try:
            return self.model(*inputs)
        except IndexError as exc:
            raise ModelError(
                f"the model cannot look up an index of the data: {exc}",
                hint="model.kwargs.vocab_size must be above the highest token of every split",
            ) from exc

    @torch.no_grad()
    def _score(self, outputs: Any, targets: Tensor) -> np.ndarray:
        first = outputs[0] if isinstance(outputs, tuple | list) else outputs
        first = first.detach().float()
        if self.targets is not None:
            first = self.targets.restore(first)
        answers = self.task.predict(first.cpu().numpy())
        return np.asarray(self.task.score(answers, targets.cpu().numpy()), dtype=np.float64)

    def _wanted(self, targets: Tensor) -> Tensor:
        """Labels as the loss compares them with the outputs."""
        return targets if self.targets is None else self.targets.standardize(targets)

    def _scores(self, outputs: Any) -> bool:
        """Mixed samples have no one label; outputs of a large vocabulary are scored in a few steps only."""
        if self.augment is not None and self.config.augment.mixes:
            return False
        first = outputs[0] if isinstance(outputs, tuple | list) else outputs
        return bool(self._watched or first.numel() <= _SCORED_ELEMENTS)

    def _share(self, step: int, num_samples: int) -> float:
        """Weight of a batch, so that what processes and accumulation average is the mean over all samples."""
        loader: Any = self.trainer.train_dataloader
        batches: EpochBatches = loader.sampler
        whole = min(batches.batch_size, batches.num_samples - step * batches.batch_size)
        accumulate, last = self.config.accumulate, len(batches) % self.config.accumulate
        group = last if step >= len(batches) - last else accumulate
        return accumulate / group * self.trainer.world_size * num_samples / whole

    def _over_processes(self, value: float) -> float:
        if self.trainer.world_size == 1:
            return value
        return float(self.trainer.strategy.reduce(torch.tensor(value, device=self.device), reduce_op="mean"))

    def _not_finite(self, what: str, where: str) -> DataError:
        kept = Path(self.trainer.default_root_dir) / "last.ckpt"
        return DataError(
            f"{what} in epoch {self.current_epoch + 1}, {where}"
            + (f"; epoch {self.current_epoch} is kept in {kept}" if kept.exists() else ""),
            hint="lower learning_rate, set clip_norm, or look for extreme values in the data",
        )


class Keeper(ModelCheckpoint):
    """Keeps checkpoints in one folder; goes on from its state also where that folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning forgets the best score when the folder has another path."""
        old, new = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(key): score for key, score in value.items()}
            return value.replace(old, new, 1) if isinstance(value, str) else value

        super().load_state_dict({key: moved(value) for key, value in state_dict.items()})


class StepProgress(lightning.Callback):
    """Moves the progress bar by one after every step, and by all that an earlier process did."""

    def __init__(self, advance: Advance, num_steps: int) -> None:
        self._advance, self._num_steps, self._done = advance, num_steps, 0

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning counts the batches of epochs that were done before, too."""
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._advance(done - self._done)
        self._done = done

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """A run that stops early is done as well."""
        self._advance(self._num_steps - self._done)


class _Tally:
    """Losses and scores of the batches of one epoch."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._scores: list[np.ndarray] = []

    def add(self, loss: Tensor, scores: np.ndarray | None) -> None:
        self._losses.append(loss.detach())
        if scores is not None:
            self._scores.append(scores)

    def figures(self) -> dict[str, float]:
        """Mean loss over the batches, mean score over the samples."""
        found: dict[str, float] = {}
        if self._losses:
            found["loss"] = float(torch.stack(self._losses).mean())
        if self._scores:
            found["score"] = float(np.concatenate(self._scores).mean())
        return found


def _in_deviations(config: Optimization, targets: TargetScale | None) -> Optimization:
    """The options with the bend of the Huber loss, which is in the unit of the labels, in deviations."""
    if targets is None:
        return config
    return config.model_copy(update={"huber_delta": config.huber_delta / float(targets.std.mean())})


def _mixed(*numbers: int) -> int:
    """One seed from several numbers; neighbours give unlike seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
