"""What an ONNX file declares of its inputs."""

from __future__ import annotations

from typing import Any

from lissom.optional import require

Dims = tuple[int | str, ...]


def inputs_of(model: Any) -> list[Any]:
    """The inputs that have to be given: those without a value of their own."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    initializers |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in initializers]


def dims_of(value: Any) -> Dims:
    """Sizes of a tensor; a name for one that may vary, also where the file says -1 or 0."""
    dims = enumerate(value.type.tensor_type.shape.dim)
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or f"dim_{place}"
        for place, dim in dims
    )


def dtype_of(value: Any) -> str:
    """Name of the dtype of a tensor, as numpy has it."""
    helper = require("onnx.helper", extra="cpu")
    name: str = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    return name


def rank_of(size: int | str) -> int:
    """How likely samples lie along an axis of this size: 0 most, 2 least."""
    return 0 if isinstance(size, str) else 1 if size == 1 else 2
