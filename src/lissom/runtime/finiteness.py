"""No label without a finite score: NaN and infinity are found in what a model is given, and in what it says.

It is the input that has to be looked at. OpenVINO drops NaN in Relu, Clip and Max, and an int8 model of any
engine turns it into an ordinary code, so that both answer such a sample with a confident class. Inputs whose
calibration samples hold such values, as masks and missing features do, are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from lissom.artifact import Manifest, Signature
from lissom.errors import AnswerError, RequestError

_FEW = 8192
"""Values up to which a dot product is quicker than comparing each, and takes one thread."""


def is_finite(array: np.ndarray) -> bool:
    """True when an array holds neither NaN nor infinity; a microsecond for a small one.

    >>> is_finite(np.array([1e30, 3e38], np.float32)), is_finite(np.array([1.0, np.nan]))
    (True, False)
    """
    if array.dtype.kind != "f":
        return True
    # A sum of squares is finite only where all of them are. It may overflow, which is then looked at.
    if array.size <= _FEW and array.itemsize > 2 and math.isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())


def checked_inputs(manifest: Manifest, *, allow_nonfinite: bool = False) -> tuple[str, ...]:
    """Names of the inputs that must be finite: floats whose calibration samples were.

    Args:
        manifest: Of the model.
        allow_nonfinite: Take such values in every input.
    """
    if allow_nonfinite:
        return ()
    tolerant = {one.input for one in manifest.input_ranges if one.nonfinite}
    return tuple(
        spec.name
        for spec in manifest.signature.inputs
        if np.dtype(spec.dtype).kind == "f" and spec.name not in tolerant
    )


def check_finite(
    arrays: Mapping[str, np.ndarray], names: Iterable[str], signature: Signature | None = None
) -> None:
    """Prove that inputs are finite.

    Args:
        arrays: Inputs by name.
        names: Of those that must be, if they are given; see `checked_inputs`.
        signature: Says along which axis the samples lie; None for arrays of data, whose samples come first.

    Raises:
        RequestError: one is not; the input, the row and the value are named.
    """
    for name in names:
        if name in arrays and not is_finite(arrays[name]):
            raise _not_finite(name, arrays[name], signature)


def check_scores(scores: np.ndarray, output: str) -> None:
    """Prove that every class of every sample has a finite score.

    Args:
        scores: Shape [samples, classes].
        output: Name of the output that they were made from.

    Raises:
        AnswerError: one has none; the output and the row are named.
    """
    if is_finite(scores):
        return
    rows = np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1))
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    raise AnswerError(
        f"the model gives no finite score for row {rows[0]}{more} (the first is row 0): output {output!r} "
        "holds NaN or infinity, so there is no label",
        hint="look at this sample; lissom verify compares the model on other runtimes",
    )


def sample_axis(signature: Signature, name: str) -> int | None:
    """Axis of the samples of an input: the proven one, else the first; None where it has none."""
    batching = signature.batching
    return 0 if batching is None else batching.inputs.get(name, 0)


def _not_finite(name: str, array: np.ndarray, signature: Signature | None) -> RequestError:
    place = np.argwhere(~np.isfinite(array))[0]
    axis = 0 if signature is None else sample_axis(signature, name)
    value = array[tuple(place)]
    found = "NaN" if np.isnan(value) else "infinity" if value > 0 else "-infinity"
    has_rows = axis is not None and axis < array.ndim
    where = f" in row {place[axis]} (the first is row 0)" if has_rows else ""
    return RequestError(
        f"input {name!r} holds {found}{where}; engines may answer such a sample with a confident class",
        hint="send finite numbers; where the model is made for such values, --allow-nonfinite takes them",
    )
