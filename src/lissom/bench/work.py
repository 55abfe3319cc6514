"""The work of one call: floating-point operations, and the bytes that it moves at least.

Operations are counted on the float32 graph, two a multiply-add, those of zeros included: a model in int8 does
the same work in another type, and a counter that looks at the int8 graph would see none of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lissom.artifact import Artifact, TensorSpec
from lissom.errors import LissomError
from lissom.logs import log
from lissom.optional import require
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.probe import load_probe


class Work(NamedTuple):
    """Of one sample.

    Attributes:
        flops: Two a multiply-add of convolutions, products and recurrent layers; None where unknown.
        moved_bytes: The stored model, inputs and outputs: the fewest bytes that a call can move, if it reads
            every weight once and no embedding is larger than what it looks up.
    """

    flops: int | None
    moved_bytes: int


def works_of(artifacts: Sequence[Artifact]) -> dict[str, Work]:
    """The work of every artifact by name; what was converted does the work of what it was made from."""
    by_digest: dict[str, int | None] = {}
    found: dict[str, Work] = {}
    for artifact in artifacts:
        flops = by_digest[artifact.digest] = _flops(artifact, by_digest)
        found[artifact.name] = Work(flops, artifact.size_bytes + _signature_bytes(artifact))
    return found


def _flops(artifact: Artifact, known: Mapping[str, int | None]) -> int | None:
    kind = artifact.manifest.format
    try:
        if kind == "torch":
            return _of_torch(artifact)
        parent = next((known[one.digest] for one in artifact.manifest.parents if one.digest in known), None)
        if parent is not None:
            return parent
        return _of_onnx(artifact) if kind == "onnx" else None
    except (LissomError, RuntimeError, TypeError, NotImplementedError) as exc:
        log.debug("operations of %s cannot be counted: %s", artifact.name, exc)
        return None


def _of_torch(artifact: Artifact) -> int:
    import torch

    from lissom.models.catalogue import flops_of
    from lissom.structure import load_model

    inputs, _ = load_probe(artifact)
    names = [spec.name for spec in artifact.manifest.signature.inputs]
    return flops_of(load_model(artifact), [torch.from_numpy(inputs[name][:1].copy()) for name in names])


def _signature_bytes(artifact: Artifact) -> int:
    signature = artifact.manifest.signature
    return sum(_bytes(spec) for spec in (*signature.inputs, *signature.outputs))


def _bytes(spec: TensorSpec) -> int:
    """Of one sample."""
    import numpy as np

    sizes = (dim if isinstance(dim, int) else 1 for dim in spec.shape)
    return math.prod(sizes) * np.dtype(spec.dtype).itemsize


def _of_onnx(artifact: Artifact) -> int:
    """Counted from the shapes of the graph, for a batch of one."""
    onnx: Any = require("onnx", extra="cpu")
    model = onnx.load(artifact.file(MODEL_FILE))
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.dim_value:
                dim.dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(_of_node(node, shapes) for node in graph.node)


def _of_node(node: Any, shapes: Mapping[str, list[int]]) -> int:
    """Two a multiply-add; 0 for what is no product."""
    kind: str = node.op_type
    shape = [shapes.get(name, []) for name in (*node.input, *node.output)]
    if kind in ("Conv", "ConvInteger", "QLinearConv"):
        weight = shape[1 if kind != "QLinearConv" else 3]
        return 2 * math.prod(shape[-1]) * math.prod(weight[1:])
    if kind == "ConvTranspose":
        return 2 * math.prod(shape[0]) * math.prod(shape[1][1:])
    if kind in ("MatMul", "MatMulInteger"):
        return 2 * math.prod(shape[-1]) * (shape[0][-1] if shape[0] else 0)
    if kind == "Gemm":
        transposed = any(item.name == "transA" and item.i for item in node.attribute)
        return 2 * math.prod(shape[-1]) * (shape[0][0 if transposed else -1] if shape[0] else 0)
    if kind == "MatMulNBits":
        depth = next(item.i for item in node.attribute if item.name == "K")
        return 2 * math.prod(shape[-1]) * int(depth)
    if kind in ("LSTM", "GRU", "RNN"):
        steps = shape[0][0] * shape[0][1]
        return 2 * steps * (math.prod(shape[1]) + math.prod(shape[2]))
    return 0
