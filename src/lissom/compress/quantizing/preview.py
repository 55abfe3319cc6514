"""What quantizing would change, layer by layer, from a plain model that is made and forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lissom.compress.quantizing.graph import LAYERS, RECURRENT, Graph
from lissom.export.recognition import nested_layers


class PlannedLayer(NamedTuple):
    """A convolution, product or recurrent layer.

    Attributes:
        name: Of the ONNX node.
        op_type: Of the ONNX node.
        num_weights: That it is multiplied by; 0 where both sides are computed.
        quantized: True when its weights would have fewer bits.
        why: Why they would not; empty where they would.
    """

    name: str
    op_type: str
    num_weights: int
    quantized: bool
    why: str


@dataclass(frozen=True)
class QuantizePreview:
    """What would be quantized.

    Attributes:
        mode: static, dynamic or weight-only.
        precision: Of the model: int8, weight-int4 or weight-int8.
        target: x86, arm or tensorrt; empty for weight-only.
        validated_here: False when the target is another machine than this one.
        num_samples: Calibration samples.
        size_bytes: Of the ONNX file, before and after.
        layers: Every layer.
    """

    mode: str
    precision: str
    target: str
    validated_here: bool
    num_samples: int
    size_bytes: tuple[int, int]
    layers: tuple[PlannedLayer, ...]


def planned_layers(
    before: Any, after: Any, *, mode: str, exclude: tuple[str, ...], reasons: Mapping[str, str] | None = None
) -> list[PlannedLayer]:
    """Every layer of a float32 model, and whether the quantized one still has its weights.

    Args:
        before: The float32 model whose nodes have names.
        after: What it became.
        mode: Of the quantization.
        exclude: Names of nodes that were to stay.
        reasons: Why other nodes could not be quantized, by name.
    """
    graph = Graph(before)
    kept = {tensor.name for tensor in after.graph.initializer}
    found = []
    for node in before.graph.node:
        if node.op_type not in (*LAYERS, *RECURRENT, "Einsum"):
            continue
        weights = [name for name in node.input[1:3] if name and graph.is_constant(name)]
        if node.op_type not in RECURRENT:
            sides = node.input if node.op_type == "Einsum" else node.input[:2]
            weights = [name for name in sides if graph.is_constant(name)]
        quantized = bool(weights) and not kept.issuperset(weights)
        number = sum(graph.array(name).size for name in weights)
        why = "" if quantized else (reasons or {}).get(node.name) or _why(node, bool(weights), mode, exclude)
        found.append(PlannedLayer(node.name, node.op_type, number, quantized, why))
    return found + [
        PlannedLayer(layer.name, layer.op_type, layer.num_weights, False, f"it stands inside {layer.around}")
        for layer in nested_layers(before)
    ]


def _why(node: Any, has_weights: bool, mode: str, exclude: tuple[str, ...]) -> str:
    if node.name in exclude:
        return "excluded"
    if node.op_type == "LSTM" and mode == "static":
        return "ONNX Runtime has it in mode dynamic alone"
    if node.op_type in RECURRENT:
        return "ONNX Runtime has no such form of it"
    if not has_weights:
        return "both sides are computed"
    if node.op_type == "Einsum":
        return "this Einsum is no plain product with a weight"
    if node.op_type in ("Conv", "ConvTranspose") and mode != "static":
        return f"mode {mode} leaves convolutions as they are"
    return "ONNX Runtime does not quantize it"
