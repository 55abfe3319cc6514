"""Seconds on a device: by CUDA events on a GPU, by the clock on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def seconds_of(call: Callable[[], Any], device: str, num_calls: int) -> float:
    """Mean seconds of a call, over several in a row after one that is not counted."""
    with torch.inference_mode():
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


def calls_in(call: Callable[[], Any], device: str, seconds: float) -> int:
    """How many calls take about so long, 3 to 200."""
    return max(3, min(200, int(seconds / max(seconds_of(call, device, 3), 1e-7))))
