"""Whether samples may share a call: found by running rows alone, together, turned and beside others.

An axis called `batch` proves nothing: an output may be time-major, a layer may take statistics over the
batch, a dynamic quantizer one scale of all rows. So the model is asked, about ten times:

    three rows alone               what is right for each of them
    two, and three together        the axis of an output is the one whose size follows the number of rows,
                                   and whose slices are the answers alone
    the three in another order     sorted rows and sums over the rows before do not follow
    five rows, three times         the same three rows beside others: copies, zeros, extremes, noise. Size and
                                   places are the same, so that an engine computes the same bits unless a row
                                   reads another
    the three again                a model with random operators cannot be proven
    as many as share a call        where that takes little time: limits of so many rows show in large batches

Answers for another number of rows may differ by rounding, as engines choose other kernels; answers beside
other neighbours may hardly differ at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from lissom.artifact import Batching
from lissom.runtime.made_rows import Row, Tensors, companies, compared_rows, crowd, distinct_rows

Call = Callable[[Tensors], Mapping[str, np.ndarray]]
Axes = Mapping[str, int | None]
Answer = Mapping[str, np.ndarray]

_NUM_ROWS = 3
_NUM_TOGETHER = 5
_PLACES = (0, 2, 4)
"""Where the three rows stand in a call of five."""
_TURNED = (2, 0, 1)
MOST = 32
"""Samples of the largest call that is tried, where nobody says how many may share one."""
_SECONDS = 0.1
"""That this call may take; it has fewer samples where it would take longer."""


class Closeness(NamedTuple):
    """Differences that are rounding, as a share of the largest value of the answers."""

    sizes: float
    """Between calls of different numbers of rows."""
    neighbours: float
    """Between calls of equal size, in which only other rows differ."""


_CLOSENESS = {
    "float16": Closeness(2e-2, 1e-3),
    "bfloat16": Closeness(1e-1, 8e-3),
    "int8": Closeness(1e-1, 2e-5),
    "weight-int8": Closeness(5e-2, 2e-5),
    "weight-int4": Closeness(5e-2, 2e-5),
}
_FLOAT32 = Closeness(1e-3, 2e-5)


def closeness_of(precision: str) -> Closeness:
    """What is rounding in the answers of a model of some precision."""
    return _CLOSENESS.get(precision, _FLOAT32)


def prove_batching(
    call: Call,
    samples: Tensors,
    candidates: Sequence[Axes],
    *,
    alone: Call | None = None,
    precision: str = "float32",
    states: Mapping[str, str | None] | None = None,
    most: int = MOST,
) -> Batching | None:
    """Find the axes of the samples, and whether samples may share a call.

    Args:
        call: Computes tensors of the model.
        samples: A few arrays of shape [samples, ...] by input name; made distinct where they are equal.
        candidates: Axes of the inputs that the samples may lie on, the likeliest first.
        alone: Computes single samples where `call` is a changed model, which must then answer as this one.
        precision: Of the model, which decides what is rounding.
        states: Recurrent states; see `Batching`.
        most: Samples that will share a call at most.

    Returns:
        The first candidate for which samples may share a call, else the first that runs; None where the
        model runs on two rows with none of them.
    """
    found: Batching | None = None
    rows = compared_rows(samples, _NUM_ROWS)
    for axes in candidates:
        if all(axis is None for axis in axes.values()):
            continue
        proof = _Proof(call, alone or call, axes, rows, samples, closeness_of(precision))
        tried = proof.result(dict(states or {}), most)
        if tried is not None and tried.joins:
            return tried
        found = found or tried
    return found


def prove_fixed(
    call: Call, samples: Tensors, axes: Axes, size: int, *, states: Mapping[str, str | None] | None = None
) -> Batching | None:
    """The axes of a model that takes one number of samples only; None where it does not run on it.

    Args:
        call: Computes tensors of the model.
        samples: A few arrays of shape [samples, ...] by input name.
        axes: Where they lie.
        size: Samples of each call.
        states: Recurrent states; see `Batching`.
    """
    rows = distinct_rows(samples, size + 1)
    first = answer_together(call, axes, rows[:size])
    if first is None:
        return None
    if size == 1:
        return Batching(
            inputs=dict(axes),
            outputs={name: _axis_of_one(array.shape, axes) for name, array in first.items()},
            joins=False,
            size=1,
            reason="the model takes one sample a call",
            states=dict(states or {}),
        )
    order = [*range(1, size), 0]
    turned = answer_together(call, axes, [rows[index] for index in order])
    other = answer_together(call, axes, [rows[-1], *rows[1:size]])
    if turned is None or other is None:
        return None
    found = {name: _fixed_axis(first[name], turned[name], order) for name in first}
    joins = all(
        axis is not None and is_close(_rest(first[name], axis), _rest(other[name], axis), _FLOAT32.neighbours)
        for name, axis in found.items()
    )
    reason = "" if joins else "its answer to a sample depends on the others of the batch"
    return Batching(
        inputs=dict(axes), outputs=found, joins=joins, size=size, reason=reason, states=dict(states or {})
    )


def _axis_of_one(shape: Sequence[int], axes: Axes) -> int | None:
    """The axis of the one sample: the first axis of size 1, or that of the inputs where it has this size."""
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    usual = [axis for axis in axes.values() if axis in ones]
    return next(iter([*usual, *ones]), None)


def _fixed_axis(first: np.ndarray, turned: np.ndarray, order: list[int]) -> int | None:
    axes = [axis for axis, size in enumerate(first.shape) if size == len(order)]
    close = (axis for axis in axes if is_close(np.take(first, order, axis), turned, _FLOAT32.sizes))
    return next(close, None)


def _rest(array: np.ndarray, axis: int) -> np.ndarray:
    return np.take(array, range(1, array.shape[axis]), axis)


def answer_together(call: Call, axes: Axes, rows: Sequence[Row], shared: Row | None = None) -> Answer | None:
    """What a model says to rows together; None where it does not take them."""
    first = shared or rows[0]
    tensors = {
        name: np.asarray(first[name]) if axis is None else np.stack([row[name] for row in rows], axis=axis)
        for name, axis in axes.items()
    }
    try:
        return {name: np.asarray(array) for name, array in call(tensors).items()}
    except Exception:  # an engine raises what it likes; that it does is the answer
        return None


class _Proof:
    """One experiment with given axes of the inputs."""

    def __init__(
        self, call: Call, alone: Call, axes: Axes, rows: list[Row], samples: Tensors, closeness: Closeness
    ) -> None:
        self._call, self._axes, self._rows = call, axes, rows
        self._samples, self._closeness = samples, closeness
        self._single = alone
        self._alone: list[Answer] | None = None

    def result(self, states: dict[str, str | None], most: int) -> Batching | None:
        pair, triple = self._ask(self._rows[:2]), self._ask(self._rows)
        start = perf_counter()
        turned = self._ask([self._rows[index] for index in _TURNED])
        seconds = (perf_counter() - start) / _NUM_ROWS
        if pair is None or triple is None or turned is None:
            return None
        alone = [answer_together(self._single, self._axes, [row], self._rows[0]) for row in self._rows]
        self._alone = [one for one in alone if one is not None]
        if len(self._alone) < len(self._rows):
            self._alone = None
        outputs: dict[str, int | None] = {}
        fault = "it runs on several samples and not on one" if self._alone is None else ""
        random = self._is_random(triple)
        if random:
            fault = fault or "it gives other answers to the same sample"
        for name in triple:
            outputs[name], problem = self._axis(name, pair, triple, turned, random=random)
            fault = fault or problem
        if not fault:
            fault = self._reading(outputs) or self._crowded(
                outputs, min(most, int(_SECONDS / max(seconds, 1e-9)))
            )
        return Batching(
            inputs=dict(self._axes), outputs=outputs, joins=not fault, reason=fault, states=states
        )

    def _ask(self, rows: Sequence[Row]) -> Answer | None:
        return answer_together(self._call, self._axes, rows, self._rows[0])

    def _is_random(self, triple: Answer) -> bool:
        """True when the same rows have another answer the second time."""
        again = self._ask(self._rows)
        return again is None or not all(
            is_close(array, again[name], self._closeness.neighbours) for name, array in triple.items()
        )

    def _axis(
        self, name: str, pair: Answer, triple: Answer, turned: Answer, *, random: bool
    ) -> tuple[int | None, str]:
        """Axis of an output, and why its samples may not share a call."""
        two, three, other = pair[name], triple[name], turned[name]
        seen = [(two, 2), (three, 3), (other, 3)]
        seen += [(one[name], 1) for one in self._alone or ()]
        if len({array.ndim for array, _ in seen}) > 1:
            return None, f"output {name!r} has no axis of the samples"
        following = [axis for axis in range(two.ndim) if all(a.shape[axis] == n for a, n in seen)]
        if not following:
            return None, f"output {name!r} has no axis of the samples"
        for axis in following:
            if self._alone is not None and self._are_alone(name, axis, two, three, other):
                return axis, ""
        for axis in following:
            if is_close(np.take(three, _TURNED, axis), other, self._closeness.sizes):
                return (
                    (axis, f"output {name!r} reads the other samples of the batch")
                    if (len(following) == 1)
                    else (None, f"output {name!r} compares the samples of the batch with each other")
                )
        if len(following) == 1 and random:
            return following[0], ""
        return None, f"output {name!r} depends on the order of the samples"

    def _are_alone(self, name: str, axis: int, *together: np.ndarray) -> bool:
        assert self._alone is not None
        single = [one[name] for one in self._alone]
        return all(
            is_close(np.take(array, [place], axis), single[row], self._closeness.sizes)
            for array, order in zip(together, ((0, 1), (0, 1, 2), _TURNED), strict=True)
            for place, row in enumerate(order)
        )

    def _reading(self, outputs: dict[str, int | None]) -> str:
        """Why samples may not share a call: an answer changes with the neighbours, or this is unknown.

        An output that then has not as many rows as samples loses its axis.
        """
        answers = [self._beside(company) for company in companies(self._samples, self._rows[0])]
        base, others = answers[0], [one for one in answers[1:] if one is not None]
        if base is None or not others:
            return "it does not run on five samples, so that it could not be proven"
        for name, axis in outputs.items():
            assert axis is not None
            seen = [one[name] for one in (base, *others)]
            if any(one.ndim <= axis or one.shape[axis] != _NUM_TOGETHER for one in seen):
                outputs[name] = None
                return f"output {name!r} has not one answer for each sample"
            rows = [np.take(one, _PLACES, axis) for one in seen]
            if not all(is_close(rows[0], one, self._closeness.neighbours) for one in rows[1:]):
                return f"output {name!r} reads the other samples of the batch"
        return ""

    def _crowded(self, outputs: dict[str, int | None], size: int) -> str:
        """Why samples may not share a call of this size; nothing where smaller ones were tried already."""
        if size <= _NUM_TOGETHER:
            return ""
        rows, places = crowd(self._samples, self._rows, size)
        found = self._ask(rows)
        if found is None:
            return f"it does not run on {size} samples together"
        if fault := self._fault_of_crowd(found, outputs, places):
            return fault
        if any(array.dtype.kind in "fc" for array in found.values()):
            return ""
        return self._fault_of_whole_numbers(found, outputs, rows)

    def _fault_of_whole_numbers(self, found: Answer, outputs: dict[str, int | None], rows: list[Row]) -> str:
        """What is wrong with answers of whole numbers only, which say little of what they were made from.

        So each of the rows is asked alone, and numbers that are the same for all of them say nothing.
        """
        is_constant = True
        for place, row in enumerate(rows):
            alone = answer_together(self._single, self._axes, [row], self._rows[0])
            for name, axis in outputs.items():
                assert axis is not None
                one = np.take(found[name], [place], axis)
                if alone is None or not is_close(one, alone[name], self._closeness.sizes):
                    return f"output {name!r} reads the other samples of a batch of {len(rows)}"
                is_constant &= np.array_equal(one, np.take(found[name], [0], axis))
        return "its answers to all samples are the same, which proves nothing" if is_constant else ""

    def _fault_of_crowd(self, found: Answer, outputs: dict[str, int | None], places: list[int]) -> str:
        """What is wrong with the answer to many rows, of which those asked for stand at some places."""
        assert self._alone is not None
        size = places[-1] + 1
        for name, axis in outputs.items():
            assert axis is not None
            array = found[name]
            if array.ndim <= axis or array.shape[axis] != size:
                outputs[name] = None
                return f"output {name!r} has not one answer for each of {size} samples"
            for place, alone in zip(places, self._alone, strict=True):
                if not is_close(np.take(array, [place], axis), alone[name], self._closeness.sizes):
                    return f"output {name!r} reads the other samples of a batch of {size}"
        return ""

    def _beside(self, company: Sequence[Row]) -> Answer | None:
        rows, company = list(self._rows), list(company)
        return self._ask([rows[0], company[0], rows[1], company[1], rows[2]])


def is_close(one: np.ndarray, other: np.ndarray, share: float) -> bool:
    """Equal but for rounding; NaN equals NaN, and whole numbers equal themselves alone."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    with np.errstate(invalid="ignore", over="ignore"):
        one, other = one.astype(np.float64), other.astype(np.float64)
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        finite = np.isfinite(one) & np.isfinite(other)
        scale = max(np.abs(array[finite]).max(initial=0.0) for array in (one, other))
        near = finite & (np.abs(one - other) <= share * scale)
    return bool(np.all(same | near))
