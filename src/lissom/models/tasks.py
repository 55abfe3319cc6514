"""Tasks: what a model is trained to do, what its answer is, and how good an answer is.

A task joins three things that every later stage needs: a loss for training, the answer that is read
off an output, and a score of each answer, higher is better, on which models are compared sample by
sample. The kind of the labels decides the task unless the recipe names one:

    classes   classification        0 or 1: the class of the highest logit, or share, is the label
    values    regression            1 - |error| / spread of the labels: 1 is exact, 0 as good as the mean
    tokens    language-modelling    share of the positions whose next (or masked) token is right

A user's own task is a subclass, named `package.module:factory` or `path/file.py:factory`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lissom.artifact import TensorSpec
from lissom.errors import DataError, ModelError
from lissom.models.dataset import IGNORED
from lissom.models.metrics import Batches, classification_metrics, language_metrics, regression_metrics
from lissom.models.score_kinds import CLASSIFYING
from lissom.registry import TASKS, resolve
from lissom.runtime.finiteness import is_finite
from lissom.runtime.scores import ScoreKind, class_columns, class_logits, has_scores

if TYPE_CHECKING:
    from torch import Tensor

    from lissom.models.data import Data

_OF_KIND = {
    "classes": "classification",
    "values": "regression",
    "tokens": "language-modelling",
    "none": "classification",
}


class Task(ABC):
    """What a model is trained to do. Subclass it, and name your class or a function that builds it.

    Attributes:
        score_name: What the mean of the scores is called.
        output_name: Name of the model's one output on every runtime.
        losses: Names of the losses of `lissom.models.losses` that fit, the default first. When there
            are none, `loss` is the loss.
        scores: What the first output of a classifier holds: logits, or probabilities in some form.
    """

    score_name: ClassVar[str] = "score"
    output_name: ClassVar[str] = "output"
    losses: ClassVar[tuple[str, ...]] = ()
    scores: ScoreKind = "logits"

    def check(self, outputs: Sequence[TensorSpec], data: Data) -> None:  # noqa: B027  (a task may accept all)
        """Refuse a model whose outputs do not fit the labels.

        Raises:
            ModelError: naming both.
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch, a scalar: outputs as the model gives them, targets as the data have them."""
        raise NotImplementedError(f"{type(self).__name__} names no losses and has no loss of its own")

    @abstractmethod
    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The answer read off the first output: [samples, ...] to [samples, ...]."""

    @abstractmethod
    def score(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """How good each answer is: shape [samples], bool, or float with 1 for a perfect answer."""

    def class_logits(self, outputs: np.ndarray) -> np.ndarray:
        """The first output as numbers whose softmax is the shares of the classes, where it tells classes."""
        return outputs

    def unanswered(self, outputs: np.ndarray) -> np.ndarray | None:
        """Where there is no answer, for want of a finite score, in the shape of `predict`; None: nowhere."""
        return None

    def metrics(self, batches: Batches) -> dict[str, float]:
        """Further figures of a split, by name, from its batches of first outputs and labels.

        The batches come one by one, since all outputs at once may not fit into memory; they can be read
        once. A figure that is not finite cannot be written down: leave it out.
        """
        return {}


class Classification(Task):
    """One class a sample; the first output holds logits of shape [batch, classes], or shares in some form.

    Two classes may be told apart by a single column, [batch] or [batch, 1], of the second of them.
    """

    score_name = "accuracy"
    output_name = "logits"
    losses = ("cross-entropy", "focal")

    def check(self, outputs: Sequence[TensorSpec], data: Data) -> None:
        """The logits are as many as the classes."""
        found = outputs[0].shape[1:] or (1,)
        single = found == (1,) and data.num_classes == 2
        if len(outputs) != 1 or not (single or found == (data.num_classes,)):
            raise ModelError(
                f"the model gives {_shown(outputs)} outputs, but {data.source} has "
                f"{data.num_classes} classes",
                hint="build it with as many outputs, for example "
                f"model.kwargs.num_classes={data.num_classes}",
            )

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Index of the highest logit, shape [samples]."""
        labels: np.ndarray = class_columns(outputs, self.scores).argmax(axis=-1)
        return labels

    def class_logits(self, outputs: np.ndarray) -> np.ndarray:
        """Logits, whatever the model gives."""
        return class_logits(outputs, self.scores)

    def unanswered(self, outputs: np.ndarray) -> np.ndarray | None:
        """Rows with NaN, whose highest number says nothing."""
        return None if is_finite(outputs) else ~has_scores(outputs, self.scores)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """True where the label is right."""
        right: np.ndarray = predictions == targets
        return right

    def metrics(self, batches: Batches) -> dict[str, float]:
        """Accuracy, top-k, precision, recall, F1, calibration error, negative log-likelihood."""
        return classification_metrics(batches, self.scores)


class Regression(Task):
    """Values; the first output has the shape of the labels, or [batch, 1] for labels of shape [batch]."""

    score_name = "skill"
    output_name = "values"
    losses = ("mse", "mae", "huber")

    def __init__(self, spread: float = 1.0) -> None:
        """Args: spread: mean distance of the train labels from their median, in the unit of the labels."""
        self.spread = spread or 1.0

    def check(self, outputs: Sequence[TensorSpec], data: Data) -> None:
        """As many values as the labels have."""
        wanted = data.num_values
        if len(outputs) != 1 or len(outputs[0].shape) > 2 or (outputs[0].shape[1:] or (1,)) != (wanted,):
            raise ModelError(
                f"the model gives {_shown(outputs)} outputs, but {data.source} has {wanted} values a sample",
                hint=f"build it with as many outputs, for example model.kwargs.num_classes={wanted}",
            )

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The values themselves, without an axis of length one."""
        return outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """`1 - |error| / spread`, averaged over the values of a sample; its mean is 1 - MAE / spread.

        >>> Regression(2.0).score(np.array([1.0, 5.0]), np.array([1.0, 3.0])).tolist()
        [1.0, 0.0]
        """
        error = np.abs(predictions - targets.reshape(predictions.shape)).reshape(len(targets), -1)
        scores: np.ndarray = 1.0 - error.mean(axis=1, dtype=np.float64) / self.spread
        return scores

    def metrics(self, batches: Batches) -> dict[str, float]:
        """MAE, RMSE, R2, and Pearson's r of a single value."""
        return regression_metrics(batches)


class LanguageModelling(Task):
    """A token at each position: the next one, or the one that was masked; logits [batch, length, tokens]."""

    score_name = "token accuracy"
    output_name = "logits"
    losses = ("cross-entropy", "focal")

    def check(self, outputs: Sequence[TensorSpec], data: Data) -> None:
        """Logits at each position of the labels."""
        labels = data.dataset.labels
        assert labels is not None
        length, highest = labels.shape[1], int(labels.max())
        shape = outputs[0].shape
        if len(outputs) != 1 or len(shape) != 3 or shape[1] != length or int(shape[2]) <= highest:
            advice = "a language model gives logits of shape [batch, length, vocab_size]"
            if len(shape) == 2 and shape[1] == length and highest <= 1:
                advice = (
                    "several classes at once are values, floats of shape [samples, classes]: "
                    "y.astype('float32'); a task of your own brings another loss than their distance"
                )
            raise ModelError(
                f"the model gives {_shown(outputs)} outputs, but {data.source} has {length} tokens a sample, "
                f"the highest {highest}",
                hint=advice,
            )

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The most likely token at each position, shape [samples, length]."""
        tokens: np.ndarray = outputs.argmax(axis=-1)
        return tokens

    def class_logits(self, outputs: np.ndarray) -> np.ndarray:
        """Logits, whatever the model gives."""
        return class_logits(outputs, self.scores)

    def unanswered(self, outputs: np.ndarray) -> np.ndarray | None:
        """Rows with NaN, whose highest number says nothing."""
        return None if is_finite(outputs) else ~has_scores(outputs, self.scores)

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Share of the positions that count whose token is right.

        >>> LanguageModelling().score(np.array([[1, 2, 3]]), np.array([[1, 5, IGNORED]])).tolist()
        [0.5]
        """
        if predictions.shape != targets.shape:
            raise ModelError(
                f"the model gives answers of shape {list(predictions.shape)}, the labels of these samples "
                f"have the shape {list(targets.shape)}",
                hint="a language model gives logits of shape [batch, length, vocab_size]",
            )
        counts = targets != IGNORED
        right = (predictions == targets) & counts
        scores: np.ndarray = right.sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
        return scores

    def metrics(self, batches: Batches) -> dict[str, float]:
        """Cross-entropy, bits per token, perplexity, token accuracy."""
        return language_metrics((self.class_logits(outputs), tokens) for outputs, tokens in batches)


def regression(data: Data) -> Regression:
    """Regression with the spread of the train labels, or of all labels where nothing is there to train on."""
    labels = data.labels("train").astype(np.float64)
    if not len(labels):
        labels = np.asarray(data.dataset.labels, dtype=np.float64)
    return Regression(float(np.abs(labels - np.median(labels, axis=0)).mean()))


def fitting(data: Data, asked: str | None) -> Data:
    """The data as the task that is asked for reads them: numbers as values or as classes.

    Raises:
        DataError: the labels cannot be read so without a loss.
    """
    if asked == "regression" and data.kind == "classes":
        return data.with_values()
    if asked == "classification" and data.kind == "values":
        return data.with_classes()
    return data


def task_name(asked: str | None, data: Data) -> str:
    """The task that is asked for, else the one that the labels speak of."""
    return asked or _OF_KIND[data.kind]


def task_of(name: str, data: Data, scores: ScoreKind = "logits") -> Task:
    """The task called `name`, ready for these data, and for a model whose first output holds these scores.

    Raises:
        ModelError: no task is called so, the labels do not fit, or a factory gives something else.
    """
    fitting = [kind for kind, task in _OF_KIND.items() if task == name]
    if fitting and data.kind not in (*fitting, "none"):
        raise ModelError(
            f"the labels of {data.source} are {data.kind}; {name} needs {fitting[0]}",
            hint=f"leave the task out, or ask for {_OF_KIND[data.kind]}",
        )
    if data.kind == "tokens":
        _check_counted(data)
    if name == "regression":
        return regression(data) if data.kind == "values" else Regression()
    task = resolve(name, known=TASKS)()
    if not isinstance(task, Task):
        raise ModelError(f"{name} gave a {type(task).__name__}, not a lissom.Task")
    if name in CLASSIFYING:
        task.scores = scores
    return task


def _check_counted(data: Data) -> None:
    """Refuse a sample of tokens in which no position counts: it has no score."""
    empty = np.flatnonzero((np.asarray(data.dataset.labels) == IGNORED).all(axis=1))
    if len(empty):
        raise DataError(
            f"{data.source}: no position of sample {empty[0]} counts ({len(empty)} such samples)",
            hint=f"leave out samples whose labels are all {IGNORED}",
        )


def _shown(outputs: Sequence[TensorSpec]) -> str:
    return " and ".join(" x ".join(str(size) for size in spec.shape[1:]) or "scalar" for spec in outputs)
