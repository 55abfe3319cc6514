"""Every runtime that works here keeps the one contract."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.artifacts import identity_onnx_artifact, tiny_onnx_artifact
from tests.unit.small import DATA, Chain, make, toy

from lissom.artifact import Artifact, TensorSpec
from lissom.errors import ArtifactError, MissingExtra, RequestError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.registry import RUNTIMES, runtime_entry, runtimes_for
from lissom.runtime.availability import absence, usable_runtimes
from lissom.runtime.base import Runtime, check_tensor, executed_name, open_runtime

IMAGES = DATA.tensors("report")["image"]


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(
    request: pytest.FixtureRequest,
    chain: Callable[[str], Chain],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Runtime]:
    """A small model, opened on each runtime."""
    if missing := absence(request.param):
        pytest.skip(missing[0])
    found, kind = chain("mlp"), runtime_entry(request.param).formats[-1]
    artifact = {"torch": found.trained, "onnx": found.exported}.get(kind) or make(
        tmp_path_factory.mktemp("native") / kind,
        DATA,
        "export",
        parents={"input": found.trained},
        format=kind,
    )
    with open_runtime(artifact, request.param, threads=1) as opened:
        yield opened


def one(batch: np.ndarray = IMAGES[:1]) -> dict[str, np.ndarray]:
    return {"image": batch}


def test_a_runtime_has_the_name_and_the_signature_of_what_it_opened(runtime: Runtime) -> None:
    assert runtime.name in RUNTIMES
    assert runtime.signature == runtime.artifact.manifest.signature
    assert runtime.threads == 1
    assert runtime.open_seconds > 0


def test_every_runtime_gives_the_outputs_of_the_signature_and_the_same_answers(
    runtime: Runtime, chain: Callable[[str], Chain]
) -> None:
    with open_runtime(chain("mlp").trained, "torch", threads=1) as eager:
        wanted = eager.infer(one())["logits"]
    found = runtime.infer(one())
    assert list(found) == ["logits"]
    assert (found["logits"].dtype, found["logits"].shape) == (np.float32, (1, 4))
    assert np.allclose(found["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_timing_a_call_does_not_change_its_answer(runtime: Runtime) -> None:
    started = time.perf_counter()
    found, seconds = runtime.timed_infer(one())
    assert 0 < seconds < time.perf_counter() - started
    assert np.array_equal(found["logits"], runtime.infer(one())["logits"])


def test_an_answer_is_not_overwritten_by_the_next_call(runtime: Runtime) -> None:
    first = runtime.infer(one())["logits"]
    kept = first.copy()
    runtime.infer(one(IMAGES[1:2]))
    assert np.array_equal(first, kept)


def test_the_input_of_a_call_is_not_changed_nor_kept(runtime: Runtime) -> None:
    batch = IMAGES[:1].copy()
    first = runtime.infer(one(batch))["logits"].copy()
    assert np.array_equal(batch, IMAGES[:1])
    batch[:] = 0
    assert np.array_equal(runtime.infer(one())["logits"], first)


def test_a_batch_gives_what_its_samples_give(runtime: Runtime) -> None:
    found = runtime.infer_batch(one(IMAGES[:5]))["logits"]
    alone = np.concatenate([runtime.infer(one(IMAGES[index : index + 1]))["logits"] for index in range(5)])
    assert found.shape == (5, 4)
    assert np.allclose(found, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"imaeg": IMAGES}, r"unknown input 'imaeg'; did you mean image\?"),
        ({"image": IMAGES, "mask": IMAGES}, "unknown input 'mask'; known: image"),
        ({}, "input 'image' is missing"),
        ({"image": IMAGES.astype(np.float64)}, "input 'image' is float64, the model takes float32"),
        ({"image": IMAGES.astype(np.int64)}, "input 'image' is int64, the model takes float32"),
        ({"image": IMAGES[0]}, r"has the shape \[1, 8, 8\], the model takes \[batch, 1, 8, 8\]"),
        ({"image": IMAGES[..., :7]}, r"the model takes \[batch, 1, 8, 8\]"),
        ({"image": np.float32(1)[None][:, None, None, None]}, r"has the shape \[1, 1, 1, 1\]"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(
    runtime: Runtime, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        runtime.infer(inputs)
    with pytest.raises(RequestError, match=message):
        runtime.timed_infer(inputs)


@pytest.mark.parametrize("layout", ["transposed", "reversed", "sliced", "read-only", "other byte order"])
def test_the_layout_of_an_array_in_memory_does_not_change_the_answer(runtime: Runtime, layout: str) -> None:
    batch = IMAGES[:1]
    wide = np.zeros((1, 1, 8, 16), dtype=np.float32)
    wide[..., ::2] = batch
    frozen = batch.copy()
    frozen.flags.writeable = False
    arrays = {
        "transposed": np.asfortranarray(batch.swapaxes(2, 3).copy()).swapaxes(2, 3),
        "reversed": batch[..., ::-1].copy()[..., ::-1],
        "sliced": wide[..., ::2],
        "read-only": frozen,
        "other byte order": batch.astype(batch.dtype.newbyteorder()),
    }
    wanted = runtime.infer(one())["logits"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = runtime.infer(one(arrays[layout]))["logits"]
        except RequestError as exc:
            assert layout == "other byte order", exc  # noqa: PT017
            return
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_runtime_that_may_be_shared_gives_four_threads_the_same_answers(runtime: Runtime) -> None:
    batches = [one(IMAGES[index % 20 : index % 20 + 1]) for index in range(80)]
    wanted = [runtime.infer(batch)["logits"] for batch in batches]
    if not runtime.thread_safe:
        assert runtime.name in ("openvino", "inductor", "aotinductor")
        return
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: runtime.infer(batch)["logits"], batches))
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_what_was_executed_is_counted_or_said_to_be_unknown(runtime: Runtime) -> None:
    executed = runtime.executed()
    if runtime.name in ("inductor", "aotinductor"):
        assert executed is None
        return
    assert executed is not None
    assert set(executed) == {"float32"}
    assert executed["float32"] == 3


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("source", ["resnet", "mlp"])
def test_a_quantized_model_is_seen_to_run_in_int8(
    chain: Callable[[str], Chain], name: str, source: str
) -> None:
    if missing := absence(name):
        pytest.skip(missing[0])
    artifact = chain(source).quantized
    with open_runtime(artifact, name, threads=1) as opened:
        executed = opened.executed()
        found = opened.infer(one(IMAGES))["logits"]
    assert executed is not None
    assert sum(count for kind, count in executed.items() if kind in ("int8", "uint8")) > 0
    assert set(executed) <= {"int8", "uint8", "float32"}
    assert found.shape == (len(IMAGES), 4)


def test_inputs_of_one_batch_must_agree_on_its_size(tmp_path: Path) -> None:
    artifact = identity_onnx_artifact(tmp_path / "identity", "float32")
    for name in runtimes_for("onnx"):
        with open_runtime(artifact, name, threads=1) as opened:
            x, y = np.ones((3, 2), dtype=np.float32), np.ones(3, dtype=np.float32)
            assert opened.infer({"y": y, "x": x})["x_again"].shape == (3, 2)
            with pytest.raises(
                RequestError, match=r"input 'y' has the shape \[2\], the model takes \[batch\]"
            ):
                opened.infer({"x": x, "y": y[:2]})


@pytest.mark.parametrize(
    ("shape", "fits"), [((2, 3), True), ((5, 5), True), ((2,), False), ((2, 3, 1), False), ((0, 3), True)]
)
def test_a_dimension_with_a_name_takes_any_size(shape: tuple[int, ...], fits: bool) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", "length"))
    sizes: dict[str, int] = {}
    if fits:
        check_tensor(spec, np.zeros(shape, dtype=np.float32), sizes)
        assert sizes == {"batch": shape[0], "length": shape[1]}
    else:
        with pytest.raises(RequestError, match=r"the model takes \[batch, length\]"):
            check_tensor(spec, np.zeros(shape, dtype=np.float32), sizes)


def test_a_dimension_with_one_name_has_one_size() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("n", "n"))
    check_tensor(spec, np.zeros((3, 3), dtype=np.float32), {})
    with pytest.raises(RequestError, match=r"has the shape \[3, 4\]"):
        check_tensor(spec, np.zeros((3, 4), dtype=np.float32), {})


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_a_runtime_may_be_closed_twice(chain: Callable[[str], Chain], name: str) -> None:
    if missing := absence(name):
        pytest.skip(missing[0])
    found = chain("mlp")
    with open_runtime(found.trained if name == "torch" else found.exported, name, threads=1) as opened:
        opened.infer(one())
        opened.close()
    opened.close()
    assert opened.open_seconds > 0


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_engine_that_cannot_open_a_file_says_which(tmp_path: Path, name: str) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    artifact.file("model.onnx").write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match=r"cannot open .*model\.onnx"):
        open_runtime(artifact, name, threads=1)


def test_without_a_name_the_first_that_works_is_opened(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = chain("mlp")
    with open_runtime(found.trained, threads=1) as opened:
        assert opened.name == "torch"
    with open_runtime(found.exported, threads=1) as opened:
        assert opened.name == "openvino"

    def missing(module: str, *, extra: str) -> Any:
        raise MissingExtra(f"{module} is not installed", hint=f"pip install 'lissom[{extra}]'")

    monkeypatch.setattr("lissom.runtime.open_vino.require", missing)
    with open_runtime(found.exported, threads=1) as opened:
        assert opened.name == "onnxruntime"
    monkeypatch.setattr("lissom.runtime.onnx_runtime.require", missing)
    with pytest.raises(MissingExtra, match="openvino is not installed"):
        open_runtime(found.exported, threads=1)


def test_a_runtime_of_another_format_is_refused_with_those_that_fit(chain: Callable[[str], Chain]) -> None:
    with pytest.raises(RequestError, match="openvino does not execute torch artifacts") as caught:
        open_runtime(chain("mlp").trained, "openvino")
    assert caught.value.hint == "use torch_tensorrt or inductor or torch"
    with pytest.raises(RequestError, match="unknown runtime 'openvno'") as caught:
        open_runtime(chain("mlp").exported, "openvno")
    assert caught.value.hint == "did you mean openvino?"


def test_runtimes_that_are_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.runtime.availability.is_installed", lambda module: module != "openvino")
    assert usable_runtimes(["torch"]) == ["torch"]
    assert "openvino" not in usable_runtimes(None)
    with pytest.raises(
        MissingExtra, match="the runtime openvino was asked for, but openvino is not installed"
    ):
        usable_runtimes(["torch", "openvino"])
    monkeypatch.setattr("lissom.runtime.availability.compiler", lambda: None)
    assert absence("inductor") == ("there is no C++ compiler", "apt-get install g++")
    assert absence("torch") is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [("f32", "float32"), ("F16", "float16"), ("bf16", "bfloat16"), ("I8", "int8"), ("u1", "u1")],
)
def test_element_types_are_called_as_numpy_calls_them(kind: str, name: str) -> None:
    assert executed_name(kind) == name


def test_two_outputs_come_in_the_order_of_the_signature(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((60, 8), dtype=np.float32)
    data = Data("twin", Dataset({"a": values[:, :3], "b": values[:, 3:]}, np.arange(60) % 4, tuple("wxyz")))
    artifact: Artifact = toy(tmp_path / "load", data, "twin")
    with open_runtime(artifact, "torch", threads=1) as opened:
        found = opened.infer({"b": values[:2, 3:], "a": values[:2, :3]})
        straight = opened.infer({"a": values[:2, :3], "b": values[:2, 3:]})
    assert list(found) == ["output_0", "output_1"]
    assert all(np.array_equal(found[name], straight[name]) for name in found)
