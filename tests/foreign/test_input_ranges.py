"""The manifest knows the raw inputs of the calibration samples: NumPy says the same of them."""

from __future__ import annotations

import numpy as np
import pytest

from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.input_ranges import input_ranges

_RANDOM = np.random.default_rng(0)
_ROWS = 300
_SPLIT = np.array(["train", "calibrate", "select", "report"])[np.arange(_ROWS) % 4]
_INPUTS = {
    "pixels": _RANDOM.integers(0, 256, (_ROWS, 1, 4, 4)).astype(np.uint8),
    "far from zero": (1e6 + _RANDOM.normal(size=(_ROWS, 3))).astype(np.float64),
    "tokens": _RANDOM.integers(0, 50, (_ROWS, 7)),
    "constant": np.full((_ROWS, 2), 3.0, np.float32),
    "a mask": np.where(_RANDOM.random((_ROWS, 5)) < 0.5, 0.0, -np.inf).astype(np.float32),
    "missing": np.where(_RANDOM.random((_ROWS, 5)) < 0.5, np.nan, 2.0).astype(np.float32),
    "strided": np.asfortranarray(_RANDOM.normal(size=(_ROWS, 6)))[:, ::-2],
}


@pytest.mark.parametrize("name", _INPUTS)
def test_a_range_is_that_of_the_finite_values_of_the_calibrate_split(name: str) -> None:
    array, labels = _INPUTS[name], np.arange(_ROWS) % 2
    data = Data("given", Dataset({name: array}, labels, ("a", "b"), split=_SPLIT))
    (found,) = input_ranges(data)
    values = array[data.indices["calibrate"]].astype(np.float64)
    finite = values[np.isfinite(values)]
    assert found.input == name
    assert (found.low, found.high) == (finite.min(), finite.max())
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12)
    assert found.std == pytest.approx(finite.std(), rel=1e-6, abs=1e-12)
    assert found.nonfinite == (len(finite) < values.size)


def test_without_labels_every_sample_is_looked_at_and_nothing_finite_is_no_range() -> None:
    data = Data("given", Dataset({"mask": np.full((20, 3), -np.inf, np.float32)}))
    (found,) = input_ranges(data)
    assert (found.low, found.high, found.std, found.nonfinite) == (0.0, 0.0, 0.0, True)
