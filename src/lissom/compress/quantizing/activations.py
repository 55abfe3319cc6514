"""Activations that ONNX Runtime's optimizer takes apart, put together again.

It writes `HardSwish(x)` as `x * HardSigmoid(x)`, and computes both in the same way. OpenVINO has a kernel for
the whole and none for the parts: a classifier of 28 such activations took 3.6 times as long there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lissom.optional import require

_GATE = {"alpha": 1 / 6, "beta": 0.5}
_TOLERANCE = 1e-6
_FIRST_OPSET = 14
"""That has HardSwish."""


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
