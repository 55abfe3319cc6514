"""Between samples and tensors: arrays of data begin with the axis of samples, those of a model need not.

A time-major output has its samples on axis 1, a recurrent state `[layers, samples, hidden]` too, and an
input such as a temperature has none. `Layout` knows the axes from `Signature.batching`, and everything that
calls a model with samples goes through it: evaluation, calibration, verification, benchmark and serving.

    samples    arrays of shape [samples, ...], as data sets, probes and predictions have them
    tensors    arrays as the signature has them, what `Runtime.infer` takes and gives

Where an output has no axis of the samples, a call has one sample, and answers are put together along their
first axis if its size is 1, else along a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Batching, Signature, TensorSpec
from lissom.errors import RaggedAnswers, RequestError
from lissom.runtime.arrays import plain

Tensors = Mapping[str, np.ndarray]
Call = Callable[[Tensors], Mapping[str, np.ndarray]]
SAMPLES = "batch"
"""Name of the axis of samples in a signature."""


class Group(NamedTuple):
    """Samples of one call.

    Attributes:
        tensors: What is given to the model.
        wanted: Samples whose answers are wanted; further ones fill a call of fixed size.
    """

    tensors: dict[str, np.ndarray]
    wanted: int


def assume_batching(signature: Signature) -> Batching:
    """What an artifact without proof seems to be: samples on axis 0 wherever that axis has a name."""
    inputs = {spec.name: _first(spec) for spec in signature.inputs}
    outputs = {spec.name: _first(spec) for spec in signature.outputs}
    joins = None not in (*inputs.values(), *outputs.values())
    return Batching(inputs=inputs, outputs=outputs, joins=joins, reason="" if joins else "it was not proven")


def _first(spec: TensorSpec) -> int | None:
    return 0 if spec.shape and isinstance(spec.shape[0], str) else None


def sample_specs(signature: Signature) -> tuple[TensorSpec, ...]:
    """The inputs as data have them: samples on the first axis."""
    axes = (signature.batching or assume_batching(signature)).inputs
    return tuple(
        spec.model_copy(update={"shape": (SAMPLES, *shape_without(spec.shape, axes.get(spec.name)))})
        for spec in signature.inputs
    )


def describe_batching(batching: Batching) -> str:
    """Where the samples lie, and whether requests share a call, as a person reads it.

    >>> describe_batching(Batching(inputs={"x": 0}, outputs={"y": 1}, joins=True))
    'requests share a call; samples on axis 0 of x, 1 of y'
    """
    tensors = {**batching.inputs, **batching.outputs}
    places = ", ".join(f"{axis} of {name}" for name, axis in tensors.items() if axis is not None)
    without = ", ".join(name for name, axis in tensors.items() if axis is None)
    apart = f"every request is computed alone: {batching.reason}"
    told = "requests share a call" if batching.joins else apart
    if places:
        told += f"; samples on axis {places}"
    if without:
        told += f"; none in {without}"
    if batching.states:
        states = (f"{one} to {other}" if other else one for one, other in batching.states.items())
        told += f"; state {', '.join(states)}"
    return told


def given_inputs(signature: Signature, names: Collection[str] = ()) -> tuple[TensorSpec, ...]:
    """The inputs as data have them, without the recurrent states that are not among `names`."""
    states = signature.batching.states if signature.batching else {}
    return tuple(spec for spec in sample_specs(signature) if spec.name not in states or spec.name in names)


def states_of(signature: Signature) -> Collection[str]:
    """Inputs that hold a recurrent state, which a caller may leave out."""
    return signature.batching.states if signature.batching else ()


def shape_without(shape: Sequence[Any], axis: int | None) -> tuple[Any, ...]:
    """The sizes of one sample.

    >>> shape_without((2, "batch", 8), 1), shape_without((3,), None)
    ((2, 8), (3,))
    """
    return tuple(size for place, size in enumerate(shape) if place != axis)


def num_rows(tensors: Tensors, batching: Batching) -> int:
    """Samples in tensors of a model; 1 where no input has an axis of them."""
    for name, array in tensors.items():
        if (axis := batching.inputs.get(name)) is not None:
            return int(array.shape[axis])
    return 1


class Layout:
    """Where the samples lie in the tensors of one model.

    Attributes:
        batching: What was proven, or is assumed.
        is_plain: Samples are on axis 0 of every tensor, in calls of any size.
        size: Samples of each call where it is fixed.
        one_by_one: Answers can only be told apart when each sample is computed alone.
    """

    def __init__(self, signature: Signature, batching: Batching | None = None) -> None:
        self.batching = batching or signature.batching or assume_batching(signature)
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._inputs, self._outputs = self.batching.inputs, self.batching.outputs
        self.size = self.batching.size
        axes = (*self._inputs.values(), *self._outputs.values())
        self.is_plain = self.size is None and not self.batching.states and not any(axis != 0 for axis in axes)
        self.one_by_one = not self.batching.joins and (
            None in self._outputs.values() or set(self._inputs.values()) <= {None}
        )

    def num_rows(self, tensors: Tensors) -> int:
        """Samples in tensors of the model; 1 where no input has an axis of them."""
        return num_rows(tensors, self.batching)

    def tensors(self, samples: Tensors) -> dict[str, np.ndarray]:
        """One call for samples: an input without an axis of them is that of the first, missing states are 0.

        Args:
            samples: Arrays of shape [samples, ...].
        """
        found = {}
        for name, array in self.with_state_samples(samples).items():
            axis = self._inputs.get(name, 0)
            found[name] = np.asarray(array[0]) if axis is None else plain(np.moveaxis(array, 0, axis))
        return found

    def whole_samples(self, samples: Tensors) -> dict[str, np.ndarray]:
        """Samples, in which an input that serves all of them may be given once: it is repeated.

        Raises:
            RequestError: another input is a single number, or two have other numbers of samples.
        """
        found = {name: np.asarray(array) for name, array in samples.items()}
        rows = next((len(one) for name, one in found.items() if self._has_rows(name, one)), 1)
        for name, array in found.items():
            is_shared = name in self._specs and self._inputs.get(name, 0) is None
            if is_shared and array.ndim == len(self._specs[name].shape):
                found[name] = np.broadcast_to(array, (rows, *array.shape))
            elif is_shared and array.shape[:1] == (1,):
                found[name] = np.broadcast_to(array, (rows, *array.shape[1:]))
            elif array.ndim == 0:
                raise RequestError(
                    f"input {name!r} is a single number; an array of shape [samples, ...] was expected"
                )
        if len({len(array) for array in found.values()}) > 1:
            counts = ", ".join(f"{name} {len(array)}" for name, array in found.items())
            raise RequestError(f"inputs differ in their number of samples: {counts}")
        return found

    def _has_rows(self, name: str, array: np.ndarray) -> bool:
        return self._inputs.get(name, 0) is not None and array.ndim > 0

    def with_states(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """Tensors with zeros for each recurrent state that is not among them."""
        found, rows = dict(tensors), self.num_rows(tensors)
        for name in self.batching.states:
            if name not in found:
                spec, axis = self._specs[name], self._inputs[name]
                shape = [rows if place == axis else size for place, size in enumerate(spec.shape)]
                sizes = [size if isinstance(size, int) else 1 for size in shape]
                found[name] = np.zeros(sizes, dtype=spec.dtype)
        return found

    def with_state_samples(self, samples: Tensors) -> dict[str, np.ndarray]:
        """Samples with zeros for each recurrent state that is not among them."""
        rows = len(next(iter(samples.values())))
        found = dict(samples)
        for name in self.batching.states:
            if name not in found:
                spec = self._specs[name]
                shape = shape_without(spec.shape, self._inputs[name])
                sizes = [size if isinstance(size, int) else 1 for size in shape]
                found[name] = np.zeros((rows, *sizes), dtype=spec.dtype)
        return found

    def groups(self, samples: Tensors, most: int | None = None) -> Iterator[Group]:
        """Calls for samples, in order, of at most so many each."""
        rows = len(next(iter(samples.values())))
        step = self.size or min(self._step(samples), most or rows, max(rows, 1))
        for start in range(0, rows, step):
            part = {name: array[start : start + step] for name, array in samples.items()}
            count = len(next(iter(part.values())))
            if self.size is not None and count < step:
                part = {name: _filled(array, step, 0) for name, array in part.items()}
            yield Group(part if self.is_plain else self.tensors(part), count)

    def _step(self, samples: Tensors) -> int:
        """1 where samples cannot share a call: each has another value of an input that serves all."""
        shared = [array for name, array in samples.items() if self._inputs.get(name, 0) is None]
        if self.one_by_one or not all(_same(array, array[:1]) for array in shared):
            return 1
        return len(next(iter(samples.values())))

    def samples(self, outputs: Tensors, count: int) -> dict[str, np.ndarray]:
        """The answers of one call as arrays of shape [samples, ...]."""
        return {name: self._answers(name, array, count) for name, array in outputs.items()}

    def _answers(self, name: str, array: np.ndarray, count: int) -> np.ndarray:
        axis = self._outputs.get(name, 0)
        if axis is not None:
            return np.moveaxis(array, axis, 0)[:count]
        found = array if array.shape[:1] == (1,) else array[np.newaxis]
        return found if count == 1 else np.repeat(found, count, axis=0)

    def infer_samples(self, call: Call, samples: Tensors, most: int | None = None) -> dict[str, np.ndarray]:
        """Answers of shape [samples, ...] to samples.

        Args:
            call: Computes tensors of the model.
            samples: Arrays of shape [samples, ...].
            most: Samples that a call takes at most.

        Raises:
            RaggedAnswers: the answers of two samples have different shapes.
        """
        if self.is_plain and (most is None or len(next(iter(samples.values()))) <= most):
            return dict(call(samples))
        parts = [self.samples(call(group.tensors), group.wanted) for group in self.groups(samples, most)]
        return {name: join_answers(name, [part[name] for part in parts], 0) for name in parts[0]}

    def answered(self, call: Call, samples: Tensors) -> tuple[Tensors, dict[str, np.ndarray]]:
        """Samples with their answers; the first alone where no array holds the answers to all."""
        try:
            return samples, self.infer_samples(call, samples)
        except RaggedAnswers:
            one = {name: array[:1] for name, array in samples.items()}
            return one, self.infer_samples(call, one)

    def first_axis(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """An output with its samples on the first axis; None where it has no axis of them."""
        axis = self._outputs.get(name, 0)
        return None if axis is None or array.ndim <= axis else np.moveaxis(array, axis, 0)

    def infer_request(self, call: Call, tensors: Tensors, most: int | None = None) -> dict[str, np.ndarray]:
        """Answers to the tensors of one caller, of as many samples as that sent, laid out as the model does.

        A model that reads other samples is given all of them; one that takes a fixed number gets that many.

        Raises:
            RequestError: it takes a fixed number and reads other samples, and another number was sent.
        """
        if self.batching.states:
            tensors = self.with_states(tensors)
        rows = self.num_rows(tensors)
        step = self.size or (min(most or rows, rows) if self.batching.joins else rows)
        if rows == step or not rows:
            return dict(call(tensors))
        if self.size not in (None, 1) and not self.batching.joins:
            raise RequestError(
                f"{rows} samples were sent; the model computes {self.size} together, each from all of them",
                hint=f"send {self.size}",
            )
        parts = []
        for start in range(0, rows, step):
            count = min(step, rows - start)
            part = {name: self._cut(name, array, start, step) for name, array in tensors.items()}
            if self.size is not None and count < step:
                part = {name: self._padded(name, array, step) for name, array in part.items()}
            answer = call(part)
            parts.append({name: self._kept(name, array, count) for name, array in answer.items()})
        return {name: self._merged(name, [part[name] for part in parts]) for name in parts[0]}

    def _cut(self, name: str, array: np.ndarray, start: int, step: int) -> np.ndarray:
        axis = self._inputs.get(name)
        return array if axis is None else slice_rows(array, axis, start, start + step)

    def _padded(self, name: str, array: np.ndarray, size: int) -> np.ndarray:
        axis = self._inputs.get(name)
        return array if axis is None else _filled(array, size, axis)

    def _kept(self, name: str, array: np.ndarray, count: int) -> np.ndarray:
        axis = self._outputs.get(name)
        return array if axis is None else slice_rows(array, axis, 0, count)

    def _merged(self, name: str, parts: list[np.ndarray]) -> np.ndarray:
        axis = self._outputs.get(name)
        if axis is not None:
            return join_answers(name, parts, axis)
        if self.batching.joins:  # it is the same for all
            return parts[0]
        return join_answers(name, [self._answers(name, part, 1) for part in parts], 0)


def slice_rows(array: np.ndarray, axis: int, start: int, end: int) -> np.ndarray:
    """Some samples of a tensor, as memory of their own where the axis is not the first."""
    if axis == 0:
        return array[start:end]
    return plain(array[(slice(None),) * axis + (slice(start, end),)])


def _filled(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The last sample again until there are so many."""
    return plain(np.take(array, np.minimum(np.arange(size), array.shape[axis] - 1), axis=axis))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.all((one == other) | ((one != one) & (other != other))))


def join_answers(name: str, parts: Sequence[np.ndarray], axis: int = 0) -> np.ndarray:
    """The answers of several calls as one array.

    Args:
        name: Of the output.
        parts: One array a call.
        axis: Of the samples.

    Raises:
        RaggedAnswers: they have other sizes along another axis.
    """
    if len(parts) == 1:
        return plain(parts[0])
    shapes = [shape_without(part.shape, axis) for part in parts]
    other = next((shape for shape in shapes if shape != shapes[0]), None)
    if other is not None:
        raise RaggedAnswers(
            f"output {name!r} has the shape {list(shapes[0])} for one sample and {list(other)} for another, "
            "so that no array holds the answers to several",
            hint="ask for one sample at a time",
        )
    return np.concatenate(parts, axis=axis)
