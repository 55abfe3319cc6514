"""Made-up samples, with which the samples of a model are proven to be computed apart.

What a model does to rare samples shows in no other: one may divide by the largest value above a limit, leave
out rows that are all zero, or keep one of two equal rows. So one of the rows that are asked for is small, and
among their neighbours are a copy of one, rows of zeros, of the largest and of the smallest values, and noise
in which one value is a thousand times what any sample has. It is only one, since a box or a length of that
size would cost as much to compute.

Whole numbers, such as tokens, masks and lengths, stay between those of the data; huge ones, such as the
lowest float in a mask, are taken from the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import chain, cycle

import numpy as np

Tensors = Mapping[str, np.ndarray]
Row = dict[str, np.ndarray]
_SMALL, _HIGH, _SPIKE = 1e-3, 4.0, 1e3
"""Factors of a sample, and of the largest value that there is."""
_MOST_COUNTED = 2.0**53
"""Whole numbers below are drawn between the least and the largest of the data, others from the data."""
_LARGEST_SQUARED = 1e150
"""Magnitude from which squares are too large for float64."""
_ENOUGH = 300_000
"""Values of an input from which the figures are taken, but always of two samples."""


def distinct_rows(samples: Tensors, count: int) -> list[Row]:
    """So many samples that all differ: those that there are, then made-up ones in their range."""
    generator = np.random.default_rng(0)
    rows: list[Row] = []
    for index in range(_num_rows(samples)):
        row = {name: array[index] for name, array in samples.items()}
        if len(rows) < count and not any(_equal(row, other) for other in rows):
            rows.append(row)
    if len(rows) < count:
        values = _values_of(samples)
        rows += [_made(values, lambda one: one.draw(generator, 1.0)) for _ in range(count - len(rows))]
    return rows


def compared_rows(samples: Tensors, count: int) -> list[Row]:
    """The same, of which the last is small: a thousandth, or whole numbers near the smallest of the data."""
    rows, values = distinct_rows(samples, count), _values_of(samples)
    small = {name: values[name].small(array) for name, array in rows[-1].items()}
    if not any(_equal(small, row) for row in rows):
        rows[-1] = small
    return rows


def companies(samples: Tensors, twin: Row) -> Iterator[list[Row]]:
    """Two neighbours for the rows in each of three calls.

    A copy of a row and one of zeros; then large values, and noise with one huge value; then the same of small
    and negative values.
    """
    generator, values = np.random.default_rng(1), _values_of(samples)
    yield [twin, _made(values, _Values.zeros)]
    high = _made(values, lambda one: one.filled(one.high))
    yield [high, _made(values, lambda one: one.spiked(generator, 1.0))]
    low = _made(values, lambda one: one.filled(one.low))
    yield [_made(values, lambda one: one.spiked(generator, -1.0)), low]


def crowd(samples: Tensors, rows: list[Row], size: int) -> tuple[list[Row], list[int]]:
    """A call of so many rows, and where in it those stand that are asked for: first, last, and between.

    The others are the samples that there are, then noise that is like them, weaker, and stronger.
    """
    generator, values = np.random.default_rng(2), _values_of(samples)
    places = np.linspace(0, size - 1, len(rows)).round().astype(int).tolist()
    given = [{name: array[index] for name, array in samples.items()} for index in range(_num_rows(samples))]
    noise: Iterator[Row] = (
        {name: one.draw(generator, spread) for name, one in values.items()}
        for spread in cycle((1.0, 0.1, 10.0))
    )
    others, standing = chain(given, noise), dict(zip(places, rows, strict=True))
    return [standing[place] if place in standing else next(others) for place in range(size)], places


class _Values:
    """What the samples of one input look like, and samples that are made up by that.

    Attributes:
        array: A few of them, shape [samples, ...].
        is_whole: They are tokens, masks or lengths, also as floating point.
        low: Least value that is finite; 0 where none is.
        high: Largest such value.
    """

    def __init__(self, array: np.ndarray) -> None:
        row_size = max(array[:1].size, 1)
        self.array = array[: max(2, _ENOUGH // row_size)]
        is_float = array.dtype.kind == "f"
        self._finite = self.array[np.isfinite(self.array)] if is_float else self.array.reshape(-1)
        some = self._finite.size > 0
        self.low, self.high = (float(end(self._finite)) if some else 0.0 for end in (np.min, np.max))
        self.is_whole = not is_float or (some and bool(np.all(self._finite == np.round(self._finite))))

    @cached_property
    def _center(self) -> float:
        return float(self._finite.mean(dtype=np.float64)) if self._finite.size else 0.0

    @cached_property
    def _deviation(self) -> float:
        if not self._finite.size:
            return 0.0
        largest = max(-self.low, self.high)
        unit = largest if largest > _LARGEST_SQUARED else 1.0
        return unit * float((self._finite / unit).std(dtype=np.float64))

    def draw(self, generator: np.random.Generator, spread: float) -> np.ndarray:
        """Whole numbers between those of the data, else noise of so many deviations.

        What is not finite, such as a mask, stays so at as many places, which are others.
        """
        array, shape, low, high = self.array, self.array.shape[1:], self.low, self.high
        if array.dtype.kind == "b":
            return np.asarray(generator.random(shape) < 0.5)
        if self.is_whole and (low != high or array.dtype.kind in "iu"):
            low, high = (low, high) if low != high else (min(low, 0.0), max(high, 1.0 if low == 0 else high))
            values: np.ndarray
            if max(-low, high) < _MOST_COUNTED:
                values = generator.integers(int(low), int(high), shape, endpoint=True)
            else:  # a mask of the lowest float, or hashes: no float64 counts up to these
                values = generator.choice(self._finite, shape)
        else:
            values = generator.normal(self._center, spread * (self._deviation or 1.0), shape)
        found = _cast(values, array.dtype)
        if self._finite.size < array.size:
            masks = array[int(generator.integers(len(array)))].reshape(-1)
            masks = generator.permutation(masks).reshape(shape)
            found = np.where(np.isfinite(masks), found, masks)
        return found

    def filled(self, value: float) -> np.ndarray:
        """Nothing but one value, several times as large where that may be."""
        if not self._finite.size:
            return np.asarray(self.array[0])
        if self.is_whole:  # as it is in the data: no float64 holds the ends of int64
            exact = self._finite.max() if value == self.high else self._finite.min()
            return np.full(self.array.shape[1:], exact, self.array.dtype)
        with np.errstate(over="ignore"):
            return _cast(np.full(self.array.shape[1:], value * _HIGH), self.array.dtype)

    def zeros(self) -> np.ndarray:
        """Zeros; the smallest value where the data are whole numbers and have no zero."""
        if self.is_whole and self._finite.size and not self.low <= 0 <= self.high:
            return self.filled(self.low)
        return np.zeros(self.array.shape[1:], self.array.dtype)

    def small(self, row: np.ndarray) -> np.ndarray:
        """A sample made small, as dark pictures and silence are."""
        if row.dtype.kind == "b" or not self._finite.size:
            return row
        if not self.is_whole:
            return (row * _SMALL).astype(row.dtype)
        least = self._finite.min()
        return np.where(np.isfinite(row), np.clip(row, least, least + 1), row).astype(row.dtype)

    def spiked(self, generator: np.random.Generator, sign: float) -> np.ndarray:
        """Noise of ten deviations in which one value is huge, unless the data are whole numbers."""
        found = self.draw(generator, 10.0)
        if self.array.dtype.kind == "f" and self._finite.size and found.size and not self.is_whole:
            value = sign * _SPIKE * max(abs(self.low), abs(self.high))
            found.reshape(-1)[int(generator.integers(found.size))] = _cast(np.array(value), found.dtype)
        return found


def _values_of(samples: Tensors) -> dict[str, _Values]:
    return {name: _Values(array) for name, array in samples.items()}


def _made(values: Mapping[str, _Values], of: Callable[[_Values], np.ndarray]) -> Row:
    return {name: of(one) for name, one in values.items()}


def _num_rows(samples: Tensors) -> int:
    return len(next(iter(samples.values())))


def _equal(one: Row, other: Row) -> bool:
    return all(
        np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f") for name, array in one.items()
    )


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.float16:
        values = np.clip(values, -6e4, 6e4)
    return values.astype(dtype)
