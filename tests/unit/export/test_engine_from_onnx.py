"""The names that are called of Polygraphy exist, and an engine is opened only where it was built."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.small import DATA, Chain

from lissom.artifact import Artifact, Signature, TensorSpec
from lissom.errors import ArtifactError, MachineError
from lissom.export.engine_from_onnx import engine_from_onnx, profile_shapes
from lissom.runtime import tensor_rt
from lissom.runtime.tensor_rt import TensorRt, built_here

SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 1, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 4)),),
)
SAMPLES = {"image": DATA.tensors("select")["image"]}


def parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def made_with(kind: type) -> set[str]:
    """What a class takes, and hands on to those that it is made from."""
    return {name for base in kind.__mro__[:-1] for name in parameters(base.__init__)}  # type: ignore[misc]


def test_polygraphy_has_what_is_called_of_it() -> None:
    from polygraphy.backend import trt as backend

    assert {"path", "strongly_typed"} <= made_with(backend.NetworkFromOnnxPath)
    assert {"profiles", "load_timing_cache"} <= made_with(backend.CreateConfig)
    assert {"network", "config", "save_timing_cache"} <= made_with(backend.EngineBytesFromNetwork)
    assert {"name", "min", "opt", "max"} <= parameters(backend.Profile.add)
    assert "serialized_engine" in made_with(backend.EngineFromBytes)
    runner = backend.TrtRunner
    assert {"feed_dict", "check_inputs"} <= parameters(runner.infer)
    assert "copy_outputs_to_host" in parameters(runner.infer_impl)
    assert callable(backend.TrtRunner.activate)
    assert callable(backend.TrtRunner.deactivate)
    from polygraphy.exception import PolygraphyException

    assert issubclass(PolygraphyException, Exception)


def test_the_profile_goes_from_one_sample_to_many() -> None:
    assert profile_shapes(SIGNATURE, SAMPLES) == {"image": [(1, 1, 8, 8), (8, 1, 8, 8), (256, 1, 8, 8)]}


def test_without_a_gpu_no_engine_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_rt, "machine", lambda: {"gpus": []})
    with pytest.raises(MachineError, match="this machine has none") as caught:
        engine_from_onnx(None, SIGNATURE, SAMPLES)
    assert "--format onnx" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("what", "built", "found"),
    [
        ("gpu", "NVIDIA A100", "NVIDIA H200"),
        ("tensorrt", "10.1.0", "10.16.1"),
        ("driver", "550.1", "580.2"),
    ],
)
def test_an_engine_of_another_machine_is_refused(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch, what: str, built: str, found: str
) -> None:
    here = {"tensorrt": "10.16.1", "gpu": "NVIDIA H200", "driver": "580.2"}
    monkeypatch.setattr(tensor_rt, "built_here", lambda: here)
    exported = chain("mlp").exported
    notes = {"built_on": {**here, what: built}}
    changed = {"notes": notes, "format": "tensorrt"}
    manifest = exported.manifest.model_copy(update=changed)
    with pytest.raises(ArtifactError, match=f"built for {what} {built}, found {found}") as caught:
        TensorRt(Artifact(exported.path, manifest, exported.digest))
    assert "--format tensorrt" in str(caught.value.hint)


def test_what_an_engine_is_bound_to_is_read_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_rt, "machine", lambda: {"gpus": ["NVIDIA H200, 580.2"]})
    assert built_here() == {"tensorrt": "absent", "gpu": "NVIDIA H200", "driver": "580.2"}
