"""From the dtype that an array has to the one that a model takes, where no value changes.

Models declare what they take: token ids in int32, masks in bool, pictures in uint8, half precision. Integers
that fit, whole numbers and zeros and ones go from any dtype to any other. Floats may be rounded to fewer
bits, as every engine would do, but none may become infinite. All else is refused with the first value that
would change: a fraction is no integer, 300 is no uint8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lissom.errors import RequestError


def convert(name: str, array: np.ndarray, dtype: str | np.dtype) -> np.ndarray:
    """The array in another dtype, each value as it was.

    Raises:
        RequestError: a value would change, or a finite float would become infinite.
    """
    wanted = np.dtype(dtype)
    if array.dtype == wanted:
        return array
    with np.errstate(all="ignore"):
        found = array.astype(wanted)
        bad = _changed(array, found)
    if bad.any():
        place = np.unravel_index(int(np.flatnonzero(bad)[0]), array.shape)
        where = f" at {[int(index) for index in place]}" if array.ndim else ""
        if array.dtype.kind == wanted.kind == "f":
            raise RequestError(
                f"input {name!r} holds a number outside the range of {wanted.name}: {array[place]}{where}",
                hint=f"numbers of {wanted.name} go up to {np.finfo(wanted).max:.4g}",
            )
        raise RequestError(
            f"input {name!r} is {array.dtype.name} and holds {array[place]}{where}, "
            f"which the model's {wanted.name} cannot",
            hint=f"give {name} as {wanted.name}, with values that it can hold",
        )
    return found


def roundings(arrays: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> Iterator[str]:
    """What is said of floats that lose digits in another dtype, which `convert` allows.

    >>> list(roundings({"x": np.array([0.1]), "z": np.array([0.5])}, {"x": "float32", "z": "float32"}))
    ['x is rounded from float64 to float32']
    """
    for name, array in arrays.items():
        wanted = np.dtype(dtypes[name])
        if array.dtype.kind != "f" or wanted.kind != "f" or wanted.itemsize >= array.dtype.itemsize:
            continue
        with np.errstate(all="ignore"):
            same = np.array_equal(array.astype(wanted).astype(array.dtype), array, equal_nan=True)
        if not same:
            yield f"{name} is rounded from {array.dtype} to {wanted}"


def _changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where a value is another one; of two kinds of floats, where a finite number became infinite."""
    if before.dtype.kind == after.dtype.kind == "f":
        lost: np.ndarray = np.isfinite(before) & ~np.isfinite(after)
        return lost
    if before.dtype.kind in "iu" and after.dtype.kind in "iu":
        changed: np.ndarray = (after != before) | ((after < 0) != (before < 0))
        return changed
    # Some processors saturate: the largest integer then comes back from the float above it, and is taken for
    # unchanged. No integer reaches the power of two that ends its type.
    back: np.ndarray = after.astype(before.dtype) != before
    for integers, floats in ((before, after), (after, before)):
        if integers.dtype.kind in "iu" and floats.dtype.kind == "f":
            back |= floats.astype(np.float64) >= float(np.iinfo(integers.dtype).max // 2 + 1) * 2
    return back
