"""Raw samples in another range than the model was made for, whose answer would be confident and wrong.

The manifest says what the calibration samples looked like: lowest and highest value, mean, deviation. Those
are figures of an input as a whole, so that nothing is said about a column of a table. A row is told of when

    far       a value lies more than three times the whole range beyond it: 0 to 255 in the place of 0 to 1
    outside   a quarter of its values lie beyond the range widened by a tenth: -1 to 1 in the place of 0 to 1
              (half a range where a row has few values, and then all of them)
    small     each row of the probe has a value eight times as large as its largest, some of its values are
              fractions, and none is above 1, or some are negative as no calibration sample is: 0 to 1, or a
              standardised picture, in the place of 0 to 255

A row of equal values, as a blank picture, is told of only when it is far. Left out: wrong ranges of about
the same size (0 to 1 in the place of -1 to 1), wrong columns of a table, and integers, since codes of words
have no scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lissom.artifact import Artifact, InputRange
from lissom.runtime.finiteness import sample_axis
from lissom.runtime.preprocess import unprocess
from lissom.runtime.probe import load_probe

_FAR = 3.0
"""Widths of the range beyond its ends."""
_MARGIN, _SHARE = 0.1, 0.25
"""Width by which the range is widened, and share of the values of a row that lie outside then."""
_WIDE_MARGIN, _FEW = 0.5, 16
"""The same width for rows of fewer values, all of which must lie outside."""
_SMALL, _FACTOR = 1.0 + 1e-3, 8.0


class _Known(NamedTuple):
    """What is known of one input.

    Attributes:
        range: Of the calibration samples.
        axis: Of the samples; None where the input has none.
        peak: Smallest largest magnitude of a row of the probe.
    """

    range: InputRange
    axis: int | None
    peak: float


class InputCheck:
    """Compares raw samples with what the calibration samples of a model looked like."""

    def __init__(self, artifact: Artifact) -> None:
        """Read the ranges, and how large the values of the stored probe are.

        Args:
            artifact: Without ranges, as older ones are, nothing is told.
        """
        self._known: dict[str, _Known] = {}
        manifest = artifact.manifest
        kinds = {spec.name: np.dtype(spec.dtype) for spec in manifest.signature.inputs}
        fitting = [
            one
            for one in manifest.input_ranges
            if one.input in kinds and _has_scale(kinds[one.input]) and one.high > one.low
        ]
        if not fitting:
            return
        probe = unprocess(load_probe(artifact)[0], manifest.preprocessing)
        fitting = [one for one in fitting if one.input in probe]
        for one in fitting:
            axis = sample_axis(manifest.signature, one.input)
            peak = float(np.abs(_rows(probe[one.input], 0)).max(axis=1).min())  # samples come first there
            self._known[one.input] = _Known(one, axis, peak)

    def warnings(self, raw: Mapping[str, np.ndarray], *, samples_first: bool = False) -> list[str]:
        """A sentence for each input that has a row in another range.

        Args:
            raw: Arrays by input name, before preprocessing.
            samples_first: The samples are on the first axis, as in data; else where the signature has them.
        """
        found = (
            self._warning(known._replace(axis=0) if samples_first else known, np.asarray(raw[name]))
            for name, known in self._known.items()
            if name in raw
        )
        return [text for text in found if text]

    def _warning(self, known: _Known, array: np.ndarray) -> str:
        low, high = known.range.low, known.range.high
        if not array.size:
            return ""
        least, most = float(array.min()), float(array.max())
        if least >= low and most <= high:  # as nearly every request
            is_one_row = known.axis is not None and array.shape[known.axis : known.axis + 1] == (1,)
            if known.peak < _FACTOR or (is_one_row and max(-least, most) * _FACTOR > known.peak):
                return ""
        rows = _rows(array, known.axis)
        lowest, highest = rows.min(axis=1), rows.max(axis=1)
        width = high - low
        told = (highest > high + _FAR * width) | (lowest < low - _FAR * width)
        told |= (lowest < highest) & (_outside(rows, low, high) | _small(rows, known))
        if not told.any():
            return ""
        row = int(told.argmax())
        where = "" if known.axis is None else f" in row {row} (the first is row 0)"
        return (
            f"input {known.range.input!r} goes from {lowest[row]:.4g} to {highest[row]:.4g}{where}; the "
            f"samples that the model was calibrated with go from {low:.4g} to {high:.4g}, "
            f"mean {known.range.mean:.4g}"
        )


def _has_scale(dtype: np.dtype) -> bool:
    """True for floats and pixels."""
    return dtype.kind == "f" or dtype == np.uint8


def _rows(array: np.ndarray, axis: int | None) -> np.ndarray:
    """Finite values of shape [samples, values], float64; what is not finite is as the first that is."""
    moved = np.asarray(array, dtype=np.float64)
    moved = moved[np.newaxis] if axis is None or moved.ndim == 0 else np.moveaxis(moved, axis, 0)
    rows = moved.reshape(len(moved), -1)
    finite = np.isfinite(rows)
    if finite.all():
        return rows
    first = np.take_along_axis(np.where(finite, rows, 0.0), finite.argmax(axis=1)[:, None], axis=1)
    return np.where(finite, rows, first)


def _outside(rows: np.ndarray, low: float, high: float) -> np.ndarray:
    """Which rows have a good part of their values outside the range, bool [samples]."""
    few = rows.shape[1] < _FEW
    margin = (high - low) * (_WIDE_MARGIN if few else _MARGIN)
    share = ((rows < low - margin) | (rows > high + margin)).mean(axis=1)
    found: np.ndarray = share >= (1.0 if few else _SHARE)
    return found


def _small(rows: np.ndarray, known: _Known) -> np.ndarray:
    """Which rows are as small as if they had been divided, bool [samples]."""
    lowest, magnitude = rows.min(axis=1), np.abs(rows).max(axis=1)
    small: np.ndarray = (magnitude * _FACTOR <= known.peak) & (
        (magnitude <= _SMALL) | (lowest < known.range.low)
    )
    if small.any():  # whole numbers are a dark picture
        small &= (rows != np.rint(rows)).any(axis=1)
    return small
