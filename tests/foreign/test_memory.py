"""What a forward writes into is its own: neither the caller's array, nor what was answered before.

The right answers are those of the torch model, called with a copy of the samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from tests.foreign.memory_nets import NAME, WAYS, writing
from tests.unit.small import load, make

import lissom
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.stages import PREDICTIONS_FILE
from lissom.runtime.base import open_runtime

_ROWS = np.random.default_rng(3).normal(size=(1500, 16)).astype(np.float32)
_DATA = Data("rows", Dataset({"x": _ROWS}, np.arange(1500) % 4))


def right(way: str, rows: np.ndarray, **more: int) -> np.ndarray:
    with torch.no_grad():
        return writing(way=way, **more).eval()(torch.tensor(rows)).float().clone().numpy()


@pytest.mark.parametrize("way", WAYS)
def test_answers_are_those_of_the_model(tmp_path: Path, way: str) -> None:
    artifact = load(tmp_path / "load", _DATA, f"{NAME}:writing", way=way)
    stored = safetensors.numpy.load(artifact.file(PREDICTIONS_FILE).read_bytes())
    rows = _DATA.tensors("report")["x"]
    assert np.allclose(stored["outputs"], right(way, rows), atol=1e-5)
    given, other = _ROWS[:5].copy(), _ROWS[5:10].copy()
    with open_runtime(artifact, "torch") as opened:
        first, second = (next(iter(opened.infer({"x": each}).values())) for each in (given, other))
    assert np.allclose(first, right(way, _ROWS[:5]), atol=1e-5)
    assert np.allclose(second, right(way, _ROWS[5:10]), atol=1e-5)
    assert np.array_equal(given, _ROWS[:5])
    _, scores = lissom.predict(artifact, {"x": given})
    assert np.allclose(scores, torch.tensor(right(way, _ROWS[:5])).softmax(-1), atol=1e-5)
    assert np.array_equal(given, _ROWS[:5])


@pytest.mark.parametrize("way", ["bfloat16", "a column written", "a buffer used again"])
def test_an_export_answers_as_the_model(tmp_path: Path, way: str) -> None:
    artifact = load(tmp_path / "load", _DATA, f"{NAME}:writing", way=way)
    exported = make(tmp_path / "export", _DATA, "export", parents={"input": artifact})
    with open_runtime(exported, "onnxruntime") as opened:
        found = next(iter(opened.infer({"x": _ROWS[:5]}).values()))
    assert found.dtype == np.float32
    assert np.allclose(found, right(way, _ROWS[:5]), atol=0.02 if way == "bfloat16" else 1e-5)


@pytest.mark.parametrize("num_outputs", [3, 6, 16])
def test_classes_without_a_name_have_their_number(tmp_path: Path, num_outputs: int) -> None:
    way = "rectified in place"
    artifact = load(tmp_path / "load", _DATA, f"{NAME}:writing", way=way, num_outputs=num_outputs)
    labels, scores = lissom.predict(artifact, {"x": _ROWS[:200]})
    wanted = right(way, _ROWS[:200], num_outputs=num_outputs)
    assert scores.shape == wanted.shape
    assert labels == [str(index) for index in wanted.argmax(axis=-1)]
    assert len(set(labels)) > 2
