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

from lissom.bench.statistics import Estimate, change, change_of_ratio, ratio, round_medians
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


class Measured(NamedTuple):
    """One candidate in one measurement, and the model beside it that another measurement timed as well.

    Attributes:
        candidate: Its figures; see `disturbance`.
        beside: Those of the model that both measurements timed, on the same runtime; None where none is.
        readings: Of the measurement.
        control: As `disturbance` takes it.
        cores: Of the machine; default: those of this one.
    """

    candidate: Mapping[str, Any]
    beside: Mapping[str, Any] | None = None
    readings: Sequence[Mapping[str, Any]] = ()
    control: Sequence[Mapping[str, Any]] = ()
    cores: int | None = None

    @property
    def disturbances(self) -> list[Disturbance]:
        """What happened to the candidate, and to the model beside it."""
        timed = [self.candidate] if self.beside is None else [self.candidate, self.beside]
        return [disturbance(one, self.readings, self.control, cores=self.cores) for one in timed]

    def bounds(self) -> tuple[float, float]:
        """Between which the speed of the undisturbed candidate lies, beside the model, else alone."""
        fast, slow = _ends(self.candidate, self.disturbances[0])
        if self.beside is None:
            return 1 / slow, 1 / fast
        other_fast, other_slow = _ends(self.beside, self.disturbances[1])
        return other_fast / slow, other_slow / fast


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
    *,
    cores: int | None = None,
) -> Disturbance:
    """What happened to a candidate.

    Args:
        figures: Its `rounds_ms`, `threads` and, where they were counted, `load` in cores.
        readings: Of the whole measurement, which stand in for what was not counted for each candidate.
        control: Figures of the candidate that was timed twice, with its `control_ms`.
        cores: Of the machine that it was timed on; default: those of this one.
    """
    cores = cores or default_threads()
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
    # Where one was disturbed the other was timed beside the same work, whatever was counted for it.
    (fast, slow), (other_fast, other_slow) = (_ends(one, None) for one in (before, after))
    return _judged(found, both, (fast / other_slow, slow / other_fast))


def honest_change(before: Measured, after: Measured) -> HonestRatio:
    """How much faster a candidate became from one measurement to another, widened or withheld likewise.

    Args:
        before: In the earlier measurement; beside the same model as in the later one, or both alone.
        after: In the later one.
    """
    rounds = [one.candidate["rounds_ms"] for one in (before, after)]
    beside = [one.beside["rounds_ms"] for one in (before, after) if one.beside is not None]
    if len(beside) == 2:
        found = change_of_ratio((beside[0], rounds[0]), (beside[1], rounds[1]))
    else:
        before, after = (one._replace(beside=None) for one in (before, after))
        found = change(*rounds)
    (low, high), (later_low, later_high) = before.bounds(), after.bounds()
    return _judged(found, [*before.disturbances, *after.disturbances], (later_low / high, later_high / low))


def _judged(found: Estimate, of: Sequence[Disturbance], bounds: tuple[float, float]) -> HonestRatio:
    """A ratio as far as it is known, by what disturbed those that it is computed of."""
    worst = max(of, key=lambda one: (one.withholds, one.load, one.spread))
    if worst.withholds:
        return HonestRatio(None, str(worst))
    disturbed = [one for one in of if one.widens]
    if not disturbed:
        return HonestRatio(found)
    wide = Estimate(found.value, min(found.low, bounds[0]), max(found.high, bounds[1]))
    told = str(max(disturbed, key=lambda one: (one.load, one.spread)))
    return HonestRatio(wide if wide.high <= _MOST_WIDTH * wide.low else None, told)


def _ends(figures: Mapping[str, Any], met: Disturbance | None) -> tuple[float, float]:
    """The undisturbed median lies between the fastest call and what was seen, which it is without load."""
    seen = float(np.median(round_medians(figures["rounds_ms"])))
    quiet = met is not None and not met.widens
    return seen if quiet else min(chain.from_iterable(figures["rounds_ms"])), seen


def _spread(rounds: Sequence[Sequence[float]]) -> float:
    low, high = np.percentile(round_medians(rounds), [10, 90])
    return float(high / low) if low > 0 else 1.0
