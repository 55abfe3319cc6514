"""Made-up samples, with which the samples of a model are proven to be computed apart.

What a model does to rare samples shows in no other: one may divide by the largest value above a limit, leave
out rows that are all zero, or keep one of two equal rows. So one of the rows that are asked for is small, and
among their neighbours are a copy of one, rows of zeros, of the largest and of the smallest values, and noise
in which one value is a thousand times what any sample has. It is only one, since a box or a length of that
size would cost as much to compute.

Whole numbers, such as tokens, masks and lengths, stay between those of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, cycle
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]
Row = dict[str, np.ndarray]
_SMALL, _HIGH, _SPIKE = 1e-3, 4.0, 1e3
"""Factors of a sample, and of the largest value that there is."""


def distinct_rows(samples: Tensors, count: int) -> list[Row]:
    """So many samples that all differ: those that there are, then made-up ones in their range."""
    generator = np.random.default_rng(0)
    rows: list[Row] = []
    for index in range(_num_rows(samples)):
        row = {name: array[index] for name, array in samples.items()}
        if len(rows) < count and not any(_equal(row, other) for other in rows):
            rows.append(row)
    while len(rows) < count:
        rows.append({name: _draw(array, generator, 1.0) for name, array in samples.items()})
    return rows


def compared_rows(samples: Tensors, count: int) -> list[Row]:
    """The same, of which the last is small: a thousandth, or whole numbers near the smallest of the data."""
    rows = distinct_rows(samples, count)
    small = {name: _small(array, samples[name]) for name, array in rows[-1].items()}
    if not any(_equal(small, row) for row in rows):
        rows[-1] = small
    return rows


def companies(samples: Tensors, twin: Row) -> list[list[Row]]:
    """Two neighbours for the rows in each of three calls.

    A copy of a row and one of zeros; then large values, and noise with one huge value; then the same of small
    and negative values.
    """
    generator = np.random.default_rng(1)

    def made(of: Callable[[np.ndarray], np.ndarray]) -> Row:
        return {name: of(array) for name, array in samples.items()}

    def spiked(sign: float) -> Row:
        return made(lambda array: _spiked(array, generator, sign))

    high, low = made(lambda array: _extreme(array, np.max)), made(lambda array: _extreme(array, np.min))
    return [[twin, made(_zeros)], [high, spiked(1.0)], [spiked(-1.0), low]]


def crowd(samples: Tensors, rows: list[Row], size: int) -> tuple[list[Row], list[int]]:
    """A call of so many rows, and where in it those stand that are asked for: first, last, and between.

    The others are the samples that there are, then noise that is like them, weaker, and stronger.
    """
    generator = np.random.default_rng(2)
    places = np.linspace(0, size - 1, len(rows)).round().astype(int).tolist()
    given = [{name: array[index] for name, array in samples.items()} for index in range(_num_rows(samples))]
    noise: Iterator[Row] = (
        {name: _draw(array, generator, spread) for name, array in samples.items()}
        for spread in cycle((1.0, 0.1, 10.0))
    )
    others, standing = chain(given, noise), dict(zip(places, rows, strict=True))
    return [standing[place] if place in standing else next(others) for place in range(size)], places


def _num_rows(samples: Tensors) -> int:
    return len(next(iter(samples.values())))


def _equal(one: Row, other: Row) -> bool:
    return all(
        np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f") for name, array in one.items()
    )


def _is_whole(values: np.ndarray) -> bool:
    """Tokens, masks and lengths, which must stay between those of the data, also as floating point."""
    return values.dtype.kind in "iub" or bool(values.size and np.all(values == np.round(values)))


def _draw(array: np.ndarray, generator: np.random.Generator, spread: float) -> np.ndarray:
    """One made-up sample: whole numbers between those of the data, else noise of so many deviations.

    What is not finite, such as a mask, stays so at as many places, which are others.
    """
    shape, finite = array.shape[1:], _finite(array)
    if array.dtype.kind == "b":
        return np.asarray(generator.random(shape) < 0.5)
    low, high = (float(end(finite)) if finite.size else 0.0 for end in (np.min, np.max))
    if _is_whole(finite) and (low != high or array.dtype.kind in "iu"):
        low, high = (low, high) if low != high else (min(low, 0.0), max(high, 1.0 if low == 0 else high))
        values: np.ndarray = generator.integers(int(low), int(high), shape, endpoint=True)
    else:
        deviation = float(finite.std(dtype=np.float64)) if finite.size else 0.0
        center = float(finite.mean(dtype=np.float64)) if finite.size else 0.0
        values = generator.normal(center, spread * (deviation or 1.0), shape)
    found = _cast(values, array.dtype)
    if finite.size < array.size:
        masks = array[int(generator.integers(len(array)))].reshape(-1)
        masks = generator.permutation(masks).reshape(shape)
        found = np.where(np.isfinite(masks), found, masks)
    return found


def _extreme(array: np.ndarray, end: Callable[[np.ndarray], Any]) -> np.ndarray:
    """One sample of nothing but the smallest or the largest value, four times as large where that may be."""
    finite = _finite(array)
    if not finite.size:
        return np.asarray(array[0])
    return _cast(
        np.full(array.shape[1:], float(end(finite)) * (1 if _is_whole(finite) else _HIGH)), array.dtype
    )


def _zeros(array: np.ndarray) -> np.ndarray:
    """One sample of zeros; of the smallest value where the data are whole numbers and have no zero."""
    finite = _finite(array)
    if finite.size and _is_whole(finite) and not finite.min() <= 0 <= finite.max():
        return _extreme(array, np.min)
    return np.zeros(array.shape[1:], array.dtype)


def _small(row: np.ndarray, array: np.ndarray) -> np.ndarray:
    """A sample made small, as dark pictures and silence are."""
    finite = _finite(array)
    if array.dtype.kind == "b" or not finite.size:
        return row
    if _is_whole(finite):
        low = finite.min()
        return np.where(np.isfinite(row), np.clip(row, low, low + 1), row).astype(row.dtype)
    return (row * _SMALL).astype(row.dtype)


def _spiked(array: np.ndarray, generator: np.random.Generator, sign: float) -> np.ndarray:
    """Noise of ten deviations in which one value is huge, unless the data are whole numbers."""
    found, finite = _draw(array, generator, 10.0), _finite(array)
    if array.dtype.kind == "f" and finite.size and found.size and not _is_whole(finite):
        value = sign * _SPIKE * float(np.abs(finite).max())
        found.reshape(-1)[int(generator.integers(found.size))] = _cast(np.array(value), array.dtype)
    return found


def _finite(array: np.ndarray) -> np.ndarray:
    return np.asarray(array[np.isfinite(array)]) if array.dtype.kind == "f" else array


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.float16:
        values = np.clip(values, -6e4, 6e4)
    return values.astype(dtype)
