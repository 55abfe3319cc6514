"""Where the samples lie in an ONNX file from elsewhere, found from its sizes, the data, and by running it.

Names of axes say little and sizes may be fixed at what was exported. Each input may have its samples on any
axis without which its sizes are those of a sample, the likeliest first: axes with a name, then those of size
1. `prove_batching` tries them. A fixed axis gets a name where the changed file answers several rows as the
original answers each alone; else the file stays, and samples are computed one by one.

An input that the data do not have may be a recurrent state; see `recurrent_states`.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lissom.artifact import Batching, Signature, TensorSpec
from lissom.errors import ModelError
from lissom.export.external_data import onnx_files
from lissom.export.graph_inputs import Dims, dims_of, dtype_of, inputs_of, rank_of
from lissom.export.onnx_file import caller, open_session
from lissom.export.recurrent_states import States, states_of_inputs, zero_states
from lissom.logs import log
from lissom.optional import require
from lissom.runtime.batching import Axes, Call, prove_batching, prove_fixed
from lissom.runtime.layout import SAMPLES
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.signatures import answer_to, output_specs

Tensors = Mapping[str, np.ndarray]
_MAX_CANDIDATES = 12
_MAX_BYTES = 1_900_000_000


def settle_axes(
    model: Any,
    wanted: Sequence[TensorSpec],
    samples: Tensors,
    *,
    source: str,
    precision: str = "float32",
) -> tuple[Any, Signature]:
    """The signature of an ONNX file with proven axes of the samples, and the file with names for them.

    Args:
        model: ONNX ModelProto; it is not changed.
        wanted: Inputs as the data have them, samples first.
        samples: A few samples by input name.
        source: Where they came from, for messages.
        precision: Of the model.

    Raises:
        ModelError: inputs are not those of the data, or the model does not run on them.
    """
    declared = {value.name: value for value in inputs_of(model)}
    states = states_of_inputs(model, {spec.name for spec in wanted})
    dims = {name: dims_of(value) for name, value in declared.items()}
    _check_inputs(declared, wanted, states, source)
    whole = dict(samples) | zero_states(declared, states, len(next(iter(samples.values()))))
    candidates = _candidates(dims, {name: array.shape[1:] for name, array in whole.items()})
    if not candidates:
        raise _mismatch(declared, wanted, source)
    found, batching = _settled(model, dims, candidates, whole, precision, states)
    if states:
        log.info("recurrent state %s starts as zeros where none is given", ", ".join(states))
    inputs = tuple(
        TensorSpec(name=name, dtype=dtype_of(value), shape=_shape(name, dims, whole, batching))
        for name, value in declared.items()
    )
    named = tuple(
        TensorSpec(name=value.name, dtype=dtype_of(value), shape=dims_of(value))
        for value in model.graph.output
    )
    outputs = output_specs(_caller(found), batching, whole, named)
    signature = Signature(inputs=inputs, outputs=outputs, batching=batching)
    return _with_shapes(found, signature), signature


def _settled(
    model: Any,
    dims: Mapping[str, Dims],
    candidates: Sequence[Axes],
    samples: Tensors,
    precision: str,
    states: States,
) -> tuple[Any, Batching]:
    """The file, changed where that is right, and where its samples lie."""
    call = _caller(model)
    possible: Batching | None = None
    for axes in candidates:
        size = _fixed_size(axes, dims)
        if size is None:
            found = prove_batching(call, samples, [axes], precision=precision, states=states)
            if found is not None and found.joins:
                return model, found
            possible = possible or found
            continue
        for changed in _with_names(model, axes, size):
            found = _proven_change(changed, call, axes, size, samples, precision, states)
            if found is not None:
                return changed, found
    if possible is not None:
        return model, possible
    for axes in candidates:
        fixed = prove_fixed(call, samples, axes, _fixed_size(axes, dims) or 1, states=states)
        if fixed is not None:
            return model, fixed
    _run_once(call, candidates[0], samples)
    raise ModelError("the model does not run on one sample of the data, nor on two")


def _proven_change(
    changed: Any,
    call: Call,
    axes: Axes,
    size: int,
    samples: Tensors,
    precision: str,
    states: States,
) -> Batching | None:
    """What is proven of a changed file, if it answers rows together as the original does, else None."""
    try:
        other = _caller(changed)
    except ModelError:
        return None
    alone = call if size == 1 else None
    found = prove_batching(other, samples, [axes], alone=alone, precision=precision, states=states)
    if found is None or not found.joins:
        return None
    if size > 1:  # the original takes no single row: both are asked the same rows
        one, two = (answer_to(ask, axes, samples, size) for ask in (call, other))
        if one is None or two is None or not all(_near(array, two[name]) for name, array in one.items()):
            return None
    return found


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)


def _run_once(call: Call, axes: Axes, samples: Tensors) -> None:
    """Raise what the engine says of a single sample."""
    rows = {name: array[:1] for name, array in samples.items()}
    call(
        {
            name: np.asarray(array[0]) if axes[name] is None else np.moveaxis(array, 0, axes[name] or 0)
            for name, array in rows.items()
        }
    )


def _caller(model: Any) -> Call:
    names = [value.name for value in model.graph.output]
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= _MAX_BYTES:
        return caller(open_session(model.SerializeToString(), is_trial=True), names)
    copied = type(model)()
    copied.CopyFrom(model)
    with tempfile.TemporaryDirectory() as place:
        for name, content in onnx_files(copied).items():
            (Path(place) / name).write_bytes(content)
        return caller(open_session(Path(place) / MODEL_FILE, is_trial=True), names)


def _fixed_size(axes: Axes, dims: Mapping[str, Dims]) -> int | None:
    """The number of samples of a call where the file fixes it; None where it may vary."""
    sizes = [dims[name][axis] for name, axis in axes.items() if axis is not None]
    fixed = [size for size in sizes if isinstance(size, int)]
    return fixed[0] if fixed else None if sizes else 1


def _candidates(dims: Mapping[str, Dims], shapes: Mapping[str, tuple[int, ...]]) -> list[Axes]:
    """Axes of the samples by input, the likeliest first; empty where an input does not fit the data."""
    places = {name: _places(dims[name], shapes[name]) for name in dims}
    if not all(places.values()):
        return []
    found: list[Axes] = []
    for chosen in itertools.islice(itertools.product(*places.values()), 200):
        axes = dict(zip(places, chosen, strict=True))
        sizes = [dims[name][axis] for name, axis in axes.items() if axis is not None]
        if len({size for size in sizes if isinstance(size, int)}) <= 1:
            found.append(axes)

    def order(axes: Axes) -> tuple[int, int]:
        named = {dims[name][axis] for name, axis in axes.items() if axis is not None}
        rank = sum(places[name].index(axis) for name, axis in axes.items())
        return len(named), rank

    return sorted(found, key=order)[:_MAX_CANDIDATES]


def _places(dims: Dims, shape: tuple[int, ...]) -> list[int | None]:
    """Axes of one input on which samples of a shape may lie, the likeliest first; None: on none."""
    if len(dims) == len(shape):
        return [None] if _fits(dims, shape) else []
    if len(dims) != len(shape) + 1:
        return []
    fitting = [axis for axis in _possible(dims) if _fits(dims[:axis] + dims[axis + 1 :], shape)]
    return [axis for _, axis in sorted((rank_of(dims[axis]), axis) for axis in fitting)]


def _possible(dims: Dims) -> list[int]:
    """Axes that may be those of the samples: one called so; else with a name, of size 1, or a first axis."""
    called = [axis for axis, size in enumerate(dims) if isinstance(size, str) and _is_batch(size)]
    if called:
        return called
    named = any(isinstance(size, str) for size in dims)
    return [axis for axis, size in enumerate(dims) if rank_of(size) < 2 or (axis == 0 and not named)]


def _is_batch(name: str) -> bool:
    return name.lower() in ("n", "b", "bs") or "batch" in name.lower()


def _fits(dims: Dims, shape: tuple[int, ...]) -> bool:
    return all(isinstance(dim, str) or dim == size for dim, size in zip(dims, shape, strict=True))


def _check_inputs(
    declared: Mapping[str, Any], wanted: Sequence[TensorSpec], states: States, source: str
) -> None:
    given = {spec.name: spec.dtype for spec in wanted}
    taken = {name: dtype_of(value) for name, value in declared.items() if name not in states}
    if given != taken:
        raise _mismatch(declared, wanted, source)


def _mismatch(declared: Mapping[str, Any], wanted: Sequence[TensorSpec], source: str) -> ModelError:
    takes = ", ".join(f"{name}: {dtype_of(value)}{list(dims_of(value))}" for name, value in declared.items())
    gives = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in wanted)
    return ModelError(
        f"the model takes {takes}, but {source} gives {gives}",
        hint="arrays of an .npz have the names of the inputs, and one sample on each place of the first axis",
    )


def _shape(name: str, dims: Mapping[str, Dims], samples: Tensors, batching: Batching) -> Dims:
    """Sizes of an input: those of the data, and a name for the axis of the samples."""
    sizes = list(samples[name].shape[1:])
    axis = batching.inputs[name]
    return tuple(sizes) if axis is None else (*sizes[:axis], SAMPLES, *sizes[axis:])


def _with_shapes(model: Any, signature: Signature) -> Any:
    """The model with the sizes of the signature; the axis of the samples keeps its size where it is fixed."""
    batching = signature.batching
    assert batching is not None
    changed = type(model)()
    changed.CopyFrom(model)
    values = {value.name: value for value in (*changed.graph.input, *changed.graph.output)}
    for spec in (*signature.inputs, *signature.outputs):
        dims = values[spec.name].type.tensor_type.shape.dim
        is_input = spec.name in batching.inputs
        if is_input and len(dims) == len(spec.shape):
            continue  # what the file takes beside the samples is its own
        del dims[:]
        for size in spec.shape:
            if isinstance(size, int):
                dims.add(dim_value=size)
            elif size == SAMPLES and batching.size is not None:
                dims.add(dim_value=batching.size)
            else:
                dims.add(dim_param=size)
    del changed.graph.value_info[:]
    return changed


def _with_names(model: Any, axes: Axes, size: int) -> Iterator[Any]:
    """The model with axes that may vary, as it is and with the shapes that are written into it freed."""
    if all(axis is None for axis in axes.values()):
        return
    changed = type(model)()
    changed.CopyFrom(model)
    for value in inputs_of(changed):
        if (axis := axes[value.name]) is not None:
            dim = value.type.tensor_type.shape.dim[axis]
            dim.Clear()
            dim.dim_param = SAMPLES
    for value in changed.graph.output:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.Clear()
            dim.dim_param = f"{value.name}_dim_{place}"
    del changed.graph.value_info[:]
    yield changed
    for freed in (_inferred, _copied):
        other = type(model)()
        other.CopyFrom(changed)
        if _free_shapes(other, size, freed):
            yield other


def _inferred(shape: list[int], place: int) -> int:
    """-1 where there is no other, which takes what is left; else 0, which takes the size before."""
    return 0 if -1 in shape else -1


def _copied(shape: list[int], place: int) -> int:
    return 0


def _free_shapes(model: Any, size: int, freed: Any) -> bool:
    """Let the first size of constant shapes of Reshape vary where it is that of the batch; False: none is."""
    helper = require("onnx.numpy_helper", extra="cpu")
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    number = 0
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        if any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute):
            continue
        shape = helper.to_array(constants[node.input[1]]).tolist()
        if shape and shape[0] == size:
            shape[0] = freed(shape, 0)
            name = f"{node.output[0]}_free_shape"
            graph.initializer.append(helper.from_array(np.array(shape, np.int64), name))
            node.input[1] = name
            number += 1
    return number > 0
