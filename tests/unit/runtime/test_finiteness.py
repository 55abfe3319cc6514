"""What is not finite is found, whatever its dtype, size and place."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from lissom.artifact import Batching, Signature, TensorSpec
from lissom.errors import AnswerError, RequestError
from lissom.runtime.finiteness import check_finite, check_scores, is_finite

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("t", "n")),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("n", 2)),),
)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [1, 7, 8192, 8193, 100_000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_is_found_wherever_it_stands(dtype: str, size: int, value: float) -> None:
    array = np.full((size, 1), np.finfo(dtype).max, dtype)
    array[::2] *= -1  # sums of these overflow, and cancel
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_finite(array)
        for place in {0, size // 2, size - 1}:
            broken = array.copy()
            broken[place] = value
            assert not is_finite(broken)
            assert not is_finite(broken[::-1].T)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "<U3"])
def test_what_is_no_float_is_finite(dtype: str) -> None:
    assert is_finite(np.zeros(3, dtype))


@pytest.mark.parametrize(
    ("axis", "told"),
    [(0, "in row 2 "), (1, "in row 3 "), (None, "holds NaN; engines"), ("unproven", "in row 2 ")],
)
def test_the_row_is_counted_along_the_axis_of_the_samples(axis: int | str | None, told: str) -> None:
    array = np.zeros((4, 5), np.float32)
    array[2, 3] = np.nan
    signature = SIGNATURE
    if not isinstance(axis, str):
        batching = Batching(inputs={"x": axis}, outputs={"y": 0}, joins=False)
        signature = SIGNATURE.model_copy(update={"batching": batching})
    with pytest.raises(RequestError, match=told):
        check_finite({"x": array}, ["x"], signature)
    check_finite({"x": array}, [], signature)
    with pytest.raises(RequestError, match="in row 2 "):  # in data the samples come first
        check_finite({"x": array}, ["x"])


def test_an_input_that_is_not_given_is_not_looked_at() -> None:
    check_finite({"x": np.zeros(3, np.float32)}, ["x", "state"], SIGNATURE)


def test_scores_of_every_class_are_finite_or_the_rows_are_told() -> None:
    scores = np.zeros((4, 2))
    check_scores(scores, "y")
    scores[1, 1] = scores[3, 0] = np.nan
    with pytest.raises(AnswerError, match=r"row 1 and 1 more .* output 'y'"):
        check_scores(scores, "y")
