"""Answers, scores and metrics of any runtime on a split.

What is called is `infer_batch` of a runtime, so that a torch model and an int8 ONNX model on any engine
are evaluated by the same code. Outputs are read batch by batch and not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lissom.artifact import PreprocessingStep, Signature
from lissom.errors import DataError, ModelError
from lissom.logs import log
from lissom.models.data import Data
from lissom.models.metrics import confusion_matrix
from lissom.runtime.layout import join_answers, sample_specs

if TYPE_CHECKING:
    from lissom.models.tasks import Task

Shape = Sequence[int | str]
Call = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

BATCH_SIZE = 64
TOKEN_BATCH_SIZE = 8
"""Samples in a call of a language model, whose outputs are as many times larger as it knows tokens."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on a split.

    Attributes:
        num_samples: Samples of the split.
        score: Mean score of the samples, higher is better.
        score_name: What the task calls it: accuracy, skill, token accuracy.
        metrics: Every other figure, by name.
        confusion: Samples by true class (row) and predicted class (column), for classification.
    """

    num_samples: int
    score: float
    score_name: str
    metrics: dict[str, float]
    confusion: list[list[int]] | None


class Judged(NamedTuple):
    """Every sample of a split, answered and scored."""

    answers: np.ndarray
    """The task's answers, shape [samples, ...]."""
    scores: np.ndarray
    """How good each is, shape [samples], bool or float."""
    lost: np.ndarray
    """Samples of which a part has no answer, bool [samples]."""
    metrics: dict[str, float]
    log_probabilities: np.ndarray | None = None
    """Of every class, shape [samples, classes]; None where answers are no classes."""


def fitted(data: Data, signature: Signature, preprocessing: Sequence[PreprocessingStep]) -> Data:
    """The data as a model takes them: by its names, in its dtypes, with the preprocessing it was made with.

    Raises:
        DataError: names or sample shapes of the inputs are not those of the model.
    """
    specs = sample_specs(signature)
    data = data.taken_by(specs, optional=signature.batching.states if signature.batching else ())
    wanted = {spec.name: spec.shape[1:] for spec in specs if spec.name in data.dataset.inputs}
    found = {spec.name: spec.shape[1:] for spec in data.input_specs}
    if not all(_fits(wanted[name], found[name]) for name in wanted):
        raise DataError(
            f"the model takes {_shown(wanted)}; {data.source} has {_shown(found)}",
            hint="samples have the names and shapes of those that the model was made with",
        )
    dataset = replace(data.dataset, preprocessing=tuple(preprocessing))
    return replace(data, dataset=dataset, _tensors={})


def predict(call: Call, inputs: Mapping[str, np.ndarray], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """First output of every sample, shape [samples, ...].

    Args:
        call: `infer` of a runtime, or anything like it.
        inputs: Preprocessed tensors of shape [samples, ...].
        batch_size: Samples in a call.

    Raises:
        RaggedAnswers: the answers of two batches have different shapes.
    """
    firsts = [next(iter(call(batch).items())) for batch in _slices(inputs, batch_size)]
    return join_answers(firsts[0][0], [array for _, array in firsts])


def answers(call: Call, data: Data, split: str, task: Task) -> np.ndarray:
    """The task's answer to every sample of a split, shape [samples, ...]."""
    outputs = _outputs(call, data.tensors(split), _batch_size(data))
    return np.concatenate([task.predict(output) for output in outputs])


def score_split(call: Call, data: Data, split: str, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The task's answer to every sample of a split, and how good it is; none is right without a finite score.

    Raises:
        DataError: the data have no labels, or the split is empty.
        ModelError: as for `judge`.
    """
    found = [
        _scored(outputs, targets, task)
        for outputs, targets in _batches(call, data, split, data.labels(split))
    ]
    _tell_lost(np.concatenate([one.lost for one in found]), data, split)
    return np.concatenate([one.answers for one in found]), np.concatenate([one.scores for one in found])


def judge(call: Call, data: Data, split: str, task: Task) -> Judged:
    """Answers, scores, metrics and for classes log-probabilities of a split, in one pass.

    Samples for which the model gives NaN count as wrong, and have NaN for log-probabilities; further metrics
    are those of the others.

    Raises:
        DataError: the data have no labels, or the split is empty.
        ModelError: a score is not finite, the task gives something else than one for each sample, or a
            metric that is no number.
    """
    found: list[_Scored] = []
    certain: list[np.ndarray] = []

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for outputs, targets in _batches(call, data, split, data.labels(split)):
            found.append(_scored(outputs, targets, task))
            lost = found[-1].lost
            if data.kind == "classes" and (logits := task.class_logits(outputs)).shape[1:] == (
                data.num_classes,
            ):
                sure = _log_softmax(np.where(lost[:, np.newaxis], 0.0, logits))
                certain.append(np.where(lost[:, np.newaxis], np.nan, sure))
            if not lost.all():
                yield (outputs, targets) if not lost.any() else (outputs[~lost], targets[~lost])

    remaining = batches()
    metrics = task.metrics(remaining)
    for _ in remaining:  # a task without metrics of its own reads none of them
        pass
    scores, figures = np.concatenate([one.scores for one in found]), _figures(metrics)
    main, lost = task.score_name.replace(" ", "_"), np.concatenate([one.lost for one in found])
    _tell_lost(lost, data, split)
    if lost.any() and main in figures:
        figures[main] = float(scores.mean())
    log_probabilities = np.concatenate(certain) if certain else None
    return Judged(np.concatenate([one.answers for one in found]), scores, lost, figures, log_probabilities)


def evaluate(call: Call, data: Data, split: str, task: Task) -> Evaluation:
    """Score, metrics and confusion matrix of a split; samples without an answer are in no cell of it.

    Raises:
        DataError: the data have no labels, or the split is empty.
        ModelError: as for `judge`.
    """
    judged = judge(call, data, split, task)
    confusion = None
    if data.kind == "classes" and judged.answers.ndim == 1 and judged.answers.dtype.kind in "iu":
        known = ~judged.lost
        labels = data.labels(split)[known]
        confusion = confusion_matrix(judged.answers[known], labels, data.num_classes).tolist()
    score = float(judged.scores.mean())
    return Evaluation(len(judged.scores), score, task.score_name, judged.metrics, confusion)


class _Scored(NamedTuple):
    """One batch.

    Attributes:
        answers: The task's, shape [samples, ...].
        scores: How good each is, shape [samples].
        lost: Samples of which a part has no answer, bool [samples].
    """

    answers: np.ndarray
    scores: np.ndarray
    lost: np.ndarray


def _scored(outputs: np.ndarray, targets: np.ndarray, task: Task) -> _Scored:
    found = task.predict(outputs)
    if (lost := task.unanswered(outputs)) is None:
        return _Scored(found, scores_of(task, found, targets), np.zeros(len(found), dtype=bool))
    scores = scores_of(task, np.where(lost, -1, found), targets)  # -1 is no class and no token
    return _Scored(found, scores, np.asarray(lost.reshape(len(lost), -1).any(axis=1)))


def _tell_lost(lost: np.ndarray, data: Data, split: str) -> None:
    """Warn of samples that have no answer."""
    if lost.any():
        first = data.indices[split][lost.argmax()]
        log.warning(
            "%s: the model gives NaN for %d of %d samples of the %s split, the first is sample %d; "
            "they count as wrong",
            *(data.source, int(lost.sum()), len(lost), split, first),
        )


def scores_of(task: Task, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How good each answer is, shape [samples], bool or float.

    Raises:
        ModelError: a score is not finite, or the task gives something else than one for each sample.
    """
    scores = task.score(predictions, targets)
    if scores.shape != (len(targets),) or scores.dtype.kind not in "bf":
        raise ModelError(
            f"the task gave scores of shape {list(scores.shape)} and type {scores.dtype} "
            f"for {len(targets)} samples",
            hint="Task.score gives one bool or float for each sample",
        )
    if not np.isfinite(scores).all():
        raise ModelError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} answers have no finite score")
    return scores


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Shape [samples, classes], float32; what is impossible is -700, so that differences are numbers."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    found: np.ndarray = np.maximum(logs, -700.0).astype(np.float32)
    return found


def _figures(metrics: object) -> dict[str, float]:
    """What a task calls its metrics as plain numbers; those that are not finite are left out.

    Raises:
        ModelError: they are no mapping from names to numbers.
    """
    if not isinstance(metrics, Mapping):
        raise _no_metrics(f"a {type(metrics).__name__}")
    figures: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or isinstance(value, str | bytes):
            raise _no_metrics(f"{name!r}: {value!r}")
        try:
            figures[name] = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as exc:  # RuntimeError: a torch tensor
            raise _no_metrics(f"{name!r}: {value!r}") from exc
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _no_metrics(found: str) -> ModelError:
    return ModelError(f"the task gave as metrics {found}", hint="Task.metrics gives numbers by name")


def _fits(wanted: Shape, found: Shape) -> bool:
    """True when the shapes are equal; a dimension with a name takes any size."""
    return len(wanted) == len(found) and all(
        isinstance(one, str) or one == other for one, other in zip(wanted, found, strict=True)
    )


def _shown(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} of shape [{', '.join(map(str, shape))}]" for name, shape in shapes.items())


def _batches(
    call: Call, data: Data, split: str, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """First output and labels of each batch."""
    start = 0
    for outputs in _outputs(call, data.tensors(split), _batch_size(data)):
        yield outputs, labels[start : start + len(outputs)]
        start += len(outputs)


def _outputs(call: Call, inputs: Mapping[str, np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """First output of each batch."""
    for batch in _slices(inputs, batch_size):
        yield next(iter(call(batch).values()))


def _slices(inputs: Mapping[str, np.ndarray], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of each batch."""
    num_samples = len(next(iter(inputs.values())))
    for start in range(0, num_samples, batch_size):
        yield {name: array[start : start + batch_size] for name, array in inputs.items()}


def _batch_size(data: Data) -> int:
    return TOKEN_BATCH_SIZE if data.kind == "tokens" else BATCH_SIZE
