"""Floating point numbers of 16 bits in an ONNX file.

float16 is a type of the graph: every operator is converted by ONNX Runtime's own tool, and inputs and outputs
are cast at the edges. bfloat16 is a type of the weights: they are stored in 16 bits and cast up where they
are used, because few engines have bfloat16 kernels for ONNX. An engine that is asked for bfloat16 folds the
casts away and computes in it; any other gives the same answers in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lissom.errors import ModelError
from lissom.logs import quiet_libraries
from lissom.optional import require
from lissom.runtime.arrays import little_endian_bytes, plain

_LARGEST_FLOAT16 = 65504.0


def cast(model: Any, precision: str) -> Any:
    """The float32 model with numbers of 16 bits.

    Args:
        model: ONNX ModelProto; it may be changed.
        precision: float16, bfloat16, or float32, which gives bfloat16 weights back their type.

    Raises:
        ModelError: there are no float32 weights, or one is out of range of float16.
    """
    if precision == "float16":
        return _float16(model)
    if precision == "bfloat16":
        return _bfloat16_weights(model)
    raise ModelError(f"a model of 16 bits cannot be made {precision}", hint="export the original again")


def _float16(model: Any) -> Any:
    tool: Any = require("onnxruntime.transformers.float16", extra="cpu")
    for tensor in _weights(model):
        largest = float(np.abs(_array(tensor)).max(initial=0.0))
        if largest > _LARGEST_FLOAT16:
            raise ModelError(
                f"weight {tensor.name!r} holds {largest:.3g}, float16 ends at {_LARGEST_FLOAT16:.0f}",
                hint="--precision bfloat16 has the range of float32",
            )
    wrapper: Any = require("onnxruntime.transformers.onnx_model", extra="cpu")
    with quiet_libraries():
        found = wrapper.OnnxModel(tool.convert_float_to_float16(model, keep_io_types=True))
        found.topological_sort()  # the casts of the inputs were put at the end
        return found.model


def _bfloat16_weights(model: Any) -> Any:
    onnx = require("onnx", extra="cpu")
    casts = []
    for tensor in _weights(model):
        stored = onnx.helper.make_tensor(
            f"{tensor.name}_bfloat16",
            onnx.TensorProto.BFLOAT16,
            tensor.dims,
            little_endian_bytes(_rounded(_array(tensor))),
            raw=True,
        )
        casts.append(
            onnx.helper.make_node(
                "Cast", [stored.name], [tensor.name], f"{tensor.name}_cast", to=onnx.TensorProto.FLOAT
            )
        )
        tensor.CopyFrom(stored)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _rounded(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32 values, rounded to the nearest even; infinities and NaN stay what they are.

    >>> _rounded(np.float32([1.0, 1.00390625, 1.01171875])).tolist()
    [16256, 16256, 16258]
    """
    bits = plain(values, np.float32).view(np.uint32)
    up = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    found: np.ndarray = np.where(np.isfinite(values), up, bits >> 16).astype(np.uint16)
    return found


def _weights(model: Any) -> list[Any]:
    """The float32 tensors of at least two dimensions: those of layers, not of norms and biases."""
    onnx = require("onnx", extra="cpu")
    found = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
    ]
    if not found:
        raise ModelError("the model has no float32 weights to cast", hint="leave --precision out")
    return found


def _array(tensor: Any) -> np.ndarray:
    found: np.ndarray = require("onnx", extra="cpu").numpy_helper.to_array(tensor)
    return found
