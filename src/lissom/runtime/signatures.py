"""Signatures whose axes of the samples are proven by running the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lissom.artifact import Batching, Signature, TensorSpec
from lissom.runtime.arrays import plain
from lissom.runtime.batching import Axes, Call, prove_batching, prove_fixed
from lissom.runtime.layout import SAMPLES, Layout
from lissom.runtime.made_rows import Tensors

Shape = tuple[int | str, ...]


def prove_signature(call: Call, signature: Signature, samples: Tensors, *, precision: str) -> Signature:
    """A signature with axes that were proven on this model, and outputs as they then are.

    What reads other rows in the model that this one was made from is taken to do so still.

    Args:
        call: Computes tensors of the model.
        signature: Names, dtypes and shapes of a model or of the one it was made from.
        samples: A few arrays of shape [samples, ...] by input name; recurrent states may be left out.
        precision: Of the model, which decides what is rounding.
    """
    told = signature.batching
    if told is not None and not told.joins:
        return signature
    layout = Layout(signature)
    axes, states = layout.batching.inputs, layout.batching.states
    whole = layout.with_state_samples(samples)
    found = None
    if layout.size is None:
        found = prove_batching(call, whole, [axes], precision=precision, states=states)
    found = found or prove_fixed(call, whole, axes, layout.size or 1, states=states)
    if found is None:
        return signature
    outputs = signature.outputs if told else output_specs(call, found, whole, signature.outputs)
    return signature.model_copy(update={"batching": found, "outputs": outputs})


def prove_fixed_signature(
    call: Call, signature: Signature, samples: Tensors, axes: Axes, size: int
) -> Signature:
    """The same for a model that is known to take one number of samples.

    Args:
        call: Computes tensors of the model.
        signature: Names, dtypes and shapes; outputs only need their names.
        samples: A few arrays of shape [samples, ...] by input name.
        axes: Where the samples lie in the inputs.
        size: Samples of each call.
    """
    found = prove_fixed(call, samples, axes, size)
    if found is None:
        return signature
    outputs = output_specs(call, found, samples, signature.outputs)
    return signature.model_copy(update={"batching": found, "outputs": outputs})


def output_specs(
    call: Call, batching: Batching, samples: Tensors, declared: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    """The outputs by what a model gives, which a file may say wrongly.

    Args:
        call: Computes tensors of the model.
        batching: Where the samples lie.
        samples: Arrays of shape [samples, ...] by input name.
        declared: Names of the outputs, and names for sizes that vary beside that of the samples.
    """
    calls = [answer_to(call, batching.inputs, samples, count) for count in _counts(batching)]
    known = [answer for answer in calls if answer is not None]
    if not known:
        return tuple(declared)
    return tuple(
        _output_spec(spec, [np.asarray(answer[spec.name]) for answer in known], batching.outputs[spec.name])
        for spec in declared
    )


def _counts(batching: Batching) -> tuple[int, ...]:
    return (batching.size,) if batching.size is not None else (2, 5)


def answer_to(call: Call, axes: Axes, samples: Tensors, count: int) -> Mapping[str, np.ndarray] | None:
    """What a model says to the first samples together; None where it takes no such number."""
    tensors = {}
    for name, axis in axes.items():
        array = samples[name]
        rows = array[np.arange(count) % len(array)]
        tensors[name] = plain(rows[0] if axis is None else np.moveaxis(rows, 0, axis))
    try:
        return call(tensors)
    except Exception:  # an engine raises what it likes
        return None


def _output_spec(spec: TensorSpec, seen: Sequence[np.ndarray], axis: int | None) -> TensorSpec:
    first = seen[0]
    if any(array.ndim != first.ndim for array in seen):
        return spec
    named: Sequence[int | str | None] = spec.shape if len(spec.shape) == first.ndim else (None,) * first.ndim
    shape: list[int | str] = []
    for place, declared in enumerate(named):
        sizes = {array.shape[place] for array in seen}
        own = isinstance(declared, str) and declared != SAMPLES
        if place == axis:
            shape.append(SAMPLES)
        elif own or len(sizes) > 1:
            shape.append(str(declared) if own else f"{spec.name}_dim_{place}")
        else:
            shape.append(first.shape[place])
    return spec.model_copy(update={"shape": tuple(shape)})
