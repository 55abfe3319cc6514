"""Batch sizes and threads: every point is timed, and one that fails leaves the others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from lissom.bench.selection import ArmKey
from lissom.bench.sweeps import Setting, sweep
from lissom.cli.views.benchmarks import swept
from lissom.logs import NoProgress

ARM = ArmKey("a", "torch")
SAMPLES = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}


class Engine:
    """Takes 1 ms and 0.1 ms a sample, divided by its threads."""

    def __init__(self, threads: int, *, max_batch: int | None = None, most: int = 1000) -> None:
        self.threads, self.max_batch, self.most = threads, max_batch, most
        self.sizes: set[int] = set()

    def timed_infer(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        size = len(inputs["x"])
        self.sizes.add(size)
        if size > self.most:
            raise MemoryError("too large")
        return dict(inputs), (0.001 + 0.0001 * size) / self.threads

    def infer_batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.sizes.add(len(inputs["x"]))
        return dict(inputs)


def swept_over(engines: list[Engine], **changes: Any) -> dict[Setting, Any]:
    def opens(stack: ExitStack, threads: int | None) -> Any:
        engine = next(one for one in engines if one.threads == (threads or 2))
        return {ARM: engine}

    given: dict[str, Any] = {
        "batch_sizes": (1, 4),
        "threads": (1, 2),
        "num_rounds": 4,
        "round_ms": 5.0,
        "num_warmup": 2,
        "progress": NoProgress(),
    }
    return sweep(opens, SAMPLES, **(given | changes))


def test_every_batch_size_is_timed_with_every_number_of_threads() -> None:
    found = swept_over([Engine(1), Engine(2)])
    assert list(found) == [Setting(ARM, 1, 1), Setting(ARM, 1, 4), Setting(ARM, 2, 1), Setting(ARM, 2, 4)]
    point = found[Setting(ARM, 2, 4)]
    assert point.latency.value == pytest.approx(0.7)
    assert point.samples_per_second == pytest.approx(4 / 0.0007)
    assert len(point.rounds_ms) == 4


def test_samples_repeat_where_a_batch_is_larger_than_the_data() -> None:
    engine = Engine(2)
    swept_over([engine], batch_sizes=(8,), threads=(None,))
    assert engine.sizes == {8}


def test_a_batch_that_fails_leaves_the_others() -> None:
    found = swept_over([Engine(2, most=4)], batch_sizes=(1, 4, 16), threads=(None,))
    assert found[Setting(ARM, 2, 16)].error == "too large"
    assert found[Setting(ARM, 2, 4)].error is None
    outcome = swept(found)
    assert "too large" in "\n".join(outcome.lines)
    assert [point["batch_size"] for point in outcome.extra["points"]] == [1, 4, 16]


def test_a_runtime_that_takes_one_sample_a_call_is_called_for_each() -> None:
    engine = Engine(2, max_batch=1)
    found = swept_over([engine], batch_sizes=(4,), threads=(None,))
    assert engine.sizes == {4}  # of infer_batch, which divides it
    assert found[Setting(ARM, 2, 4)].latency.value < 0.5


def test_the_most_samples_a_second_are_marked() -> None:
    lines = swept(swept_over([Engine(1), Engine(2)])).lines
    assert [line.split()[-1] for line in lines[1:]].count("most") == 1
    assert lines[-1].endswith("most")
