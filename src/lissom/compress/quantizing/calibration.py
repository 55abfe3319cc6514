"""Calibration: what the tensors of a float32 model hold on the calibrate split.

The model runs with every tensor as an output, a few samples at a time, and nothing is kept of a batch but its
extremes, counts and the mean and largest value of each channel that a layer reads: memory does not grow
with the number of samples. The data are read once, and once more where an observer wants a histogram.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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

_AVERAGING = 0.01
_BATCH_BYTES = 64_000_000
"""Memory that the tensors of one batch may take."""
_MAX_BATCH = 32
_MAX_COUNTED = 1 << 18
"""Values of a tensor that a batch adds to its histogram; of more, evenly spaced ones."""


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


@dataclass
class Calibration:
    """Ranges of the tensors of one model.

    Attributes:
        model: The model, with value types inferred.
        samples: Calibration samples by input name.
        progress: Shows how far it is.
        seen: What is known of every float32 tensor.
        channels: The same by channel, for tensors that layers read.
    """

    model: Any
    samples: Mapping[str, np.ndarray]
    progress: Progress = field(default_factory=NoProgress)
    seen: dict[str, Seen] = field(default_factory=dict)
    channels: dict[str, Channels] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = float_tensors(self.model)
        self._axes = {layer.data: layer.channel_axis for layer in Graph(self.model).layers}
        self._opened: Any = None
        self._batches = batches_of(dict(self.samples), self._batch_size())
        for outputs in self._runs():
            for name, values in outputs.items():
                self._note(name, values)

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
        if needs_histogram(observer) and all(seen.counts is None for seen in self.seen.values()):
            self._count()
        return {name: find_range(observer, seen, symmetric=symmetric) for name, seen in self.seen.items()}

    def values(self, name: str) -> Iterator[np.ndarray]:
        """A tensor, batch by batch."""
        for batch in self._batches:
            yield batch[name] if name in batch else self._session.run([name], batch)[0]

    def _runs(self) -> Iterator[dict[str, np.ndarray]]:
        made = self._made()
        with self.progress.task("quantize: calibrate", len(self._batches)) as advance:
            for batch in self._batches:
                outputs = dict(zip(made, self._session.run(made, batch), strict=True))
                yield outputs | {name: array for name, array in batch.items() if name in self._names}
                advance(1)

    def _batch_size(self) -> int:
        one = {name: array[:1] for name, array in self.samples.items()}
        size = sum(array.nbytes for array in self._session.run(self._made(), one))
        return int(np.clip(_BATCH_BYTES / max(size, 1), 1, _MAX_BATCH))

    def _made(self) -> list[str]:
        fed = {value.name for value in self.model.graph.input}
        return [name for name in self._names if name not in fed]

    def _note(self, name: str, values: np.ndarray) -> None:
        if not values.size:
            return
        if not np.isfinite(values).all():
            _refuse(name, self.samples)
        flat = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
        lows, highs = flat.min(axis=1), flat.max(axis=1)
        extremes = Range(float(lows.min()), float(highs.max()))
        before = self.seen.get(name)
        averaged = before.averaged if before else Range(float(lows[0]), float(highs[0]))
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
            averaged = Range(
                averaged.low + _AVERAGING * (low - averaged.low),
                averaged.high + _AVERAGING * (high - averaged.high),
            )
        if before:
            extremes = Range(min(extremes.low, before.extremes.low), max(extremes.high, before.extremes.high))
        self.seen[name] = Seen(extremes, averaged)
        if name in self._axes:
            self._note_channels(name, values)

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


def _refuse(name: str, samples: Mapping[str, np.ndarray]) -> None:
    for key, array in samples.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(
                f"{int((~np.isfinite(array)).sum()):,} calibration values of input {key!r} are not finite",
                hint="remove the samples with NaN or infinity from the calibrate split",
            )
    raise ModelError(
        f"tensor {name!r} of the model is not finite on the calibrate split, so it has no range",
        hint="lissom evaluate shows whether the float model works on these data",
    )
