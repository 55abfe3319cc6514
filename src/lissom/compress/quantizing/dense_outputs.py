"""By what a model is judged whose answers differ in shape from sample to sample, as those of detectors do.

A quantized detector finds other boxes, and perhaps another number of them, so that its answers are not those
of its parent place by place. What can be compared is what the operators read that decide how many there are:
boxes and scores before non-maximum suppression.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Signature, TensorSpec
from lissom.compress.quantizing.graph import Graph, float_tensors
from lissom.export.onnx_file import caller, open_session
from lissom.optional import require
from lissom.runtime.layout import Layout

_COUNTING = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress"})
"""Operators that give as much as the values of their inputs say."""
_NUM_SAMPLES = 16
"""On which the shapes of answers are looked at."""


class Judged(NamedTuple):
    """What is compared.

    Attributes:
        model: The float32 model with outputs that have one shape for every sample.
        signature: Of it.
        counted: Names of the nodes whose sizes depend on values, which stay in float32.
        instead: Names of the outputs that cannot be compared.
    """

    model: Any
    signature: Signature
    counted: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()


def comparable(model: Any, signature: Signature, samples: Mapping[str, np.ndarray]) -> Judged:
    """A model with outputs that can be compared: its own, but for ragged ones and detections.

    Args:
        model: A float32 model; it is not changed.
        signature: Of it.
        samples: Arrays of shape [samples, ...] by input name.
    """
    if not any(node.op_type in _COUNTING for node in model.graph.node):
        return Judged(model, signature)
    counted, detected = _after(model, _COUNTING), _after(model, {"NonMaxSuppression"})
    kept = [value.name for value in model.graph.output if value.name in detected]
    ragged = list(dict.fromkeys([*kept, *_ragged(model, Layout(signature), samples)]))
    dense = list(dict.fromkeys(name for output in ragged for name in _sources(model, output, counted)))
    if not dense:
        return Judged(model, signature)
    changed = _with_outputs(model, ragged, dense)
    nodes = tuple(node.name for node in model.graph.node if counted.intersection(node.output))
    return Judged(changed, _described(changed, signature, ragged, dense, samples), nodes, tuple(ragged))


def _ragged(model: Any, layout: Layout, samples: Mapping[str, np.ndarray]) -> list[str]:
    """Outputs whose answers to single samples differ in shape."""
    names = [value.name for value in model.graph.output]
    call = caller(open_session(model.SerializeToString(), is_trial=True), names)
    shapes: dict[str, set[tuple[int, ...]]] = {name: set() for name in names}
    for one in _singles(samples):
        for name, array in layout.infer_samples(call, one).items():
            shapes[name].add(array.shape)
    return [name for name, found in shapes.items() if len(found) > 1]


def _singles(samples: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    number = min(_NUM_SAMPLES, len(next(iter(samples.values()))))
    for place in range(number):
        yield {name: array[place : place + 1] for name, array in samples.items()}


def _after(model: Any, kinds: Collection[str]) -> set[str]:
    """Tensors that are computed from what operators of some kinds give."""
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in kinds or found.intersection(node.input):
            found.update(node.output)
    return found


def _sources(model: Any, output: str, counted: set[str]) -> list[str]:
    """The last tensors before an output that hold numbers, and as many for every sample."""
    graph, floats = Graph(model), set(float_tensors(model))
    found, seen, pending = [], {output}, [output]
    while pending:
        for name in graph.makers[pending.pop()].input:
            if name in seen or name not in graph.makers:
                continue
            seen.add(name)
            if name in floats and name not in counted:
                found.append(name)
            else:
                pending.append(name)
    return found


def _with_outputs(model: Any, ragged: list[str], dense: list[str]) -> Any:
    onnx = require("onnx", extra="cpu")
    changed = copy.deepcopy(model)
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    kept = [value for value in model.graph.output if value.name not in (*ragged, *dense)]
    free = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in dense}
    del changed.graph.output[:]
    changed.graph.output.extend([*kept, *(known.get(name, free[name]) for name in dense)])
    return changed


def with_outputs_of(model: Any, other: Any) -> Any:
    """A copy of a model with the outputs that another has, of the same tensors."""
    changed = copy.deepcopy(model)
    del changed.graph.output[:]
    changed.graph.output.extend(other.graph.output)
    return changed


def _described(
    model: Any, signature: Signature, ragged: list[str], dense: list[str], samples: Mapping[str, np.ndarray]
) -> Signature:
    """The signature with other outputs; samples are computed one by one, so these need no axis of them."""
    call = caller(open_session(model.SerializeToString(), is_trial=True), dense)
    layout = Layout(signature)
    arrays = call(layout.tensors(next(_singles(samples))))
    outputs = [spec for spec in signature.outputs if spec.name not in (*ragged, *dense)]
    outputs += [TensorSpec(name=name, dtype="float32", shape=arrays[name].shape) for name in dense]
    kept = {spec.name: layout.batching.outputs.get(spec.name, 0) for spec in outputs}
    axes = kept | dict.fromkeys(dense)
    batching = layout.batching.model_copy(update={"outputs": axes, "joins": False})
    return signature.model_copy(update={"outputs": tuple(outputs), "batching": batching})
