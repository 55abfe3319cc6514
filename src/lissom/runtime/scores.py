"""From the first output of a classifier to shares of the classes, whatever the output holds.

    logits              any numbers; their softmax is the shares
    probabilities       the shares themselves: rows in [0, 1] that sum to 1
    log_probabilities   their logarithms, which are logits already
    sigmoids            a share for each class by itself, in [0, 1]; they need not sum to 1

A single column tells two classes apart: it is the logit, or the share, of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lissom.artifact import Manifest

ScoreKind = Literal["logits", "probabilities", "log_probabilities", "sigmoids"]
SMALLEST = float(np.finfo(np.float32).tiny)
"""Stands for a share of 0, whose logarithm would be infinite."""


def classifies(manifest: Manifest) -> bool:
    """True when the first output has a score for each class, or one column for two classes."""
    if manifest.task != "classification":
        return False
    sizes = _sizes_of_answer(manifest)
    two = len(manifest.labels) == 2 or (not manifest.labels and manifest.scores == "sigmoids")
    return (two and sizes in ((), (1,))) or (len(sizes) == 1 and sizes != (1,))


def _sizes_of_answer(manifest: Manifest) -> tuple[int | str, ...]:
    """Sizes of the first output for one sample, wherever it has an axis of the samples, or none."""
    spec, batching = manifest.signature.outputs[0], manifest.signature.batching
    axis = batching.outputs.get(spec.name, 0) if batching else 0
    if axis is None:
        return spec.shape[1:] if spec.shape[:1] == (1,) else spec.shape
    return (*spec.shape[:axis], *spec.shape[axis + 1 :])


def class_columns(outputs: np.ndarray, kind: ScoreKind) -> np.ndarray:
    """The outputs with one column a class: of a single column [samples] or [samples, 1] two are made.

    >>> class_columns(np.array([[0.9]]), "sigmoids").round(3).tolist()
    [[0.1, 0.9]]
    >>> class_columns(np.array([1.5]), "logits").tolist()
    [[0.0, 1.5]]
    """
    if outputs.ndim > 1 and outputs.shape[-1] > 1:
        return outputs
    second = outputs.reshape(len(outputs))
    first = np.zeros_like(second) if kind == "logits" else 1 - second
    if kind == "log_probabilities":
        first = np.log(np.maximum(-np.expm1(second.astype(np.float64)), SMALLEST))
    return np.stack([first, second], axis=1)


def class_names(labels: Sequence[str], count: int) -> list[str]:
    """A name for each column: the labels, and numbers for classes that the data do not name.

    >>> class_names(["cat", "dog"], 3)
    ['cat', 'dog', '2']
    """
    return [*labels[:count], *(str(index) for index in range(len(labels), count))]


def class_scores(outputs: np.ndarray, kind: ScoreKind) -> np.ndarray:
    """Score of each class in [0, 1], shape [..., classes], float32: no second softmax of what is one.

    >>> class_scores(np.array([[0.25, 0.75]]), "probabilities").tolist()
    [[0.25, 0.75]]
    >>> class_scores(np.array([[0.0, 0.0]]), "logits").tolist()
    [[0.5, 0.5]]
    """
    columns = class_columns(outputs, kind).astype(np.float64)
    if kind == "logits":
        columns = softmax(columns)
    elif kind == "log_probabilities":
        columns = np.exp(columns)
    found: np.ndarray = columns.astype(np.float32)
    return found


def has_scores(outputs: np.ndarray, kind: ScoreKind) -> np.ndarray:
    """Which rows have a finite score for each class, bool [...]; a class that -inf rules out has one, 0.

    >>> has_scores(np.array([[0.0, -np.inf], [np.nan, 1.0]]), "logits").tolist()
    [True, False]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        found: np.ndarray = np.isfinite(class_scores(outputs, kind)).all(axis=-1)
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    """Shares of shape [..., classes], computed in float64 and given as float32.

    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: np.ndarray = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def class_logits(outputs: np.ndarray, kind: ScoreKind) -> np.ndarray:
    """Numbers whose softmax is the shares of the classes; sigmoids are rescaled to sum to 1.

    >>> class_logits(np.array([[0.25, 0.75]]), "probabilities").round(3).tolist()
    [[-1.386, -0.288]]
    """
    columns = class_columns(outputs, kind)
    if kind == "logits":
        return columns
    if kind == "log_probabilities":
        found: np.ndarray = np.maximum(columns, np.log(SMALLEST).astype(columns.dtype))
        return found
    found = np.log(np.maximum(columns.astype(np.float64), SMALLEST))
    return found
