"""Layers that no quantizer takes, with the reason, for the sentence that says that there is nothing to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lissom.compress.quantizing.graph import LAYERS
from lissom.optional import require

_MOVING = ("Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
"""Operators behind which a weight is still one: ONNX Runtime puts a Cast before layers of float16."""


def unreached_layers(model: Any) -> list[str]:
    """Numbers of such layers by kind and reason, such as `2 MatMul with weights of float16`."""
    kinds = require("onnx", extra="cpu").TensorProto
    stored = _stored_types(model)
    found = Counter[str]()
    for node in model.graph.node:
        if node.op_type == "Einsum" and any(name in stored for name in node.input):
            found["Einsum that is no product of two matrices"] += 1
        if node.op_type not in LAYERS or len(node.input) < 2:
            continue
        first, second = (stored.get(name) for name in node.input[:2])
        if second is not None and second != kinds.FLOAT:
            name = kinds.DataType.Name(second).lower().replace("double", "float64")
            found[f"{node.op_type} with weights of {name}"] += 1
        elif second is not None and any(item.name == "transA" and item.i for item in node.attribute):
            found[f"{node.op_type} that turns what it reads (transA)"] += 1
        elif first is not None and second is None:
            found[f"{node.op_type} whose weight is the first factor"] += 1
        elif second is None:
            found[f"{node.op_type} of two tensors that are computed"] += 1
    return [f"{number} {reason}" for reason, number in found.items()]


def weight_types(model: Any) -> set[int]:
    """Types of the weights of the layers of a model, as they are stored."""
    stored = _stored_types(model)
    layers = (node for node in model.graph.node if node.op_type in (*LAYERS, "Einsum"))
    return {stored[name] for node in layers for name in node.input[:2] if name in stored}


def _stored_types(model: Any) -> Mapping[str, int]:
    """The stored type of every tensor that is made of a single constant, by name."""
    found = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t.data_type
        elif node.op_type in _MOVING and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found
