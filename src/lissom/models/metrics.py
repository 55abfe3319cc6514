"""Metrics of a split, by the kind of its labels, computed batch by batch.

The outputs of a language model on a whole split do not fit into memory, so every function here takes
batches of outputs and labels and keeps only counts and sums; torchmetrics does the counting, in float64.
A metric that is not finite, or that the samples do not define, is left out.

    classes   accuracy, top-k accuracy, precision, recall and F1 (macro: the mean over the classes that
              occur; weighted: by how often each occurs), expected calibration error over 15 bins (Guo et
              al., 2017), negative log-likelihood in nats
    values    MAE, RMSE and R2, each value also by itself when there are several; Pearson's r of a single one
    tokens    cross-entropy in nats and in bits per token, its exponential the perplexity, token accuracy
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lissom.errors import ModelError
from lissom.models.dataset import IGNORED
from lissom.runtime.arrays import tensor_of
from lissom.runtime.scores import ScoreKind, class_columns, class_logits

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""First outputs of the model, and the labels: both [samples, ...]."""
NUM_BINS = 15


_ALONE: dict[str, Any] = {"sync_on_compute": False}
"""One process evaluates; where several train together, the others do not take part."""


def classification_metrics(batches: Batches, kind: ScoreKind = "logits") -> dict[str, float]:
    """Metrics of scores of shape [samples, classes] against classes of shape [samples].

    Args:
        batches: Of first outputs and labels.
        kind: What the outputs hold; the shares of sigmoids are taken as they are for the calibration error,
            and rescaled to sum to 1 for the likelihood.
    """
    import torch
    from torch.nn import functional as F

    counters: dict[str, Any] = {}
    for outputs, targets in batches:
        columns = class_columns(outputs, kind)
        _check_range(columns, targets)
        counters = counters or _class_counters(columns.shape[1])
        logits, labels = tensor_of(class_logits(outputs, kind)).double(), tensor_of(targets)
        # Never what is no share: torchmetrics takes logits between 0 and 1 for shares.
        shares = tensor_of(columns).double() if kind == "sigmoids" else torch.softmax(logits, dim=1)
        for name, counter in counters.items():
            if name == "negative_log_likelihood":
                counter.update(F.cross_entropy(logits, labels, reduction="none"))
            else:
                counter.update(shares, labels)
    return _computed(counters)


def regression_metrics(batches: Batches) -> dict[str, float]:
    """Metrics of values of shape [samples] or [samples, values] against labels of as many values."""
    counters: dict[str, Any] = {}
    num_samples = 0
    for outputs, targets in batches:
        found, wanted = (tensor_of(array).double().reshape(len(array), -1) for array in (outputs, targets))
        counters = counters or _value_counters(wanted.shape[1])
        num_samples += len(wanted)
        for counter in counters.values():
            counter.update(*((found[:, 0], wanted[:, 0]) if wanted.shape[1] == 1 else (found, wanted)))
    if num_samples < 2:  # without a spread there is nothing to explain
        counters = {name: counter for name, counter in counters.items() if name not in ("r2", "pearson")}
    return _computed(counters)


def language_metrics(batches: Batches) -> dict[str, float]:
    """Metrics of logits of shape [samples, length, tokens] against tokens of shape [samples, length].

    Positions whose label is -100 do not count.
    """
    from torch.nn import functional as F

    counters: dict[str, Any] = {}
    for outputs, targets in batches:
        _check_range(outputs, targets)
        counters = counters or _token_counters(outputs.shape[-1])
        logits = tensor_of(outputs).float().flatten(0, 1)
        tokens = tensor_of(targets).flatten()
        counted = tokens != IGNORED
        losses = F.cross_entropy(logits, tokens, ignore_index=IGNORED, reduction="none")
        counters["cross_entropy"].update(losses[counted].double())
        counters["token_accuracy"].update(logits.argmax(dim=1)[counted], tokens[counted])
    found = _computed(counters)
    if (nats := found.get("cross_entropy")) is not None:
        perplexity = math.exp(nats) if nats < 700 else math.inf
        found |= _finite({"bits_per_token": nats / math.log(2), "perplexity": perplexity})
    return found


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How many samples of each true class (row) got each answer (column).

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    size = max(num_classes, *(int(array.max(initial=-1)) + 1 for array in (predictions, labels)))
    counts: np.ndarray = np.bincount(labels * size + predictions, minlength=size * size)
    return counts.reshape(size, size)


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The `count` most frequent errors as (true, predicted, samples), the most frequent first.

    >>> most_confused(np.array([[5, 2], [3, 4]]), 10)
    [(1, 0, 3), (0, 1, 2)]
    """
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:count]
    cells = [divmod(int(place), errors.shape[1]) for place in order]
    return [
        (true, predicted, int(errors[true, predicted]))
        for true, predicted in cells
        if errors[true, predicted]
    ]


def _check_range(outputs: np.ndarray, targets: np.ndarray) -> None:
    highest, num = int(targets.max(initial=-1)), outputs.shape[-1]
    if highest >= num:
        raise ModelError(f"the model gives {num} outputs, the labels go up to {highest}")


def _class_counters(num_classes: int) -> dict[str, Any]:
    from torchmetrics import MeanMetric
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassCalibrationError,
        MulticlassF1Score,
        MulticlassPrecision,
        MulticlassRecall,
    )

    common: dict[str, Any] = {"num_classes": num_classes, "validate_args": False, **_ALONE}
    counters: dict[str, Any] = {"accuracy": MulticlassAccuracy(average="micro", **common)}
    if top_k := 5 if num_classes > 5 else 3 if num_classes > 3 else 0:
        counters[f"top_{top_k}_accuracy"] = MulticlassAccuracy(average="micro", top_k=top_k, **common)
    for name, kind in (
        ("precision", MulticlassPrecision),
        ("recall", MulticlassRecall),
        ("f1", MulticlassF1Score),
    ):
        counters |= {
            f"{name}_{average}": kind(average=average, **common) for average in ("macro", "weighted")
        }
    counters["calibration_error"] = MulticlassCalibrationError(n_bins=NUM_BINS, norm="l1", **common)
    counters["negative_log_likelihood"] = MeanMetric(nan_strategy="disable", **_ALONE)
    return _in_double(counters)


def _value_counters(num_values: int) -> dict[str, Any]:
    from torchmetrics import MeanAbsoluteError, MeanSquaredError, PearsonCorrCoef, R2Score

    if num_values == 1:
        counters = {
            "mae": MeanAbsoluteError(**_ALONE),
            "rmse": MeanSquaredError(squared=False, **_ALONE),
            "r2": R2Score(**_ALONE),
        }
        return _in_double(counters | {"pearson": PearsonCorrCoef(**_ALONE)})
    return _in_double(
        {
            "mae": MeanAbsoluteError(num_outputs=num_values, **_ALONE),
            "rmse": MeanSquaredError(squared=False, num_outputs=num_values, **_ALONE),
            "r2": R2Score(multioutput="raw_values", **_ALONE),
        }
    )


def _token_counters(num_tokens: int) -> dict[str, Any]:
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy

    accuracy = MulticlassAccuracy(num_classes=num_tokens, average="micro", validate_args=False, **_ALONE)
    return {
        "token_accuracy": accuracy,
        **_in_double({"cross_entropy": MeanMetric(nan_strategy="disable", **_ALONE)}),
    }


def _in_double(counters: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {name: counter.set_dtype(torch.float64) for name, counter in counters.items()}


def _computed(counters: Mapping[str, Any]) -> dict[str, float]:
    """Every figure; several values give their mean under the name, and each by itself below."""
    figures: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a metric is undefined; it is left out instead
        for name, counter in counters.items():
            values = counter.compute().double().reshape(-1).tolist()
            together = math.sqrt(sum(value**2 for value in values)) if name == "rmse" else sum(values)
            figures[name] = together / math.sqrt(len(values)) if name == "rmse" else together / len(values)
            if len(values) > 1:
                figures |= {f"{name}_{index}": value for index, value in enumerate(values)}
    return _finite(figures)


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}
