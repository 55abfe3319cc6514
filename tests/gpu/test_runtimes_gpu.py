"""Every runtime that computes on a GPU answers there as torch does on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.small import DATA, Chain, make

from lissom.artifact import Artifact
from lissom.errors import MachineError
from lissom.registry import runtime_entry
from lissom.runtime.availability import absence
from lissom.runtime.base import open_runtime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]

IMAGES = {"image": DATA.tensors("report")["image"]}


def artifact_for(name: str, found: Chain, folder: Path, precision: str = "float32") -> Artifact:
    kind = runtime_entry(name).formats[-1]
    if kind == "torch":
        return found.trained
    return make(
        folder / kind, DATA, "export", parents={"input": found.trained}, format=kind, precision=precision
    )


@pytest.mark.parametrize("name", ["torch", "inductor", "onnxruntime", "tensorrt", "torch_tensorrt"])
def test_a_runtime_answers_on_the_gpu_as_torch_on_the_cpu(
    chain: Callable[[str], Chain], tmp_path: Path, name: str
) -> None:
    if missing := absence(name):
        pytest.skip(missing[0])
    found = chain("resnet")
    with open_runtime(found.trained, "torch", device="cpu") as runtime:
        wanted = runtime.infer(IMAGES)["logits"]
    with open_runtime(artifact_for(name, found, tmp_path), name, device="cuda") as runtime:
        assert np.allclose(runtime.infer_batch(IMAGES)["logits"], wanted, atol=2e-2)
        assert runtime.elsewhere() == []
        _, seconds = runtime.timed_infer({"image": IMAGES["image"][:1]})
        assert seconds > 0


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt"])
def test_float16_is_what_the_engine_computes(
    chain: Callable[[str], Chain], tmp_path: Path, name: str
) -> None:
    if missing := absence(name):
        pytest.skip(missing[0])
    made = artifact_for(name, chain("resnet"), tmp_path, "float16")
    with open_runtime(made, name, device="cuda") as runtime:
        executed = runtime.executed()
        assert np.isfinite(runtime.infer_batch(IMAGES)["logits"]).all()
    assert executed is None or set(executed) == {"float16"}


def test_a_fallback_to_the_cpu_is_refused(chain: Callable[[str], Chain]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(MachineError, match="fell back to the CPU"):
        open_runtime(chain("mlp").exported, "onnxruntime", device="cuda")
