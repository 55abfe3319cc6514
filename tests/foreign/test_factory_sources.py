"""An artifact outlives its factory file: a comment, another folder, other answers, no file at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.small import make

from lissom.artifact import Artifact
from lissom.cli import main
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


BESIDE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x):
        return torch.relu(self.layer(x))
"""
IMPORTS = {
    "a name": ("from parts import Block", "Block()", "parts.py"),
    "the module": ("import parts", "parts.Block()", "parts.py"),
    "a package": ("from parts.blocks import Block", "Block()", "parts/blocks.py"),
    "when it is called": ("def late():\n    import parts\n    return parts.Block()", "late()", "parts.py"),
}


def project_of(folder: Path, case: str, function: str = "relu") -> tuple[str, Path]:
    """A factory that imports what lies beside it; and that file."""
    line, built, place = IMPORTS[case]
    beside = folder / place
    beside.parent.mkdir(parents=True, exist_ok=True)
    if (
        beside.parent != folder
    ):  # a folder without it comes after every module of its name, wherever that lies
        (beside.parent / "__init__.py").touch()
    beside.write_text(BESIDE.replace("relu", function))
    body = f"    torch.manual_seed(0)\n    return {built}\n"
    (folder / "net.py").write_text(f"import torch\n{line}\n\ndef make():\n{body}")
    return f"{folder / 'net.py'}:make", beside


@pytest.mark.parametrize("case", IMPORTS)
def test_a_file_may_import_what_lies_beside_it_whatever_another_project_calls_it(
    tmp_path: Path, case: str
) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 4)
    with torch.no_grad():
        plain = layer(torch.from_numpy(SAMPLES[:5]))
    functions = {"relu": torch.relu, "tanh": torch.tanh, "erf": torch.erf}
    for function, known in functions.items():
        source, _ = project_of(tmp_path / function, case, function)
        artifact = make(tmp_path / f"01-{function}", DATA, "load", model=ModelConfig(source=source))
        np.testing.assert_array_equal(answer(artifact), known(plain).numpy())


def test_what_changed_beside_a_factory_is_seen_at_once(tmp_path: Path) -> None:
    source, beside = project_of(tmp_path / "project", "a name")
    artifact = make(tmp_path / "01-load", DATA, "load", model=ModelConfig(source=source))
    beside.write_text(beside.read_text().replace("relu", "tanh"))  # as long, within the same second
    with pytest.raises(ArtifactError, match="answers otherwise"):
        load_model(artifact)
    beside.write_text("# a comment\n" + beside.read_text().replace("tanh", "relu"))
    assert np.isfinite(answer(artifact)).all()


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """An artifact with its data in a file, whose factory builds another activation by now."""
    monkeypatch.chdir(tmp_path)
    classes = ("0", "1", "2", "3")
    np.savez("samples.npz", x=SAMPLES, y=np.arange(60) % 4)
    Path("net.py").write_text(SOURCE)
    data = Data("samples.npz", Dataset({"x": SAMPLES}, np.arange(60) % 4, classes))
    artifact = make(tmp_path / "runs" / "01-load", data, "load", model=ModelConfig(source="net.py:make"))
    Path("net.py").write_text(SOURCE.replace("nn.ReLU()", "nn.Tanh()"))
    return artifact


def commands(artifact: Artifact) -> dict[str, list[str]]:
    path = str(artifact.path)
    return {
        "predict": ["predict", path, "--data", "samples.npz", "--out", "predictions"],
        "evaluate": ["evaluate", path],
        "verify": ["verify", path, path],
    }


@pytest.mark.parametrize("verb", ["predict", "evaluate", "verify"])
def test_every_verb_refuses_another_answer_and_goes_on_where_it_is_accepted(
    changed: Artifact, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    words = [*commands(changed)[verb], "--json"]
    assert main(words) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert "answers otherwise" in error["message"]
    assert "--accept-source" in error["hint"]
    assert main([*words, "--accept-source"]) == 0
    assert "it is accepted, though answers of the probe differ" in capsys.readouterr().err


def test_what_is_accepted_is_what_the_source_builds_now(changed: Artifact) -> None:
    words = ["predict", str(changed.path), "--data", "bare.npz", "--out", "found", "--accept-source"]
    np.savez("bare.npz", x=SAMPLES[:20])
    assert main(words) == 0
    space: dict[str, object] = {}
    exec(Path("net.py").read_text(), space)
    with torch.no_grad():
        right = space["make"]()(torch.from_numpy(SAMPLES[:20])).argmax(1)  # type: ignore[operator]
    with Path("found/predictions.csv").open() as lines:
        assert [int(line["label"]) for line in csv.DictReader(lines)] == right.tolist()


def test_a_benchmark_that_cannot_begin_says_how_to_go_on(
    changed: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(changed.path), "--runtime", "torch", "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert "answers otherwise" in error["message"]
    assert "--accept-source" in error["hint"]


AXES = {
    "time-major": ("self.layer(x).transpose(0, 1)", ["x"]),
    "one number": ("self.layer(x).sum()", ["x"]),
    "rows in order": ("self.layer(x).sort(0).values", ["x"]),
    "a scale": ("self.layer(x) * scale", ["x", "scale"]),
}
OTHER_AXES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def forward(self, NAMES):
        return ANSWER
"""


@pytest.mark.parametrize("case", AXES)
def test_a_comment_changes_nothing_wherever_the_samples_lie(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expression, inputs = AXES[case]
    source = OTHER_AXES.replace("NAMES", ", ".join(inputs)).replace("ANSWER", expression)
    Path("net.py").write_text(source)
    scale = np.linspace(1, 2, 60, dtype=np.float32)[:, None]
    arrays = {"x": SAMPLES} | ({"scale": scale} if "scale" in inputs else {})
    data = Data("samples", Dataset(arrays))
    artifact = make(tmp_path / "load", data, "load", model=ModelConfig(source="net.py:Net"))
    Path("net.py").write_text(f"# a comment\n{source}")
    space: dict[str, object] = {}
    exec(source, space)
    own = {name: torch.from_numpy(array[:5]) for name, array in arrays.items()}
    with torch.no_grad():
        right = space["Net"]()(**own)  # type: ignore[operator]
        assert torch.equal(load_model(artifact)(**own), right)
    Path("net.py").write_text(source.replace("return ", "return 2 * "))
    with pytest.raises(ArtifactError, match="answers otherwise"):
        load_model(artifact)
