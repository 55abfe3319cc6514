"""An artifact outlives its factory file: a comment, another folder, other answers, no file at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.small import make

from lissom.artifact import Artifact
from lissom.errors import ArtifactError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.recipe import ModelConfig
from lissom.runtime.base import open_runtime
from lissom.structure import load_model

SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
"""
SAMPLES = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
DATA = Data("samples", Dataset({"x": SAMPLES}))


@pytest.fixture(params=["net.py", ".work/net.py", "../shared/net.py"])
def made(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Artifact, Path]:
    """An artifact of a factory that is named relative to a project, and its file."""
    project = tmp_path / "project"
    project.mkdir()
    file = project / request.param
    file.parent.mkdir(exist_ok=True)
    file.write_text(SOURCE)
    monkeypatch.chdir(project)
    folder = project / "runs" / "01-load"
    folder.parent.mkdir()
    artifact = make(folder, DATA, "load", model=ModelConfig(source=f"{request.param}:make"))
    return artifact, file


def answer(artifact: Artifact) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = load_model(artifact)(torch.from_numpy(SAMPLES[:5])).numpy()
    return found


def wanted() -> np.ndarray:
    space: dict[str, object] = {}
    exec(SOURCE, space)
    with torch.no_grad():
        found: np.ndarray = space["make"]()(torch.from_numpy(SAMPLES[:5])).numpy()  # type: ignore[operator]
    return found


def test_a_comment_changes_nothing(made: tuple[Artifact, Path]) -> None:
    artifact, file = made
    file.write_text(f"# a comment\n{SOURCE}")
    np.testing.assert_array_equal(answer(artifact), wanted())


def test_it_is_found_from_another_folder(
    made: tuple[Artifact, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(answer(made[0]), wanted())


def test_another_answer_is_refused_unless_it_is_accepted(
    made: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, file = made
    file.write_text(SOURCE.replace("nn.ReLU()", "nn.Tanh()"))
    with pytest.raises(ArtifactError, match="answers otherwise") as caught:
        load_model(artifact)
    assert "--accept-source" in caught.value.hint
    monkeypatch.setenv("LISSOM_ACCEPT_SOURCE", "1")
    assert np.isfinite(answer(artifact)).all()


def test_other_weights_are_refused_in_any_case(
    made: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, file = made
    file.write_text(SOURCE.replace("nn.Linear(32, 4)", "nn.Linear(32, 4, bias=False)"))
    monkeypatch.setenv("LISSOM_ACCEPT_SOURCE", "1")
    with pytest.raises(ArtifactError, match="does not fit"):
        load_model(artifact)


def test_an_onnx_artifact_needs_no_factory(made: tuple[Artifact, Path]) -> None:
    artifact, file = made
    exported = make(artifact.path.parent / "02-export", DATA, "export", parents={"input": artifact})
    file.unlink()
    with open_runtime(exported, "onnxruntime") as opened:
        (found,) = opened.infer({"x": SAMPLES[:5]}).values()
    np.testing.assert_allclose(found, wanted(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ArtifactError, match="lies neither"):
        load_model(artifact)
