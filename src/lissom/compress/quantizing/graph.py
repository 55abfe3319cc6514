"""An ONNX graph as the rungs of the ladder see it: layers, who makes a tensor and who reads it, constants."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lissom.export.graphs import RANDOM, random_nodes
from lissom.optional import require
from lissom.runtime.arrays import plain

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply by weights."""
RECURRENT = ("LSTM", "GRU", "RNN")


class Layer(NamedTuple):
    """A convolution or product with constant weights.

    Attributes:
        name: Of the node.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        data: Name of the tensor that the layer reads.
        weight: Name of the constant that it is multiplied by.
        output: Name of the tensor that it gives, before a bias that is added by a node of its own.
        in_axis: Axis of the weight along the input channels.
        out_axis: Axis of the weight along the output channels.
        channel_axis: Axis of `data` along the channels.
        groups: Of a convolution, else 1.
    """

    name: str
    op_type: str
    data: str
    weight: str
    output: str
    in_axis: int
    out_axis: int
    channel_axis: int
    groups: int


class Graph:
    """A model whose nodes all have names; constants can be read and written."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._onnx = require("onnx", extra="cpu")
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.output:
                self.makers[name] = node
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {value.name for value in model.graph.output}

    def is_constant(self, name: str) -> bool:
        """True for a tensor that is stored in the model."""
        return name in self._constants

    def array(self, name: str) -> np.ndarray:
        """Values of a constant."""
        found: np.ndarray = self._onnx.numpy_helper.to_array(self._constants[name])
        return found

    def write(self, name: str, values: np.ndarray) -> None:
        """Replace the values of a constant, or add one; its type stays."""
        known = self._constants.get(name)
        dtype = self._onnx.helper.tensor_dtype_to_np_dtype(known.data_type) if known is not None else None
        tensor = self._onnx.numpy_helper.from_array(plain(values, dtype), name)
        if known is None:
            self.model.graph.initializer.append(tensor)
            self._constants[name] = self.model.graph.initializer[-1]
        else:
            known.CopyFrom(tensor)

    def sole(self, name: str) -> bool:
        """True for a constant that one node alone reads."""
        return self.is_constant(name) and len(self.readers[name]) == 1

    @cached_property
    def layers(self) -> list[Layer]:
        """Every layer, in the order of the graph."""
        return [layer for node in self.model.graph.node if (layer := self._layer(node)) is not None]

    def bias_of(self, layer: Layer) -> str | None:
        """Name of the vector that is added to what a layer gives, and to nothing else."""
        node = self.makers[layer.output]
        if layer.op_type != "MatMul":
            return node.input[2] if len(node.input) > 2 and self.sole(node.input[2]) else None
        readers = self.readers[layer.output]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return None
        other = next((name for name in readers[0].input if name != layer.output), "")
        return other if self.sole(other) and self.array(other).ndim == 1 else None

    def _layer(self, node: Any) -> Layer | None:
        if node.op_type not in LAYERS or not self.is_constant(node.input[1]):
            return None
        data, weight, output = node.input[0], node.input[1], node.output[0]
        dims = len(self._constants[weight].dims)
        if dims < 2 or self._constants[weight].data_type != self._onnx.TensorProto.FLOAT:
            return None
        flags = {item.name: item.i for item in node.attribute if item.name in ("transA", "transB", "group")}
        if flags.get("transA"):
            return None
        place = (node.name, node.op_type, data, weight, output)
        if node.op_type == "Conv":
            return Layer(*place, 1, 0, 1, flags.get("group", 1))
        if node.op_type == "ConvTranspose":
            return Layer(*place, 0, 1, 1, flags.get("group", 1))
        if node.op_type == "Gemm" and flags.get("transB"):
            return Layer(*place, 1, 0, -1, 1)
        return Layer(*place, dims - 2, dims - 1, -1, 1)


def name_nodes(model: Any) -> None:
    """Give every node without a name one: layers are excluded by name."""
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def with_fixed_noise(model: Any) -> Any:
    """A copy whose random nodes have seeds, so that two models draw the same; without any, the model."""
    if not random_nodes(model):
        return model
    fixed = copy.deepcopy(model)
    drawing = (node for node in fixed.graph.node if node.op_type in RANDOM)
    for place, node in enumerate(drawing, start=1):
        kept = [item for item in node.attribute if item.name != "seed"]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(require("onnx", extra="cpu").helper.make_attribute("seed", float(place)))
    return fixed


def float_tensors(model: Any) -> list[str]:
    """Names of every float32 tensor that is computed or fed, as shape inference found them."""
    onnx = require("onnx", extra="cpu")
    constants = {tensor.name for tensor in model.graph.initializer}
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    made = [name for node in model.graph.node for name in node.output if name]
    fed = [value.name for value in model.graph.input if value.name not in constants]
    return [name for name in dict.fromkeys([*fed, *made]) if kinds.get(name) == onnx.TensorProto.FLOAT]


def operator_counts(model: Any) -> dict[str, int]:
    """Nodes, Q and DQ nodes, and how many of the layers compute with integers."""
    nodes = model.graph.node
    kinds = Counter(node.op_type for node in nodes)
    dequantized = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    computing = [node for node in nodes if node.op_type in (*LAYERS, *_INTEGER_LAYERS)]
    return {
        "operators": len(nodes),
        "quantize": kinds["QuantizeLinear"] + kinds["DynamicQuantizeLinear"],
        "dequantize": kinds["DequantizeLinear"],
        "computing": len(computing),
        "computing_int8": sum(_computes_integers(node, dequantized) for node in computing),
    }


_INTEGER_LAYERS = (
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM"),
)


def _computes_integers(node: Any, dequantized: set[str]) -> bool:
    return node.op_type in _INTEGER_LAYERS or dequantized.issuperset(node.input[:2])


def batches_of(arrays: dict[str, np.ndarray], size: int) -> Sequence[dict[str, np.ndarray]]:
    """Samples in batches of at most `size`."""
    number = len(next(iter(arrays.values())))
    starts = range(0, number, size)
    return [{name: array[start : start + size] for name, array in arrays.items()} for start in starts]
