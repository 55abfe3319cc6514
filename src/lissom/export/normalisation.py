"""Foreign ONNX files in the form that every later stage reads, computing what they computed.

Each step takes a ModelProto and gives one, with a note of what it changed:

    outputs that are no numbers        left out where others remain, such as names of classes
    nodes of one name                  a name of their own each: ONNX Runtime opens no others
    initializers that are inputs too   were needed up to IR 3; a later file means that they may be overridden,
                                       which nobody does, and which keeps engines from folding them
    sparse weights                     dense, as OpenVINO and the quantizers read nothing else
    16-bit weights in a list of int32  as bytes: OpenVINO takes the pattern of bfloat16 for the number
    functions of the file              put in the place of their calls
    sizes of -1 and 0                  axes that may vary: exporters write so what they do not know
    old operator sets                  converted by onnx.version_converter, and kept only when ONNX Runtime
                                       gives the same outputs for the original and the converted file
    declared shapes of outputs         as shape inference computes them where the file has but a name
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import TensorSpec
from lissom.errors import LissomError, ModelError
from lissom.export.graphs import all_graphs, all_nodes, default_opset
from lissom.export.made_inputs import make_inputs
from lissom.export.number_outputs import keep_number_outputs, typed_outputs, unfit
from lissom.export.onnx_file import caller, open_session
from lissom.optional import require

OLDEST_OPSET = 13
"""Of the operator sets in which every stage works: per-channel quantization begins here."""
_TARGETS = (13, 17)
_NUM_FEEDS = 2
_CLOSE = 1e-4
"""Largest difference that is rounding, as a share of the largest value: kernels differ in their order."""
Step = Callable[[Any], "Changed"]


class Changed(NamedTuple):
    """A model, and what was changed in it; empty where nothing was."""

    model: Any
    note: str = ""


class Normalised(NamedTuple):
    """A model in the form that lissom works with.

    Attributes:
        model: ONNX ModelProto; the original is not changed.
        notes: What was changed, a sentence each.
    """

    model: Any
    notes: tuple[str, ...]


def normalise(model: Any) -> Normalised:
    """Bring a model of somebody else into the form that every stage reads; see the head of this file.

    Raises:
        ModelError: an input or output is no tensor of numbers.
    """
    check_tensors(model)
    copy = type(model)()
    copy.CopyFrom(model)
    notes = []
    for step in _STEPS:
        copy, note = step(copy)
        if note:
            notes.append(note)
    return Normalised(copy, tuple(notes))


def check_tensors(model: Any) -> None:
    """Refuse a model that takes something else than tensors of numbers, or gives nothing but that.

    Raises:
        ModelError: an input, or every output, is a sequence, a map, optional, text, or of a type that NumPy
            lacks.
    """
    names = _initializers(model.graph)
    for value in model.graph.input:
        if value.name not in names:
            _check_tensor(value, "input")
    outputs = typed_outputs(model)
    if all(unfit(value.type) for value in outputs):
        for value in outputs:
            _check_tensor(value, "output")


def repeats_names(model: Any) -> bool:
    """True where two nodes of one graph have one name."""
    return any(
        len(names) > len({*names})
        for graph in all_graphs(model.graph)
        if (names := [node.name for node in graph.node if node.name])
    )


def separate_names(model: Any) -> Changed:
    """A name of its own for every node that has one."""
    if not repeats_names(model):
        return Changed(model)
    taken = {node.name for node in all_nodes(model)}
    count = 0
    for graph in all_graphs(model.graph):
        met = {""}
        for node in graph.node:
            if node.name and node.name in met:
                number = next(one for one in itertools.count(2) if f"{node.name}_{one}" not in taken)
                node.name = f"{node.name}_{number}"
                taken.add(node.name)
                count += 1
            met.add(node.name)
    return Changed(model, f"{count} nodes had the names of others and have names of their own")


def keep_numbers(model: Any) -> Changed:
    """Outputs that are tensors of numbers only."""
    return Changed(model, keep_number_outputs(model))


def drop_listed_initializers(model: Any) -> Changed:
    """Weights are no inputs."""
    dropped = 0
    names = _initializers(model.graph)
    kept = [value for value in model.graph.input if value.name not in names]
    dropped = len(model.graph.input) - len(kept)
    if not dropped:
        return Changed(model)
    _refill(model.graph.input, kept)
    model.ir_version = max(model.ir_version, 4)
    return Changed(model, f"{dropped} weights that the file lists as inputs too are weights only")


def densify(model: Any) -> Changed:
    """Sparse weights of every graph as dense ones."""
    helper: Any = require("onnx", extra="cpu").numpy_helper
    count = 0
    for graph in all_graphs(model.graph):
        for sparse in graph.sparse_initializer:
            dense = _dense(helper, sparse)
            graph.initializer.append(helper.from_array(dense, sparse.values.name))
            count += 1
        del graph.sparse_initializer[:]
    return Changed(model, f"{count} sparse weights are stored dense" if count else "")


def pack_halves(model: Any) -> Changed:
    """Weights of 16 bits that are listed as integers of 32 as the bytes that they are."""
    onnx: Any = require("onnx", extra="cpu")
    kinds = (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)
    count = 0
    for tensor in _stored(model):
        if tensor.data_type in kinds and tensor.int32_data:
            tensor.raw_data = np.array(tensor.int32_data, np.uint16).astype("<u2").tobytes()
            del tensor.int32_data[:]
            count += 1
    return Changed(model, f"{count} weights of 16 bits are stored as bytes" if count else "")


def _stored(model: Any) -> Iterator[Any]:
    """Every tensor that a file holds: initializers, and the values of Constant nodes."""
    for graph in all_graphs(model.graph):
        yield from graph.initializer
    for node in all_nodes(model):
        yield from (item.t for item in node.attribute if item.HasField("t"))


def inline_functions(model: Any) -> Changed:
    """The bodies of the file's own functions in the place of their calls."""
    if not model.functions:
        return Changed(model)
    count = len(model.functions)
    inlined = require("onnx.inliner", extra="cpu").inline_local_functions(model)
    return Changed(inlined, f"{count} functions of the file stand in the place of their calls")


def free_unknown_sizes(model: Any) -> Changed:
    """Sizes of 0 and less as axes that may vary, each with a name of its own."""
    freed: dict[str, None] = {}
    for graph in all_graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if dim.HasField("dim_value") and dim.dim_value <= 0:
                    dim.dim_param = f"{value.name}_{axis}"
                    freed[value.name] = None
    inputs = {value.name for value in model.graph.input}
    names = [name for name in freed if name in inputs]
    return Changed(model, f"sizes of -1 or 0 are axes that may vary: {', '.join(names)}" if names else "")


def convert_opset(model: Any) -> Changed:
    """An old operator set as one in which every stage works, where the outputs stay what they were."""
    before = default_opset(model)
    if not 0 < before < OLDEST_OPSET:
        return Changed(model)
    model.ir_version = max(model.ir_version, 4)
    for converted in _converted(model):
        if _is_equal(model, converted):
            after = default_opset(converted)
            return Changed(converted, f"operator set {before} was converted to {after}, with equal outputs")
    return Changed(model, f"operator set {before} is kept: no conversion of it gives the same outputs")


def settle_outputs(model: Any) -> Changed:
    """Shapes of the outputs as shape inference computes them, where the file has a name or nothing.

    A wrong size in the file would let every check of it fail later on.
    """
    onnx: Any = require("onnx", extra="cpu")
    bare = type(model)()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:  # of operators that onnx does not know, or above 2 GB: the file's own shapes stay
        return Changed(model)
    found = {value.name: value.type.tensor_type for value in inferred.graph.output}
    settled = [value.name for value in model.graph.output if _settle(value, found.get(value.name))]
    return Changed(model, f"sizes of {', '.join(settled)} are as computed" if settled else "")


_STEPS: tuple[Step, ...] = (
    separate_names,
    keep_numbers,
    drop_listed_initializers,
    densify,
    pack_halves,
    inline_functions,
    free_unknown_sizes,
    convert_opset,
    settle_outputs,
)


def input_specs(model: Any) -> tuple[TensorSpec, ...]:
    """The inputs of a model that have to be given: those without a value of their own.

    Raises:
        ModelError: one is no tensor of numbers, or there is none.
    """
    names = _initializers(model.graph)
    given = [value for value in model.graph.input if value.name not in names]
    if not given:
        raise ModelError(
            "the model takes no input, so that it gives the same answer always",
            hint="export it with the tensor that varies as its input",
        )
    for value in given:
        _check_tensor(value, "input")
    return tuple(spec_of(value) for value in given)


def spec_of(value: Any) -> TensorSpec:
    """Name, dtype and shape of an input or output as the file declares them; sizes below 1 may vary."""
    onnx = require("onnx", extra="cpu")
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    dims = list(enumerate(tensor.shape.dim))
    shape = [dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"dim_{axis}" for axis, dim in dims]
    named = ("batch", *shape[1:]) if shape and isinstance(shape[0], str) else tuple(shape)
    return TensorSpec(name=value.name, dtype=dtype, shape=named)


def _check_tensor(value: Any, kind: str) -> None:
    found = unfit(value.type)
    if not found:
        return
    advice = {
        "input": "cut the model where a tensor of numbers goes in, with onnx.utils.extract_model",
        "output": "cut the model where a tensor of numbers comes out, with onnx.utils.extract_model",
    }[kind]
    if found == "a sequence of maps":
        advice = "export it with options={'zipmap': False} (skl2onnx), which gives a tensor of scores"
    raise ModelError(
        f"the {kind} {value.name!r} of the model is {found}; lissom works with tensors of numbers",
        hint=advice,
    )


def _initializers(graph: Any) -> set[str]:
    names = {tensor.name for tensor in graph.initializer}
    return names | {tensor.values.name for tensor in graph.sparse_initializer}


def _refill(field: Any, values: Sequence[Any]) -> None:
    """Put other values into a repeated field."""
    kept = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(kept)


def _dense(helper: Any, sparse: Any) -> np.ndarray:
    """Indices are positions in the flat array, or one row of coordinates a value."""
    values, indices = helper.to_array(sparse.values), helper.to_array(sparse.indices)
    dense = np.zeros(list(sparse.dims), dtype=values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _converted(model: Any) -> Iterator[Any]:
    """The model in each operator set that the converter reaches."""
    converter: Any = require("onnx.version_converter", extra="cpu")
    for target in _TARGETS:
        try:
            converted = converter.convert_version(model, target)
        except Exception:  # the converter raises what it likes for operators that it has no rule for
            continue
        if _keeps_operators(model, converted):
            yield from _with_coordinates(default_opset(model), converted)


def _with_coordinates(before: int, converted: Any) -> Iterator[Any]:
    """The model with a word for where Resize reads: up to operator set 10 at i / scale.

    The converter writes nothing, and then half-pixel centres are meant: every linear upsampling would move.
    Which neighbour was the nearest was left to the engine, so that both are tried.
    """
    helper: Any = require("onnx", extra="cpu").helper
    silent = [
        node
        for node in all_nodes(converted)
        if node.op_type == "Resize"
        and all(attribute.name != "coordinate_transformation_mode" for attribute in node.attribute)
    ]
    if before > 10 or not silent:
        yield converted
        return
    for node in silent:
        node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    yield converted
    for node in silent:
        node.attribute[-1].s = b"ceil"
    yield converted


def _keeps_operators(before: Any, after: Any) -> bool:
    """False where the converter lost the operators of other domains, or the graphs inside others."""

    def foreign(model: Any) -> list[str]:
        return sorted(node.op_type for node in all_nodes(model) if node.domain not in ("", "ai.onnx"))

    return foreign(before) == foreign(after)


def _is_equal(before: Any, after: Any) -> bool:
    """True where ONNX Runtime gives equal outputs for both on made-up inputs."""
    names = [value.name for value in before.graph.output]
    try:
        one = caller(open_session(before.SerializeToString(), is_trial=True), names)
        other = caller(open_session(after.SerializeToString(), is_trial=True), names)
        made = make_inputs(before, input_specs(before), one)
        feeds = [made.feed(seed) for seed in range(_NUM_FEEDS)]
        return all(_close(one(feed), other(feed)) for feed in feeds)
    except (LissomError, ValueError):  # one of them does not run; above 2 GB it cannot be serialized
        return False


def _close(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Equal but for rounding, for every output; what is not a number stays so."""
    return all(_close_arrays(np.asarray(wanted[name]), np.asarray(found[name])) for name in wanted)


def _close_arrays(wanted: np.ndarray, found: np.ndarray) -> bool:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(wanted, found))
    finite = wanted[np.isfinite(wanted)]
    scale = float(np.abs(finite).max(initial=0.0))
    return bool(np.allclose(found, wanted, rtol=0, atol=_CLOSE * scale, equal_nan=True))


def _settle(value: Any, inferred: Any | None) -> bool:
    """Take a rank, or sizes, from what was computed; True where something was taken."""
    if inferred is None or not inferred.HasField("shape"):
        return False
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or len(tensor.shape.dim) != len(inferred.shape.dim):
        tensor.shape.CopyFrom(inferred.shape)
        return True
    changed = False
    for own, other in zip(tensor.shape.dim, inferred.shape.dim, strict=True):
        if other.HasField("dim_value") and other.dim_value > 0 and own.dim_value != other.dim_value:
            own.dim_value = other.dim_value
            changed = True
    return changed
