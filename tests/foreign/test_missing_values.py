"""NaN in training data: refused with a word on what to do, unless the model is made for it, on every engine.

The right answers are those of torch or NumPy for the same rows.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests.unit.small import make
from torch import Tensor, nn
from torch.nn import functional

from lissom import predict
from lissom.artifact import Artifact
from lissom.errors import DataError
from lissom.export.loading import data_for_model
from lissom.models.data import Data
from lissom.recipe import ModelConfig
from lissom.runtime.base import open_runtime
from lissom.verbs.shared import data_for

_RANDOM = np.random.default_rng(0)
_WEIGHTS = _RANDOM.normal(size=(5, 2)).astype(np.float32)
GAPS = {"nan": np.nan, "infinity": np.inf}


def table(folder: Path, value: float = np.nan, *, labelled: bool = True) -> tuple[str, np.ndarray]:
    """Rows of five columns, of which a twentieth is missing."""
    x = _RANDOM.normal(size=(300, 5)).astype(np.float32)
    labels = (x @ _WEIGHTS).argmax(1)
    x[_RANDOM.uniform(size=x.shape) < 0.05] = value
    x[:, 4] = np.where(np.isfinite(x[:, 4]), x[:, 4], 0)
    given = {"x": x} | ({"y": labels} if labelled else {})
    np.savez(folder / "rows.npz", **given)
    return str(folder / "rows.npz"), x


class Filling(nn.Module):
    """Fills what is missing in its own way, then one product."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.layer = nn.Linear(5, 2, bias=False)
        self.fill = nn.Parameter(torch.full((5,), 0.5))
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(_WEIGHTS.T))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "nan_to_num":
            x = torch.nan_to_num(x, nan=0.5, posinf=0.5, neginf=0.5)
        if self.way == "where":
            x = torch.where(torch.isfinite(x), x, self.fill)
        if self.way == "mask":
            seen = torch.isfinite(x)
            x = torch.where(seen, x, 0.0) + 0.5 * (~seen).to(x.dtype)
        found: Tensor = self.layer(functional.relu(x) if self.way == "none" else x)
        return found


def filling(*, way: str = "nan_to_num") -> nn.Module:
    return Filling(way)


def plain(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.where(np.isfinite(x), x, 0.5) @ _WEIGHTS
    return found


def config(way: str) -> ModelConfig:
    return ModelConfig(source=f"{__name__}:filling", kwargs={"way": way})


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("way", ["nan_to_num", "where", "mask"])
def test_a_model_that_fills_what_is_missing_may_have_it(tmp_path: Path, way: str, gap: str) -> None:
    source, x = table(tmp_path, GAPS[gap])
    data = data_for_model(source, config(way))
    assert data.tolerant == {"x"}
    artifact = make(tmp_path / "load", data, "load", model=config(way))
    exported = make(tmp_path / "export", data, "export", parents={"input": artifact})
    engines = ["onnxruntime", *(["openvino"] if gap == "nan" else [])]
    for one, runtime in ((artifact, "torch"), *((exported, engine) for engine in engines)):
        with open_runtime(one, runtime) as opened:
            (found,) = opened.infer({"x": x[:40]}).values()
        np.testing.assert_allclose(found, plain(x[:40]), atol=1e-4)
    assert data_for(exported.manifest, source).tolerant == ({"x"} if exported.manifest.input_ranges else {})


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("source", [f"{__name__}:filling", "mlp"])
def test_a_model_that_does_not_is_not_given_it(tmp_path: Path, source: str, gap: str) -> None:
    place, x = table(tmp_path, GAPS[gap])
    kwargs = {"way": "none"} if ":" in source else {}
    data = data_for_model(place, ModelConfig(source=source, kwargs=kwargs))
    assert not data.tolerant
    with pytest.raises(DataError, match=r"input 'x' of sample \d+ \(train split\) holds NaN") as caught:
        data.tensors("train")
    assert "of the samples there" in str(caught.value)
    assert "mean of its column" in caught.value.hint
    number = int(str(caught.value).partition("sample ")[2].partition(" ")[0])
    assert not np.isfinite(x[number]).all()


def tree_or_gap_file(folder: Path, kind: str) -> Path:
    """A file that looks for NaN itself, by an operator that is made for it, by its own difference, or not."""
    constants = [
        numpy_helper.from_array(_WEIGHTS, "w"),
        numpy_helper.from_array(np.float32(0.5), "fill"),
    ]
    filled = [helper.make_node("Where", ["gap", "fill", "x"], ["z"])]
    nodes = {
        "IsNaN": [helper.make_node("IsNaN", ["x"], ["gap"]), *filled],
        "differs from itself": [
            helper.make_node("Equal", ["x", "x"], ["known"]),
            helper.make_node("Not", ["known"], ["gap"]),
            *filled,
        ],
        "Relu": [helper.make_node("Relu", ["x"], ["z"])],
    }[kind]
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["z", "w"], ["y"])],
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def loaded(folder: Path, kind: str, source: str) -> tuple[Artifact, Data]:
    model = ModelConfig(source=str(tree_or_gap_file(folder, kind)))
    data = data_for_model(source, model)
    return make(folder / "load", data, "load", model=model), data


@pytest.mark.parametrize("kind", ["IsNaN", "differs from itself"])
def test_a_file_that_looks_for_gaps_is_calibrated_and_served_with_them(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, x = table(tmp_path, labelled=False)
    artifact, data = loaded(tmp_path, kind, source)
    assert data.tolerant == {"x"}
    np.testing.assert_array_equal(data.tensors("calibrate")["x"], x)
    with caplog.at_level(logging.WARNING), open_runtime(artifact, "onnxruntime") as opened:
        (found,) = opened.infer({"x": x}).values()
    np.testing.assert_allclose(found, plain(x), atol=1e-5)


def test_a_file_whose_engine_may_drop_them_is_refused(tmp_path: Path) -> None:
    source, _ = table(tmp_path, labelled=False)
    data = data_for_model(source, ModelConfig(source=str(tree_or_gap_file(tmp_path, "Relu"))))
    with pytest.raises(DataError, match="holds NaN"):
        data.tensors("calibrate")


def test_a_served_model_takes_what_it_was_calibrated_with(tmp_path: Path) -> None:
    source, x = table(tmp_path)
    artifact = make(tmp_path / "load", data_for_model(source, config("where")), "load", model=config("where"))
    assert [one.input for one in artifact.manifest.input_ranges if one.nonfinite] == ["x"]
    rows = x[~np.isfinite(x).all(1)][:5]
    (found, _) = predict(artifact, {"x": rows})
    assert found == [str(label) for label in plain(rows).argmax(1)]


def test_a_file_that_fills_gaps_is_quantized_behind_them(tmp_path: Path) -> None:
    source, x = table(tmp_path, labelled=False)
    artifact, data = loaded(tmp_path, "IsNaN", source)
    small = make(tmp_path / "quantize", data, "quantize", parents={"input": artifact}, operators="all")
    with open_runtime(small, "onnxruntime") as opened:
        (found,) = opened.infer({"x": x}).values()
    assert np.abs(found - plain(x)).max() < 0.1
