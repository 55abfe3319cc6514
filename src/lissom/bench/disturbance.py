"""How much each candidate was disturbed while it was timed, and what a ratio of two is then worth.

Rounds are interleaved so that what the machine does meets all candidates, but it does not meet them alike: an
engine whose threads wait for each other loses its whole call when one of them waits for a core, many times
the share of the cores that is gone, while an engine with one thread may lose nothing. So the processor time
that others took, and that the host stole, is counted in the rounds of each candidate for itself.

    load      cores that others computed on in a candidate's own rounds, beyond those that its threads leave
              free
    spread    90th over 10th percentile of its round medians, less what the control (the same model, opened
              twice) shows as well

Load only ever slows a call down: the undisturbed median lies between the fastest call and the median that was
seen. The ratio of two candidates is widened to what that allows, and withheld where it then says nothing, or
where the load was such that even the fastest call may have been slowed down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from lissom.bench.statistics import Estimate, ratio, round_medians
from lissom.bench.watch import mean_share
from lissom.recipe import default_threads

WIDENED_CORES, WITHHELD_CORES = 0.1, 0.4
"""Cores of load from which on a ratio is widened, and withheld."""
WIDENED_SPREAD = 1.5
"""Spread of round medians, beyond the control's, from which on a ratio is widened."""
_MOST_WIDTH = 1.5
"""Upper over lower end of a widened interval, beyond which a ratio is withheld."""


class Disturbance(NamedTuple):
    """What happened to one candidate in its own rounds.

    Attributes:
        others: Cores that other processes computed on.
        stolen: Cores that the host gave to other machines.
        load: Cores of both that its threads would have computed on.
        spread: 90th over 10th percentile of its round medians, over the same of the control.
    """

    others: float
    stolen: float
    load: float
    spread: float

    @property
    def widens(self) -> bool:
        """True where a ratio with this candidate is less sure than its interval says."""
        return self.load >= WIDENED_CORES or self.spread >= WIDENED_SPREAD

    @property
    def withholds(self) -> bool:
        """True where no ratio with this candidate is known."""
        return self.load >= WITHHELD_CORES

    def __str__(self) -> str:
        """In words.

        >>> print(Disturbance(0.9, 0.0, 0.9, 1.1)), print(Disturbance(0.0, 0.0, 0.0, 2.0))
        other work took 0.9 cores from it
        its rounds differ by a factor of 2.0
        (None, None)
        """
        if self.load >= WIDENED_CORES:
            return f"other work took {self.load:.1f} cores from it"
        return f"its rounds differ by a factor of {self.spread:.1f}"


class HonestRatio(NamedTuple):
    """Latency of one candidate over that of another, as far as it is known.

    Attributes:
        estimate: None where load makes it unknown.
        reason: Why it was widened or withheld; empty where nothing speaks against it.
    """

    estimate: Estimate | None
    reason: str = ""


def disturbance(
    figures: Mapping[str, Any],
    readings: Sequence[Mapping[str, Any]] = (),
    control: Sequence[Mapping[str, Any]] = (),
) -> Disturbance:
    """What happened to a candidate.

    Args:
        figures: Its `rounds_ms`, `threads` and, where they were counted, `load` in cores.
        readings: Of the whole measurement, which stand in for what was not counted for each candidate.
        control: Figures of the candidate that was timed twice, with its `control_ms`.
    """
    cores = default_threads()
    counted = figures.get("load")
    if counted is None:
        counted = {name: cores * mean_share(readings, name) for name in ("others", "stolen")}
    free = max(cores - (figures.get("threads") or cores), 0)
    load = max(counted["others"] - free, 0.0) + counted["stolen"]
    floor = max((_spread(found["control_ms"]) for found in control if found.get("control_ms")), default=1.0)
    return Disturbance(counted["others"], counted["stolen"], load, _spread(figures["rounds_ms"]) / floor)


def honest_ratio(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    readings: Sequence[Mapping[str, Any]] = (),
    control: Sequence[Mapping[str, Any]] = (),
) -> HonestRatio:
    """Latency of `before` over that of `after`, widened or withheld where either was disturbed.

    Args:
        before: Figures of a candidate; see `disturbance`.
        after: Of the other.
        readings: Of the measurement.
        control: As `disturbance` takes it.
    """
    found = ratio(before["rounds_ms"], after["rounds_ms"])
    both = [disturbance(one, readings, control) for one in (before, after)]
    worst = max(both, key=lambda one: (one.withholds, one.load, one.spread))
    if worst.withholds:
        return HonestRatio(None, str(worst))
    disturbed = [one for one in both if one.widens]
    if not disturbed:
        return HonestRatio(found)
    low, high = _bounds(before["rounds_ms"], after["rounds_ms"])
    wide = Estimate(found.value, min(found.low, low), max(found.high, high))
    told = str(max(disturbed, key=lambda one: (one.load, one.spread)))
    return HonestRatio(wide if wide.high <= _MOST_WIDTH * wide.low else None, told)


def _bounds(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Between which the undisturbed ratio lies: each median is between the fastest call and what was seen."""
    ends = [
        (min(chain.from_iterable(rounds)), float(np.median(round_medians(rounds))))
        for rounds in (before, after)
    ]
    (fast, slow), (other_fast, other_slow) = ends
    return fast / other_slow, slow / other_fast


def _spread(rounds: Sequence[Sequence[float]]) -> float:
    low, high = np.percentile(round_medians(rounds), [10, 90])
    return float(high / low) if low > 0 else 1.0
