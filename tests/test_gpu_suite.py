"""The GPU suite runs to its end without a GPU, resumes, and says what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SUITE = Path(__file__).parents[1] / "benchmarks" / "gpu_suite.py"
CHEAP = ["--tiny", "--device", "cpu", "--models", "resnet-50", "gpt-2-small", "--batches", "2"]
ENGINES = ["--engines", "eager float32", "eager bfloat16", "torchao fp8", "tensorrt float16"]


def suite(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SUITE), *words], capture_output=True, text=True, timeout=300, check=False
    )


def test_a_tiny_run_measures_says_what_is_missing_and_resumes(tmp_path: Path) -> None:
    first = suite(*CHEAP, *ENGINES, "-o", str(tmp_path))
    assert first.returncode == 0, first.stderr
    (path,) = tmp_path.glob("gpu_tiny-cpu_*.json")
    state = json.loads(path.read_text())
    rows = {(row["model"], row["engine"]): row for row in state["rows"]}
    assert len(rows) == 8
    eager = rows["resnet-50", "eager bfloat16"]
    assert eager["status"] == "measured"
    assert eager["agreement"] > 0.4
    assert eager["sqnr_db"] > 10
    assert eager["flops"] > 0
    assert len(eager["rounds_ms"]) == 2
    assert rows["gpt-2-small", "torchao fp8"]["status"] == "not installed"
    assert state["ceilings"]["flops"]["float32"] > 0
    page = path.with_suffix(".md").read_text()
    assert "## gpt-2-small" in page
    assert "not installed: a GPU" in page
    second = suite(*CHEAP, *ENGINES, "-o", str(tmp_path))
    assert second.returncode == 0, second.stderr
    again = {(row["model"], row["engine"]): row for row in json.loads(path.read_text())["rows"]}
    assert again["resnet-50", "eager bfloat16"]["sqnr_db"] == eager["sqnr_db"]


def test_the_rows_are_listed_and_without_a_gpu_it_says_what_to_type() -> None:
    listed = suite("--list")
    assert listed.returncode == 0, listed.stderr
    assert "bert-base · torch-tensorrt float16 · batch 256" in listed.stdout
    assert "lissom · all runtimes · batch 1" in listed.stdout
    import torch

    if not torch.cuda.is_available():
        refused = suite()
        assert refused.returncode == 2
        assert "--tiny --device cpu" in refused.stderr
