"""The GPU suite runs without a GPU, resumes, says what is missing, and outlives a row that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHEAP = ("--tiny", "--device", "cpu", "--batches", "2", "-o")
BLOCK = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pydantic", "polygraphy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocked())
"""


def suite(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_suite.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
    )


def rows_in(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    (file,) = folder.glob("gpu_tiny-cpu_*.json")
    return {(row["model"], row["engine"]): row for row in json.loads(file.read_text())["rows"]}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Modules of the suite by name."""
    import importlib

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"gpu.{name}")


def test_it_measures_says_what_is_missing_and_measures_nothing_anew(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    blocking, out = tmp_path / "blocking", tmp_path / "out"
    blocking.mkdir()
    (blocking / "sitecustomize.py").write_text(BLOCK)
    words = [*CHEAP, str(out), "--models", "resnet-50", "gpt-2-small", "lissom"]
    words += ["--engines", "eager float32", "eager bfloat16", "eager tf32", "tensorrt float32"]
    first = suite(*words, path=blocking)
    assert first.returncode == 0, first.stderr
    rows = rows_in(out)
    eager = rows["gpt-2-small", "eager bfloat16"]
    assert eager["status"] == "measured"
    assert eager["sqnr_db"] > 20
    assert eager["cosine"] > 0.99
    assert len(eager["rounds_ms"]) == 2
    assert eager["speedup"]["low"] <= eager["speedup"]["value"] <= eager["speedup"]["high"]
    assert 0 < eager["of_flop_ceiling"] < 1
    assert eager["prepare_seconds"] > 0
    assert rows["resnet-50", "tensorrt float32"]["reason"] == "polygraphy"
    assert rows["resnet-50", "eager tf32"]["reason"] == "a GPU"
    assert rows["lissom int8", "lissom tensorrt"]["reason"] == "pydantic"
    (page,) = out.glob("*.md")
    assert "# cpu" in page.read_text()
    assert "| eager bfloat16 | 2 |" in page.read_text()
    assert "- tensorrt float32, batch 2: not installed: polygraphy" in page.read_text()
    second = suite(*words, path=blocking)
    assert second.returncode == 0, second.stderr
    assert ": measured: " in first.stderr
    assert ": measured: " not in second.stderr
    again = rows_in(out)
    assert {key: row.get("rounds_ms") for key, row in again.items()} == {
        key: row.get("rounds_ms") for key, row in rows.items()
    }


def test_a_row_that_kills_its_process_has_failed_and_the_rest_goes_on(tmp_path: Path) -> None:
    deadly = tmp_path / "deadly"
    deadly.mkdir()
    (deadly / "transformers.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    words = [
        *CHEAP,
        str(tmp_path),
        "--models",
        "bert-base",
        "--engines",
        "eager bfloat16",
        "tensorrt float32",
    ]
    done = suite(*words, path=deadly)
    assert done.returncode == 0, done.stderr
    rows = rows_in(tmp_path)
    assert rows["bert-base", "eager bfloat16"]["status"] == "failed"
    assert "SIGSEGV" in rows["bert-base", "eager bfloat16"]["reason"]
    assert rows["bert-base", "tensorrt float32"]["status"] == "not installed"


def test_the_rows_are_listed_and_without_a_gpu_it_says_what_to_type() -> None:
    listed = suite("--list")
    assert listed.returncode == 0, listed.stderr
    assert "bert-base · torch-tensorrt float16 · batch 256" in listed.stdout
    assert "lissom float16 · lissom onnxruntime · batch 1" in listed.stdout
    if not torch.cuda.is_available():
        refused = suite()
        assert refused.returncode == 2
        assert "--tiny --device cpu" in refused.stderr


def test_a_session_answers_as_eager_into_the_same_memory(parts: Callable[[str], Any]) -> None:
    library = pytest.importorskip("onnxruntime")
    for name in ("onnxscript", "transformers", "pydantic"):
        pytest.importorskip(name)
    stock, engines, figures = parts("stock"), parts("engines"), parts("figures")
    model, samples = stock.build("resnet-50", tiny=True), stock.inputs_of("resnet-50", 3, tiny=True)
    path = stock.onnx_file(model, samples, half=False)
    assert stock.onnx_file(model, samples, half=False) == path
    call = engines._bound(engines._session(library, path, "CPUExecutionProvider"), samples)
    assert figures.parity(model(samples), call())["sqnr_db"] > 90
    assert call().data_ptr() == call().data_ptr()


def test_two_of_every_four_weights_are_kept_and_gpt_2_has_layers_to_prune(
    parts: Callable[[str], Any],
) -> None:
    pytest.importorskip("transformers")
    stock, engines = parts("stock"), parts("engines")
    model = stock.build("gpt-2-small", tiny=True)
    layers = engines._sparse_layers(engines.two_of_four_weights(model))
    assert len(layers) == 4
    assert all(((layer.weight.reshape(-1, 4) != 0).sum(dim=1) == 2).all() for layer in layers)
    assert stock.flops_of_sample("gpt-2-small", tiny=True) > 2 * 8 * sum(
        layer.weight.numel() for layer in layers
    )


def test_an_answer_that_is_no_number_or_misshapen_is_refused(parts: Callable[[str], Any]) -> None:
    parity = parts("figures").parity
    wanted = torch.eye(4)
    assert parity(wanted, wanted) == {"max_error": 0, "cosine": 1, "sqnr_db": None, "agreement": 1}
    with pytest.raises(ValueError, match="not a number"):
        parity(wanted, wanted * float("nan"))
    with pytest.raises(ValueError, match="shape"):
        parity(wanted, wanted[:2])


def test_the_copy_of_the_card_and_the_dense_product_are_the_ceilings(parts: Callable[[str], Any]) -> None:
    row = {"latency_ms": {"value": 2.0}, "flops": 4e9, "bytes": 1e9}
    ceilings = {"bytes_per_s": 1e12, "flops": {"float16": 8e12, "fp8": None}}
    found = parts("figures").against_ceilings(row, ceilings, "float16")
    assert found["of_flop_ceiling"] == pytest.approx(0.25)
    assert found["of_copy_ceiling"] == pytest.approx(0.5)
    assert "of_flop_ceiling" not in parts("figures").against_ceilings(row, ceilings, "fp8")
    assert parts("catalog").ENGINES["2:4 float16"].multiplies == "float16"


def test_one_that_raises_while_it_is_timed_leaves_the_others(parts: Callable[[str], Any]) -> None:
    told: list[str] = []
    calls = iter(range(100))

    def breaks() -> None:
        if next(calls) > 5:
            raise RuntimeError("late")

    rounds = parts("timing").interleaved(
        {"good": lambda: None, "bad": breaks},
        "cpu",
        num_rounds=3,
        seconds=0,
        before=lambda name: None,
        failed=lambda name, exc: told.append(f"{name}: {exc}"),
    )
    assert told == ["bad: late"]
    assert {name: len(found) for name, found in rounds.items()} == {"good": 3}


def test_wheels_that_were_carried_along_are_unpacked_once_and_imported(
    parts: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "carried-1-py3-none-any.whl", "w") as archive:
        archive.writestr("carried_along.py", "VALUE = 3\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    libraries = parts("libraries")
    assert libraries.missing(["json", "carried_along.part"]) == "carried_along"
    libraries.unpack_wheels(tmp_path)
    libraries.unpack_wheels(tmp_path)
    assert libraries.missing(["carried_along"]) is None
    assert sys.path.count(str(tmp_path / "site")) == 1
