"""Timing several arms so that the machine's drift hits them alike.

Every round times each arm once, for about the same time; the order of the arms is rotated and turned
round from one round to the next, so that no arm always follows the same neighbour. Before an arm is
timed it is called once unrecorded, because the arm before it has just filled the caches. And before the
first round it is called until it is as fast as it gets.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from lissom.bench.watch import Counter
from lissom.logs import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lissom.runtime.base import Runtime
from lissom.runtime.sampled import take_samples

Arm = TypeVar("Arm", bound=Hashable)
Rounds = Mapping[Arm, list[list[float]]]

_MIN_CALLS = 3
_MAX_CALLS = 1000
_WINDOW = 20
"""Calls whose quartiles are compared with those of as many before."""
_QUARTILES = 0.05
_WARMUP_SECONDS = 2.0
_MAX_WARMUP = 300


class WarmUp(NamedTuple):
    """The calls of an arm before its first round.

    Attributes:
        num_calls: How many there were.
        seconds: How long they took together.
        stationary: The last ones were not faster than those before; False when the time was up first.
    """

    num_calls: int
    seconds: float
    stationary: bool


class Session(Generic[Arm]):
    """Arms that are timed in the same rounds.

    An arm that raises is timed no more; what it raised is in `failed`, and the others go on.

    Attributes:
        rounds: Latency of every call, milliseconds, by arm and round.
        warmups: How each arm became warm.
        failed: What an arm raised.
        counters: What others computed in the rounds of each arm.
    """

    def __init__(
        self, arms: Mapping[Arm, Runtime], inputs: Mapping[str, np.ndarray], *, round_ms: float
    ) -> None:
        """Take opened runtimes of one signature.

        Args:
            arms: Opened runtimes.
            inputs: Arrays of shape [samples, ...] of one call.
            round_ms: Time for one arm in one round; at least 3 calls are made.
        """
        self._arms = {name: take_samples(runtime) for name, runtime in arms.items()}
        self._inputs, self._round_ms = inputs, round_ms
        self._num_calls: dict[Arm, int] = {}
        self.rounds: dict[Arm, list[list[float]]] = {name: [] for name in arms}
        self.warmups: dict[Arm, WarmUp] = {}
        self.failed: dict[Arm, Exception] = {}
        self.counters = {name: Counter() for name in arms}

    def warm_up(self, num_calls: int, *, until_stationary: bool = True) -> None:
        """Call every arm so often, and then until it is stationary."""
        for name in list(self._arms):
            with self._watched(name):
                found, typical_ms = _warmed(self._arms[name], self._inputs, num_calls, until_stationary)
                self.warmups[name] = found
                self._num_calls[name] = int(
                    np.clip(self._round_ms / max(typical_ms, 1e-4), _MIN_CALLS, _MAX_CALLS)
                )

    def add_round(self, index: int) -> None:
        """Time every arm once; a round in which an arm fails counts for the others."""
        for name in round_order(list(self._arms), index):
            with self._watched(name), self.counters[name]:
                runtime = self._arms[name]
                runtime.infer(self._inputs)
                samples = [runtime.timed_infer(self._inputs)[1] * 1e3 for _ in range(self._num_calls[name])]
                self.rounds[name].append(samples)

    @contextmanager
    def _watched(self, name: Arm) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            del self._arms[name], self.rounds[name]
            self.failed[name] = exc


def round_order(arms: list[Arm], index: int) -> list[Arm]:
    """Order of the arms in one round: a rotation, reversed every other round.

    >>> round_order(["a", "b", "c"], 0), round_order(["a", "b", "c"], 1)
    (['a', 'b', 'c'], ['c', 'b', 'a'])
    """
    if not arms:
        return []
    shift = (index // 2) % len(arms)
    order = arms[shift:] + arms[:shift]
    return order if index % 2 == 0 else order[::-1]


def time_rounds(
    session: Session[Arm],
    *,
    num_rounds: int,
    progress: Progress,
    max_rounds: int | None = None,
    decided: Callable[[Rounds[Arm]], bool] = lambda rounds: True,
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Time every arm of a session that is warm.

    Args:
        session: It is added to.
        num_rounds: Rounds; each times every arm once.
        progress: Advanced by one after each round.
        max_rounds: Rounds at most, where `num_rounds` leave it undecided.
        decided: True when rounds answer what they were timed for.
        after_round: Called when no arm is timed.
    """
    most = max_rounds or num_rounds

    def go_on(description: str, first: int, last: int) -> None:
        with progress.task(description, last - first) as advance:
            for index in range(first, last):
                session.add_round(index)
                after_round()
                advance(1)

    with _no_garbage_collection():
        go_on("benchmark", 0, num_rounds)
        done = num_rounds
        while done < most and session.rounds and not decided(session.rounds):
            more = min(done + max(num_rounds // 2, 1), most)
            go_on("benchmark: undecided, more rounds", done, more)
            done = more


def time_interleaved(
    arms: Mapping[Arm, Runtime],
    inputs: Mapping[str, np.ndarray],
    *,
    num_rounds: int,
    round_ms: float,
    num_warmup: int,
    progress: Progress,
    max_rounds: int | None = None,
    decided: Callable[[Rounds[Arm]], bool] = lambda rounds: True,
) -> dict[Arm, list[list[float]]]:
    """Latency of every call of every arm, milliseconds, by round; raises what an arm raises.

    For the arguments see `Session` and `time_rounds`; `num_warmup` calls of each arm come first.
    """
    session = Session(arms, inputs, round_ms=round_ms)

    def check() -> None:
        for exc in session.failed.values():
            raise exc

    session.warm_up(num_warmup, until_stationary=False)
    check()
    time_rounds(
        session,
        num_rounds=num_rounds,
        progress=progress,
        max_rounds=max_rounds,
        decided=decided,
        after_round=check,
    )
    return session.rounds


def _warmed(
    runtime: Runtime, inputs: Mapping[str, np.ndarray], num_calls: int, until_stationary: bool
) -> tuple[WarmUp, float]:
    """How an arm became warm, and milliseconds of a typical call."""
    started = time.perf_counter()
    seconds = [runtime.timed_infer(inputs)[1] for _ in range(num_calls)]
    steady = False
    while until_stationary and not (steady := is_stationary(seconds)):
        if len(seconds) >= _MAX_WARMUP or time.perf_counter() - started > _WARMUP_SECONDS:
            break
        seconds.append(runtime.timed_infer(inputs)[1])
    recent = seconds[len(seconds) // 2 :][-_WINDOW:]
    found = WarmUp(len(seconds), time.perf_counter() - started, steady)
    return found, float(np.median(recent)) * 1e3


def is_stationary(seconds: list[float]) -> bool:
    """True when the last 20 calls are like the 20 before: quartiles within 5 %, the first no outlier.

    The rule by which pyperf ends a warm-up.

    >>> is_stationary([1.0] * 40), is_stationary([2.0] * 20 + [1.0] * 20), is_stationary([1.0] * 39)
    (True, False, False)
    """
    if len(seconds) < 2 * _WINDOW:
        return False
    before, after = np.asarray(seconds[-2 * _WINDOW : -_WINDOW]), np.asarray(seconds[-_WINDOW:])
    low, high = np.percentile(before, [25, 75])
    if before[0] > high + 1.5 * (high - low) + 1e-12:
        return False
    return bool(np.all(np.abs(np.percentile(after, [25, 75]) / (low, high) - 1) <= _QUARTILES))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
