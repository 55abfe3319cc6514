"""Time of every layer of two models that came of each other, matched by the tensors that they compute.

Engines fuse: a convolution and what follows it become one operator, in float32 another than in int8. So
operators are put together into layers. A layer ends at the tensor behind which the graph branches, or a
convolution, product or the like begins; whatever an engine has fused up to there belongs to one layer. That
tensor has the same name in a model and in what quantization made of it, and mostly in a pruned one.

What an engine adds of its own, such as a change of layout, counts for the layer that comes next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lissom.runtime.base import LayerTime

REST = "(rest)"
_WEIGHT = re.compile(r"(\w[\w.]*)\.(weight|bias)(_\w+)?$")
_FOLLOWING = {
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Gelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Neg", "Softplus", "BatchNormalization"),
    *("QuantizeLinear", "DequantizeLinear", "Cast", "Identity"),
}
"""Operators that engines fuse into what stands before them."""
_ADDED = re.compile(
    r"(_nchwc|_token_\d+|/WithoutBiases|/fq_input_\d+|/Dequantization(Subtract|Multiply)"
    r"|_QuantizeLinear(_Output)?|_DequantizeLinear(_Output)?)+$"
)
"""What engines and quantization put behind a name."""


class LayerGroup(NamedTuple):
    """What one engine executed of a layer.

    Attributes:
        name: Of the tensor where it ends.
        label: Modules whose weights it uses, as those are called; else the name.
        operators: In the order of execution.
        precision: Type of its convolutions and products, or of what there is.
        seconds: Of all together.
    """

    name: str
    label: str
    operators: tuple[str, ...]
    precision: str
    seconds: float


class Change(NamedTuple):
    """A layer before and after; of a layer that one side has not, that side is None."""

    label: str
    before: LayerGroup | None
    after: LayerGroup | None


def grouped(times: Sequence[LayerTime], graph: Any | None = None) -> list[LayerGroup]:
    """Operators put together into layers, in the order of execution.

    Args:
        times: As a runtime told them.
        graph: ONNX GraphProto that the engine was given; without one every operator is a layer.
    """
    layers: dict[str, list[LayerTime]] = {}
    waiting: list[LayerTime] = []
    end = _Ends(graph)
    for one in times:
        name = end.of(one.tensors)
        if name is None:
            waiting.append(one)
            continue
        layers.setdefault(name, []).extend([*waiting, one])
        waiting = []
    if waiting:
        last = next(reversed(layers), REST)
        layers.setdefault(last, []).extend(waiting)
    labels = _labels(graph, end) if graph is not None else {}
    return [_group(name, labels.get(name, name), found) for name, found in layers.items()]


def aligned(before: Sequence[LayerGroup], after: Sequence[LayerGroup]) -> list[Change]:
    """Layers of two models side by side, in the order of the first; nothing is left out.

    A layer that only one of them has goes into the next that both have: what the one does in two layers the
    other may do in one. Where none comes any more it stays alone on its side.
    """
    shared = {group.name for group in before} & {group.name for group in after}
    sides = [_collected(side, shared) for side in (before, after)]
    names = [*sides[0], *(name for name in sides[1] if name not in sides[0])]
    return [
        Change((sides[0].get(name) or sides[1][name]).label, sides[0].get(name), sides[1].get(name))
        for name in names
    ]


def module_of(weight: str) -> str | None:
    """The module of a weight or bias by the name that an exporter kept, or None.

    >>> module_of("blocks.0.conv1.weight_quantized"), module_of("lstm.weight_ih_l0"), module_of("val_12")
    ('blocks.0.conv1', 'lstm', None)
    """
    match = _WEIGHT.match(weight)
    return match[1] if match else None


def _collected(side: Sequence[LayerGroup], shared: set[str]) -> dict[str, LayerGroup]:
    found: dict[str, LayerGroup] = {}
    waiting: list[LayerGroup] = []
    for group in side:
        waiting.append(group)
        if group.name in shared:
            found[group.name] = _joined(group.name, waiting)
            waiting = []
    if waiting:
        found[REST] = _joined(REST, waiting)
    return found


def _joined(name: str, groups: Sequence[LayerGroup]) -> LayerGroup:
    return LayerGroup(
        name,
        groups[-1].label if name != REST else REST,
        tuple(operator for group in groups for operator in group.operators),
        next((group.precision for group in reversed(groups) if group.precision), ""),
        sum(group.seconds for group in groups),
    )


def _group(name: str, label: str, times: Sequence[LayerTime]) -> LayerGroup:
    precisions = [one.precision for one in times if one.precision]
    return LayerGroup(
        name,
        label,
        tuple(one.operator for one in times),
        min(precisions, key=lambda kind: kind not in ("int8", "uint8")) if precisions else "",
        sum(one.seconds for one in times),
    )


def _labels(graph: Any, end: _Ends) -> dict[str, str]:
    """The modules whose weights a layer uses, by the tensor where it ends."""
    weights = {tensor.name for tensor in graph.initializer}
    made_from = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, list[str]] = {}
    for node in graph.node:
        used = (made_from.get(name, name) for name in node.input[1:])
        paths = [path for name in used if name in weights and (path := module_of(name))]
        if paths and (name := end.of(node.output)) is not None:
            found.setdefault(name, []).append(paths[0])
    return {name: " + ".join(dict.fromkeys(paths)) for name, paths in found.items()}


class _Ends:
    """The tensor at which the layer of an operator ends."""

    def __init__(self, graph: Any | None) -> None:
        self._graph = graph
        self._readers: dict[str, list[Any]] = {}
        self._made_by: dict[str, str] = {}
        self._tensors: set[str] = set()
        for node in graph.node if graph is not None else ():
            self._tensors.update(node.output)
            if node.output:
                self._made_by[node.name] = node.output[0]
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output} if graph is not None else set()

    def of(self, names: Iterable[str]) -> str | None:
        """None for an operator that the engine added, which the graph does not know."""
        for name in names:
            plain = _ADDED.sub("", name)
            if self._graph is None:
                return plain
            for candidate in (name, plain):
                tensor = candidate if candidate in self._tensors else self._made_by.get(candidate)
                if tensor is not None:
                    return _ADDED.sub("", self._followed(tensor))
        return None

    def _followed(self, tensor: str) -> str:
        while tensor not in self._outputs:
            readers = self._readers.get(tensor, [])
            if len(readers) != 1 or readers[0].op_type not in _FOLLOWING:
                break
            tensor = readers[0].output[0]
        return tensor
