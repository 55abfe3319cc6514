"""Percentiles with a bound that holds.

A high percentile of a few hundred calls is too low two times out of three. Beside the percentile stands an
upper bound that is above the true one in 99 of 100 measurements; it is None where there are too few samples
to have one.

Early stopping (MLPerf LoadGen, `early_stopping.cc`): with n samples of which t are discarded, the t-th
highest is a bound of the percentile p when P(Bin(n, 1 - p) <= t) is at most 1 %; the largest such t is taken.

That holds for independent samples. A stall makes many slow calls at once, and then the number of stalls is
what counts: blocks of neighbouring calls are drawn again with replacement, and the 99th of 100 percentiles
of such draws is a bound too (Künsch 1989). The larger of both is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lissom.bench.statistics import percentile

CONFIDENCE = 0.99
"""Of the bounds; a constant, because a lower one would weaken what they claim."""
SHARES = (0.5, 0.9, 0.95, 0.99, 0.999)
_NUM_DRAWS = 400
_MIN_BLOCKS = 20
"""Fewer blocks than this say nothing of each other."""
_CLUSTERED = 0.1


class Percentile(NamedTuple):
    """One percentile of a measurement.

    Attributes:
        share: Of the samples that lie at or below it.
        value: The sample at rank ceil(share * n).
        bound: Above the true percentile with 99 % confidence; None with too few samples.
        needed: Samples that a bound takes at least.
        autocorrelation: How much a slow call makes the next one slow too, -1 to 1.
    """

    share: float
    value: float
    bound: float | None
    needed: int
    autocorrelation: float

    @property
    def clustered(self) -> bool:
        """True when slow calls come together, so that fewer than n samples count."""
        return self.autocorrelation > _CLUSTERED


def percentiles(
    samples: Sequence[float] | np.ndarray, shares: Sequence[float] = SHARES, *, seed: int = 0
) -> list[Percentile]:
    """Percentiles of samples in the order in which they were taken, with their bounds.

    Raises:
        ValueError: there are no samples.
    """
    values = np.asarray(samples, dtype=np.float64)
    if not values.size:
        raise ValueError("there are no samples to take a percentile of")
    ordered = np.sort(values)
    drawn = _block_percentiles(values, shares, seed)
    found = []
    for share, draws in zip(shares, drawn, strict=True):
        value = percentile(ordered, share)
        early = early_stopping(ordered, share)
        blocks = percentile(draws, CONFIDENCE) if draws.size else None
        bound = None if early is None else max(early, early if blocks is None else blocks)
        found.append(Percentile(share, value, bound, least_samples(share), _autocorrelation(values > value)))
    return found


def early_stopping(ordered: np.ndarray, share: float) -> float | None:
    """The bound of LoadGen for samples in ascending order; None where there are too few.

    >>> early_stopping(np.arange(64.0), 0.9), early_stopping(np.arange(63.0), 0.9)
    (63.0, None)
    """
    discarded = num_discarded(len(ordered), share)
    return float(ordered[len(ordered) - discarded]) if discarded else None


@lru_cache(maxsize=4096)
def num_discarded(num_samples: int, share: float) -> int:
    """How many of the highest samples lie at or above the bound; 0 where there is none.

    >>> num_discarded(1399, 0.9)
    113
    """
    low, high = 0, num_samples
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _is_bound(num_samples, middle, share) else (low, middle)
    return low


@lru_cache(maxsize=64)
def least_samples(share: float) -> int:
    """Samples that a bound takes at least.

    >>> [least_samples(share) for share in (0.5, 0.9, 0.95, 0.99, 0.999)]
    [11, 64, 130, 662, 6636]
    """
    high = 2
    while not _is_bound(high, 1, share):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _is_bound(middle, 1, share) else (middle, high)
    return high


def _is_bound(num_samples: int, discarded: int, share: float) -> bool:
    """P(Bin(n, 1 - p) <= t) is at most 1 %, as the regularised incomplete beta function."""
    from scipy.special import betainc

    under = num_samples - discarded
    return bool(under > 0 and betainc(under, discarded + 1, share) <= 1 - CONFIDENCE)


def _block_percentiles(values: np.ndarray, shares: Sequence[float], seed: int) -> list[np.ndarray]:
    """Percentiles of draws of whole blocks; empty where there are too few of them.

    Blocks are as long as the square root of the number of samples. Each block is one histogram over the
    ranks of the highest samples, so that a million samples cost as little as a thousand.
    """
    length = int(np.sqrt(len(values)))
    number = len(values) // max(length, 1)
    if number < _MIN_BLOCKS:
        return [np.empty(0) for _ in shares]
    cut = values[: number * length]
    edges = np.unique(np.quantile(cut, np.linspace(0, 1, 2049)))
    places = np.searchsorted(edges, cut, side="left").reshape(number, length)
    width = len(edges) + 1
    counts = np.zeros((number, width))
    for row, own in enumerate(places):
        counts[row] = np.bincount(own, minlength=width)
    generator = np.random.default_rng(seed)
    picks = generator.multinomial(number, np.full(number, 1 / number), size=_NUM_DRAWS)
    below = np.cumsum(picks @ counts, axis=1)
    tops = np.append(edges, edges[-1])
    return [tops[(below >= np.ceil(share * below[:, -1:])).argmax(axis=1)] for share in shares]


def _autocorrelation(over: np.ndarray) -> float:
    """Of neighbours; 0 where nothing varies."""
    centred = over.astype(np.float64) - over.mean()
    power = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / power if power > 0 else 0.0
