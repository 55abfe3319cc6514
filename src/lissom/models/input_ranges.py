"""Ranges of the raw inputs, as the calibration samples have them.

A model answers a picture of 0 to 1 as surely as one of 0 to 255, though it was made for one of them only.
What is served is therefore compared with what is written down here when an artifact is made.
"""

from __future__ import annotations

import math

import numpy as np

from lissom.artifact import InputRange
from lissom.models.data import Data

MAX_SAMPLES = 2048
"""Samples that are looked at, evenly spaced over the split; the figures of more would be the same."""
_CHUNK = 64
_LARGEST, _UNIT = 1e150, 2.0**600
"""Magnitude from which squares are too large for float64, and the unit in which they are not."""


def input_ranges(data: Data) -> tuple[InputRange, ...]:
    """Range, mean and deviation of each raw input on the calibrate split, else on the first with samples.

    Inputs without one finite value, such as a mask of -inf alone, have the range 0 to 0.
    """
    split = next(name for name in ("calibrate", "train", "select", "report") if len(data.indices[name]))
    index = data.indices[split]
    chosen = index[np.unique(np.linspace(0, len(index) - 1, min(MAX_SAMPLES, len(index))).astype(np.int64))]
    return tuple(_range_of(name, array, chosen) for name, array in data.dataset.inputs.items())


def _range_of(name: str, array: np.ndarray, chosen: np.ndarray, unit: float = 1.0) -> InputRange:
    """The figures of one input, summed in float64 chunk by chunk: a split of pictures would not fit.

    They are computed in a unit, which is 1 but for numbers whose squares float64 does not hold.
    """
    low, high, count, total, squares, nonfinite = math.inf, -math.inf, 0, 0.0, 0.0, False
    shift = None
    for start in range(0, len(chosen), _CHUNK):
        values = np.asarray(array[chosen[start : start + _CHUNK]], dtype=np.float64).reshape(-1) / unit
        finite = values[np.isfinite(values)]
        nonfinite |= len(finite) < len(values)
        if not len(finite):
            continue
        low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if unit == 1.0 and max(-low, high) > _LARGEST:
            return _range_of(name, array, chosen, unit=_UNIT)
        # Squares about a value near the mean: those of 1e6 and its neighbours would cancel.
        shift = float(finite.mean()) if shift is None else shift
        count += len(finite)
        total += float((finite - shift).sum())
        squares += float(np.square(finite - shift).sum())
    if not count or shift is None:
        return InputRange(input=name, low=0.0, high=0.0, mean=0.0, std=0.0, nonfinite=nonfinite)
    mean = total / count
    std = math.sqrt(max(squares / count - mean**2, 0.0))
    low, high, mean, std = (unit * figure for figure in (low, high, shift + mean, std))
    return InputRange(input=name, low=low, high=high, mean=mean, std=std, nonfinite=nonfinite)
