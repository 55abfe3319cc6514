"""Models drawn at random from what a forward can do with the samples of a batch, and what is right for them.

A model is numpy, called directly: what it says to the tensors of one caller alone is right. Steps take and
give [n, 5]; ends make an output of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Batching, Signature, TensorSpec
from lissom.runtime.batching import prove_batching
from lissom.runtime.layout import Layout
from lissom.serve.scheduler import Limits, Scheduler

Tensors = Mapping[str, np.ndarray]
Call = Callable[[Tensors], Mapping[str, np.ndarray]]
Step = Callable[[np.ndarray], np.ndarray]
SIZE = 5
MAX_BATCH = 16
"""Rows that are computed together at most."""

WITHIN: dict[str, Step] = {
    "double": lambda x: 2 * x,
    "tanh": np.tanh,
    "sum of a row": lambda x: x + x.sum(axis=1, keepdims=True),
    "turn a row": lambda x: np.roll(x, 1, axis=1),
    "sort a row": lambda x: np.sort(x, axis=1),
    "limit a row": lambda x: x / np.maximum(1, np.abs(x).max(axis=1, keepdims=True)),
    "where it is large": lambda x: np.where(np.abs(x) > 100, -x, x),
}
ACROSS: dict[str, Step] = {
    "mean": lambda x: x - x.mean(axis=0),
    "largest": lambda x: x / (1 + np.abs(x).max()),
    "previous": lambda x: x + np.roll(x, 1, axis=0),
    "sums": lambda x: x.cumsum(axis=0),
    "largest so far": lambda x: np.maximum.accumulate(x, axis=0),
    "sort": lambda x: np.sort(x, axis=0),
    "reverse": lambda x: x[::-1],
    "count": lambda x: x * len(x),
    "attention": lambda x: x + np.tanh(x @ x.T) @ x,
    "only when large": lambda x: x * (2 if np.abs(x).max() > 4 else 1),
    "only when huge": lambda x: x * (2 if np.abs(x).max() > 1000 else 1),
    "only when very negative": lambda x: x - (1 if x.min() < -500 else 0),
    "only when two are equal": lambda x: x + len(x) - len(np.unique(x, axis=0)),
    "only when a row is 0": lambda x: x + (~x.any(axis=1)).sum(),
    "room for eight": lambda x: np.where(np.arange(len(x))[:, None] < 8, x, 0),
    "another way for many": lambda x: x - x.mean(axis=0) if len(x) > 6 else x,
    "by place": lambda x: x + np.arange(len(x))[:, None],
    "ranks": lambda x: x + x[:, :1].argsort(axis=0).argsort(axis=0),
}
ENDS: dict[str, tuple[Step, int | None]] = {
    "plain": (lambda x: x, 0),
    "whole numbers": (lambda x: np.rint(x * 3).astype(np.int64), 0),
    "classes": (lambda x: x.argmax(axis=1), 0),
    "last": (lambda x: x.T.copy(), 1),
    "middle": (lambda x: np.stack([x, -x]), 1),
    "pairs": (lambda x: x @ x.T, None),
    "mean": (lambda x: np.asarray(x.mean()), None),
    "flat": (lambda x: x.reshape(-1), None),
    "positive": (lambda x: x[x[:, 0] > 0], None),
    "without copies": (lambda x: np.unique(x, axis=0), None),
    "each twice": (lambda x: np.repeat(x, 2, axis=0), None),
    "twice after another": (lambda x: np.concatenate([x, x]), None),
    "counts": (lambda x: np.bincount(x.argmax(axis=1), minlength=SIZE), None),
}


class Behaviour(NamedTuple):
    """A model: steps and outputs by name, and the axis of `x` on which the samples lie."""

    steps: Sequence[str]
    ends: Sequence[str]
    axis: int = 0

    def __call__(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """What it says to some samples."""
        x = np.moveaxis(tensors["x"].astype(np.float64), self.axis, 0)
        for step in self.steps:
            x = (WITHIN | ACROSS)[step](x)
        return {end: np.ascontiguousarray(ENDS[end][0](x)) for end in self.ends}

    @property
    def is_by_row(self) -> bool:
        """Each row is computed from itself, every output has an axis of the rows, and one differs by row."""
        has_axes = all(ENDS[end][1] is not None for end in self.ends)
        is_constant = list(self.ends) == ["classes"] and "sort a row" in self.steps
        return has_axes and not is_constant and all(step in WITHIN for step in self.steps)


def serve(
    run: Call, requests: Sequence[Tensors], batching: Batching, max_batch: int = MAX_BATCH
) -> list[Tensors | BaseException]:
    """Answers to requests that all wait before the first is computed, as a busy server has them."""

    async def ask() -> list[Any]:
        with ThreadPoolExecutor(1) as executor:
            scheduler = Scheduler(
                run, Limits(max_batch=max_batch), executor=executor, batches=batching.joins, batching=batching
            )
            return await asyncio.gather(*map(scheduler.submit, requests), return_exceptions=True)

    return asyncio.run(ask())


def served(model: Behaviour, counts: Sequence[int], seed: int) -> tuple[Batching, list[str]]:
    """Prove a model, serve it to callers who send so many samples each, and compare with the model alone.

    One caller in four sends numbers that are rare: huge, all zero, or those of another caller.

    Returns:
        What was proven, and a line for each caller who was answered with anything else than is right.
    """
    generator = np.random.default_rng(seed)
    samples = {"x": generator.normal(size=(8, SIZE)).astype(np.float32)}
    batching = prove_batching(model, samples, [{"x": model.axis}], most=MAX_BATCH)
    assert batching is not None
    shape = ("batch", SIZE) if model.axis == 0 else (SIZE, "batch")
    signature = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=shape),), outputs=())
    layout = Layout(signature, batching)
    rows = [_rows(generator, count) for count in counts]
    requests = [{"x": np.ascontiguousarray(np.moveaxis(one, 0, model.axis))} for one in rows]
    answers = serve(lambda tensors: layout.infer_request(model, tensors), requests, batching)
    faults = [
        f"caller {place}: {told}"
        for place, (request, answer) in enumerate(zip(requests, answers, strict=True))
        if (told := _difference(answer, model(request)))
    ]
    return batching, faults


def _rows(generator: np.random.Generator, count: int) -> np.ndarray:
    rows = generator.normal(size=(count, SIZE)).astype(np.float32)
    kind = generator.integers(12)
    if kind == 0:
        rows *= 10000
    elif kind == 1:
        rows[0] = 0
    elif kind == 2:
        rows[:] = 1
    return rows


def _difference(found: Any, wanted: Tensors) -> str:
    if isinstance(found, BaseException):
        return f"{type(found).__name__}: {found}"
    for name, array in wanted.items():
        if found[name].shape != array.shape or not np.allclose(found[name], array, rtol=1e-6, atol=1e-9):
            return f"output {name!r} is not that of the model alone"
    return ""


def drawn(seed: int) -> tuple[Behaviour, list[int]]:
    """A model, and how many samples each caller sends; half of the models mix samples in one step or end."""
    generator = np.random.default_rng(1_000_000 + seed)
    steps = [str(one) for one in generator.choice(list(WITHIN), generator.integers(0, 4))]
    along = [end for end, (_, axis) in ENDS.items() if axis is not None]
    ends = [str(one) for one in generator.choice(along, generator.integers(1, 3), replace=False)]
    kind = generator.integers(6)
    if kind in (0, 1):
        steps.insert(int(generator.integers(len(steps) + 1)), str(generator.choice(list(ACROSS))))
    elif kind == 2:
        ends[0] = str(generator.choice([end for end in ENDS if end not in along]))
    elif kind == 3:
        steps += [str(one) for one in generator.choice(list(ACROSS), 2)]
    counts = [int(one) for one in generator.integers(1, 5, generator.integers(2, 14))]
    return Behaviour(steps, ends, int(generator.integers(2))), counts
