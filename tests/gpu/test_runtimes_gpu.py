"""Every runtime that computes on a GPU answers there as torch does on the CPU, and says where it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from tests.unit.small import DATA

from lissom.artifact import Artifact
from lissom.errors import MachineError, RequestError
from lissom.registry import RUNTIMES, resolve, runtime_entry
from lissom.runtime.availability import absence
from lissom.runtime.base import Runtime, open_runtime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]

Export = Callable[[str, str], Artifact]
DEVICE = "cuda"
NAMES = ("torch", "inductor", "onnxruntime", "tensorrt", "torch_tensorrt")
FORMATS = {"torch": "torch", "inductor": "torch", "torch_tensorrt": "torch", "tensorrt": "tensorrt"}
IMAGES = {"image": DATA.tensors("report")["image"]}
TOLERANCE = 1e-2
"""Products of float32 may be rounded to 10 bits of mantissa on a GPU."""


@pytest.fixture(scope="module")
def wanted(trained: Artifact) -> np.ndarray:
    """What torch answers on the CPU."""
    with open_runtime(trained, "torch", device="cpu") as runtime:
        return runtime.infer(IMAGES)["logits"]


@pytest.fixture(params=NAMES)
def opened(request: pytest.FixtureRequest, export: Export) -> Iterator[Runtime]:
    """The model in float32 on each runtime that is installed."""
    with _on_gpu(request.param, export, "float32") as runtime:
        yield runtime


def _on_gpu(name: str, export: Export, precision: str) -> Runtime:
    if missing := absence(name):
        pytest.skip(missing[0])
    if name == "onnxruntime":
        library = pytest.importorskip("onnxruntime")
        if "CUDAExecutionProvider" not in library.get_available_providers():
            pytest.skip("this ONNX Runtime has no CUDA provider")
    return open_runtime(export(FORMATS.get(name, "onnx"), precision), name, device=DEVICE)


def test_every_runtime_that_takes_cuda_is_tested() -> None:
    kinds = {name: resolve(runtime_entry(name).reference, known={}) for name in RUNTIMES}
    assert {name for name, kind in kinds.items() if "cuda" in kind.devices} == set(NAMES)  # type: ignore[attr-defined]


def test_it_answers_as_torch_on_the_cpu(opened: Runtime, wanted: np.ndarray) -> None:
    found = opened.infer_batch(IMAGES)["logits"]
    assert np.allclose(found, wanted, atol=TOLERANCE)
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.95
    assert opened.elsewhere() == []


def test_it_answers_batches_of_every_size(opened: Runtime, wanted: np.ndarray) -> None:
    for size in (1, 3, 8):
        found = opened.infer_batch({"image": IMAGES["image"][:size]})["logits"]
        assert np.allclose(found, wanted[:size], atol=TOLERANCE)


def test_a_timed_call_gives_the_answer_and_a_plausible_time(opened: Runtime, wanted: np.ndarray) -> None:
    one = {"image": IMAGES["image"][:1]}
    answers = [opened.timed_infer(one) for _ in range(5)]
    assert all(np.allclose(found["logits"], wanted[:1], atol=TOLERANCE) for found, _ in answers)
    assert all(0 < seconds < 60 for _, seconds in answers)


def test_an_answer_is_not_overwritten_by_the_next_call(opened: Runtime, wanted: np.ndarray) -> None:
    first = opened.infer({"image": IMAGES["image"][:1]})["logits"]
    opened.infer({"image": IMAGES["image"][1:2]})
    assert np.allclose(first, wanted[:1], atol=TOLERANCE)


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt"])
def test_a_float16_export_answers_in_float32_nearly_the_same(
    export: Export, wanted: np.ndarray, name: str
) -> None:
    with _on_gpu(name, export, "float16") as runtime:
        found = runtime.infer_batch(IMAGES)["logits"]
        assert runtime.elsewhere() == []
    assert found.dtype == np.float32
    assert np.allclose(found, wanted, atol=5e-2)


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt"])
def test_a_float16_export_says_that_float16_is_executed(export: Export, name: str) -> None:
    with _on_gpu(name, export, "float16") as runtime:
        executed = runtime.executed()
    assert executed is None or set(executed) == {"float16"}


@pytest.mark.parametrize("name", ["torch", "inductor"])
def test_closing_frees_the_weights(export: Export, name: str) -> None:
    import gc

    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        with _on_gpu(name, export, "float32") as runtime:
            runtime.infer({"image": IMAGES["image"][:1]})
        del runtime
        torch._dynamo.reset()
        gc.collect()
    assert torch.cuda.memory_allocated() - before < 50e6


def test_a_fallback_to_the_cpu_is_refused(export: Export) -> None:
    library = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in library.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(MachineError, match="fell back to the CPU"):
        open_runtime(export("onnx", "float32"), "onnxruntime", device=DEVICE)


@pytest.mark.parametrize("name", ["tensorrt", "torch_tensorrt"])
def test_what_computes_on_a_gpu_alone_refuses_the_cpu(export: Export, trained: Artifact, name: str) -> None:
    if missing := absence(name):
        pytest.skip(missing[0])
    artifact = trained if name == "torch_tensorrt" else export("tensorrt", "float32")
    with pytest.raises(RequestError, match="computes on cuda"):
        open_runtime(artifact, name, device="cpu")
