"""Calibration: what the tensors of a float32 model hold on the calibrate split.

The model runs with every tensor as an output, a few samples at a time, and nothing is kept of a batch but its
extremes, counts and the mean and largest value of each channel that a layer reads: memory does not grow
with the number of samples. The data are read once, and once more where an observer wants a histogram.

Not every tensor has a range. One that holds infinity, or a value that stands for it in a mask (-1e9, the
lowest of float16), would have steps so wide that nothing else is left between them; one that is empty in
every sample has no values. They are no fault: what reads and makes them stays in float. NaN is a fault where
it reaches a layer or an output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lissom.compress.quantizing.graph import Graph, batches_of, float_tensors
from lissom.compress.quantizing.observers import (
    NUM_BINS,
    Range,
    Seen,
    find_range,
    needs_histogram,
)
from lissom.errors import DataError, ModelError
from lissom.export.onnx_file import open_session
from lissom.logs import NoProgress, Progress
from lissom.optional import require
from lissom.runtime.layout import Layout

_AVERAGING = 0.01
_BATCH_BYTES = 64_000_000
"""Memory that the tensors of one batch may take."""
_MAX_BATCH = 32
_MAX_COUNTED = 1 << 18
"""Values of a tensor that a batch adds to its histogram; of more, evenly spaced ones."""


_MASKING = 9e3
"""A value at most minus this may stand for minus infinity: -1e4 is the smallest that is in use."""
_GAP = 16.0
"""It does when every other value is so many times smaller: hardly a step would be left for them."""


@dataclass
class Channels:
    """Of a tensor that layers read, for each channel: largest absolute value, and mean."""

    largest: np.ndarray
    total: np.ndarray
    number: int

    @property
    def mean(self) -> np.ndarray:
        """Mean value of each channel."""
        return self.total / max(self.number, 1)


class Special(NamedTuple):
    """What a tensor holds that has no place in a range.

    Attributes:
        num_nan: Values that are NaN.
        num_infinite: Values that are infinite.
        lowest: Smallest value.
        usual: Largest absolute value of those that stand for no infinity.
    """

    num_nan: int = 0
    num_infinite: int = 0
    lowest: float = 0.0
    usual: float = 0.0

    @property
    def masks(self) -> bool:
        """True when the lowest value stands for minus infinity."""
        return self.lowest <= -_MASKING and self.usual * _GAP <= -self.lowest


def _masking_constants(model: Any) -> list[str]:
    """Names of the constants that hold infinity, NaN, or a value that stands for minus infinity."""
    onnx = require("onnx", extra="cpu")
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    return [tensor.name for tensor in floats if _is_masking(onnx.numpy_helper.to_array(tensor))]


def _is_masking(values: np.ndarray) -> bool:
    if not values.size:
        return False
    low = float(values.min())
    if not math.isfinite(low) or not math.isfinite(float(values.max())):
        return True
    usual = values[values > -_MASKING]
    return Special(lowest=low, usual=float(np.abs(usual).max(initial=0.0))).masks


@dataclass
class Calibration:
    """Ranges of the tensors of one model.

    Attributes:
        model: The model, with value types inferred.
        samples: Calibration samples by input name.
        progress: Shows how far it is.
        layout: Where the samples lie in the tensors of the model; None where on axis 0 of all.
        seen: What is known of every float32 tensor that has a range.
        channels: The same by channel, for tensors that layers read.
        rangeless: Why each of the other float32 tensors, and a constant that is a mask, has none.
    """

    model: Any
    samples: Mapping[str, np.ndarray]
    progress: Progress = field(default_factory=NoProgress)
    layout: Layout | None = None
    seen: dict[str, Seen] = field(default_factory=dict)
    channels: dict[str, Channels] = field(default_factory=dict)
    rangeless: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._special: dict[str, Special] = {}
        self._ranges: dict[tuple[str, bool], dict[str, Range]] = {}
        self._names = float_tensors(self.model)
        self._axes = {layer.data: layer.channel_axis for layer in Graph(self.model).layers}
        self._opened: Any = None
        self._batches = self._calls()
        for outputs in self._runs():
            for name, values in outputs.items():
                self._note(name, values)
        self._check_answers()
        self.rangeless = {name: why for name in self._names if (why := self._why_none(name))}
        self.rangeless |= dict.fromkeys(_masking_constants(self.model), "it is a mask")
        for name in self.rangeless:
            self.seen.pop(name, None)
            self.channels.pop(name, None)

    @property
    def _session(self) -> Any:
        """The model with every tensor as an output; opened when it is needed."""
        if self._opened is None:
            self._opened = open_session(_with_outputs(self.model, self._names))
        return self._opened

    def rest(self) -> None:
        """Free the engine, which holds the weights once more, until tensors are asked for again."""
        self._opened = None

    def ranges(self, observer: str, *, symmetric: bool) -> dict[str, Range]:
        """The range of every tensor, as an observer finds it."""
        if (observer, symmetric) not in self._ranges:
            if needs_histogram(observer) and all(seen.counts is None for seen in self.seen.values()):
                self._count()
            self._ranges[observer, symmetric] = {
                name: find_range(observer, seen, symmetric=symmetric) for name, seen in self.seen.items()
            }
        return self._ranges[observer, symmetric]

    def first_values(self, names: Sequence[str], most: int) -> dict[str, np.ndarray]:
        """Tensors of the first samples, by name, in one pass, which costs what one of them alone would.

        Of each there are at least `most` values, or those of all samples.
        """
        kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
        left = dict.fromkeys(kept, most)
        for batch in self._batches:
            wanted = [name for name in left if name not in batch]
            found = dict(zip(wanted, self._session.run(wanted, batch) if wanted else (), strict=True))
            for name in list(left):
                values = batch[name] if name in batch else found[name]
                kept[name].append(values)
                left[name] -= values.size
                if left[name] <= 0:
                    del left[name]
            if not left:
                break
        return {name: np.concatenate(values) for name, values in kept.items()}

    def _runs(self) -> Iterator[dict[str, np.ndarray]]:
        made = self._made()
        with self.progress.task("quantize: calibrate", len(self._batches)) as advance:
            for batch in self._batches:
                outputs = dict(zip(made, self._session.run(made, batch), strict=True))
                yield outputs | {name: array for name, array in batch.items() if name in self._names}
                advance(1)

    def _calls(self) -> Sequence[dict[str, np.ndarray]]:
        """Tensors of each call; as many samples share one as fit into memory."""
        samples = dict(self.samples)
        if self.layout is None:
            return batches_of(samples, self._batch_size({name: array[:1] for name, array in samples.items()}))
        first = next(self.layout.groups({name: array[:1] for name, array in samples.items()}))
        size = self._batch_size(first.tensors)
        return [group.tensors for group in self.layout.groups(samples, size)]

    def _batch_size(self, one: Mapping[str, np.ndarray]) -> int:
        size = sum(array.nbytes for array in self._session.run(self._made(), dict(one)))
        return int(np.clip(_BATCH_BYTES / max(size, 1), 1, _MAX_BATCH))

    def _made(self) -> list[str]:
        fed = {value.name for value in self.model.graph.input}
        return [name for name in self._names if name not in fed]

    def _note(self, name: str, values: np.ndarray) -> None:
        if not values.size or not self._note_special(name, values):
            return
        flat = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
        self.seen[name] = _seen(self.seen.get(name), flat.min(axis=1), flat.max(axis=1))
        if name in self._axes:
            self._note_channels(name, values)

    def _note_special(self, name: str, values: np.ndarray) -> bool:
        """Count what has no place in a range; False where there was any, finite masks aside."""
        low, high = float(values.min()), float(values.max())  # NaN is kept by both
        known = self._special.get(name)
        if math.isfinite(low) and math.isfinite(high) and low > -_MASKING and known is None:
            return True
        found = known or Special()
        num_nan = int(np.isnan(values).sum())
        usual = values[np.isfinite(values) & (values > -_MASKING)]
        self._special[name] = Special(
            found.num_nan + num_nan,
            found.num_infinite + int(np.isinf(values).sum()),
            min(found.lowest, low) if not num_nan else found.lowest,
            max(found.usual, float(np.abs(usual).max(initial=0.0)), self._largest(name)),
        )
        return math.isfinite(low) and math.isfinite(high)

    def _largest(self, name: str) -> float:
        """Largest absolute value of a tensor before masks were met in it."""
        if name in self._special or name not in self.seen:
            return 0.0
        return max(map(abs, self.seen[name].extremes))

    def _why_none(self, name: str) -> str:
        """Why a tensor has no range; empty where it has one."""
        special = self._special.get(name)
        if special is not None and special.num_nan:
            return "it holds NaN"
        if special is not None and special.num_infinite:
            return "it holds infinity, as masks do"
        if special is not None and special.masks:
            return f"it holds {special.lowest:g}, as masks do"
        return "" if name in self.seen else "it is empty in every calibration sample"

    def _check_answers(self) -> None:
        """Refuse a model whose answers or layers are NaN on its own samples.

        Raises:
            DataError: an input holds NaN.
            ModelError: naming the first tensor that holds NaN, and the node that makes it.
        """
        broken = [name for name in self._names if name in self._special and self._special[name].num_nan]
        graph = Graph(self.model)
        read = {name for layer in graph.layers for name in (layer.data, layer.output)}
        if not any(name in read or name in graph.outputs for name in broken):
            return
        for key, array in self.samples.items():
            if array.dtype.kind == "f" and (number := int(np.isnan(array).sum())):
                raise DataError(
                    f"{number:,} calibration values of input {key!r} are not finite",
                    hint="remove the samples with NaN from the calibrate split",
                )
        first = broken[0]
        node = graph.makers[first]
        raise ModelError(
            f"tensor {first!r} of the model is not finite: node {node.name!r} ({node.op_type}) makes NaN of "
            "the calibrate split",
            hint="lissom evaluate shows whether the float model works on these data",
        )

    def _note_channels(self, name: str, values: np.ndarray) -> None:
        rows = np.moveaxis(values, self._axes[name], -1)
        rows = rows.reshape(-1, rows.shape[-1])
        largest, total = np.abs(rows).max(axis=0), rows.sum(axis=0, dtype=np.float64)
        before = self.channels.get(name)
        if before is None:
            self.channels[name] = Channels(largest, total, len(rows))
        else:
            before.largest = np.maximum(before.largest, largest)
            before.total += total
            before.number += len(rows)

    def _count(self) -> None:
        counts = {name: np.zeros(NUM_BINS) for name in self.seen}
        for outputs in self._runs():
            for name, values in outputs.items():
                if name in counts:
                    counts[name] += _histogram(values, self.seen[name].extremes)
        self.seen = {name: seen._replace(counts=counts[name]) for name, seen in self.seen.items()}


def _seen(before: Seen | None, lows: np.ndarray, highs: np.ndarray) -> Seen:
    """What is known of a tensor once the smallest and largest values of more samples are."""
    averaged = before.averaged if before else Range(float(lows[0]), float(highs[0]))
    for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
        averaged = Range(
            averaged.low + _AVERAGING * (low - averaged.low),
            averaged.high + _AVERAGING * (high - averaged.high),
        )
    extremes = Range(float(lows.min()), float(highs.max()))
    total, number = Range(float(lows.sum(dtype=np.float64)), float(highs.sum(dtype=np.float64))), len(lows)
    if before:
        extremes = Range(min(extremes.low, before.extremes.low), max(extremes.high, before.extremes.high))
        total = Range(total.low + before.total.low, total.high + before.total.high)
        number += before.number
    return Seen(extremes, averaged, total, number)


def _histogram(values: np.ndarray, extremes: Range) -> np.ndarray:
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // _MAX_COUNTED)]
    width = (extremes.high - extremes.low) / NUM_BINS
    if width <= 0:
        return np.zeros(NUM_BINS)
    places = np.clip((flat - extremes.low) / width, 0, NUM_BINS - 1).astype(np.int64)
    return np.bincount(places, minlength=NUM_BINS).astype(np.float64)


def _with_outputs(model: Any, names: list[str]) -> bytes:
    """The model with more of its tensors as outputs."""
    onnx = require("onnx", extra="cpu")
    graph = model.graph
    number = len(graph.output)
    known = {value.name for value in (*graph.output, *graph.input)}
    try:
        graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in names
            if name not in known
        )
        content: bytes = model.SerializeToString()
    finally:
        del graph.output[number:]
    return content
