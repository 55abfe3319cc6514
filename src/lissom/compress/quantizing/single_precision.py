"""Models of float16 or float64 in float32, the type that the quantizers know.

Every tensor of the type becomes float32: constants, what Cast and Constant make, and types that are declared,
in branches and bodies too. Inputs and outputs keep theirs, behind a Cast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lissom.compress.quantizing.products import free_name, rename, tensor_names
from lissom.compress.quantizing.unreached import weight_types
from lissom.export.graphs import all_graphs, all_nodes
from lissom.optional import require

_TYPED = ("to", "dtype")
"""Attributes that name the type of what a node makes."""


def in_float32(path: Path, folder: Path) -> Path:
    """The file itself, or one in `folder` where layers have weights of float16 or float64.

    Args:
        path: Of an ONNX file.
        folder: Where the other is written.
    """
    onnx = require("onnx", extra="cpu")
    kinds = onnx.TensorProto
    model = onnx.load(path)
    found = [kind for kind in (kinds.FLOAT16, kinds.DOUBLE) if kind in weight_types(model)]
    for kind in found:
        convert_to_float32(model, kind)
    if not found:
        return path
    onnx.save(model, folder / path.name)
    return folder / path.name


def convert_to_float32(model: Any, kind: int) -> None:
    """Give every tensor of one type float32, in place, but for the inputs and outputs of the model.

    Args:
        model: An ONNX model without functions.
        kind: FLOAT16 or DOUBLE of `onnx.TensorProto`.
    """
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            _convert_tensor(tensor, kind)
        for declared in (*graph.value_info, *(() if graph is model.graph else (*graph.input, *graph.output))):
            _convert_type(declared, kind)
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _convert_tensor(attribute.t, kind)
            elif attribute.name in _TYPED and attribute.i == kind:
                attribute.i = require("onnx", extra="cpu").TensorProto.FLOAT
    _cast_ends(model, kind)


def _convert_tensor(tensor: Any, kind: int) -> None:
    numpy_helper = require("onnx.numpy_helper", extra="cpu")
    if tensor.data_type == kind:
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _convert_type(value: Any, kind: int) -> None:
    if value.type.tensor_type.elem_type == kind:
        value.type.tensor_type.elem_type = require("onnx", extra="cpu").TensorProto.FLOAT


def _cast_ends(model: Any, kind: int) -> None:
    """Put a Cast behind every input of the type, and before every output that is no input too."""
    onnx = require("onnx", extra="cpu")
    graph, taken = model.graph, tensor_names(model)
    given = [value.name for value in graph.input if value.type.tensor_type.elem_type == kind]
    made = [value.name for value in graph.output if value.type.tensor_type.elem_type == kind]
    before, after = [], []
    for name in given:
        inner = free_name(f"{name}_float32", taken)
        rename(model, name, inner)
        before.append(onnx.helper.make_node("Cast", [name], [inner], name=inner, to=onnx.TensorProto.FLOAT))
    for name in made:
        if name not in given:
            inner = free_name(f"{name}_float32", taken)
            rename(model, name, inner)
            after.append(onnx.helper.make_node("Cast", [inner], [name], name=inner, to=kind))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
