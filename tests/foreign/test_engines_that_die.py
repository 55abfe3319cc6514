"""An engine that ends its process takes a child with it: every verb goes on, or ends with a sentence.

The engine is a stand-in that sends itself a signal. It refuses to do so in this process, so that a guard that
is missing is a test that fails.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # noqa: F401  (before a stand-in may be found under its name)
import pytest
from onnx import helper, numpy_helper
from tests.unit.artifacts import tiny_logits, tiny_onnx_artifact

from lissom.artifact import Artifact
from lissom.bench.selection import ArmKey
from lissom.cli import main
from lissom.errors import ArtifactError, LissomError, RequestError
from lissom.export.external_data import load_onnx
from lissom.logs import NoProgress
from lissom.registry import RUNTIMES, RuntimeEntry
from lissom.report.opening import open_arms
from lissom.runtime import isolation
from lissom.runtime.base import open_runtime
from lissom.runtime.doctor import examine

STAND_IN = """
import os, signal, sys, time
from lissom.runtime.onnx_runtime import OnnxRuntime

def die(how):
    assert os.getpid() != {parent}, "the engine was given the model in the process of the tests"
    if how == "hang":
        time.sleep(60)
    if how == "exit":
        os._exit(3)
    print("a last word", file=sys.stderr, flush=True)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)

class Fragile(OnnxRuntime):
    name = "fragile"

    def _open_impl(self):
        super()._open_impl()
        if {moment!r} == "open":
            die({how!r})

    def _infer_impl(self, inputs):
        if {moment!r} == "call":
            die({how!r})
        return super()._infer_impl(inputs)
"""
DEATHS = ("SIGSEGV", "SIGABRT", "SIGKILL", "SIGILL", "SIGBUS", "exit")


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Registers an engine that dies at a moment, in a way."""

    def register(moment: str, how: str) -> None:
        path = tmp_path / f"engine_{moment}_{how}.py"
        path.write_text(STAND_IN.format(parent=os.getpid(), moment=moment, how=how))
        entry = RuntimeEntry(f"{path}:Fragile", ("onnx",), "onnxruntime", "onnxruntime", "cpu")
        monkeypatch.setitem(RUNTIMES, "fragile", entry)

    monkeypatch.setattr(isolation, "_outcomes", {})
    return register


@pytest.fixture
def foreign(tmp_path: Path) -> Artifact:
    """A linear classifier that another exporter wrote."""
    return tiny_onnx_artifact(tmp_path / "foreign", foreign=True)


@pytest.mark.parametrize("moment", ["open", "call"])
@pytest.mark.parametrize("how", DEATHS)
def test_the_signal_and_the_engine_are_named(
    how: str, moment: str, fragile: Callable[[str, str], None], foreign: Artifact
) -> None:
    fragile(moment, how)
    with pytest.raises(ArtifactError) as caught:
        open_runtime(foreign, "fragile")
    wanted = "ended its process with exit code 3" if how == "exit" else f"died of {how}"
    assert f"fragile {wanted}" in caught.value.message
    assert f"when {foreign.name} was {'opened' if moment == 'open' else 'called'}" in caught.value.message
    assert ("a last word" in caught.value.message) == (how != "exit")
    assert "--runtime" in caught.value.hint
    assert caught.value.exit_code == 2


def test_an_engine_that_never_answers_is_given_up(
    fragile: Callable[[str, str], None], foreign: Artifact
) -> None:
    fragile("call", "hang")
    with pytest.raises(ArtifactError, match="fragile did not answer within 3 s when export was called"):
        isolation.call_in_child(foreign, "fragile", seconds=3)


def test_a_child_gives_the_outputs_of_the_model(foreign: Artifact) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    for name in ("onnxruntime", "openvino"):
        found = isolation.call_in_child(foreign, name, {"image": (rows - 2) / 4})
        assert np.allclose(found["logits"], tiny_logits(rows), atol=1e-5)


def test_what_an_engine_refuses_is_said_by_the_engine(foreign: Artifact) -> None:
    with pytest.raises(RequestError, match="the model takes float32"):
        isolation.call_in_child(foreign, "onnxruntime", {"image": np.zeros((1, 1, 2, 2))})


def test_a_file_that_cannot_be_read_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    isolation.prove_file(tmp_path / "broken.onnx")  # no death, so nothing is said here
    with pytest.raises(LissomError, match=r"broken\.onnx"):
        load_onnx(tmp_path / "broken.onnx")


def test_a_model_of_our_own_is_opened_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(isolation, "_ask", fail)
    with open_runtime(tiny_onnx_artifact(tmp_path / "own"), "onnxruntime") as runtime:
        assert runtime.signature.outputs[0].name == "logits"


def test_a_model_is_tried_once_an_engine_and_evidence_says_so(
    foreign: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_outcomes", {})
    open_runtime(foreign, "onnxruntime").close()
    (record,) = foreign.evidence()
    assert record["trial"]["runtime"] == "onnxruntime"
    monkeypatch.setattr(isolation, "_outcomes", {})  # as in another process
    monkeypatch.setattr(isolation, "_ask", lambda *_: pytest.fail("it was tried again"))
    open_runtime(Artifact.open(foreign.path), "onnxruntime").close()


def test_a_benchmark_goes_on_with_the_other_engines(
    fragile: Callable[[str, str], None], foreign: Artifact
) -> None:
    fragile("call", "SIGSEGV")
    arms = [ArmKey(foreign.name, "fragile"), ArmKey(foreign.name, "onnxruntime")]
    with ExitStack() as stack:
        opened = open_arms([foreign], arms, stack, NoProgress(), threads=1, device=None)
        assert list(opened.runtimes) == arms[1:]
    assert "died of SIGSEGV" in opened.figures[arms[0]]["error"]


def test_a_server_takes_the_next_engine(
    fragile: Callable[[str, str], None], foreign: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lissom.serve.repository import _open_first

    fragile("open", "SIGABRT")
    with _open_first(foreign, ["fragile", "onnxruntime"], 1) as runtime:
        assert runtime.name == "onnxruntime"
    with pytest.raises(ArtifactError, match="SIGABRT"):
        _open_first(foreign, ["fragile"], 1)


def test_doctor_has_a_row_for_it(fragile: Callable[[str, str], None]) -> None:
    fragile("call", "SIGSEGV")
    all_of_them = dict(RUNTIMES)  # in their order, which says what is tried first
    try:
        for name in set(RUNTIMES) - {"fragile", "onnxruntime"}:
            del RUNTIMES[name]
        found = {row.runtime: row for row in examine()}
    finally:
        RUNTIMES.clear()
        RUNTIMES.update(all_of_them)
    assert found["onnxruntime"].works
    assert found["fragile"].state == "broken"
    assert "died of SIGSEGV" in found["fragile"].reason


@pytest.mark.parametrize("verb", ["predict", "inspect"])
def test_a_verb_ends_with_a_sentence(
    verb: str,
    fragile: Callable[[str, str], None],
    foreign: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lissom.cli import main

    fragile("open", "SIGSEGV")
    data = tmp_path / "data.npz"
    np.savez(data, image=np.arange(40, dtype=np.float32).reshape(10, 1, 2, 2), y=np.resize([0, 1, 2], 10))
    words = {
        "predict": ["predict", str(foreign.path), "--data", str(data), "--runtime", "fragile"],
        "inspect": ["inspect", str(foreign.path), "--runtime", "fragile"],
    }[verb]
    assert main([*words, "--json"]) == 2
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["error"]
    assert "fragile died of SIGSEGV" in told["message"]


def test_a_file_whose_engine_dies_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(request: dict[str, object], name: str, what: str, seconds: float) -> None:
        raise ArtifactError(f"{name} died of SIGSEGV when {what} was opened")

    monkeypatch.setattr(isolation, "_asked", die)
    source = tiny_onnx_artifact(tmp_path / "source").file("model.onnx")
    data = tmp_path / "data.npz"
    np.savez(data, image=np.arange(160, dtype=np.float32).reshape(40, 1, 2, 2))
    import lissom

    with pytest.raises(ArtifactError, match=r"onnxruntime died of SIGSEGV when model.onnx was opened"):
        lissom.quantize(str(source), str(data), out=tmp_path / "out")


def test_the_search_for_a_divergence_passes_over_what_kills(
    fragile: Callable[[str, str], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three products in a row, the second wrong; the engine dies of the part that ends at the first."""
    from lissom.export import bisection
    from lissom.export.verification import LIMITS

    right = {name: np.full((1, 2), value, np.float32) for name, value in zip("abc", (1, 2, 3), strict=True)}
    wrong = right | {"b": right["b"] + 1, "c": right["c"] + 1}

    class Tensors:
        def __init__(self, values: dict[str, np.ndarray], deadly: str) -> None:
            self.reads: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["b"]}
            self._values, self._deadly = values, deadly

        def values(self, names: list[str], batch: object) -> dict[str, np.ndarray]:
            if self._deadly in names:
                raise ArtifactError("openvino died of SIGSEGV when part was opened")
            return {name: self._values[name] for name in names}

        def operator(self, name: str) -> str:
            return f"Op_{name}"

        def owner(self, name: str) -> None:
            return None

        layer = owner

    for deadly, first, previous in (("a", "b", None), ("b", "c", "a"), ("-", "b", "a")):
        search = bisection._Search(
            Tensors(right, "-"),
            Tensors(wrong, deadly),
            ["c"],
            {},
            LIMITS["float32"]._replace(min_agreement=0),
        )
        found = search.find()
        assert found is not None
        assert (found.tensor, found.previous) == (first, previous)
        if deadly != "-":
            assert f"SIGSEGV when part was opened, at tensor {deadly} (Op_{deadly})" in caplog.text
    with pytest.raises(ArtifactError, match="at tensor c"):
        bisection._Search(Tensors(right, "c"), Tensors(wrong, "-"), ["c"], {}, LIMITS["float32"]).find()


DEADLY = """
import os, signal, sys
import onnx
assert os.getpid() != {parent}

class InferenceSession:
    def __init__(self, file, *rest, **options):
        graph = onnx.load(file).graph
        if {condition}:
            os.kill(os.getpid(), signal.SIGSEGV)

    def run(self, names, inputs):
        return []
"""


DEADLY_GRAPHS = {
    "with every tensor as an output": ("len(graph.output) > 1", "quantize"),
    "in int8": ("any(node.op_type == 'DequantizeLinear' for node in graph.node)", "quantize"),
    "with an axis that is free": ("graph.input[0].type.tensor_type.shape.dim[0].dim_param", "inspect"),
}


@pytest.mark.parametrize("kind", DEADLY_GRAPHS)
def test_graphs_that_are_made_of_a_model_are_tried_in_a_child_too(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    condition, verb = DEADLY_GRAPHS[kind]
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(8, 4)).astype(np.float32), "w")
    ends = [helper.make_tensor_value_info(name, 1, [1, size]) for name, size in (("x", 8), ("y", 4))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], [weight])
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "theirs.onnx")
    np.savez(tmp_path / "data.npz", x=random.normal(size=(32, 8)).astype(np.float32))
    engine = tmp_path / "engine" / "onnxruntime"
    engine.mkdir(parents=True)
    (engine / "__init__.py").write_text(DEADLY.format(parent=os.getpid(), condition=condition))
    isolation._end_child()
    monkeypatch.syspath_prepend(str(tmp_path / "engine"))  # only a child has yet to import its engine
    monkeypatch.chdir(tmp_path)
    try:
        assert main([verb, "theirs.onnx", "--data", "data.npz", "--dry-run", "--json"]) == 2
    finally:
        isolation._end_child()
    message = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["message"]
    assert "onnxruntime died of SIGSEGV when graph.onnx was opened" in message
