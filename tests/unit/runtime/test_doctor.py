"""The doctor proves what works, and says what to do about the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lissom.artifact import Artifact
from lissom.errors import ArtifactError
from lissom.registry import RUNTIMES
from lissom.runtime import doctor
from lissom.runtime.doctor import Examined, examine
from lissom.runtime.onnx_runtime import OnnxRuntime


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, inductor is not compiled, which would take seconds."""
    monkeypatch.setattr("lissom.runtime.availability.compiler", lambda: None)


def found() -> dict[str, Examined]:
    return {row.runtime: row for row in examine()}


def test_every_runtime_is_examined_and_what_is_installed_works() -> None:
    rows = found()
    assert list(rows) == list(RUNTIMES)
    for name in ("torch", "onnxruntime", "openvino"):
        assert rows[name].works, rows[name].reason
        assert rows[name].reason == "a tiny model ran"
        assert rows[name].version[0].isdigit()


def test_a_runtime_that_is_absent_says_what_to_install() -> None:
    row = found()["inductor"]
    assert (row.works, row.reason) == (False, "there is no C++ compiler: apt-get install g++")


def test_a_library_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.runtime.availability.is_installed", lambda module: module != "openvino")
    row = found()["openvino"]
    assert (row.works, row.reason) == (False, "openvino is not installed: pip install 'lissom[cpu]'")


def test_a_library_that_is_there_but_broken_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    row = found()["openvino"]
    assert not row.works
    assert "openvino is not installed" in row.reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ArtifactError("cannot open it", hint="mend it"), "cannot open it: mend it"),
        (RuntimeError("engine broke\nin many lines"), "RuntimeError: engine broke"),
        (RuntimeError(), "RuntimeError: "),
    ],
)
def test_a_runtime_that_fails_says_how(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(self: OnnxRuntime) -> None:
        raise error

    monkeypatch.setattr(OnnxRuntime, "_open_impl", fail)
    rows = found()
    assert (rows["onnxruntime"].works, rows["onnxruntime"].reason) == (False, reason)
    assert rows["openvino"].works


def test_a_runtime_that_computes_wrongly_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: OnnxRuntime, inputs: Any) -> dict[str, np.ndarray]:
        return {"y": np.array([[1.0, 2.0]], dtype=np.float32)}

    monkeypatch.setattr(OnnxRuntime, "_infer_impl", wrong)
    row = found()["onnxruntime"]
    assert (row.works, row.reason) == (False, "a tiny model gave [[1.0, 2.0]]")


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path))
    found()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model_format", ["torch", "onnx"])
def test_the_tiny_models_are_sound_artifacts(tmp_path: Path, model_format: str) -> None:
    made = doctor._tiny(model_format, tmp_path)
    assert Artifact.open(made.path).digest == made.digest
    assert doctor._tiny(model_format, tmp_path).digest == made.digest
