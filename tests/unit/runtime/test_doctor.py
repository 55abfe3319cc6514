"""The doctor proves what works, and says what to do about the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lissom.artifact import Artifact
from lissom.cli.views.models import examined
from lissom.errors import ArtifactError
from lissom.registry import RUNTIMES, runtime_entry
from lissom.runtime import doctor, tiny_models
from lissom.runtime.doctor import Examined, examine
from lissom.runtime.machine import compiler, machine
from lissom.runtime.onnx_runtime import OnnxRuntime
from lissom.runtime.tiny_models import tiny


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


@pytest.mark.parametrize("model_format", ["torch", "onnx", "openvino"])
def test_the_tiny_models_are_sound_artifacts(tmp_path: Path, model_format: str) -> None:
    made = tiny(model_format, tmp_path)
    assert Artifact.open(made.path).digest == made.digest
    assert tiny(model_format, tmp_path).digest == made.digest


def test_there_is_a_tiny_model_for_every_runtime() -> None:
    assert {runtime_entry(name).formats[0] for name in RUNTIMES} <= set(tiny_models._MAKERS)


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_what_is_compiled_is_proved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.runtime.availability.compiler", compiler)
    row = found()["aotinductor"]
    assert (row.state, row.thread_safe) == ("works", False), row.reason


def test_a_runtime_of_another_device_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.runtime.availability.is_installed", lambda module: True)
    row = found()["tensorrt"]
    assert (row.state, row.reason, row.device) == ("broken", "there is no GPU", "cuda")


def test_every_device_that_is_here_is_proved_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "machine", lambda: {"gpus": ["NVIDIA H100, 580"]})
    rows = [row for row in examine() if row.runtime == "onnxruntime"]
    assert [row.device for row in rows] == ["cpu", "cuda"]
    assert [row.works for row in rows] == [True, machine()["gpus"] != []]


def test_the_verb_shows_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = examined()
    assert set(outcome.extra) == {"runtimes", "machine", "conflicts"}
    text = "\n".join(outcome.lines)
    for word in ("cpu ", "memory ", "gpu ", "cuda ", "compiler ", "int8: ", "bfloat16: "):
        assert word in text
