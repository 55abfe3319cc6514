"""Which artifacts are served, and on what."""

from __future__ import annotations

import asyncio
import shlex
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.artifacts import tiny_logits, tiny_onnx_artifact

from lissom.artifact import Artifact
from lissom.errors import ArtifactError, LissomError, MissingExtra, RequestError
from lissom.runtime.base import Runtime
from lissom.runtime.machine import machine
from lissom.serve import repository
from lissom.serve.description import configuration
from lissom.serve.naming import source_of
from lissom.serve.repository import Repository, ServedModel, check_artifacts, ranked_runtimes
from lissom.serve.scheduler import Tensors

RAW = np.arange(20, dtype=np.float32).reshape(5, 1, 2, 2)
TENSOR = (RAW - 2) / 4
SOUND = {"error": None, "probe": {"passed": True}}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_onnx_artifact(tmp_path / "tiny")


def rounds(milliseconds: float) -> list[list[float]]:
    """Eight rounds with a little noise, the same for every arm."""
    return [[milliseconds * (1 + noise / 1000)] * 3 for noise in range(8)]


def add_evidence(artifact: Artifact, runtimes: dict[str, Any], *, name: str = "one", **here: Any) -> None:
    record = {
        "artifact": {"digest": artifact.digest},
        "finished": f"2026-01-01T00:00:00-{name}",
        "environment": {**machine(), **here},
        "runtimes": runtimes,
    }
    artifact.add_evidence(record, name=name)


def test_without_evidence_the_order_of_the_registry_decides(artifact: Artifact) -> None:
    assert ranked_runtimes(artifact) == ["openvino", "onnxruntime"]


def test_the_fastest_by_measurement_is_tried_first(artifact: Artifact) -> None:
    add_evidence(
        artifact,
        {"openvino": {**SOUND, "rounds_ms": rounds(1.0)}, "onnxruntime": {**SOUND, "rounds_ms": rounds(0.5)}},
    )
    assert ranked_runtimes(artifact) == ["onnxruntime", "openvino"]


def test_a_tie_is_decided_by_the_order_and_not_by_noise(artifact: Artifact) -> None:
    add_evidence(
        artifact,
        {
            "openvino": {**SOUND, "rounds_ms": rounds(1.02)},
            "onnxruntime": {**SOUND, "rounds_ms": rounds(1.0)},
        },
    )
    assert ranked_runtimes(artifact) == ["openvino", "onnxruntime"]


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"cores": 1024}, {"isa": []}])
def test_evidence_of_another_kind_of_machine_does_not_count(
    artifact: Artifact, change: dict[str, Any]
) -> None:
    add_evidence(artifact, {"onnxruntime": {**SOUND, "rounds_ms": rounds(0.5)}}, **change)
    assert ranked_runtimes(artifact) == ["openvino", "onnxruntime"]


def test_the_newest_evidence_of_this_machine_counts(artifact: Artifact) -> None:
    fast, slow = {**SOUND, "rounds_ms": rounds(0.5)}, {**SOUND, "rounds_ms": rounds(1.0)}
    add_evidence(artifact, {"openvino": fast, "onnxruntime": slow}, name="one")
    add_evidence(artifact, {"openvino": slow, "onnxruntime": fast}, name="two")
    add_evidence(artifact, {"openvino": {"error": "broken"}}, name="three")
    assert ranked_runtimes(artifact) == ["onnxruntime", "openvino"]


@pytest.mark.parametrize(
    "broken",
    [
        {"error": "broken", "probe": {"passed": True}, "rounds_ms": rounds(0.1)},
        {"error": None, "probe": {"passed": False}, "rounds_ms": rounds(0.1)},
        {"error": None, "rounds_ms": rounds(0.1)},
        {"error": None},
    ],
)
def test_a_runtime_that_was_not_sound_is_not_preferred(artifact: Artifact, broken: dict[str, Any]) -> None:
    add_evidence(artifact, {"openvino": broken, "onnxruntime": {**SOUND, "rounds_ms": rounds(0.5)}})
    assert ranked_runtimes(artifact)[0] == "onnxruntime"


def test_the_next_runtime_is_taken_when_the_first_does_not_open(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = repository.open_runtime

    def opens(artifact: Artifact, name: str, *, threads: int | None) -> Runtime:
        if name == "openvino":
            raise MissingExtra("openvino is not here")
        return real(artifact, name, threads=threads)

    monkeypatch.setattr(repository, "open_runtime", opens)
    model = ServedModel(artifact, threads=1)
    assert model.runtime.name == "onnxruntime"
    model.close()


def test_a_runtime_that_was_asked_for_is_used_or_refused(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ServedModel(artifact, runtime="onnxruntime", threads=1)
    assert (model.runtime.name, model.runtime.threads) == ("onnxruntime", 1)
    model.close()

    def refuses(*arguments: Any, **options: Any) -> Runtime:
        raise MissingExtra("not here")

    monkeypatch.setattr(repository, "open_runtime", refuses)
    with pytest.raises(MissingExtra, match="not here"):
        ServedModel(artifact, runtime="onnxruntime")


def test_an_engine_that_does_not_reproduce_the_probe_is_not_served(tmp_path: Path) -> None:
    wrong = tiny_onnx_artifact(tmp_path / "wrong", probe_shift=0.01)
    with pytest.raises(ArtifactError, match=r"differ by up to 0\.01"):
        Repository.open([wrong.path], threads=1)


def test_the_engine_is_opened_and_called_in_one_thread(artifact: Artifact) -> None:
    model = ServedModel(artifact, runtime="onnxruntime", threads=1)
    names = [model._thread.submit(lambda: threading.current_thread().name).result() for _ in range(3)]
    assert len(set(names)) == 1
    assert names[0] != threading.current_thread().name
    model.close()


@pytest.mark.parametrize(
    ("threads", "inline_seconds", "instances"), [(1, 0.0, 3), (2, 0.0, 1), (3, 0.0, 1), (1, 1.0, 1)]
)
def test_as_many_batches_are_computed_at_once_as_there_are_cores_for(
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    inline_seconds: float,
    instances: int,
) -> None:
    monkeypatch.setattr(repository, "INLINE_SECONDS", inline_seconds)
    monkeypatch.setattr(repository, "usable_cores", lambda: 3)
    model = ServedModel(artifact, runtime="onnxruntime", threads=threads, max_batch=1)
    met, real = threading.Barrier(instances), model.scheduler._run
    name = artifact.manifest.signature.inputs[0].name
    asked = [TENSOR[row : row + 1] for row in range(3)]
    alone = [real({name: one}) for one in asked]

    def run(inputs: Tensors) -> Tensors:
        met.wait(30)  # nobody goes on before all instances compute
        return real(inputs)

    async def ask() -> list[Tensors]:
        answers = await asyncio.gather(*[model.scheduler.submit({name: one}) for one in asked])
        await model.drain()
        return answers

    monkeypatch.setattr(model.scheduler, "_run", run)
    for answer, expected in zip(asyncio.run(ask()), alone, strict=True):
        np.testing.assert_array_equal(answer["logits"], expected["logits"])
    assert configuration(model)["instance_group"][0]["count"] == instances


def test_a_compiling_runtime_is_called_sample_by_sample(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ServedModel(artifact, runtime="onnxruntime", threads=1)
    sizes: list[int] = []
    real = model.runtime.infer

    def count(inputs: Any) -> Any:
        sizes.append(len(inputs["image"]))
        return real(inputs)

    monkeypatch.setattr(model.runtime, "infer", count)
    together = model.runtime.infer_batch({"image": TENSOR})["logits"]
    monkeypatch.setattr(type(model.runtime), "max_batch", 1)
    apart = model.runtime.infer_batch({"image": TENSOR})["logits"]
    assert sizes == [5, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(apart, together, rtol=1e-6)
    np.testing.assert_allclose(together, tiny_logits(RAW), rtol=1e-5, atol=1e-5)
    model.close()


def test_a_compiling_runtime_is_not_tried_unless_measured(tmp_path: Path) -> None:
    torch_like = tiny_onnx_artifact(tmp_path / "torch", format="torch")
    assert ranked_runtimes(torch_like) == ["torch"]


def test_two_models_of_one_name_are_refused_with_names_that_work(tmp_path: Path) -> None:
    paths = [tiny_onnx_artifact(tmp_path / name).path for name in ("a", "b c")]
    with pytest.raises(RequestError, match="would both be served as 'tiny'") as caught:
        check_artifacts(paths)
    lissom, verb, *words = shlex.split(caught.value.hint)
    assert (lissom, verb) == ("lissom", "serve")
    assert len(check_artifacts(words)) == 2
    assert [source_of(word).path for word in words] == paths


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [("torch", "torch does not execute onnx"), ("openvno", "did you mean openvino")],
)
def test_a_runtime_that_cannot_serve_is_refused_before_anything_starts(
    artifact: Artifact, runtime: str, reason: str
) -> None:
    with pytest.raises(RequestError) as caught:
        check_artifacts([artifact.path], runtime=runtime)
    assert reason in f"{caught.value.message} {caught.value.hint}"


def test_a_missing_library_is_named_before_anything_starts(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "absence", lambda name: (f"{name} is not installed", "pip install it"))
    for runtime in (None, "openvino"):
        with pytest.raises(MissingExtra, match="openvino is not installed") as caught:
            check_artifacts([artifact.path], runtime=runtime)
        assert caught.value.hint == "pip install it"


def test_labels_must_fit_the_scores(tmp_path: Path) -> None:
    odd = tiny_onnx_artifact(tmp_path / "odd", labels=("cat", "dog"))
    with pytest.raises(ArtifactError, match="2 labels"):
        check_artifacts([odd.path])


def test_nothing_to_serve_is_refused() -> None:
    with pytest.raises(RequestError, match="no artifact"):
        check_artifacts([])


def test_what_was_opened_is_closed_when_the_next_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tiny_onnx_artifact(tmp_path / "good", recipe="good")
    wrong = tiny_onnx_artifact(tmp_path / "wrong", recipe="wrong", probe_shift=1.0)
    closed: list[str] = []
    monkeypatch.setattr(ServedModel, "close", lambda model: closed.append(model.name))
    with pytest.raises(LissomError, match="wrong on openvino"):
        Repository.open([good.path, wrong.path], threads=1)
    assert closed == ["good"]


def test_closing_a_repository_closes_every_model(tmp_path: Path) -> None:
    paths = [tiny_onnx_artifact(tmp_path / name, recipe=name).path for name in ("a", "b")]
    with Repository.open(paths, threads=1) as found:
        models = list(found.models.values())
        assert [model.name for model in models] == ["a", "b"]
    for model in models:
        with pytest.raises(RuntimeError, match="shutdown"):
            model._thread.submit(print)
