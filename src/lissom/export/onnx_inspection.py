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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Artifact
from lissom.bench.layers import module_of
from lissom.bench.work import flops_by_tensor
from lissom.errors import ArtifactError, ModelError, near
from lissom.export.onnx_file import caller, open_session
from lissom.models.inspection import (
    Grid,
    Held,
    Inside,
    Layer,
    Rectifier,
    chosen_maps,
    histogram,
)
from lissom.optional import require
from lissom.runtime.onnx_runtime import MODEL_FILE

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits", "MatMulInteger", "ConvInteger")
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
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
            maps.
        layer: Layer whose feature maps are kept; default: the first that gives some.

    Raises:
        ModelError: there is no such layer, or it gives no feature maps; or the model cannot be run.
        MissingExtra: onnxruntime is not installed.
    """
    onnx: Any = require("onnx", extra="cpu")
    graph = _Graph(onnx, onnx.load(artifact.file(MODEL_FILE)))
    nodes = {graph.label(node): node for node in graph.layers}
    if layer is not None and layer not in nodes:
        raise ModelError(f"the model has no layer {layer!r}", hint=near(layer, nodes))
    ends = {label: graph.end(node.output[0]) for label, node in nodes.items()}
    watched = {*ends.values(), *graph.rectified}
    seen = graph.watch(inputs, watched, {ends[name]: name for name in ([layer] if layer else ends)})
    try:
        work = flops_by_tensor(artifact)
    except ArtifactError:  # a shape is not known; the rest is
        work = {}
    layers = tuple(
        Layer(
            label,
            node.op_type,
            graph.num_parameters(node),
            work.get(node.output[0]),
            graph.weights_held(node),
            seen.held.get(ends[label]),
        )
        for label, node in nodes.items()
    )
    rectifiers = tuple(seen.rectifiers[name] for name in graph.rectified if name in seen.rectifiers)
    return Inside(layers, rectifiers, chosen_maps(seen.maps, layer), len(next(iter(inputs.values()))))


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
        self.layers = [node for node in model.graph.node if self._weight(node) is not None]
        self.rectified = [name for name in self._makers if self._rectifies(name)]

    def label(self, node: Any) -> str:
        """The module of a layer, else its name, else the tensor that it gives."""
        weight = self._weight(node)
        return (module_of(weight) if weight else None) or node.name or node.output[0]

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
        last = 4 if node.op_type in _RECURRENT else 3
        names = dict.fromkeys(self._stored(name) for name in node.input[1:last])
        return sum(math.prod(self._constants[name].dims) for name in names if name in self._constants)

    def weights_held(self, node: Any) -> Held | None:
        """The weights of a layer, on their grid where they have one."""
        weight = self._weight(node)
        assert weight is not None
        stored = self._array(weight)
        if stored.dtype.kind == "f":
            return Held(histogram(stored))
        if node.op_type == "MatMulNBits":
            return _in_steps(*self._unpacked(node, stored))
        info = np.iinfo(stored.dtype)
        scale, zero_point = self._rounding(node)
        if scale.size != 1 or np.unique(zero_point).size != 1:
            return _in_steps(stored.astype(np.int64), int(info.min), int(info.max))
        step, zero = float(scale.flat[0]), int(zero_point.flat[0])
        ends = (step * (int(info.min) - zero), step * (int(info.max) - zero))
        num_levels, used = int(info.max) - int(info.min) + 1, len(np.unique(stored))
        values = step * (stored.astype(np.float32) - zero)
        return Held(histogram(values), Grid(*ends, step, num_levels, used, None))

    def watch(self, inputs: Mapping[str, np.ndarray], names: set[str], maps: Mapping[str, str]) -> _Seen:
        """Run the samples, and count what tensors hold.

        Args:
            inputs: Tensors after preprocessing.
            names: Tensors that are watched.
            maps: Tensors of which the first sample is kept, to the name under which.
        """
        found = _Seen({}, {}, {})
        ordered = [name for name in self._makers if name in names]
        for start in range(0, len(ordered), _AT_ONCE):
            some = ordered[start : start + _AT_ONCE]
            values = caller(open_session(self._with_outputs(some)), some)(inputs)
            for name in some:
                self._note(found, name, values[name], maps)
        return found

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
            axis = 1 if values.ndim in (2, 4) else values.ndim - 1
            others = tuple(number for number in range(values.ndim) if number != axis)
            highest = values.max(axis=others)
            dead = highest <= (step.scale / 2 if step else 0.0)
            label = self._label_of(name)
            found.rectifiers[name] = Rectifier(label, len(highest), int(dead.sum()))

    def _label_of(self, name: str) -> str:
        """The layer before a rectifier, where it is the only one that it rectifies."""
        node = self._makers[name]
        if node.op_type in _ACTIVATIONS:
            node = self._makers.get(node.input[0], node)
        return self.label(node) if self._weight(node) is not None else name

    def _rectifies(self, name: str) -> bool:
        """True for what a rectifier gives, or a grid that begins at zero rounds."""
        kind, step = self._makers[name].op_type, self._step(name)
        if kind == "Relu":
            return True
        return step is not None and step.zero_point == step.low and kind in _BEFORE_GRIDS

    def _step(self, name: str) -> _Step | None:
        """How a tensor is rounded by the one who reads it; None where nobody does so with one scale."""
        node = next((one for one in self._readers[name] if one.op_type == "QuantizeLinear"), None)
        if node is None or len(node.input) < 2 or node.input[1] not in self._constants:
            return None
        scale = self._array(node.input[1])
        zero_point = self._array(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if scale.size != 1:
            return None
        info = np.iinfo(zero_point.dtype)
        return _Step(float(scale.flat[0]), int(zero_point.flat[0]), int(info.min), int(info.max))

    def _weight(self, node: Any) -> str | None:
        """Name of the constant that a layer multiplies by, as it is stored; None for what is no layer."""
        if node.op_type not in (*_LAYERS, *_RECURRENT) or len(node.input) < 2:
            return None
        stored = self._stored(node.input[1])
        return stored if stored in self._constants else None

    def _stored(self, name: str) -> str:
        """What a tensor is unpacked from."""
        maker = self._makers.get(name)
        return str(maker.input[0]) if maker is not None and maker.op_type == "DequantizeLinear" else name

    def _rounding(self, node: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scales and zero points of a weight; no scale where the node does not say."""
        maker = self._makers.get(node.input[1])
        if maker is None or maker.op_type != "DequantizeLinear":
            return np.zeros(0), np.zeros(1, np.int64)
        has_zero = len(maker.input) > 2 and maker.input[2] in self._constants
        zero_point = self._array(maker.input[2]).astype(np.int64) if has_zero else np.zeros(1, np.int64)
        return self._array(maker.input[1]), zero_point

    def _unpacked(self, node: Any, stored: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Integers of MatMulNBits, without their zero points, and the ends of their grid."""
        bits = next(item.i for item in node.attribute if item.name == "bits")
        if bits == 4:
            return np.stack([stored & 15, stored >> 4]).astype(np.int64), 0, 15
        return stored.astype(np.int64), 0, (1 << bits) - 1

    def _array(self, name: str) -> np.ndarray:
        found: np.ndarray = self._onnx.numpy_helper.to_array(self._constants[name])
        return found

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


def _in_steps(steps: np.ndarray, low: int, high: int) -> Held:
    """Integers on a grid that each channel scales in its own way."""
    grid = Grid(float(low), float(high), None, high - low + 1, len(np.unique(steps)), None)
    return Held(histogram(steps), grid)


def _grid(step: _Step, values: np.ndarray) -> Grid:
    low, high = (step.scale * (end - step.zero_point) for end in (step.low, step.high))
    clipped = float(np.mean((values < low - step.scale / 2) | (values > high + step.scale / 2)))
    places = np.clip(np.round(values / step.scale) + step.zero_point, step.low, step.high)
    return Grid(low, high, step.scale, step.high - step.low + 1, len(np.unique(places)), clipped)
