"""Every format that `export` writes is opened by its engine and computes what its parent does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.unit.small import DATA, Chain, load, make, toy

from lissom.artifact import Artifact
from lissom.errors import ArtifactError, MachineError, ModelError
from lissom.export import casting
from lissom.export.casting import cast
from lissom.export.verification import verify
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.registry import runtimes_for
from lissom.report.gates import precision_gate
from lissom.runtime.base import open_runtime
from lissom.runtime.machine import isa_flags
from lissom.runtime.probe import load_probe

HERE = {"onnx": "onnxruntime", "openvino": "openvino", "aotinductor": "aotinductor"}
"""The formats whose engine runs on every machine, with that engine."""


def exported(folder: Path, parent: Artifact, name: str = "made", **config: Any) -> Artifact:
    return make(folder / name, DATA, "export", parents={"input": parent}, **config)


def answers(artifact: Artifact, runtime: str | None = None) -> np.ndarray:
    with open_runtime(artifact, runtime, threads=1) as opened:
        return opened.infer_batch({"image": DATA.tensors("report")["image"]})["logits"]


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_model_in_each_format_answers_as_its_parent(
    chain: Callable[[str], Chain], tmp_path: Path, kind: str, precision: str
) -> None:
    parent = chain("resnet").trained
    made = exported(tmp_path, parent, format=kind, precision=precision)
    manifest = Artifact.open(made.path).manifest
    assert (manifest.format, manifest.precision) == (kind, precision)
    assert manifest.signature == parent.manifest.signature
    assert manifest.num_parameters == parent.manifest.num_parameters
    assert {"probe.safetensors", "predictions.safetensors"} <= names_of(made)
    wanted, found = answers(parent), answers(made, HERE[kind])
    assert np.allclose(found, wanted, atol=1e-4 if precision == "float32" else 0.2)
    probe = load_probe(made)
    assert np.allclose(probe[1]["logits"], answers_of_probe(made, probe[0]), atol=0.2)


def names_of(artifact: Artifact) -> set[str]:
    return {Path(entry.path).name for entry in artifact.manifest.files}


def answers_of_probe(artifact: Artifact, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with open_runtime(artifact, threads=1) as opened:
        return opened.infer_batch(inputs)["logits"]


@pytest.mark.parametrize("kind", HERE)
def test_every_format_takes_any_batch(chain: Callable[[str], Chain], tmp_path: Path, kind: str) -> None:
    made = exported(tmp_path, chain("mlp").trained, format=kind)
    images = DATA.tensors("report")["image"]
    with open_runtime(made, runtimes_for(kind)[0], threads=1) as opened:
        whole = opened.infer({"image": images[:7]})["logits"]
        assert np.allclose(opened.infer({"image": images[:1]})["logits"], whole[:1], atol=1e-4)


def test_an_onnx_model_goes_on_to_another_format(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    made = exported(tmp_path, chain("mlp").exported, format="openvino")
    assert np.allclose(answers(made), answers(chain("mlp").exported), atol=1e-4)
    assert {"model.xml", "model.bin"} <= names_of(made)


def test_an_ir_of_an_int8_model_computes_in_int8(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    made = exported(tmp_path, chain("resnet").quantized, format="openvino")
    assert made.manifest.precision == "int8"
    with open_runtime(made, threads=1) as opened:
        assert precision_gate(made, opened.executed()).state == "pass"
    with pytest.raises(ModelError, match="cannot be exported in float16") as caught:
        exported(tmp_path, chain("resnet").quantized, "cast", precision="float16")
    assert "leave --precision out" in str(caught.value.hint)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_another_precision_than_the_asked_fails_its_gate(
    chain: Callable[[str], Chain], tmp_path: Path, precision: str
) -> None:
    """ONNX Runtime has no kernels of 16 bits on the CPU: it computes in float32, and that is said."""
    made = exported(tmp_path, chain("resnet").trained, precision=precision)
    with open_runtime(made, "onnxruntime", threads=1) as opened:
        gate = precision_gate(made, opened.executed())
    assert gate.state == "fail"
    assert "float32" in gate.reason
    if precision == "bfloat16" and "avx512_bf16" in isa_flags():
        with open_runtime(made, "openvino", threads=1) as opened:
            assert precision_gate(made, opened.executed()).state == "pass"


def test_sixteen_bits_halve_the_file(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    whole = chain("resnet").exported
    halves = {
        kind: exported(tmp_path, chain("resnet").trained, kind, precision=kind)
        for kind in ("float16", "bfloat16")
    }
    for kind, made in halves.items():
        assert made.size_bytes < 0.75 * whole.size_bytes, kind
        assert [entry.dtype for entry in made.manifest.signature.inputs] == ["float32"]
        assert np.mean(answers(made).argmax(1) == answers(whole).argmax(1)) > 0.95


def test_a_cast_is_refused_where_it_would_overflow_or_there_is_nothing_to_cast() -> None:
    tensor = onnx.numpy_helper.from_array(np.full((2, 2), 1e6, np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 2]) for n in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:], [tensor]))
    with pytest.raises(ModelError, match=r"weight 'w' holds 1e\+06, float16 ends at 65504") as caught:
        cast(model, "float16")
    assert "bfloat16" in str(caught.value.hint)
    with pytest.raises(ModelError, match="no float32 weights"):
        cast(cast(model, "bfloat16"), "bfloat16")
    with pytest.raises(ModelError, match="cannot be made float32"):
        cast(model, "float32")


@pytest.mark.parametrize("value", [0.0, 1.0, -3.14159, 1e-40, 3e38, float("inf"), float("nan")])
def test_rounding_to_bfloat16_is_torchs(value: float) -> None:
    found = casting._rounded(np.float32([value])).view(np.int16)
    wanted = torch.tensor([value]).to(torch.bfloat16).view(torch.int16).numpy()
    if np.isnan(value):
        assert np.isnan(torch.from_numpy(found.copy()).view(torch.bfloat16).float().item())
    else:
        assert found == wanted


def test_without_a_compiler_nothing_is_packaged(
    chain: Callable[[str], Chain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.export.package_from_torch.compiler", lambda: None)
    with pytest.raises(MachineError, match="no compiler") as caught:
        exported(tmp_path, chain("mlp").trained, format="aotinductor")
    assert caught.value.hint == "apt-get install g++"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", ["openvino", "aotinductor"])
def test_what_is_compiled_cannot_be_worked_on(
    chain: Callable[[str], Chain], tmp_path: Path, kind: str
) -> None:
    made = exported(tmp_path, chain("mlp").trained, format=kind)
    with pytest.raises(ArtifactError, match=f"is compiled for {kind} and cannot be worked on") as caught:
        load(tmp_path / "again", DATA, str(made.path))
    assert "start from what it was made of" in str(caught.value.hint)


def test_an_axis_that_is_baked_in_is_refused(tmp_path: Path) -> None:
    parent = toy(tmp_path / "toy", DATA, "fixed_batch")
    for kind in ("onnx", "aotinductor"):
        with pytest.raises(ModelError, match="fixed axis 0") as caught:
            exported(tmp_path, parent, kind, format=kind)
        assert "Python ints" in str(caught.value.hint)


def test_an_operator_without_a_form_is_named_with_its_layer_and_its_line(tmp_path: Path) -> None:
    parent = toy(tmp_path / "toy", DATA, "bessel")
    with pytest.raises(
        ModelError, match=r"no form of prims\.bessel_j0, called in the layer 'inner'"
    ) as caught:
        exported(tmp_path, parent)
    assert "toys.py:" in str(caught.value)
    assert "torch.special.bessel_j0(images)" in str(caught.value)
    assert "--format aotinductor" in str(caught.value.hint)


def test_a_package_of_another_machine_is_refused(
    chain: Callable[[str], Chain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported(tmp_path, chain("mlp").trained, format="aotinductor")
    other = made.manifest.model_copy(update={"made_on": {"isa": ["avx9000"]}})
    with pytest.raises(ArtifactError, match="a processor with avx9000, which this one has not"):
        open_runtime(Artifact(made.path, other, made.digest), "aotinductor")
    other = made.manifest.model_copy(update={"tools": {"torch": "1.0.0"}})
    with pytest.raises(ArtifactError, match=r"compiled for torch 1\.0\.0") as caught:
        open_runtime(Artifact(made.path, other, made.digest), "aotinductor")
    assert "pip install torch==1.0.0" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("kind", "name"), [("onnx", "model.onnx"), ("openvino", "model.xml"), ("aotinductor", "model.pt2")]
)
@pytest.mark.parametrize("content", [b"", b"broken", None])
def test_a_file_that_is_broken_is_an_error_of_the_artifact(
    chain: Callable[[str], Chain], tmp_path: Path, kind: str, name: str, content: bytes | None
) -> None:
    """The hash would tell; here the engine must, because the manifest goes along."""
    made = exported(tmp_path, chain("mlp").trained, format=kind)
    path = made.file(name)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(ArtifactError, match="cannot open"):
        open_runtime(made, HERE[kind], threads=1)


def decoder_data() -> Data:
    generator = np.random.default_rng(3)
    caches = generator.normal(size=(2, 40, 5, 8)).astype(np.float32)
    mask = np.ones((40, 6), np.int64)
    mask[::3, :2] = 0
    token = generator.integers(0, 16, (40, 1))
    return Data("steps", Dataset({"token": token, "mask": mask, "keys": caches[0], "values": caches[1]}))


@pytest.mark.parametrize("kind", HERE)
def test_a_decoder_with_a_cache_a_mask_and_three_outputs_goes_to_every_format(
    tmp_path: Path, kind: str
) -> None:
    data = decoder_data()
    parent = toy(tmp_path / "toy", data, "cached_decoder")
    made = make(tmp_path / "made", data, "export", parents={"input": parent}, format=kind)
    assert [spec.name for spec in made.manifest.signature.inputs] == ["token", "mask", "keys", "values"]
    assert [spec.shape[1:] for spec in made.manifest.signature.outputs] == [(1, 16), (6, 8), (6, 8)]
    with (
        open_runtime(parent, "torch", threads=1) as eager,
        open_runtime(made, HERE[kind], threads=1) as engine,
    ):
        assert all(parity.passed for parity in verify(eager, engine, data))
        inputs = {name: array[:3] for name, array in data.tensors("calibrate").items()}
        wanted, found = eager.infer(inputs), engine.infer(inputs)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert np.allclose(found[name], array, atol=1e-4), name
