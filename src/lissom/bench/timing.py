"""Timing several arms so that the machine's drift hits them alike.

Every round times each arm once, for about the same time; the order of the arms is rotated and turned
round from one round to the next, so that no arm always follows the same neighbour. Before an arm is
timed it is called once unrecorded, because the arm before it has just filled the caches.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lissom.logs import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lissom.runtime.base import Runtime

Arm = TypeVar("Arm", bound=Hashable)

_MIN_CALLS = 3
_MAX_CALLS = 1000


def round_order(arms: list[Arm], index: int) -> list[Arm]:
    """Order of the arms in one round: a rotation, reversed every other round.

    >>> round_order(["a", "b", "c"], 0), round_order(["a", "b", "c"], 1)
    (['a', 'b', 'c'], ['c', 'b', 'a'])
    """
    shift = (index // 2) % len(arms)
    order = arms[shift:] + arms[:shift]
    return order if index % 2 == 0 else order[::-1]


def time_interleaved(
    arms: Mapping[Arm, Runtime],
    inputs: Mapping[str, np.ndarray],
    *,
    num_rounds: int,
    round_ms: float,
    num_warmup: int,
    progress: Progress,
    max_rounds: int | None = None,
    decided: Callable[[Mapping[Arm, list[list[float]]]], bool] = lambda rounds: True,
) -> dict[Arm, list[list[float]]]:
    """Latency of every call of every arm, milliseconds, by round.

    Args:
        arms: Opened runtimes with one signature.
        inputs: Tensors of one call.
        num_rounds: Rounds; each times every arm once.
        round_ms: Time for one arm in one round; at least 3 calls are made.
        num_warmup: Calls of each arm before the first round.
        progress: Advanced by one after each round.
        max_rounds: Rounds at most, where `num_rounds` leave it undecided.
        decided: True when rounds answer what they were timed for.
    """
    num_calls = {name: _calls_in(runtime, inputs, round_ms, num_warmup) for name, runtime in arms.items()}
    rounds: dict[Arm, list[list[float]]] = {name: [] for name in arms}

    def go_on(description: str, first: int, last: int) -> None:
        with progress.task(description, last - first) as advance:
            for index in range(first, last):
                for name in round_order(list(arms), index):
                    arms[name].infer(inputs)
                    samples = [arms[name].timed_infer(inputs)[1] * 1e3 for _ in range(num_calls[name])]
                    rounds[name].append(samples)
                advance(1)

    with _no_garbage_collection():
        go_on("benchmark", 0, num_rounds)
        done = num_rounds
        while done < (max_rounds or num_rounds) and not decided(rounds):
            more = min(done + max(num_rounds // 2, 1), max_rounds or num_rounds)
            go_on("benchmark: undecided, more rounds", done, more)
            done = more
    return rounds


def _calls_in(runtime: Runtime, inputs: Mapping[str, np.ndarray], round_ms: float, num_warmup: int) -> int:
    seconds = [runtime.timed_infer(inputs)[1] for _ in range(num_warmup)]
    typical_ms = float(np.median(seconds[num_warmup // 2 :])) * 1e3
    return int(np.clip(round_ms / max(typical_ms, 1e-4), _MIN_CALLS, _MAX_CALLS))


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
