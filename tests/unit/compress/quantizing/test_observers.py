"""Ranges of activations, from what was seen of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.compress.quantizing.observers import (
    NUM_BINS,
    OBSERVERS,
    Range,
    Seen,
    find_range,
    needs_histogram,
)


def seen(values: np.ndarray) -> Seen:
    extremes = Range(float(values.min()), float(values.max()))
    counts, _ = np.histogram(values, NUM_BINS, extremes)
    return Seen(extremes, extremes, extremes, 1, counts.astype(float))


def error(values: np.ndarray, found: Range) -> float:
    scale = (found.high - found.low) / 255
    rounded = np.clip(np.round((values - found.low) / scale), 0, 255) * scale + found.low
    return float(np.mean((values - rounded) ** 2))


VALUES = np.random.default_rng(0).normal(size=50_000)
WITH_OUTLIER = np.append(VALUES, 80.0)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("values", [VALUES, WITH_OUTLIER, np.abs(VALUES), -np.abs(VALUES)])
def test_a_range_holds_zero_and_lies_within_what_was_seen(observer: str, values: np.ndarray) -> None:
    found = find_range(observer, seen(values), symmetric=False)
    assert found.low <= 0 <= found.high
    assert found.low >= min(0, values.min())
    assert found.high <= max(0, values.max()) + 1e-9


@pytest.mark.parametrize("observer", OBSERVERS)
def test_zero_lies_in_the_middle_where_it_is_to(observer: str) -> None:
    found = find_range(observer, seen(WITH_OUTLIER), symmetric=True)
    assert found.low == -found.high


@pytest.mark.parametrize("observer", ["percentile", "entropy"])
def test_one_outlier_does_not_decide(observer: str) -> None:
    found = find_range(observer, seen(WITH_OUTLIER), symmetric=False)
    assert found.high < 40
    assert find_range("minmax", seen(WITH_OUTLIER), symmetric=False).high == 80


def test_mse_has_the_least_squared_error_of_all() -> None:
    errors = {
        observer: error(WITH_OUTLIER, find_range(observer, seen(WITH_OUTLIER), symmetric=False))
        for observer in ("minmax", "mse")
    }
    assert errors["mse"] <= errors["minmax"]


def test_moving_average_takes_the_averaged_extremes() -> None:
    both = Seen(Range(-5, 9), Range(-1, 2), Range(-6, 12), 4)
    assert find_range("moving-average", both, symmetric=False) == Range(-1, 2)


def test_the_mean_of_samples_counts_each_alike() -> None:
    both = Seen(Range(-5, 9), Range(-1, 2), Range(-6, 12), 4)
    assert find_range("sample-mean", both, symmetric=False) == Range(-1.5, 3)


def test_a_tensor_that_is_constant_has_its_extremes() -> None:
    constant = Seen(Range(3, 3), Range(3, 3), Range(3, 3), 1, np.zeros(NUM_BINS))
    for observer in OBSERVERS:
        assert find_range(observer, constant, symmetric=False) == Range(0, 3)


def test_a_histogram_is_needed_by_those_that_look_at_how_often() -> None:
    assert [name for name in OBSERVERS if needs_histogram(name)] == ["percentile", "entropy", "mse"]


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40))
def test_any_values_have_a_range_without_an_error(values: list[float]) -> None:
    for observer in OBSERVERS:
        found = find_range(observer, seen(np.array(values)), symmetric=False)
        assert np.isfinite(found.low)
        assert np.isfinite(found.high)
        assert found.low <= found.high
