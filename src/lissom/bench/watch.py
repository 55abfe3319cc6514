"""What the machine did while something was measured, read between rounds, never while a call is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

from lissom.bench.gpu import gpu
from lissom.recipe import default_threads

_CPUS = Path("/sys/devices/system/cpu")
_SHORTEST = 0.2
"""Seconds below which processor time, counted in hundredths of a second, says nothing."""
BUSY, STOLEN = 0.2, 0.1
"""Shares of the cores from which on other processes, or other machines of a host, are spoken of."""


class Reading(NamedTuple):
    """The machine at one moment, and since the reading before.

    Attributes:
        seconds: Since the watch began.
        cpu_mhz: Mean clock of the cores.
        cpu_celsius: The hottest sensor of the processor.
        throttled: How often cores were slowed down for heat since the machine was started.
        others: Share of the cores that other processes computed on.
        stolen: Share that the host gave to other machines.
        gpu: Reading of the card; see `lissom.bench.gpu`.
    """

    seconds: float
    cpu_mhz: float | None
    cpu_celsius: float | None
    throttled: int | None
    others: float | None
    stolen: float | None
    gpu: dict[str, Any] | None


class Watch:
    """Readings of one measurement.

    Attributes:
        readings: In order.
    """

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self._started = time.perf_counter()
        self._spent = _Spent.now()
        self.read()

    def read(self) -> None:
        """Add a reading."""
        now = _Spent.now()
        card = gpu()
        others, stolen = self._spent.shares_until(now)
        if others is not None:
            self._spent = now
        self.readings.append(
            Reading(
                seconds=time.perf_counter() - self._started,
                cpu_mhz=_megahertz(),
                cpu_celsius=_celsius(),
                throttled=_throttled(),
                others=others,
                stolen=stolen,
                gpu=card.read()._asdict() if card else None,
            )
        )

    def record(self) -> list[dict[str, Any]]:
        """As evidence keeps them."""
        return [reading._asdict() for reading in self.readings]


class Counter:
    """Cores that others took in some spans of time, such as the rounds of one candidate."""

    def __init__(self) -> None:
        self._wall = self._others = self._stolen = 0.0
        self._since: _Spent | None = None

    def __enter__(self) -> Self:
        self._since = _Spent.now()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._since is not None
        now, before = _Spent.now(), self._since
        self._wall += now.wall - before.wall
        self._others += now.busy - before.busy - (now.own - before.own)
        self._stolen += now.stolen - before.stolen

    def cores(self) -> dict[str, float] | None:
        """Mean number of cores; None for less time than the system counts in."""
        if self._wall < _SHORTEST:
            return None
        spent = {"others": self._others, "stolen": self._stolen}
        return {name: max(seconds / self._wall, 0.0) for name, seconds in spent.items()}


class _Spent(NamedTuple):
    """Seconds of processor time: all cores, without idling; stolen by the host; of this process."""

    wall: float
    busy: float
    stolen: float
    own: float

    @classmethod
    def now(cls) -> _Spent:
        cores, own = psutil.cpu_times(), os.times()
        stolen = float(getattr(cores, "steal", 0.0))
        busy = sum(getattr(cores, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        return cls(time.perf_counter(), busy, stolen, own.user + own.system)

    def shares_until(self, now: _Spent) -> tuple[float | None, float | None]:
        """What others computed, and what was stolen; the system counts in hundredths of a second."""
        room = (now.wall - self.wall) * default_threads()
        if room < _SHORTEST:
            return None, None
        others = now.busy - self.busy - (now.own - self.own)
        return min(1.0, max(0.0, others / room)), min(1.0, max(0.0, (now.stolen - self.stolen) / room))


def unfit(readings: Sequence[dict[str, Any]]) -> list[str]:
    """Why times that were measured then are no evidence; empty when nothing speaks against them.

    A machine that slows its cores or its card for heat, or that lends them to others, changes speed by more
    than what is looked for, and faster in one round than in the next.

    >>> unfit([{"seconds": 0.0, "throttled": 4}, {"seconds": 1.0, "throttled": 9}])
    ['cores were slowed down for heat 5 times']
    """
    found = []
    counts = [reading["throttled"] for reading in readings if reading.get("throttled") is not None]
    if counts and counts[-1] > counts[0]:
        found.append(f"cores were slowed down for heat {counts[-1] - counts[0]} times")
    reasons = {word for reading in readings for word in (reading.get("gpu") or {}).get("slowdowns", ())}
    if reasons - {"power cap"}:
        found.append(f"the card was slowed down: {', '.join(sorted(reasons - {'power cap'}))}")
    if (stolen := mean_share(readings, "stolen")) >= STOLEN:
        found.append(f"the host gave {stolen:.0%} of the cores to other machines")
    return found


def notices(readings: Sequence[dict[str, Any]]) -> list[str]:
    """What else was seen that a reader of the times should know.

    >>> notices([{"seconds": 0.0}, {"seconds": 1.0, "others": 0.5}])
    ['other processes took 50% of the cores']
    """
    found = []
    if (others := mean_share(readings, "others")) >= BUSY:
        found.append(f"other processes took {others:.0%} of the cores")
    if any("power cap" in (reading.get("gpu") or {}).get("slowdowns", ()) for reading in readings):
        found.append("the card was held at its power limit")
    return found


def mean_share(readings: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean share, weighted by how long each reading stands for; 0 where it was never read."""
    spans = [
        (after["seconds"] - before["seconds"], after[name])
        for before, after in pairwise(readings)
        if after.get(name) is not None
    ]
    weights = sum(passed for passed, _ in spans)
    return sum(passed * share for passed, share in spans) / weights if weights else 0.0


def _megahertz() -> float | None:
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        return None
    return found.current if found else None


def _celsius() -> float | None:
    sensors: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    names = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
    return max((one.current for name in names for one in sensors.get(name, ())), default=None)


def _throttled() -> int | None:
    """The kernel counts for each core how often it was slowed down; None where it does not."""
    found = None
    for file in _CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        try:
            found = (found or 0) + int(file.read_text())
        except (OSError, ValueError):
            continue
    return found
