"""A user's project with a `models/` folder, data and a task of its own goes the whole way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.conftest import last_document

FILES = {
    "models/__init__.py": "",
    "models/parts.py": """
from torch import nn

def hidden(width):
    return nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
""",
    "models/forecast.py": '''
from torch import nn
from models.parts import hidden

def build(*, width: int = 32) -> nn.Module:
    """Three quantiles of what comes next."""
    return nn.Sequential(hidden(width), nn.Linear(width, 3))
''',
    "sensors.py": '''
import numpy as np
from lissom import Dataset

def readings() -> Dataset:
    """Four readings, and what the fifth will be."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (600, 4)).astype(np.float32)
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.05 * generator.normal(size=600)
    return Dataset({"readings": x}, y.astype(np.float32))
''',
    "quantiles.py": '''
import numpy as np
import torch
from lissom import Task

LEVELS = torch.tensor([0.1, 0.5, 0.9])

class Quantiles(Task):
    """Three quantiles; the answer is the middle one, and good when the truth lies between the outer two."""

    score_name = "coverage"
    output_name = "quantiles"

    def loss(self, outputs, targets):
        error = targets[:, None] - outputs
        return torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean()

    def predict(self, outputs):
        return outputs

    def score(self, predictions, targets):
        return (predictions[:, 0] <= targets) & (targets <= predictions[:, 2])

    def metrics(self, batches):
        widths = [outputs[:, 2] - outputs[:, 0] for outputs, targets in batches]
        return {"mean_width": float(np.concatenate(widths).mean())}
''',
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_project_trains_exports_evaluates_and_predicts(
    project: Path, lissom_command: Callable[..., CompletedProcess[str]]
) -> None:
    def call(*words: object) -> dict[str, object]:
        process = lissom_command(*words, "--json", cwd=project)
        assert process.returncode == 0, process.stderr
        return last_document(process)

    train = ["train", "models.forecast:build", "--data", "sensors:readings", "--task", "quantiles:Quantiles"]
    learning = ["--epochs", 40, "--learning-rate", 0.05, "--kwarg", "width=16", "--runtime", "torch"]
    trained = call(*train, *learning)
    manifest = json.loads((project / "runs/train/artifact/manifest.json").read_bytes())
    assert manifest["task"] == "quantiles:Quantiles"
    assert manifest["signature"]["outputs"][0]["name"] == "quantiles"
    history = manifest["notes"]["history"]
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert trained["ok"]
    options = ["--data", "sensors:readings", "--task", "quantiles:Quantiles", "--runtime", "onnxruntime"]
    call("export", "runs/train/artifact", *options, "--runtime", "torch")
    found = call("evaluate", "runs/export/artifact")
    assert 0.6 < float(str(found["score"])) <= 1.0
    assert found["metrics"]["mean_width"] > 0  # type: ignore[index]


def test_a_changed_task_trains_anew(
    project: Path, lissom_command: Callable[..., CompletedProcess[str]]
) -> None:
    train = [
        "train",
        "models.forecast:build",
        "--data",
        "sensors:readings",
        "--task",
        "quantiles.py:Quantiles",
    ]
    words = [*train, "--epochs", 1, "--runtime", "torch", "--dry-run", "--json"]
    before = last_document(lissom_command(*words, cwd=project))
    lissom_command(*words[:-2], cwd=project)
    (project / "quantiles.py").write_text(FILES["quantiles.py"].replace("0.9]", "0.95]"))
    after = lissom_command(*words, cwd=project)
    assert before["ok"], before
    assert '"reused": false' in after.stdout
    (project / "quantiles.py").write_text(FILES["quantiles.py"])
    assert '"reused": true' in lissom_command(*words, cwd=project).stdout


def test_a_task_that_is_no_task_is_refused(
    project: Path, lissom_command: Callable[..., CompletedProcess[str]]
) -> None:
    words = ["train", "models.forecast:build", "--data", "sensors:readings", "--task", "sensors:readings"]
    process = lissom_command(*words, "--epochs", 1, cwd=project)
    assert process.returncode == 2
    assert "gave a Dataset, not a lissom.Task" in process.stderr
