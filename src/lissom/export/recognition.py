"""What of a foreign graph is quantized already, and where layers stand that no quantizer reaches.

A file says that it computes with integers, or stores them, in several ways: with Q and DQ nodes, with
operators of integers, with weights in groups, or with plain arithmetic: integers that Cast makes floats, and
Mul scales. The last has no operator of quantization in it, and constant folding would turn its weights back
into floats, four times as large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lissom.optional import require

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
"""Operators that multiply by weights."""
_INTEGER_OPERATORS = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"),
    *("ConvInteger", "MatMulInteger", "QGemm", "QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool"),
    *("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention"),
    *("QLinearSigmoid", "QLinearSoftmax", "QLinearConcat", "QEmbedLayerNormalization", "QOrderedMatMul"),
)
_IN_GROUPS = ("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized")
_SCALING = ("Cast", "Mul", "Div", "Sub", "Add", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity")
"""Operators that make a float weight of stored integers."""
_FARTHEST = 8
"""Steps from a layer back to the integers that its weight is made of."""


class Nested(NamedTuple):
    """A layer in a branch or a body of another node.

    Attributes:
        name: Its own, behind that of the node around it.
        op_type: Its operator.
        around: Operator of the node around it: If, Loop or Scan.
        num_weights: Of the constants that it is multiplied by.
    """

    name: str
    op_type: str
    around: str
    num_weights: int


def quantized_how(model: Any) -> str:
    """In which way a model is quantized already, in words; empty for one in float.

    Branches and bodies of If, Loop and Scan count, and functions too.
    """
    if kinds := _kinds(model, _INTEGER_OPERATORS):
        return f"it has {_listed(kinds)}"
    if groups := _kinds(model, _IN_GROUPS):
        return f"its weights are stored in groups, in {_listed(groups)}"
    scaled = scaled_weights(model)
    if not scaled:
        return ""
    more = f" and {len(scaled) - 1} more" if len(scaled) > 1 else ""
    return f"the weight of {scaled[0]!r}{more} is stored as integers, which Cast and Mul make floats"


def computes_integers(model: Any) -> bool:
    """True when operators of a model read or make integers that stand for floats."""
    return bool(_kinds(model, _INTEGER_OPERATORS))


def scaled_weights(model: Any) -> list[str]:
    """Names of the layers whose weight is stored as integers, which plain arithmetic makes floats."""
    return [name for graph in _graphs(model) for name in _scaled_weights(model, graph)]


def _kinds(model: Any, wanted: tuple[str, ...]) -> list[str]:
    nodes = [node for graph in _graphs(model) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    return sorted({node.op_type for node in nodes if node.op_type in wanted})


def is_quantized(model: Any) -> bool:
    """True when integers are computed with, or weights are stored as integers, already."""
    return bool(quantized_how(model))


def nested_layers(model: Any) -> list[Nested]:
    """Layers inside If, Loop and Scan, those of the deepest too."""
    return list(_nested(model.graph, "", "", _sizes(model.graph)))


def _nested(graph: Any, path: str, around: str, outer: Mapping[str, int]) -> Iterator[Nested]:
    known = {**outer, **_sizes(graph)}
    for place, node in enumerate(graph.node):
        name = f"{path}{node.name or f'{node.op_type}_{place}'}"
        if around and node.op_type in (*_LAYERS, "Einsum"):
            weights = [known[part] for part in node.input[:3] if part in known]
            yield Nested(name, node.op_type, around, sum(weights))
        for attribute in node.attribute:
            for inner in _graphs_of(attribute):
                yield from _nested(inner, f"{name}/{inner.name or attribute.name}/", node.op_type, known)


def _sizes(graph: Any) -> dict[str, int]:
    """Values in each constant of a graph."""
    found = {tensor.name: _number(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = _number(attribute.t.dims)
    return found


def _number(dims: Any) -> int:
    number = 1
    for size in dims:
        number *= size
    return number


def _graphs(model: Any) -> Iterator[Any]:
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            waiting += [inner for attribute in node.attribute for inner in _graphs_of(attribute)]


def _graphs_of(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _scaled_weights(model: Any, graph: Any) -> list[str]:
    """Names of the layers whose weight is made of stored integers by plain arithmetic."""
    integers = _integer_constants(model)
    makers = {name: node for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.op_type in (*_LAYERS, "Gather"):
            places = node.input[:1] if node.op_type == "Gather" else node.input[1:3]
            if any(_made_of_integers(name, makers, integers) for name in places):
                found.append(node.name or node.output[0])
    return found


def _made_of_integers(name: str, makers: Mapping[str, Any], integers: set[str], steps: int = 0) -> bool:
    node = makers.get(name)
    if node is None or node.op_type not in _SCALING or steps == _FARTHEST:
        return False
    if node.op_type == "Cast" and node.input[0] in integers:
        return True
    read = node.input[:1] if node.op_type in ("Reshape", "Unsqueeze", "Squeeze") else node.input
    return any(_made_of_integers(part, makers, integers, steps + 1) for part in read)


def _integer_constants(model: Any) -> set[str]:
    """Constants of at most eight bits, and what only moves or reshapes them."""
    kinds = require("onnx", extra="cpu").TensorProto
    small = {kinds.INT8, kinds.UINT8, kinds.INT4, kinds.UINT4}
    small |= {getattr(kinds, name) for name in ("INT2", "UINT2") if hasattr(kinds, name)}
    found = set()
    for graph in _graphs(model):
        found |= {tensor.name for tensor in graph.initializer if tensor.data_type in small and tensor.dims}
        for node in graph.node:
            values = [
                item.t for item in node.attribute if node.op_type == "Constant" and item.name == "value"
            ]
            if any(tensor.data_type in small and tensor.dims for tensor in values):
                found.add(node.output[0])
            elif node.op_type in _MOVING and node.input[0] in found:
                found.update(node.output)
    return found


_MOVING = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity", "Slice", "Concat")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
