"""Numbers near the ends of their type: masks of the lowest float, hashes, and float64 beyond float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.small import make
from torch import Tensor, nn

import lissom
from lissom.errors import RequestError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.input_ranges import input_ranges
from lissom.recipe import ModelConfig
from lissom.runtime.made_rows import companies, compared_rows, crowd

RANDOM = np.random.default_rng(0)
MASKED = RANDOM.random((48, 5, 5)) < 0.3
LOWEST = {
    "float32": (np.float32, np.finfo(np.float32).min),
    "bfloat16": (np.float32, float(torch.finfo(torch.bfloat16).min)),
    "1e30": (np.float32, -1e30),
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turn, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        shares = (self.turn(x) @ x.transpose(1, 2) + mask).softmax(-1)
        logits: Tensor = self.head((shares @ x).mean(1))
        return logits


@pytest.mark.parametrize("name", LOWEST)
def test_a_mask_of_the_lowest_float_is_exported_and_joined(tmp_path: Path, name: str) -> None:
    dtype, lowest = LOWEST[name]
    inputs = {
        "x": RANDOM.normal(size=(48, 5, 6)).astype(np.float32),
        "mask": np.where(MASKED, lowest, 0).astype(dtype),
    }
    data = Data("masked", Dataset(inputs, np.arange(48) % 3, ("a", "b", "c")))
    loaded = make(tmp_path / "load", data, "load", model=ModelConfig(source=f"{__name__}:Attention"))
    exported = make(tmp_path / "export", data, "export", parents={"input": loaded})
    batching = exported.manifest.signature.batching
    assert batching is not None
    assert batching.joins
    with torch.no_grad():
        wanted = Attention()(*(torch.from_numpy(array) for array in inputs.values())).argmax(1)
    assert lissom.predict(exported, inputs)[0] == ["abc"[place] for place in wanted]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, np.finfo(np.float64).min]] * 4),
        np.array([[np.iinfo(np.int64).min, np.iinfo(np.int64).max]] * 4),
        np.array([[0, np.iinfo(np.uint64).max]] * 4, dtype=np.uint64),
        np.array([[0.5, 1e300], [2.5, -1e300]]),
    ],
)
def test_made_rows_of_huge_numbers_are_of_the_dtype_and_between_those_of_the_data(values: np.ndarray) -> None:
    samples = {"x": values}
    rows = compared_rows(samples, 3)
    many, _ = crowd(samples, rows, 16)
    made = [
        row["x"] for row in (*rows, *many, *(one for pair in companies(samples, rows[0]) for one in pair))
    ]
    assert all(row.dtype == values.dtype and row.shape == (2,) for row in made)
    if np.all(values == np.round(values)):
        assert all((row >= values.min()).all() and (row <= values.max()).all() for row in made)


@pytest.mark.parametrize("largest", [1e200, 1.7e308])
def test_ranges_of_numbers_whose_squares_float64_lacks(largest: float) -> None:
    values = RANDOM.normal(size=(200, 3))
    values[0, 0] = largest
    (found,) = input_ranges(Data("huge", Dataset({"x": values})))
    assert (found.low, found.high) == (values.min(), largest)
    assert found.mean == pytest.approx((values / largest).mean() * largest)
    assert found.std == pytest.approx((values / largest).std() * largest)


def test_a_number_beyond_the_type_of_the_model_is_refused_with_its_limit(tmp_path: Path) -> None:
    inputs: dict[str, Any] = {
        "x": RANDOM.normal(size=(48, 5, 6)).astype(np.float32),
        "mask": np.zeros((48, 5, 5), np.float32),
    }
    data = Data("masked", Dataset(inputs, np.arange(48) % 3, ("a", "b", "c")))
    loaded = make(tmp_path / "load", data, "load", model=ModelConfig(source=f"{__name__}:Attention"))
    with pytest.raises(RequestError, match="outside the range of float32") as caught:
        lissom.predict(loaded, inputs | {"x": np.full((48, 5, 6), 1e60)})
    assert "3.403e+38" in caught.value.hint
