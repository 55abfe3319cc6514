"""From raw input to tensor, and back, as the manifest says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lissom.artifact import Manifest, PreprocessingStep
from lissom.errors import RequestError
from lissom.runtime.arrays import plain
from lissom.runtime.conversion import convert
from lissom.runtime.finiteness import check_finite, is_finite


def prepare_inputs(
    raw: Mapping[str, np.ndarray],
    manifest: Manifest,
    checked: Collection[str],
    *,
    samples_first: bool = False,
) -> dict[str, np.ndarray]:
    """Tensors for a model from raw arrays, of which none became infinite on the way.

    Args:
        raw: Arrays by input name.
        manifest: Of the model.
        checked: Inputs that must be finite; see `checked_inputs`.
        samples_first: The samples are on the first axis, as in data; else where the signature has them.

    Raises:
        RequestError: an input is not finite, or holds a number that the dtype of the model cannot.
    """
    raw = {name: np.asarray(array) for name, array in raw.items()}
    check_finite(raw, checked, None if samples_first else manifest.signature)
    dtypes = {spec.name: spec.dtype for spec in manifest.signature.inputs}
    with np.errstate(over="ignore", invalid="ignore"):
        tensors = preprocess(raw, manifest.preprocessing, dtypes)
    for name, tensor in tensors.items():
        if is_finite(tensor) or np.isfinite(raw[name]).sum() == np.isfinite(tensor).sum():
            continue
        raise RequestError(
            f"input {name!r} holds a number outside the range of {dtypes[name]}",
            hint="after its preprocessing, (input - mean) / std of the manifest, it is infinite",
        )
    return tensors


def preprocess(
    raw: Mapping[str, np.ndarray], steps: Sequence[PreprocessingStep], dtypes: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Apply every step, in order, and convert to the dtypes of the signature, where no value changes.

    Args:
        raw: Arrays of shape [batch, ...] by input name.
        steps: Steps of the manifest; values are one number, or one for each channel (axis 1).
        dtypes: NumPy dtype of each input.

    Raises:
        RequestError: a value of an array is none of the dtype, such as a fraction of integers.
    """
    stepped = {step.input for step in steps}
    arrays = {name: np.asarray(array) for name, array in raw.items()}
    for name in stepped & raw.keys():
        arrays[name] = np.asarray(arrays[name], dtype=_working_dtype(dtypes[name]))
    for step in steps:
        array = arrays[step.input]
        mean, std = (_by_channel(values, array.ndim) for values in (step.mean, step.std))
        arrays[step.input] = (array - mean) / std
    return {name: plain(convert(name, array, dtypes[name])) for name, array in arrays.items()}


def unprocess(tensors: Mapping[str, np.ndarray], steps: Sequence[PreprocessingStep]) -> dict[str, np.ndarray]:
    """The raw arrays that became these tensors, float32 where a step was taken: `preprocess`, inverted."""
    arrays = dict(tensors)
    for step in reversed(steps):
        array = arrays[step.input].astype(np.float32)
        mean, std = (_by_channel(values, array.ndim) for values in (step.mean, step.std))
        arrays[step.input] = array * std + mean
    return arrays


def is_ascii(tokens: np.ndarray) -> bool:
    """True for codes of printable letters, line ends and tabs; 0 pads, and 127 masks."""
    known = (tokens >= 32) & (tokens <= 127) | np.isin(tokens, (0, 9, 10, 13))
    return bool(known.all() and (tokens > 0).any())


def _working_dtype(dtype: str) -> np.dtype:
    """In which steps are computed: float32, but float64 where the model takes that."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def _by_channel(values: Sequence[float], rank: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float32)
    return array if array.size == 1 else array.reshape((1, -1) + (1,) * (rank - 2))
