"""From JSON to arrays. Nothing is converted silently: a fraction is no integer, a text is no number."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from reprlib import repr as shortened
from typing import Any

import numpy as np

from lissom.artifact import TensorSpec
from lissom.errors import RequestError, near
from lissom.runtime.base import check_tensor
from lissom.runtime.finiteness import is_finite

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""NumPy dtype to the datatype of the Open Inference Protocol."""

BY_DTYPE = {np.dtype(name): datatype for name, datatype in DATATYPES.items()}
"""The same by dtype, whose name takes NumPy long to say."""

MAX_NAME = 64
"""Characters of an unknown name that are compared with the known ones."""

_ALLOWED: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}
_NOT_FINITE = {None: math.nan, "NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How JSON writes what it has no numbers for, where a model takes it."""
_EXPECTED = {"b": "true or false", "i": "integers", "u": "integers", "f": "numbers"}
_JSON_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a fraction",
    str: "text",
    dict: "an object",
    list: "lists of unequal depth",
    type(None): "null",
}


def array_from_json(data: Any, spec: TensorSpec, checked: Collection[str] | None = None) -> np.ndarray:
    """The array that nested or flat lists hold, with the dtype of `spec` and the shape of the lists.

    Args:
        data: The lists.
        spec: Of the input.
        checked: Names of the inputs that must be finite; in others null and "NaN" stand for NaN, and
            "Infinity" and "-Infinity" for what they say. None: all must be.

    Raises:
        RequestError: the lists are ragged, or hold something that the dtype does not.
    """
    values, shape = _flatten(data, spec.name)
    dtype = np.dtype(spec.dtype)
    num_given = 0
    if checked is not None and spec.name not in checked and dtype.kind == "f":
        values, num_given = _with_nonfinite(values)
    allowed = _ALLOWED[dtype.kind]
    if not set(map(type, values)) <= allowed:
        position, wrong = next((i, value) for i, value in enumerate(values) if type(value) not in allowed)
        raise RequestError(
            f"input {spec.name!r} holds {_JSON_NAMES[type(wrong)]} at position {position}; "
            f"{_EXPECTED[dtype.kind]} were expected"
        )
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=dtype)
    except OverflowError as exc:
        raise _out_of_range(spec) from exc
    # JSON has no infinity, so one more than was given by name is a number that the dtype cannot hold.
    if not is_finite(array) and np.count_nonzero(~np.isfinite(array)) > num_given:
        raise _out_of_range(spec)
    return array.reshape(shape)


def check_names(
    names: Sequence[str], specs: Mapping[str, TensorSpec], optional: Collection[str] = ()
) -> None:
    """Every input is there once, and nothing else; one that is optional may be left out.

    Raises:
        RequestError: an input is unknown, missing or given twice.
    """
    for name in names:
        if name not in specs:
            raise RequestError(f"the model has no input {shortened(name)}; {near(name[:MAX_NAME], specs)}")
        if names.count(name) > 1:
            raise RequestError(f"input {name!r} is given twice")
    for name in specs:
        if name not in names and name not in optional:
            raise RequestError(f"input {name!r} is missing; the model takes {', '.join(specs)}")


def check_shapes(arrays: Mapping[str, np.ndarray], specs: Mapping[str, TensorSpec]) -> None:
    """Every array fits its specification, named sizes agree, and there is at least one sample.

    Raises:
        RequestError: saying what was asked and what was found.
    """
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        check_tensor(specs[name], array, sizes)
        if array.size == 0:
            raise RequestError(f"input {name!r} is empty: its shape is {list(array.shape)}")


def _with_nonfinite(values: list[Any]) -> tuple[list[Any], int]:
    """Values with those that JSON writes by name as floats, and how many they are."""
    known = (str, type(None))
    found = [_NOT_FINITE.get(value, value) if isinstance(value, known) else value for value in values]
    return found, sum(isinstance(value, known) for value in values)


def _flatten(data: Any, name: str) -> tuple[list[Any], tuple[int, ...]]:
    """Values in row-major order, and the shape; one pass for each level, so depth costs no stack."""
    level: list[Any] = [data]
    shape: list[int] = []
    while level and isinstance(level[0], list):
        if set(map(type, level)) != {list}:
            raise RequestError(f"input {name!r} is ragged: at depth {len(shape)} lists and values are mixed")
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise RequestError(
                f"input {name!r} is ragged: at depth {len(shape)} "
                f"lists of {min(lengths)} and of {max(lengths)} values"
            )
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    return level, tuple(shape)


def _out_of_range(spec: TensorSpec) -> RequestError:
    return RequestError(f"input {spec.name!r} holds a number outside the range of {DATATYPES[spec.dtype]}")
