"""The work of one call: floating-point operations, and the bytes that it moves at least.

Operations are counted from shapes, two a multiply-add, those of zeros included: a model in int8 does the same
work in another type, so that its operators are counted as those of float32 that they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lissom.artifact import Artifact, TensorSpec
from lissom.errors import ArtifactError
from lissom.logs import log
from lissom.optional import require
from lissom.runtime.arrays import tensor_of
from lissom.runtime.layout import Layout
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.open_vino import GRAPH_FILE, WEIGHTS_FILE
from lissom.runtime.probe import load_probe

_RECURRENT = {"LSTMSequence": 4, "GRUSequence": 3, "RNNSequence": 3}
"""OpenVINO's recurrent layers, by the place of the first of their two matrices."""
_UNCOUNTED = {
    *("If", "Loop", "Scan", "TensorIterator", "Einsum", "DeformConv", "DeformableConvolution"),
    *("Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention", "ScaledDotProductAttention"),
    *("FusedConv", "FusedMatMul", "FusedGemm", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
    *("LSTMCell", "GRUCell", "RNNCell"),
}
"""Operators with products inside that are not counted: work that is unknown is better than too little."""


class Work(NamedTuple):
    """Of one sample.

    Attributes:
        flops: Two a multiply-add of convolutions, products and recurrent layers; None where unknown.
        weight_bytes: Of the stored weights, without the description of the graph.
        moved_bytes: Weights, inputs and outputs: the fewest bytes that a call can move, if it reads every
            weight once and no embedding is larger than what it looks up.
    """

    flops: int | None
    weight_bytes: int
    moved_bytes: int


def works_of(artifacts: Sequence[Artifact]) -> dict[str, Work]:
    """The work of every artifact by name; what was converted does the work of what it was made from."""
    by_digest: dict[str, int | None] = {}
    found: dict[str, Work] = {}
    for artifact in artifacts:
        flops = by_digest[artifact.digest] = _flops(artifact, by_digest)
        weights = _weight_bytes(artifact)
        found[artifact.name] = Work(flops, weights, weights + _signature_bytes(artifact))
    return found


def _flops(artifact: Artifact, known: Mapping[str, int | None]) -> int | None:
    kind = artifact.manifest.format
    try:
        if kind == "torch":
            return _of_torch(artifact)
        parent = next((known[one.digest] for one in artifact.manifest.parents if one.digest in known), None)
        if parent is not None:
            return parent
        count = {"onnx": _of_onnx, "openvino": _of_openvino}.get(kind)
        return count(artifact) if count else None
    except (
        Exception
    ) as exc:  # the user's forward and the counters may raise anything; times are known all the same
        log.debug("operations of %s cannot be counted", artifact.name, exc_info=exc)
        return None


def _of_torch(artifact: Artifact) -> int:

    from lissom.models.catalogue import flops_of
    from lissom.structure import load_model

    inputs, _ = load_probe(artifact)
    names = [spec.name for spec in artifact.manifest.signature.inputs]
    return flops_of(load_model(artifact, plain=True), [tensor_of(inputs[name][:1].copy()) for name in names])


def _weight_bytes(artifact: Artifact) -> int:
    """Of an ONNX graph its tensors, of OpenVINO's two files the second, else of the whole model."""
    kind = artifact.manifest.format
    if kind == "openvino":
        return artifact.manifest.entry(WEIGHTS_FILE).size_bytes
    if kind != "onnx":
        return artifact.size_bytes
    onnx: Any = require("onnx", extra="cpu")
    graph = onnx.load(artifact.file(MODEL_FILE), load_external_data=False).graph
    own = sum(tensor.ByteSize() for tensor in graph.initializer if not tensor.external_data)
    beside = sum(
        entry.size_bytes
        for entry in artifact.manifest.files
        if "/model" in f"/{entry.path}" and not entry.path.endswith(MODEL_FILE)
    )
    return int(own) + beside


def _signature_bytes(artifact: Artifact) -> int:
    signature = artifact.manifest.signature
    return sum(_bytes(spec) for spec in (*signature.inputs, *signature.outputs))


def _bytes(spec: TensorSpec) -> int:
    """Of one sample."""
    import numpy as np

    sizes = (dim if isinstance(dim, int) else 1 for dim in spec.shape)
    return math.prod(sizes) * np.dtype(spec.dtype).itemsize


def _sample_shapes(artifact: Artifact) -> dict[str, list[int]]:
    """Shapes of the inputs for one sample, as long as those of the probe."""
    inputs, _ = load_probe(artifact)
    one = next(Layout(artifact.manifest.signature).groups({name: a[:1] for name, a in inputs.items()}))
    return {name: list(array.shape) for name, array in one.tensors.items()}


def _of_onnx(artifact: Artifact) -> int:
    return sum(operations for _, operations in flops_of_nodes(artifact))


def flops_of_nodes(artifact: Artifact) -> list[tuple[str, int]]:
    """The first output that each node of an ONNX artifact gives, and its operations for a batch of one.

    Raises:
        ArtifactError: a shape that is needed cannot be inferred, or an operator is not counted.
    """
    onnx: Any = require("onnx", extra="cpu")
    model = onnx.load(artifact.file(MODEL_FILE), load_external_data=False)
    sample = _sample_shapes(artifact)
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, sample.get(value.name, ()), strict=False):
            dim.dim_value = size
    _make_inferable(model.graph, onnx.helper)
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError as exc:
        raise ArtifactError(f"shapes of {artifact.name} cannot be inferred: {exc}") from exc
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return [(next(filter(None, node.output), ""), _of_node(node, shapes)) for node in graph.node]


def _make_inferable(graph: Any, helper: Any) -> None:
    """Put standard operators in place of ONNX Runtime's own, whose shapes onnx does not infer."""
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            depth, width = (next(item.i for item in node.attribute if item.name == key) for key in "KN")
            _replace(graph, helper, node, "MatMul", {1: [depth, width]}, num_inputs=2)
        elif node.op_type == "DynamicQuantizeLSTM":  # its weights are transposed
            weights = {place: sizes.get(node.input[place]) for place in (1, 2)}
            turned = {place: [size[axis] for axis in (0, 2, 1)] for place, size in weights.items() if size}
            _replace(graph, helper, node, "LSTM", turned, num_inputs=8)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = ""


def _replace(
    graph: Any, helper: Any, node: Any, kind: str, weights: Mapping[int, list[int]], *, num_inputs: int
) -> None:
    """Make a node one of another kind, which reads weights of these shapes."""
    for place, shape in weights.items():
        name = f"{node.output[0]}.input.{place}"
        graph.input.append(helper.make_tensor_value_info(name, 1, shape))
        node.input[place] = name
    node.op_type, node.domain = kind, ""
    del node.input[num_inputs:]


def _of_node(node: Any, shapes: Mapping[str, list[int]]) -> int:
    """Two a multiply-add; 0 for what is no product."""
    kind: str = node.op_type

    def shape(name: str) -> list[int]:
        found = shapes.get(name)
        if found is None or 0 in found:
            raise ArtifactError(f"the shape of {name!r} is not known")
        return found

    if kind in ("Conv", "ConvInteger", "QLinearConv"):
        weight = node.input[3 if kind == "QLinearConv" else 1]
        return 2 * math.prod(shape(node.output[0])) * math.prod(shape(weight)[1:])
    if kind == "ConvTranspose":
        return 2 * math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])
    if kind in ("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"):
        # By the second factor, mostly a weight, whose shape is known where that of what is read may not be.
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        factor = shape(node.input[3 if kind == "QLinearMatMul" else 1])
        return 2 * math.prod(shape(node.output[0])) * factor[-1 if transposed or len(factor) == 1 else -2]
    if kind in ("LSTM", "GRU", "RNN"):
        return 2 * math.prod(shape(node.input[0])[:2]) * sum(map(math.prod, map(shape, node.input[1:3])))
    if kind in _UNCOUNTED:
        raise ArtifactError(f"operations of {kind} are not counted")
    return 0


def _of_openvino(artifact: Artifact) -> int:
    """Counted from the shapes of the graph, for a batch of one.

    Raises:
        ArtifactError: a shape that is needed cannot be inferred, or an operator is not counted.
    """
    library: Any = require("openvino", extra="cpu")
    model = library.Core().read_model(str(artifact.file(GRAPH_FILE)))
    model.reshape(_sample_shapes(artifact))
    return sum(_of_operation(node) for node in model.get_ordered_ops())


def _of_operation(node: Any) -> int:
    """Two a multiply-add; 0 for what is no product."""
    kind: str = node.get_type_name()

    def read(place: int) -> list[int]:
        return _known(node.input(place).get_partial_shape())

    if kind in ("Convolution", "GroupConvolution"):
        skipped = 1 if kind == "Convolution" else 2
        return 2 * math.prod(_known(node.output(0).get_partial_shape())) * math.prod(read(1)[skipped:])
    if kind in ("ConvolutionBackpropData", "GroupConvolutionBackpropData"):
        skipped = 1 if kind == "ConvolutionBackpropData" else 2
        return 2 * math.prod(read(0)) * math.prod(read(1)[skipped:])
    if kind == "MatMul":
        depth = read(0)[-2 if node.get_attributes()["transpose_a"] and len(read(0)) > 1 else -1]
        return 2 * math.prod(_known(node.output(0).get_partial_shape())) * depth
    if kind in _RECURRENT:
        # What is read: the sequence, its states and lengths, and then the matrices for both.
        first = _RECURRENT[kind]
        return 2 * math.prod(read(0)[:2]) * (math.prod(read(first)) + math.prod(read(first + 1)))
    if kind in _UNCOUNTED:
        raise ArtifactError(f"operations of {kind} are not counted")
    return 0


def _known(shape: Any) -> list[int]:
    if not shape.is_static:
        raise ArtifactError(f"the shape {shape} is not known")
    return [int(size) for size in shape.to_shape()]
