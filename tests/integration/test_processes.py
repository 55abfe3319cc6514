"""Several processes train one model together, as torchrun starts them, and one of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml

import lissom

RECIPE = {
    "name": "together",
    "data": {"source": "digits"},
    "model": {"source": "mlp", "kwargs": {"hidden": [16]}},
    "stages": [
        {"stage": "train", "epochs": 2, "learning_rate": 0.05},
        {"stage": "export"},
        {"stage": "train", "name": "further", "from": "train", "epochs": 1, "learning_rate": 0.01},
        {"stage": "prune", "name": "narrow", "ratio": 0.4, "of": "macs", "importance": "taylor"},
        {"stage": "distill", "name": "taught", "teacher": "further", "epochs": 2, "learning_rate": 0.01},
    ],
    "gates": {"accuracy": {"max_drop": 1.0}, "not-slower": {"margin": 1.0}},
    "benchmark": {"runtimes": ["torch", "onnxruntime"], "num_rounds": 4, "round_ms": 1.0},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "together.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return path


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    """Two processes, which talk by gloo on a machine without GPUs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return subprocess.run(
        [*command, "-m", "lissom", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )


def weights(folder: Path, stage: str) -> dict[str, np.ndarray]:
    file = next(folder.glob(f"*-{stage}-*")) / "payload" / "model.safetensors"
    return safetensors.numpy.load(file.read_bytes())


def test_two_processes_train_what_one_trains(recipe: Path, tmp_path: Path) -> None:
    process = torchrun("run", recipe, "--out", tmp_path / "two", "--json")
    assert process.returncode == 0, process.stderr
    documents = [line for line in process.stdout.splitlines() if line.startswith("{")]
    assert len(documents) == 1, "only the leader speaks"
    assert json.loads(documents[0])["ok"]
    alone = lissom.run(recipe, out=tmp_path / "one")
    report = json.loads((tmp_path / "two" / "report.json").read_bytes())
    assert [row["id"] for row in report["stages"]] == [row.id for row in alone.report.stages]
    for stage in ("train", "further", "narrow", "taught"):
        one, two = weights(tmp_path / "one", stage), weights(tmp_path / "two", stage)
        assert one.keys() == two.keys()
        for name, array in one.items():
            np.testing.assert_allclose(two[name], array, atol=1e-4, err_msg=f"{stage} {name}")


def test_a_cached_run_of_two_processes_ends(recipe: Path, tmp_path: Path) -> None:
    lissom.run(recipe, out=tmp_path / "one")
    process = torchrun("run", recipe, "--out", tmp_path / "one")
    assert process.returncode == 0, process.stderr
