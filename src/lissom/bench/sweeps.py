"""Latency and throughput by batch size and threads: all of them timed in the same interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from lissom.bench.selection import ArmKey
from lissom.bench.statistics import Estimate, median_latency
from lissom.bench.timing import Session, time_rounds
from lissom.logs import Progress
from lissom.runtime.base import Runtime
from lissom.runtime.sampled import take_samples

Tensors = Mapping[str, np.ndarray]
Opens = Callable[[ExitStack, int | None], Mapping[ArmKey, Runtime]]
"""Opens every arm with so many threads, to be closed by the stack."""


class Setting(NamedTuple):
    """One point of a sweep."""

    arm: ArmKey
    threads: int
    batch_size: int


class Point(NamedTuple):
    """What was measured at a setting.

    Attributes:
        latency: Of one call, milliseconds; None where it failed.
        samples_per_second: Batch size over latency.
        error: What it raised.
        rounds_ms: Every call, by round.
    """

    latency: Estimate | None
    samples_per_second: float | None
    error: str | None
    rounds_ms: list[list[float]]


class _Batched:
    """A runtime that is always called with one batch, in several calls where it takes fewer samples."""

    def __init__(self, runtime: Runtime, inputs: dict[str, np.ndarray]) -> None:
        self._runtime, self._inputs = runtime, inputs
        self._calls: Any = take_samples(runtime)
        size = len(next(iter(inputs.values())))
        self._whole = runtime.max_batch is None or size <= runtime.max_batch

    def infer(self, inputs: Tensors) -> dict[str, np.ndarray]:
        return self._runtime.infer_batch(self._inputs)

    def timed_infer(self, inputs: Tensors) -> tuple[dict[str, np.ndarray], float]:
        if self._whole:
            timed: tuple[dict[str, np.ndarray], float] = self._calls.timed_infer(self._inputs)
            return timed
        started = time.perf_counter()
        answer = self._runtime.infer_batch(self._inputs)
        return answer, time.perf_counter() - started


def sweep(
    opens: Opens,
    samples: Tensors,
    *,
    batch_sizes: Sequence[int],
    threads: Sequence[int | None],
    num_rounds: int,
    round_ms: float,
    num_warmup: int,
    progress: Progress,
) -> dict[Setting, Point]:
    """Time every arm at every batch size with every number of threads.

    Arms and batch sizes are interleaved; with other threads arms are opened anew, so figures of different
    numbers of threads were measured one after the other.

    Args:
        opens: Opens the arms.
        samples: Tensors after preprocessing, shape [samples, ...]; they repeat in larger batches.
        batch_sizes: Samples of a call.
        threads: Of a call; None for all cores.
        num_rounds: Rounds; each times every arm at every batch size once.
        round_ms: Time for one arm at one batch size in one round; at least 3 calls are made.
        num_warmup: Calls before the first round; more follow until they get no faster.
        progress: Shows how far it is.
    """
    found: dict[Setting, Point] = {}
    for number in threads:
        with ExitStack() as stack:
            opened = opens(stack, number)
            arms: dict[Setting, Any] = {
                Setting(arm, runtime.threads, size): _Batched(runtime, dict(_batch(samples, size)))
                for size in batch_sizes
                for arm, runtime in opened.items()
            }
            session: Session[Setting] = Session(arms, samples, round_ms=round_ms)
            session.warm_up(num_warmup)
            time_rounds(session, num_rounds=num_rounds, progress=progress)
        found |= {setting: _point(setting, session) for setting in arms}
    return found


def _batch(samples: Tensors, size: int) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in samples.items():
        yield name, array[np.arange(size) % len(array)]


def _point(setting: Setting, session: Session[Setting]) -> Point:
    if (exc := session.failed.get(setting)) is not None:
        return Point(None, None, str(exc) or type(exc).__name__, [])
    rounds = session.rounds[setting]
    latency = median_latency(rounds)
    return Point(latency, 1e3 * setting.batch_size / latency.value, None, rounds)
