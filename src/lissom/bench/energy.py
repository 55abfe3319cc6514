"""Energy of a call, by the counters of the processor (RAPL) and the card (NVML); without one there is none.

Counters move in steps of 1 to 100 ms, so a model is called again and again for seconds, and what the machine
takes when it does nothing is told beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lissom.bench.gpu import gpu

POWERCAP = Path("/sys/class/powercap")


class Counter(NamedTuple):
    """A running count of joules.

    Attributes:
        name: What it counts.
        read: Joules since some moment.
        wraps_at: Joules at which it begins again; None when it never does.
    """

    name: str
    read: Callable[[], float]
    wraps_at: float | None = None

    def between(self, before: float, after: float) -> float:
        """Joules from one reading to the next."""
        return after - before if after >= before or not self.wraps_at else after - before + self.wraps_at


class Energy(NamedTuple):
    """What calls took.

    Attributes:
        num_calls: Calls that were made.
        seconds: How long they took together.
        joules: By counter, idle machine included.
        idle_watts: By counter, while nothing was called.
    """

    num_calls: int
    seconds: float
    joules: dict[str, float]
    idle_watts: dict[str, float]

    def of_a_call(self) -> dict[str, tuple[float, float]]:
        """Joules of one call by counter: all, and what is above the idle machine."""
        return {
            name: (spent / self.num_calls, (spent - self.idle_watts[name] * self.seconds) / self.num_calls)
            for name, spent in self.joules.items()
        }


def counters() -> list[Counter]:
    """Every counter that can be read here."""
    return [*_processors(), *_cards()]


def idle_watts(found: list[Counter], seconds: float = 2.0) -> dict[str, float]:
    """Power by counter while this process sleeps."""
    began, before = time.perf_counter(), _read(found)
    time.sleep(seconds)
    joules, passed = _since(before, found), time.perf_counter() - began
    return {name: moved / passed for name, moved in joules.items()}


def spent(
    call: Callable[[], Any], found: list[Counter], *, seconds: float, idle: Mapping[str, float]
) -> Energy:
    """Make calls for about so many seconds, one after the other, and count what they take."""
    call()
    began, before, num_calls = time.perf_counter(), _read(found), 0
    while (passed := time.perf_counter() - began) < seconds:
        call()
        num_calls += 1
    return Energy(num_calls, passed, _since(before, found), dict(idle))


def _read(found: list[Counter]) -> list[float]:
    return [counter.read() for counter in found]


def _since(before: list[float], found: list[Counter]) -> dict[str, float]:
    """Joules by counter since it was read."""
    return {
        counter.name: counter.between(earlier, counter.read())
        for counter, earlier in zip(found, before, strict=True)
    }


def _processors() -> list[Counter]:
    """One for each package that RAPL counts; since 2020 it can be read by root alone."""
    found = []
    for zone in sorted(POWERCAP.glob("*-rapl:*")):
        if zone.name.count(":") != 1:
            continue  # a part of a package, counted there already
        try:
            name, most = (zone / "name").read_text().strip(), int((zone / "max_energy_range_uj").read_text())
            int((zone / "energy_uj").read_text())
        except (OSError, ValueError):
            continue
        found.append(Counter(f"RAPL {name}", _microjoules(zone / "energy_uj"), most / 1e6))
    return found


def _microjoules(file: Path) -> Callable[[], float]:
    return lambda: int(file.read_text()) / 1e6


def _cards() -> list[Counter]:
    card = gpu()
    if card is None or card.joules() is None:
        return []
    return [Counter(f"NVML {card.described()['name']}", lambda: card.joules() or 0.0)]
