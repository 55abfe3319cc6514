"""Percentiles have bounds that hold, and none where there are too few samples."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lissom.bench.percentiles import early_stopping, least_samples, num_discarded, percentiles


@pytest.mark.parametrize(
    ("share", "needed"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.97, 219), (0.99, 662), (0.999, 6636)]
)
def test_the_least_samples_are_those_of_mlperf(share: float, needed: int) -> None:
    assert least_samples(share) == needed
    assert num_discarded(needed, share) == 1
    assert num_discarded(needed - 1, share) == 0
    assert early_stopping(np.arange(float(needed)), share) == needed - 1
    assert early_stopping(np.arange(float(needed - 1)), share) is None


@pytest.mark.parametrize(
    ("num_samples", "share", "discarded"), [(1399, 0.9, 113), (662, 0.99, 1), (63, 0.9, 0)]
)
def test_as_many_are_discarded_as_loadgen_discards(num_samples: int, share: float, discarded: int) -> None:
    assert num_discarded(num_samples, share) == discarded


@pytest.mark.parametrize("num_samples", [1000, 4000])
def test_the_bound_is_above_the_true_percentile_nearly_always(num_samples: int) -> None:
    generator = np.random.default_rng(1)
    truth = float(np.exp(2.3263478740408408))  # of a lognormal, at 0.99
    trials = [percentiles(generator.lognormal(size=num_samples), [0.99])[0] for _ in range(60)]
    assert sum(trial.bound is not None and trial.bound >= truth for trial in trials) >= 58
    assert sum(trial.value >= truth for trial in trials) < 45  # the plain percentile is not


def test_slow_calls_that_come_together_raise_the_bound_and_are_told() -> None:
    generator = np.random.default_rng(2)
    samples = generator.normal(1.0, 0.01, 20_000)
    for start in (3_000, 9_000, 15_000):
        samples[start : start + 60] += 0.4
    (found,) = percentiles(samples, [0.99])
    early = early_stopping(np.sort(samples), 0.99)
    assert found.clustered
    assert found.bound is not None
    assert early is not None
    assert found.bound > early
    (apart,) = percentiles(generator.permutation(samples), [0.99])
    assert not apart.clustered


def test_too_few_samples_have_no_bound_and_none_is_an_error() -> None:
    (found,) = percentiles([1.0, 2.0, 3.0], [0.99])
    assert (found.value, found.bound, found.needed) == (3.0, None, 662)
    with pytest.raises(ValueError, match="no samples"):
        percentiles([])


def test_equal_samples_are_their_own_bound() -> None:
    assert percentiles(np.full(2000, 5.0), [0.5, 0.9, 0.99])[2].bound == 5.0


def test_a_million_samples_take_seconds() -> None:
    samples = np.random.default_rng(3).lognormal(size=1_000_000)
    started = time.perf_counter()
    found = percentiles(samples)
    assert time.perf_counter() - started < 5
    assert all(one.bound is not None and one.bound >= one.value for one in found)
