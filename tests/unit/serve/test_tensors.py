"""From JSON to arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lissom.artifact import TensorSpec
from lissom.errors import RequestError
from lissom.serve.tensors import DATATYPES, array_from_json, check_shapes

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)


def spec_of(dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name="x", dtype=dtype, shape=shape)


@given(data=st.data(), dtype=st.sampled_from(sorted(DATATYPES)))
def test_lists_of_an_array_give_the_array_back(data: st.DataObject, dtype: str) -> None:
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None
    array = data.draw(hnp.arrays(dtype, SHAPES, elements=finite))
    found = array_from_json(array.tolist(), spec_of(dtype))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", [name for name in DATATYPES if "int" in name])
def test_a_number_just_outside_an_integer_type_is_refused(dtype: str) -> None:
    info = np.iinfo(dtype)
    for value in (int(info.min) - 1, int(info.max) + 1):
        with pytest.raises(RequestError, match=f"outside the range of {DATATYPES[dtype]}"):
            array_from_json([0, value], spec_of(dtype))


@pytest.mark.parametrize(
    ("dtype", "value", "found"),
    [
        ("int64", 1.0, "a fraction"),
        ("int64", True, "true or false"),
        ("bool", 1, "an integer"),
        ("float32", False, "true or false"),
        ("float32", "1", "text"),
        ("float32", None, "null"),
        ("uint8", {}, "an object"),
    ],
)
def test_nothing_is_converted_silently(dtype: str, value: object, found: str) -> None:
    with pytest.raises(RequestError, match=f"holds {found} at position 0"):
        array_from_json([value], spec_of(dtype))


@pytest.mark.parametrize("data", [[[1], [2, 3]], [[1], 2], [1, [2]], [[[1]], [[2], [3]]], [[], [1]]])
def test_ragged_lists_are_refused(data: list[object]) -> None:
    with pytest.raises(RequestError, match=r"ragged|unequal depth"):
        array_from_json(data, spec_of("float32"))


def test_a_named_size_must_agree_between_inputs() -> None:
    specs = {name: spec_of("float32", "batch", 2).model_copy(update={"name": name}) for name in ("a", "b")}
    check_shapes({"a": np.zeros((3, 2), np.float32), "b": np.zeros((3, 2), np.float32)}, specs)
    with pytest.raises(RequestError, match=r"'b' has the shape \[4, 2\]"):
        check_shapes({"a": np.zeros((3, 2), np.float32), "b": np.zeros((4, 2), np.float32)}, specs)
