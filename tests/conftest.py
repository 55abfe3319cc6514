"""What several tests share: a small run of the whole chain, and the commands of a stranger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"source": "digits"},
    "model": {"source": "resnet", "kwargs": {"widths": [64, 128], "blocks": [1, 1]}},
    "stages": [
        {"stage": "train", "epochs": 6, "learning_rate": 0.05},
        {"stage": "export", "name": "original", "from": "train"},
        {"stage": "prune", "from": "train", "ratio": 0.5},
        {"stage": "distill", "teacher": "train", "epochs": 8},
        {"stage": "export"},
        {"stage": "quantize"},
    ],
    # The tests ask whether the chain holds, not how good six epochs are.
    "gates": {"accuracy": {"max_drop": 0.05}, "not-slower": {"margin": 1.0}},
    # One thread: several wait for each other on a busy machine, and then decide which artifact is fastest.
    "benchmark": {
        "runtimes": ["torch", "onnxruntime", "openvino"],
        "threads": 1,
        "num_rounds": 12,
        "round_ms": 4.0,
    },
}


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of the whole chain that runs in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def small_run(small_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of that recipe; its folder must not be changed, copy it first."""
    import lissom

    return lissom.run(small_recipe, out=tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def lissom_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the command line in a process of its own, in an empty folder."""

    def call(*words: object, cwd: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lissom", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **environment},
            timeout=300,
            check=False,
        )

    return call


def last_document(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON document on the last line of stdout."""
    document: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return document
