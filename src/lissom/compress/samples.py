"""What a method of compression may look at beside the weights: samples, labels, the loss and the score.

Importance is measured on the calibrate split and choices are made on the select split, never on the report
split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lissom.artifact import Signature
from lissom.errors import DataError
from lissom.models.data import Data
from lissom.models.evaluation import judge
from lissom.models.losses import TaskLoss, loss_for
from lissom.models.stages import Context
from lissom.models.tasks import Task
from lissom.recipe import Optimization
from lissom.runtime.arrays import tensor_of
from lissom.runtime.pytorch import call_model

NUM_SAMPLES = 256
BATCH_SIZE = 32


@dataclass(frozen=True)
class Samples:
    """Samples of a model's data, as positional tensors.

    Attributes:
        data: The data.
        task: What the model does.
        signature: Names and shapes of its inputs and outputs.
        example: Positional inputs of a few samples, each of shape [batch, ...]; for tracing.
    """

    data: Data
    task: Task
    signature: Signature
    example: list[Tensor]

    @classmethod
    def of(cls, context: Context, signature: Signature) -> Samples:
        """Those of a stage."""
        example = [tensor_of(array) for array in context.call_inputs(signature).values()]
        return cls(context.data, context.task, signature, example)

    @cached_property
    def loss(self) -> TaskLoss:
        """The loss of the task: (outputs, targets) to a scalar."""
        return loss_for(self.task, Optimization())

    def batches(self, split: str = "calibrate") -> Iterator[list[Tensor]]:
        """Positional inputs of at most `NUM_SAMPLES` samples, batch by batch."""
        for inputs, _ in self._batches(split, labelled=False):
            yield inputs

    def labelled_batches(self, split: str = "calibrate") -> Iterator[tuple[list[Tensor], Tensor]]:
        """The same with their labels.

        Raises:
            DataError: the data have no labels.
        """
        yield from self._batches(split, labelled=True)

    def score(self, model: nn.Module) -> float:
        """Mean score of a model on the select split, between 0 and 1; higher is better.

        Raises:
            DataError: the data have no labels.
        """
        found = judge(lambda batch: call_model(model, self.signature, batch), self.data, "select", self.task)
        return float(found.scores.mean())

    def _batches(self, split: str, *, labelled: bool) -> Iterator[tuple[list[Tensor], Tensor]]:
        number = min(NUM_SAMPLES, len(self.data.indices[split]))
        if not number:
            raise DataError(
                f"{self.data.source}: the {split} split is empty, and importance is measured on it",
                hint="give more samples, or an importance that looks at weights alone: l1 or l2",
            )
        arrays = [tensor_of(array[:number]) for array in self.data.tensors(split).values()]
        labels = tensor_of(self.data.labels(split)[:number]) if labelled else torch.empty(number)
        for start in range(0, number, BATCH_SIZE):
            stop = start + BATCH_SIZE
            yield [array[start:stop] for array in arrays], labels[start:stop]
