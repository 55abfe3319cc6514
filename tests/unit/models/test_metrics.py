"""Metrics against scikit-learn and closed forms, whatever the batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from lissom.errors import ModelError
from lissom.models.metrics import (
    classification_metrics,
    confusion_matrix,
    language_metrics,
    most_confused,
    regression_metrics,
)
from lissom.runtime.scores import softmax

GENERATOR = np.random.default_rng(3)
NUM = 200


def batches(outputs: np.ndarray, targets: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(outputs), size):
        yield outputs[start : start + size], targets[start : start + size]


def logits_and_labels(num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = GENERATOR.integers(0, num_classes, NUM)
    logits = GENERATOR.normal(size=(NUM, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    return logits.astype(np.float32), labels


def expected_calibration_error(shares: np.ndarray, labels: np.ndarray) -> float:
    sure, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    bins = np.minimum((sure * 15).astype(int), 14)
    return sum(
        (bins == place).mean() * abs(right[bins == place].mean() - sure[bins == place].mean())
        for place in np.unique(bins)
    )


@pytest.mark.parametrize("size", [1, 64, NUM])
@pytest.mark.parametrize("num_classes", [2, 4, 10])
def test_metrics_of_a_classifier_are_those_of_scikit_learn(num_classes: int, size: int) -> None:
    logits, labels = logits_and_labels(num_classes)
    found = classification_metrics(batches(logits, labels, size))
    predicted, shares = logits.argmax(axis=1), softmax(logits).astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predicted, average=average)
        assert found[f"precision_{average}"] == pytest.approx(precision)
        assert found[f"recall_{average}"] == pytest.approx(recall)
        assert found[f"f1_{average}"] == pytest.approx(f1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert found["negative_log_likelihood"] == pytest.approx(sk.log_loss(labels, shares), rel=1e-5)
    assert found["calibration_error"] == pytest.approx(expected_calibration_error(shares, labels), rel=1e-4)


@pytest.mark.parametrize(("num_classes", "k"), [(2, None), (3, None), (4, 3), (5, 3), (6, 5)])
def test_top_k_is_told_where_there_are_enough_classes(num_classes: int, k: int | None) -> None:
    logits, labels = logits_and_labels(num_classes)
    found = classification_metrics(batches(logits, labels, 64))
    assert [name for name in found if name.startswith("top_")] == ([f"top_{k}_accuracy"] if k else [])
    if k:
        wanted = sk.top_k_accuracy_score(labels, logits, k=k, labels=range(num_classes))
        assert found[f"top_{k}_accuracy"] == pytest.approx(wanted)


def test_a_class_that_never_occurs_does_not_lower_the_macro_average() -> None:
    logits = 5 * np.eye(4, dtype=np.float32)[[0, 1, 0, 1]]
    found = classification_metrics(batches(logits, np.array([0, 1, 0, 1]), 2))
    assert found["f1_macro"] == pytest.approx(1.0)


def test_logits_between_zero_and_one_are_not_taken_for_probabilities() -> None:
    logits, labels = np.array([[0.9, 0.1]], dtype=np.float32), np.array([0])
    found = classification_metrics(batches(logits, labels, 1))
    assert found["calibration_error"] == pytest.approx(1 - 1 / (1 + math.exp(-0.8)))


def test_a_classifier_that_gives_nan_has_no_likelihood() -> None:
    logits, labels = logits_and_labels(4)
    logits[3] = np.nan
    found = classification_metrics(batches(logits, labels, 64))
    assert "negative_log_likelihood" not in found
    assert "accuracy" in found


def test_labels_beyond_the_outputs_are_refused() -> None:
    with pytest.raises(ModelError, match="2 outputs, the labels go up to 7"):
        classification_metrics(batches(np.zeros((1, 2), dtype=np.float32), np.array([7]), 1))


@pytest.mark.parametrize("size", [1, 7, NUM])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_metrics_of_a_single_value_are_those_of_scikit_learn(size: int, offset: float) -> None:
    targets = (GENERATOR.normal(size=NUM) + offset).astype(np.float32)
    outputs = targets[:, None] + GENERATOR.normal(size=(NUM, 1)).astype(np.float32) / 2
    found = regression_metrics(batches(outputs, targets, size))
    wanted, guessed = targets.astype(np.float64), outputs[:, 0].astype(np.float64)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(wanted, guessed))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(wanted, guessed))
    assert found["r2"] == pytest.approx(sk.r2_score(wanted, guessed), rel=1e-5)
    assert found["pearson"] == pytest.approx(np.corrcoef(wanted, guessed)[0, 1], rel=1e-5)


@pytest.mark.parametrize("size", [3, NUM])
def test_several_values_are_told_together_and_each_by_itself(size: int) -> None:
    targets = GENERATOR.normal(size=(NUM, 3)).astype(np.float32) * [1, 10, 100]
    outputs = targets + GENERATOR.normal(size=(NUM, 3)) * [0.1, 2, 30]
    found = regression_metrics(batches(outputs.astype(np.float32), targets.astype(np.float32), size))
    each = sk.mean_absolute_error(targets, outputs, multioutput="raw_values")
    assert [found[f"mae_{index}"] for index in range(3)] == pytest.approx(each.tolist(), rel=1e-4)
    assert found["mae"] == pytest.approx(each.mean(), rel=1e-4)
    assert found["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(targets, outputs)), rel=1e-4)
    assert found["r2"] == pytest.approx(sk.r2_score(targets, outputs), rel=1e-4)
    assert "pearson" not in found


def test_what_a_single_sample_does_not_define_is_left_out() -> None:
    found = regression_metrics(batches(np.ones((1, 1), dtype=np.float32), np.zeros(1, dtype=np.float32), 1))
    assert found == {"mae": 1.0, "rmse": 1.0}


def test_a_constant_model_has_no_correlation() -> None:
    found = regression_metrics(batches(np.ones((9, 1), np.float32), np.arange(9, dtype=np.float32), 4))
    assert "pearson" not in found
    assert found["r2"] < 0


@pytest.mark.parametrize("size", [1, 5, 20])
def test_metrics_of_a_language_model_are_the_closed_forms(size: int) -> None:
    logits = GENERATOR.normal(size=(20, 6, 11)).astype(np.float32)
    tokens = GENERATOR.integers(0, 11, (20, 6))
    tokens[GENERATOR.random((20, 6)) < 0.3] = -100
    found = language_metrics(batches(logits, tokens, size))
    counted = tokens != -100
    shares = softmax(logits)[counted]
    nats = -np.log(shares[np.arange(len(shares)), tokens[counted]].astype(np.float64)).mean()
    assert found["cross_entropy"] == pytest.approx(nats, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert found["bits_per_token"] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert found["token_accuracy"] == pytest.approx((logits.argmax(-1) == tokens)[counted].mean())


def test_a_uniform_model_is_as_perplexed_as_there_are_tokens() -> None:
    found = language_metrics(batches(np.zeros((2, 3, 8), np.float32), np.ones((2, 3), dtype=np.int64), 2))
    assert found["perplexity"] == pytest.approx(8)
    assert found["bits_per_token"] == pytest.approx(3)


def test_a_perplexity_that_no_float_holds_is_left_out() -> None:
    logits = np.zeros((1, 1, 2), np.float32)
    logits[0, 0, 0] = 1e4
    found = language_metrics(batches(logits, np.ones((1, 1), dtype=np.int64), 1))
    assert "perplexity" not in found
    assert found["cross_entropy"] == pytest.approx(1e4)


@pytest.mark.parametrize("measure", [classification_metrics, regression_metrics, language_metrics])
def test_no_batches_give_no_metrics(measure: Any) -> None:
    assert measure(iter(())) == {}


def test_the_confusion_matrix_is_that_of_scikit_learn() -> None:
    labels, predicted = GENERATOR.integers(0, 5, 100), GENERATOR.integers(0, 5, 100)
    found = confusion_matrix(predicted, labels, 5)
    assert np.array_equal(found, sk.confusion_matrix(labels, predicted, labels=range(5)))
    assert [count for _, _, count in most_confused(found, 25)] == sorted(
        (found[~np.eye(5, dtype=bool)][found[~np.eye(5, dtype=bool)] > 0]).tolist(), reverse=True
    )


def test_an_answer_beyond_the_classes_widens_the_confusion_matrix() -> None:
    assert confusion_matrix(np.array([3]), np.array([0]), 2).shape == (4, 4)
