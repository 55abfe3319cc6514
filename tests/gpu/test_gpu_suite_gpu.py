"""The GPU suite on a GPU, with tiny models: no engine fails, and none is compared with nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SUITE = Path(__file__).parents[2] / "benchmarks" / "gpu_suite.py"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]


@pytest.mark.parametrize("model", ["bert-base", "gpt-2-small", "lissom"])
def test_every_engine_measures_or_is_not_installed(tmp_path: Path, model: str) -> None:
    pytest.importorskip("transformers")
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card has no products of fp8")
    words = ["--tiny", "--models", model, "--batches", "8", "-o", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SUITE), *words], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("gpu_tiny-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [f"{row['engine']}: {row['reason']}" for row in rows if row["status"] == "failed"] == []
    measured = [row for row in rows if row["status"] == "measured"]
    assert measured or model == "lissom"
    assert all(row["peak_bytes"] >= 0 for row in measured)
    assert all(row["cosine"] > 0.95 for row in measured if "cosine" in row)
