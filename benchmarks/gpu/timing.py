"""Seconds on a device: by CUDA events on a GPU, by the clock on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Call = Callable[[], Any]


def seconds_of(call: Call, device: str, num_calls: int) -> float:
    """Mean seconds of a call, over several in a row after one that is not counted."""
    call()
    if device == "cpu":
        started = time.perf_counter()
        for _ in range(num_calls):
            call()
        return (time.perf_counter() - started) / num_calls
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    for _ in range(num_calls):
        call()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3 / num_calls


def calls_in(call: Call, device: str, seconds: float) -> int:
    """How many calls take about so long, 2 to 200."""
    return max(2, min(200, int(seconds / max(seconds_of(call, device, 2), 1e-7))))


def interleaved(
    calls: Mapping[str, Call],
    device: str,
    *,
    num_rounds: int,
    seconds: float,
    before: Callable[[str], None],
    failed: Callable[[str, Exception], None],
) -> dict[str, list[list[float]]]:
    """Milliseconds of each call in rounds; every round calls all of them, in an order that turns.

    Args:
        calls: By name.
        device: cpu or cuda.
        num_rounds: One figure a round.
        seconds: About how long one call is repeated in a round.
        before: Told the name of what is called next.
        failed: Told the name of what raised and is called no more, and what it raised.
    """
    counts: dict[str, int] = {}
    rounds: dict[str, list[list[float]]] = {name: [] for name in calls}

    def attempt(name: str) -> None:
        before(name)
        try:
            if name in counts:
                rounds[name].append([1e3 * seconds_of(calls[name], device, counts[name])])
            else:
                counts[name] = calls_in(calls[name], device, seconds)
        except Exception as exc:
            del rounds[name]
            failed(name, exc)

    for name in calls:
        attempt(name)
    for index in range(num_rounds):
        names = list(rounds)
        shift = index % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            attempt(name)
    return rounds
