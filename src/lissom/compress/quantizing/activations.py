"""Activations of several operators, which engines compute as one.

ONNX Runtime's optimizer writes `HardSwish(x)` as `x * HardSigmoid(x)`. OpenVINO has a kernel for the whole
and none for the parts: a classifier of 28 such activations took 3.6 times as long there.

Exporters write GELU, SiLU, Mish or HardSwish as the operators of their formula, up to five of them. Rounding
between these costs accuracy, time, and the kernel for the whole that both engines have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lissom.optional import require

_GATE = {"alpha": 1 / 6, "beta": 0.5}
_TOLERANCE = 1e-6
_FIRST_OPSET = 14
"""That has HardSwish."""
_POINTWISE = {
    *(
        "Abs",
        "Add",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
    ),
    *(
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "Pow",
        "PRelu",
        "Reciprocal",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
    ),
    *("Softplus", "Softsign", "Sqrt", "Sub", "Tanh"),
}
"""Operators that compute number by number."""
_ABSORBED = ("Clip", "Relu")
"""What the rounding behind a layer does by itself."""


def parts_of_activations(model: Any) -> Iterator[str]:
    """Names of the nodes between which nothing is to be rounded.

    Such a node computes number by number from one tensor and constants, and so does one that it reads or that
    reads it. A clip or ReLU that comes first is left out: the rounding of what is before it takes its place.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    sources: dict[str, str] = {}
    for node in graph.node:
        given = {sources.get(name, name) for name in node.input if name and name not in constants}
        first = not any(name in sources for name in node.input)
        if node.op_type in _POINTWISE and len(given) == 1 and not (first and node.op_type in _ABSORBED):
            sources[node.output[0]] = given.pop()
    inner = {
        name for node in graph.node if node.output[0] in sources for name in node.input if name in sources
    }
    for node in graph.node:
        made = node.output[0]
        if made in sources and (made in inner or any(name in sources for name in node.input)):
            yield node.name


def join_hard_swishes(model: Any) -> None:
    """Write `x * HardSigmoid(x)` of the slope and offset of HardSwish as HardSwish, in place."""
    if next((item.version for item in model.opset_import if not item.domain), 0) < _FIRST_OPSET:
        return
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    num_readers = Counter(name for node in graph.node for name in node.input)
    num_readers.update(value.name for value in graph.output)
    joined = []
    for node in graph.node:
        if node.op_type != "Mul":
            continue
        for given, gate in (tuple(node.input), tuple(node.input)[::-1]):
            maker = makers.get(gate)
            if maker is not None and num_readers[gate] == 1 and _is_gate(maker, given):
                node.CopyFrom(_hard_swish(given, node))
                joined.append(maker)
                break
    for maker in joined:
        graph.node.remove(maker)


def _is_gate(node: Any, given: str) -> bool:
    """True for the HardSigmoid of HardSwish, of this tensor."""
    if node.op_type != "HardSigmoid" or node.domain or node.input[0] != given:
        return False
    values = {"alpha": 0.2, "beta": 0.5} | {item.name: item.f for item in node.attribute}
    return all(abs(values[name] - wanted) < _TOLERANCE for name, wanted in _GATE.items())


def _hard_swish(given: str, product: Any) -> Any:
    onnx = require("onnx", extra="cpu")
    return onnx.helper.make_node("HardSwish", [given], list(product.output), name=product.name)
