"""What goes on inside an ONNX model, float or quantized: see `lissom.models.inspection`.

A quantized tensor is shown on its grid: what the graph computes just before it is rounded, with the ends of
the grid and the share that lies beyond them. Weights were rounded when the model was made, so that of them
the steps are shown which they take; where every channel has its own step, they are counted in steps.

A rectifier may be gone from a quantized graph, because the grid that follows begins at zero and does the
same. Units that such a grid rounds to zero for every sample are dead too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Artifact
from lissom.bench.layers import module_of
from lissom.bench.work import flops_of_nodes
from lissom.errors import ArtifactError, ModelError, near
from lissom.export.onnx_file import caller, open_session
from lissom.models.inspection import (
    Grid,
    Held,
    Inside,
    Layer,
    Rectifier,
    affordable,
    chosen_maps,
    histogram,
)
from lissom.optional import require
from lissom.runtime.onnx_runtime import MODEL_FILE

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits", "MatMulInteger", "ConvInteger")
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm", *_RECURRENT)
_UNPACKING = (
    *("DequantizeLinear", "Concat", "Slice", "Reshape", "Transpose"),
    *("Squeeze", "Unsqueeze", "Identity", "Cast"),
)
_ACTIVATIONS = ("Relu", "Clip")
_BEFORE_GRIDS = (*_LAYERS, *_ACTIVATIONS, "Add")
"""What a grid that begins at zero rectifies; not what is never negative anyway, such as Softmax."""
_AT_ONCE = 8
"""Tensors that are held at once."""


class _Step(NamedTuple):
    """How a tensor is rounded: scale, integers at the ends, and the integer that stands for zero."""

    scale: float
    zero_point: int
    low: int
    high: int


def look_inside_onnx(
    artifact: Artifact, inputs: Mapping[str, np.ndarray], *, layer: str | None = None
) -> Inside:
    """Watch an ONNX model.

    Args:
        artifact: In the format onnx.
        inputs: Tensors after preprocessing, shape [samples, ...]; the first sample is the one of the feature
            maps. Of models with large activations fewer pass through.
        layer: Layer whose feature maps are kept; default: the first that gives some.

    Raises:
        ModelError: there is no such layer, or it gives no feature maps; or the model cannot be run.
        MissingExtra: onnxruntime is not installed.
    """
    onnx: Any = require("onnx", extra="cpu")
    graph = _Graph(onnx, onnx.load(artifact.file(MODEL_FILE)))
    nodes = graph.labelled()
    if layer is not None and layer not in nodes:
        raise ModelError(f"the model has no layer {layer!r}", hint=near(layer, nodes))
    ends = {label: graph.end(_first(own[-1].output)) for label, own in nodes.items()}
    watched = {*ends.values(), *graph.rectified}
    given = len(next(iter(inputs.values())))
    number = affordable(graph.largest(inputs, watched), given)
    if number < given:
        inputs = {name: array[:number] for name, array in inputs.items()}
    seen = graph.watch(inputs, watched, {ends[name]: name for name in ([layer] if layer else ends)})
    try:
        work = dict(flops_of_nodes(artifact))
    except ArtifactError:  # a shape is not known; the rest is
        work = {}
    layers = tuple(
        Layer(
            label,
            own[0].op_type,
            sum(graph.num_parameters(node) for node in own),
            _total([work.get(_first(node.output)) for node in own]),
            graph.weights_held(own[0]),
            seen.held.get(ends[label]),
        )
        for label, own in nodes.items()
    )
    rectifiers = tuple(seen.rectifiers[name] for name in graph.rectified if name in seen.rectifiers)
    return Inside(layers, rectifiers, chosen_maps(seen.maps, layer), number)


class _Seen(NamedTuple):
    """What was seen of the tensors that were watched, by name; maps by the label of their layer."""

    held: dict[str, Held]
    rectifiers: dict[str, Rectifier]
    maps: dict[str, np.ndarray]


class _Graph:
    """A model as it is inspected: its layers, what they are multiplied by, and where they are rounded."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._model = onnx, model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self.layers = [node for node in model.graph.node if self._weights(node)]
        self.rectified = [name for name in self._makers if self._rectifies(name)]

    def labelled(self) -> dict[str, list[Any]]:
        """Nodes of every layer by its label; a module that is called again has a number behind.

        A recurrent layer of several levels is several nodes.
        """
        found: dict[str, list[Any]] = {}
        for node in self.layers:
            label = name = self.label(node)
            while name in found and node.op_type not in _RECURRENT:
                same = sum(other == label or other.startswith(f"{label} (") for other in found)
                name = f"{label} ({same + 1})"
            found.setdefault(name, []).append(node)
        return found

    def label(self, node: Any) -> str:
        """The module of a layer by its weight or its bias, else the name of the node or of its tensor."""
        names = [*self._weights(node), *self._biases(node)]
        modules = (module_of(name) for name in names)
        return next(filter(None, modules), None) or node.name or _first(node.output)

    def end(self, name: str) -> str:
        """The tensor of a layer behind its activation."""
        readers = self._readers[name]
        if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
            return str(readers[0].output[0])
        return name

    def num_parameters(self, node: Any) -> int:
        """Weights and biases of a layer, without its scales."""
        if node.op_type == "MatMulNBits":
            sizes = {item.name: item.i for item in node.attribute}
            return int(sizes["K"] * sizes["N"])
        names = dict.fromkeys([*self._weights(node), *self._biases(node)])
        return sum(math.prod(self._constants[name].dims) for name in names)

    def weights_held(self, node: Any) -> Held | None:
        """The weights of a layer, on their grid where they have one; None for a type that is not known."""
        stored = [self._array(name) for name in self._weights(node)]
        if all(array.dtype.kind == "f" for array in stored):
            return Held(histogram(np.concatenate([array.reshape(-1) for array in stored])))
        (first, *_), ends = stored, _ends(stored[0].dtype)
        if ends is None:
            return None
        if node.op_type == "MatMulNBits":
            return _in_steps(*self._unpacked(node, first))
        scale, zero_point = self._rounding(node)
        if scale.size != 1 or np.unique(zero_point).size != 1:
            return _in_steps(first.astype(np.int64), *ends)
        step, zero = float(scale.flat[0]), int(zero_point.flat[0])
        values = step * (first.astype(np.float32) - zero)
        low, high = (step * (end - zero) for end in ends)
        grid = Grid(low, high, step, ends[1] - ends[0] + 1, len(np.unique(first.astype(np.int64))), None)
        return Held(histogram(values), grid)

    def watch(self, inputs: Mapping[str, np.ndarray], names: set[str], maps: Mapping[str, str]) -> _Seen:
        """Run the samples, and count what tensors hold.

        Args:
            inputs: Tensors after preprocessing.
            names: Tensors that are watched.
            maps: Tensors of which the first sample is kept, to the name under which.
        """
        found = _Seen({}, {}, {})
        for values in self._values(inputs, names):
            for name, array in values.items():
                self._note(found, name, array, maps)
        return found

    def largest(self, inputs: Mapping[str, np.ndarray], names: set[str]) -> int:
        """Values of the largest of some tensors for one sample."""
        first = {name: array[:1] for name, array in inputs.items()}
        return max(
            (array.size for values in self._values(first, names) for array in values.values()), default=0
        )

    def _values(self, inputs: Mapping[str, np.ndarray], names: set[str]) -> Iterator[dict[str, np.ndarray]]:
        """Tensors of the samples by name, some at a time."""
        ordered = [name for name in self._makers if name in names]
        for start in range(0, len(ordered), _AT_ONCE):
            some = ordered[start : start + _AT_ONCE]
            yield caller(open_session(self._with_outputs(some)), some)(inputs)

    def _note(self, found: _Seen, name: str, values: np.ndarray, maps: Mapping[str, str]) -> None:
        if values.dtype.kind != "f":
            return
        step = self._step(name)
        if step is not None and name in self.rectified:
            values = np.maximum(values, 0)  # the grid is the rectifier
        found.held[name] = Held(histogram(values), _grid(step, values) if step else None)
        if name in maps:
            found.maps[maps[name]] = values[0].astype(np.float32)
        if name in self.rectified and values.ndim > 1:
            axis = values.ndim - 1 if values.ndim == 3 and not self._convolves(name) else 1
            others = tuple(number for number in range(values.ndim) if number != axis)
            highest = values.max(axis=others)
            dead = highest <= (step.scale / 2 if step else 0.0)
            label = self._label_of(name)
            found.rectifiers[name] = Rectifier(label, len(highest), int(dead.sum()))

    def _label_of(self, name: str) -> str:
        """The layer before a rectifier, where it is the only one that it rectifies."""
        node = self._before(name)
        return self.label(node) if self._weights(node) else name

    def _convolves(self, name: str) -> bool:
        return "Conv" in self._before(name).op_type

    def _before(self, name: str) -> Any:
        """What makes a tensor, an activation aside."""
        node = self._makers[name]
        return self._makers.get(node.input[0], node) if node.op_type in _ACTIVATIONS else node

    def _rectifies(self, name: str) -> bool:
        """True for what a rectifier gives, or a grid that begins at zero rounds."""
        node, step = self._makers[name], self._step(name)
        if node.op_type == "Relu" or (node.op_type == "Clip" and self._is_zero(node.input[1:2])):
            return True
        return step is not None and step.zero_point == step.low and node.op_type in _BEFORE_GRIDS

    def _is_zero(self, names: Sequence[str]) -> bool:
        return bool(names) and names[0] in self._constants and not self._array(names[0]).any()

    def _step(self, name: str) -> _Step | None:
        """How a tensor is rounded by the one who reads it; None where nobody does so with one scale."""
        node = next((one for one in self._readers[name] if one.op_type == "QuantizeLinear"), None)
        if node is None or any(other not in self._constants for other in node.input[1:]):
            return None
        scale = self._array(node.input[1])
        zero_point = self._array(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        ends = _ends(zero_point.dtype)
        if scale.size != 1 or ends is None:
            return None
        return _Step(float(scale.flat[0]), int(zero_point.flat[0]), *ends)

    def _weights(self, node: Any) -> list[str]:
        """Constants that a layer multiplies by, as they are stored; none for what is no layer.

        An exporter puts the matrices of a recurrent layer together when the model is run.
        """
        if node.op_type not in (*_LAYERS, *_RECURRENT):
            return []
        places = (1, 2) if node.op_type in _RECURRENT else (1,)
        found = [self._stored(node.input[place]) for place in places if place < len(node.input)]
        return list(dict.fromkeys(name for names in found for name in names))

    def _biases(self, node: Any) -> list[str]:
        """Constants that a layer adds, in its node or in the next; one that others read is nobody's own."""
        place = 3 if node.op_type in _RECURRENT else 2
        names = []
        if node.op_type in _WITH_BIAS and place < len(node.input):
            names = list(dict.fromkeys(self._stored(node.input[place])))
        readers = self._readers[_first(node.output)]
        if not names and len(readers) == 1 and readers[0].op_type == "Add":
            names = [name for other in readers[0].input for name in self._stored(other)]
        if node.op_type in _RECURRENT:
            return names
        return [name for name in names if len(self._readers[name]) == 1]

    def _stored(self, name: str) -> list[str]:
        """Constants from which a tensor is unpacked, put together or turned; none where it is computed."""
        if name in self._constants:
            return [name]
        maker = self._makers.get(name)
        if maker is None or maker.op_type not in _UNPACKING:
            return []
        first = maker.input if maker.op_type == "Concat" else maker.input[:1]
        return [stored for other in first for stored in self._stored(other)]

    def _rounding(self, node: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points of a weight; no scale where the node does not say."""
        maker = self._makers.get(node.input[1])
        constant = maker is not None and all(name in self._constants for name in maker.input)
        if maker is None or maker.op_type != "DequantizeLinear" or not constant:
            return np.zeros(0), np.zeros(1, np.int64)
        zero_point = self._array(maker.input[2]) if len(maker.input) > 2 else np.zeros(1)
        return self._array(maker.input[1]), zero_point.astype(np.int64)

    def _unpacked(self, node: Any, stored: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Integers of MatMulNBits, without their zero points, and the ends of their grid."""
        bits = next(item.i for item in node.attribute if item.name == "bits")
        if bits == 4:
            return np.stack([stored & 15, stored >> 4]).astype(np.int64), 0, 15
        return stored.astype(np.int64), 0, (1 << bits) - 1

    def _array(self, name: str) -> np.ndarray:
        """A constant; what NumPy has no type for as float32 where it is a kind of float."""
        found: np.ndarray = self._onnx.numpy_helper.to_array(self._constants[name])
        return found.astype(np.float32) if "float" in found.dtype.name else found

    def _with_outputs(self, names: Sequence[str]) -> bytes:
        """The model with other tensors as its outputs."""
        graph = self._model.graph
        kept = list(graph.output)
        try:
            del graph.output[:]
            graph.output.extend(self._onnx.helper.make_empty_tensor_value_info(name) for name in names)
            content: bytes = self._model.SerializeToString()
        finally:
            del graph.output[:]
            graph.output.extend(kept)
        return content


def _total(figures: Sequence[int | None]) -> int | None:
    """The sum; None where one is not known."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if len(known) == len(figures) else None


def _first(names: Sequence[str]) -> str:
    """The first that is not left out."""
    return next(filter(None, names), "")


def _ends(dtype: np.dtype[Any]) -> tuple[int, int] | None:
    """The smallest and the largest integer of a type, also of 4 bits; None for what holds no integers."""
    types: Any = require("ml_dtypes", extra="cpu")  # onnx needs it
    try:
        info = types.iinfo(dtype)
    except (TypeError, ValueError):
        return None
    return int(info.min), int(info.max)


def _in_steps(steps: np.ndarray, low: int, high: int) -> Held:
    """Integers on a grid that each channel scales in its own way."""
    grid = Grid(float(low), float(high), None, high - low + 1, len(np.unique(steps)), None)
    return Held(histogram(steps), grid)


def _grid(step: _Step, values: np.ndarray) -> Grid:
    low, high = (step.scale * (end - step.zero_point) for end in (step.low, step.high))
    clipped = float(np.mean((values < low - step.scale / 2) | (values > high + step.scale / 2)))
    places = np.clip(np.round(values / step.scale) + step.zero_point, step.low, step.high)
    return Grid(low, high, step.scale, step.high - step.low + 1, len(np.unique(places)), clipped)
