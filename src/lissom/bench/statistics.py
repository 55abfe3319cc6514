"""Intervals and verdicts.

Latency: rounds are the unit, because calls within a round depend on each other. The interval of a
median latency, and of the ratio of two arms, is a t interval on the logarithms of the round medians;
pairing by round removes what the machine did to both arms (19 % false alarms when arms are timed one
after the other, 4 % when interleaved: benchmarks/measuring.py).

Accuracy: both models see the same samples, so only the samples on which they disagree count. With b
lost and c gained of n, the drop is (b - c) / n and its interval is Tango's score interval for paired
shares (Tango, Statistics in Medicine 17, 1998), which keeps a width when b = c = 0.

Scores that are no right or wrong, such as 1 - |error| / spread or a share of tokens: the samples are
still paired, so the drop is the mean of the differences d = reference - candidate, and its interval is
the paired t interval, mean(d) +- t(n - 1) * std(d) / sqrt(n); the spread of the samples themselves, far
larger than that of the differences, cancels. A sample is one difference, however many tokens or values
it averages, since those of one sample depend on each other. Where every difference is the same the
formula gives no width, though n samples without a surprise do not rule one out: a share p of samples
may differ that n draws miss with the probability (1 - p)^n, so p is at most 1 - 0.05^(1/n), about 3 / n
(the rule of three; 0.025 for each end of the two-sided interval). Each could be off by the whole range
of the scores, taken as the one observed and at least 0 to 1: (1 - p) d +- p * range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

Verdict = Literal["better", "worse", "inconclusive"]

_Z_TWO_SIDED = 1.959963984540054
_Z_ONE_SIDED = 1.6448536269514722
_CONFIDENCE = 0.95
_UNREACHABLE = 1e9
"""Samples that nobody collects: more are as good as never."""
_ROUNDING = 1e-9
"""Differences of scores that lie closer are the same but for rounding."""


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def percentile(samples: Sequence[float] | np.ndarray, share: float) -> float:
    """The sample at rank ceil(share * n): the smallest that at least this share lies at or below.

    >>> percentile([1, 2, 3, 4], 0.5), percentile([1, 2, 3, 4], 0.9)
    (2.0, 4.0)
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    # 0.07 * 100 is 7.000000000000001: a product that is whole but for rounding counts as whole.
    return float(ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)])


def round_medians(rounds: Sequence[Sequence[float]]) -> np.ndarray:
    """Median of each round."""
    return np.array([np.median(samples) for samples in rounds])


def median_latency(rounds: Sequence[Sequence[float]]) -> Estimate:
    """Geometric mean of the round medians, in the unit of the samples."""
    return _exponential(_mean_interval(np.log(round_medians(rounds))))


def ratio(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> Estimate:
    """Latency of `before` over that of `after`, paired by round: above 1 means that `after` is faster."""
    logs = np.log(round_medians(before)) - np.log(round_medians(after))
    return _exponential(_mean_interval(logs))


def change_of_ratio(
    before: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]],
    after: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]],
) -> Estimate:
    """How much faster an arm became from one session to another, each against the same control.

    What the machine did to one whole session, it did to its control too, so it cancels; within a session
    rounds are paired. The interval is Welch's, on the logarithms of the round medians.

    Args:
        before: Rounds of the control and of the arm, in one session.
        after: The same in another.
    """
    logs = [np.log(round_medians(control)) - np.log(round_medians(arm)) for control, arm in (before, after)]
    return _exponential(_welch(*logs))


def change(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> Estimate:
    """How much faster an arm became from one session to another, without a control: above 1 is faster."""
    return _exponential(_welch(-np.log(round_medians(before)), -np.log(round_medians(after))))


def widened(estimate: Estimate, control: Estimate) -> Estimate:
    """A ratio with its interval widened by what an arm differs from itself, when that is surely not nothing.

    >>> widened(Estimate(1.1, 1.05, 1.15), Estimate(1.01, 0.99, 1.03))
    Estimate(value=1.1, low=1.05, high=1.15)
    """
    if control.low <= 1 <= control.high:
        return estimate
    factor = max(control.value, 1 / control.value)
    return Estimate(estimate.value, estimate.low / factor, estimate.high * factor)


class Flips(NamedTuple):
    """Samples on which two classifiers differ in being right.

    Attributes:
        lost: Right before, wrong after.
        gained: Wrong before, right after.
        p_value: Of McNemar's exact test that both are as likely; 1 where there are none.
    """

    lost: int
    gained: int
    p_value: float


def flips(reference: np.ndarray, candidate: np.ndarray) -> Flips:
    """McNemar's exact test (McNemar, Psychometrika 12, 1947).

    >>> flips(np.array([True] * 10), np.array([False] * 8 + [True] * 2))
    Flips(lost=8, gained=0, p_value=0.0078125)
    """
    from scipy import stats

    lost, gained, _ = _disagreements(reference, candidate)
    p_value = float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    return Flips(lost, gained, p_value)


def wilson(number: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Wilson, JASA 22, 1927), which holds for few samples and shares near 0 and 1.

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    from scipy import stats

    if not of:
        return 0.0, 1.0
    found = stats.binomtest(number, of).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for how many are asked at once (Holm, Scandinavian Journal of Statistics 6, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(speedup: Estimate, margin: float) -> Verdict:
    """Whether a change is surely faster or surely slower by more than `margin`.

    >>> verdict(Estimate(1.5, 1.4, 1.6), 0.02), verdict(Estimate(1.0, 0.9, 1.1), 0.02)
    ('better', 'inconclusive')
    """
    if speedup.low > 1 + margin:
        return "better"
    if speedup.high < 1 / (1 + margin):
        return "worse"
    return "inconclusive"


def paired_drop(reference: np.ndarray, candidate: np.ndarray) -> Estimate:
    """Drop of a share or of a mean score, reference minus candidate, with its two-sided 95 % interval.

    Args:
        reference: True where the reference is right, or its scores, shape [samples].
        candidate: The same of the candidate, of the same samples in the same order.
    """
    if not _is_right_or_wrong(reference, candidate):
        return _mean_drop(_Differences.of(reference, candidate), 1 - (1 - _CONFIDENCE) / 2)
    lost, gained, num = _disagreements(reference, candidate)
    low, high = _tango(lost, gained, num, _Z_TWO_SIDED)
    return Estimate((lost - gained) / num, low, high)


def drop_upper_bound(reference: np.ndarray, candidate: np.ndarray) -> float:
    """One-sided 95 % upper bound of the drop."""
    if not _is_right_or_wrong(reference, candidate):
        return _mean_drop(_Differences.of(reference, candidate), _CONFIDENCE).high
    return _tango(*_disagreements(reference, candidate), _Z_ONE_SIDED)[1]


def samples_to_prove(reference: np.ndarray, candidate: np.ndarray, max_drop: float) -> int | None:
    """Samples at which the upper bound would fall to `max_drop`, were the figures to stay; None if never.

    What stays are the shares of lost and gained samples, or the mean and the spread of the differences.
    """
    if not _is_right_or_wrong(reference, candidate):
        found = _Differences.of(reference, candidate)
        if found.mean >= max_drop - 1e-12:
            return None
        return _least_samples(
            found.num, lambda num: _mean_drop(found._replace(num=num), _CONFIDENCE).high <= max_drop
        )
    lost, gained, num = _disagreements(reference, candidate)
    if (lost - gained) / num >= max_drop - 1e-12:
        return None

    def proves(factor: float) -> bool:
        return _tango(lost * factor, gained * factor, num * factor, _Z_ONE_SIDED)[1] <= max_drop

    high = 1.0
    while not proves(high):
        high *= 2
        if num * high > _UNREACHABLE:
            return None
    low = high / 2 if high > 1 else 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return math.ceil(num * high - 1e-6)


class _Differences(NamedTuple):
    """Paired differences of scores: how many, their mean and spread, and the range of the scores."""

    num: int
    mean: float
    spread: float
    score_range: float

    @classmethod
    def of(cls, reference: np.ndarray, candidate: np.ndarray) -> _Differences:
        differences = reference.astype(np.float64) - candidate.astype(np.float64)
        equal = float(np.ptp(differences)) <= _ROUNDING
        scores = np.concatenate([reference, candidate, [0.0, 1.0]])
        spread = 0.0 if equal else float(differences.std(ddof=1))
        return cls(len(differences), float(differences.mean()), spread, float(np.ptp(scores)))


def _mean_drop(found: _Differences, level: float) -> Estimate:
    """The mean difference between its bounds, each of them one-sided at `level`; see the top."""
    from scipy import stats

    if found.spread:
        half = float(stats.t.ppf(level, found.num - 1)) * found.spread / math.sqrt(found.num)
        return Estimate(found.mean, found.mean - half, found.mean + half)
    missed = 1 - (1 - level) ** (1 / found.num)
    middle, half = (1 - missed) * found.mean, missed * found.score_range
    return Estimate(found.mean, middle - half, middle + half)


def _least_samples(num: int, proves: Callable[[int], bool]) -> int | None:
    """The smallest number of samples from `num` on that proves; None when nobody collects as many."""
    low, high = num - 1, num
    while not proves(high):
        low, high = high, 2 * high
        if high > _UNREACHABLE:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high


def _is_right_or_wrong(reference: np.ndarray, candidate: np.ndarray) -> bool:
    return reference.dtype == bool and candidate.dtype == bool


def _disagreements(reference: np.ndarray, candidate: np.ndarray) -> tuple[int, int, int]:
    lost = int(np.sum(reference & ~candidate))
    gained = int(np.sum(candidate & ~reference))
    return lost, gained, len(reference)


def _tango(lost: float, gained: float, num: float, z: float) -> tuple[float, float]:
    """Both ends of the interval: the drops at which the score statistic is +-z."""
    observed = (lost - gained) / num

    def score(drop: float) -> float:
        a = 2 * num
        b = -lost - gained + (2 * num - lost + gained) * drop
        c = -gained * drop * (1 - drop)
        share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = num * (2 * share + drop * (1 - drop))
        return (
            (lost - gained - num * drop) / math.sqrt(variance)
            if variance > 1e-12
            else math.copysign(math.inf, observed - drop)
        )

    low = _bisect(lambda drop: score(drop) - z, -1.0, observed)
    high = _bisect(lambda drop: score(drop) + z, observed, 1.0)
    return low, high


def _bisect(function: Callable[[float], float], left: float, right: float) -> float:
    """Root of a decreasing function."""
    for _ in range(80):
        middle = (left + right) / 2
        if function(middle) > 0:
            left = middle
        else:
            right = middle
    return (left + right) / 2


def _mean_interval(values: np.ndarray) -> Estimate:
    from scipy.special import stdtrit  # a server would wait half a second for scipy.stats

    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, (1 + _CONFIDENCE) / 2)) * error
    return Estimate(mean, mean - half, mean + half)


def _welch(before: np.ndarray, after: np.ndarray) -> Estimate:
    """Difference of two means, after minus before, with unequal variances."""
    from scipy import stats

    difference = float(after.mean() - before.mean())
    if min(len(before), len(after)) < 2:
        return Estimate(difference, -math.inf, math.inf)
    parts = [float(values.var(ddof=1)) / len(values) for values in (before, after)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return Estimate(difference, difference, difference)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (before, after), strict=True)
    )
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * error
    return Estimate(difference, difference - half, difference + half)


def _exponential(logs: Estimate) -> Estimate:
    return Estimate(*(math.exp(value) for value in logs))
