"""Inputs for a model of which nobody gave samples: noise by its signature, the same for every run.

Speed hardly depends on the values, so that a model can be timed without data; nothing else can be said of it.
Floats are drawn from a normal distribution. Integers are drawn so that no lookup leaves its table: below the
rows of the table that they index, else 0 and 1. Axes that the file leaves open get the first size with which
ONNX Runtime runs the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import TensorSpec
from lissom.errors import LissomError, ModelError
from lissom.export.graphs import all_graphs

Feed = dict[str, np.ndarray]
_SIZES = (64, 32, 128, 224, 16, 256, 8, 4, 2, 1, 512)
"""Of the axes that a file leaves open, in the order in which they are tried."""
_RATES = ("sr", "sample_rate", "sampling_rate")
_THROUGH = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Clip")


class MadeInputs(NamedTuple):
    """How inputs of one model are made.

    Attributes:
        specs: Inputs as the file declares them.
        axes: Axis of each input that is taken for the one of the samples; None where it has none.
        size: Of every other axis that the file leaves open.
        integers: How integers are drawn that index no table.
        bounds: Rows of the table that an input indexes.
    """

    specs: tuple[TensorSpec, ...]
    axes: Mapping[str, int | None]
    size: int
    integers: str
    bounds: Mapping[str, int]

    @property
    def has_open_axes(self) -> bool:
        """True where the file leaves the size of an axis open that is not the one of the samples."""
        return _has_open_axes(self.specs, self.axes)

    def feed(self, seed: int, rows: int = 1) -> Feed:
        """Tensors for one call."""
        generator = np.random.default_rng(seed)
        return {spec.name: self._drawn(spec, rows, generator) for spec in self.specs}

    def samples(self, count: int, seed: int = 0) -> Feed:
        """Arrays of shape [samples, ...] by input name."""
        feeds = [self.feed(seed + number) for number in range(count)]
        return {name: np.stack([self._single(name, feed[name]) for feed in feeds]) for name in self.axes}

    def _single(self, name: str, tensor: np.ndarray) -> np.ndarray:
        axis = self.axes[name]
        return tensor if axis is None else np.take(tensor, 0, axis)

    def _drawn(self, spec: TensorSpec, rows: int, generator: np.random.Generator) -> np.ndarray:
        axis = self.axes[spec.name]
        shape = [
            (rows if isinstance(dim, str) else dim) if place == axis else self._size(dim)
            for place, dim in enumerate(spec.shape)
        ]
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "b":
            return np.asarray(generator.random(shape) < 0.5)
        if dtype.kind == "f":
            return np.asarray(generator.normal(size=shape)).astype(dtype)
        return self._integers(spec, shape, generator).astype(dtype)

    def _size(self, dim: int | str) -> int:
        return self.size if isinstance(dim, str) else dim

    def _integers(self, spec: TensorSpec, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
        if spec.name in _RATES:
            return np.full(shape, 16_000)
        if spec.name in self.bounds:
            return np.asarray(generator.integers(0, self.bounds[spec.name], shape))
        if spec.dtype in ("uint8", "uint16") and self.integers == "bits":
            return np.asarray(generator.integers(0, 256, shape))
        constant = {"zeros": 0, "ones": 1, "size": self.size}.get(self.integers)
        if constant is not None:
            return np.full(shape, constant)
        return np.asarray(generator.integers(0, 2, shape))


def make_inputs(
    model: Any, specs: tuple[TensorSpec, ...], call: Callable[[Mapping[str, np.ndarray]], Any]
) -> MadeInputs:
    """Inputs with which a model runs.

    Args:
        model: ONNX ModelProto.
        specs: Its inputs.
        call: Computes the model.

    Raises:
        ModelError: it runs with none that were tried.
    """
    bounds = _index_bounds(model)
    axes = {spec.name: _sample_axis(spec) for spec in specs}
    problem: LissomError | None = None
    for made in _candidates(specs, axes, bounds):
        try:
            call(made.feed(0))
        except LissomError as exc:
            problem = problem or exc
        else:
            return made
    raise ModelError(
        f"no made-up input runs the model: {problem}", hint="name samples of your own with --data FILE.npz"
    )


def _candidates(
    specs: tuple[TensorSpec, ...], axes: Mapping[str, int | None], bounds: Mapping[str, int]
) -> Iterator[MadeInputs]:
    open_axes = _has_open_axes(specs, axes)
    whole = any(np.dtype(spec.dtype).kind in "iu" for spec in specs)
    for integers in ("bits", "ones", "zeros", "size") if whole else ("bits",):
        for size in _SIZES if open_axes else _SIZES[:1]:
            yield MadeInputs(specs, axes, size, integers, bounds)


def _has_open_axes(specs: tuple[TensorSpec, ...], axes: Mapping[str, int | None]) -> bool:
    return any(
        isinstance(dim, str) and place != axes[spec.name]
        for spec in specs
        for place, dim in enumerate(spec.shape)
    )


def _sample_axis(spec: TensorSpec) -> int | None:
    """The axis that looks like that of the samples; the experiment on the engine decides later."""
    for place, dim in enumerate(spec.shape):
        if place == 0 and (isinstance(dim, str) or dim == 1):
            return 0
        if isinstance(dim, str):
            return place
    ones = [place for place, dim in enumerate(spec.shape) if dim == 1]
    return ones[0] if ones else None


def _index_bounds(model: Any) -> dict[str, int]:
    """For inputs that index a table, the rows of the smallest."""
    bounds: dict[str, int] = {}
    rows = {
        tensor.name: list(tensor.dims) for graph in all_graphs(model.graph) for tensor in graph.initializer
    }
    sources = {value.name: value.name for value in model.graph.input}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            source = sources.get(node.input[0]) if node.input else None
            if source and node.op_type in _THROUGH:
                sources[node.output[0]] = source
            if node.op_type != "Gather" or node.input[0] not in rows:
                continue
            index = sources.get(node.input[1])
            axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
            if index is not None and rows[node.input[0]]:
                size = rows[node.input[0]][axis]
                bounds[index] = min(size, bounds.get(index, size))
    return bounds
