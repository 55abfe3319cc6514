"""Outputs that are tensors of numbers, which alone can be compared, stored and measured.

Converters of classifiers give names of classes as strings, or one dictionary a sample (`ZipMap`). Beside
scores they say nothing that the manifest does not, and are left out with what computes only them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from lissom.export.graphs import reads_of
from lissom.optional import require

_NUMBERS = (
    *("FLOAT", "FLOAT16", "DOUBLE", "BOOL"),
    *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
)
"""Types of tensors that an .npz can hold and every engine takes."""


def typed_outputs(model: Any) -> list[Any]:
    """The outputs of a model, with the types that follow from the graph where the file does not say them.

    ONNX Runtime and OpenVINO open files without, as tools write them that add outputs by their names alone.
    """
    if all(_has_type(value) for value in model.graph.output):
        return list(model.graph.output)
    onnx: Any = require("onnx", extra="cpu")
    bare = type(model)()
    bare.CopyFrom(model)
    del bare.graph.output[:]  # one without a type is not looked at, but a tensor inside is
    with suppress(Exception):  # custom operators, or a file that is refused when it is opened
        bare = onnx.shape_inference.infer_shapes(bare)
    known = {value.name: value for value in bare.graph.value_info}
    return [value if _has_type(value) else known.get(value.name, value) for value in model.graph.output]


def _has_type(value: Any) -> bool:
    kind = value.type
    return kind.WhichOneof("value") is not None and (
        not kind.HasField("tensor_type") or kind.tensor_type.elem_type != 0
    )


def keep_number_outputs(model: Any) -> str:
    """Leave out the outputs of a ModelProto that are no tensors of numbers where others are; gives a note."""
    outputs = typed_outputs(model)
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    left_out = [value for value in model.graph.output if unfit(value.type)]
    if not left_out or len(left_out) == len(model.graph.output):
        return ""
    told = ", ".join(f"{value.name!r} ({unfit(value.type)})" for value in left_out)
    kept = [value for value in model.graph.output if not unfit(value.type)]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    _drop_unread(model.graph)
    return f"outputs that are no tensors of numbers are left out: {told}"


def unfit(kind: Any) -> str:
    """What a type of ONNX is, where it is no tensor of numbers that NumPy has; empty where it is one."""
    which = kind.WhichOneof("value")
    if which != "tensor_type":
        inner = kind.sequence_type.elem_type if which == "sequence_type" else None
        if inner is not None and inner.WhichOneof("value") == "map_type":
            return "a sequence of maps"
        names = {"sequence_type": "a sequence of tensors", "optional_type": "optional", "map_type": "a map"}
        return names.get(which or "", "of no type" if which is None else which.replace("_", " "))
    name: str = require("onnx", extra="cpu").TensorProto.DataType.Name(kind.tensor_type.elem_type)
    if name in _NUMBERS:
        return ""
    return "text" if name == "STRING" else f"a tensor of {name.lower()}"


def _drop_unread(graph: Any) -> None:
    """Remove the nodes whose results nobody reads."""
    producers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    waiting, kept = [value.name for value in graph.output], set[int]()
    while waiting:
        place = producers.get(waiting.pop())
        if place is not None and place not in kept:
            kept.add(place)
            waiting += reads_of(graph.node[place])
    nodes = [graph.node[place] for place in sorted(kept)]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
