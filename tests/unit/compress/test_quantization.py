"""Static int8: calibrated on data alone, smaller, and as exact as it can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.unit.small import DATA, Chain, make

from lissom.artifact import Artifact
from lissom.compress.quantization import calibration_samples
from lissom.errors import DataError, ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.runtime.base import open_runtime
from lissom.runtime.machine import has_vnni
from lissom.runtime.onnx_runtime import MODEL_FILE


@pytest.fixture(scope="module")
def exported(chain: Callable[[str], Chain]) -> Artifact:
    """A trained model with convolutions, as ONNX."""
    return chain("resnet").exported


def quantize(folder: Path, parent: Artifact, data: Data = DATA, **fields: Any) -> Artifact:
    return make(folder, data, "quantize", parents={"input": parent}, **fields)


def graph(artifact: Artifact) -> Any:
    return onnx.load(artifact.file(MODEL_FILE)).graph


def weight_values(artifact: Artifact) -> np.ndarray:
    """Every int8 weight of the model."""
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph(artifact).initializer]
    return np.concatenate([array.ravel() for array in arrays if array.dtype == np.int8 and array.ndim > 1])


def test_the_model_is_a_quarter_of_the_size_and_computes_in_int8(tmp_path: Path, exported: Artifact) -> None:
    artifact = quantize(tmp_path / "quantize", exported)
    assert (artifact.manifest.format, artifact.manifest.precision) == ("onnx", "int8")
    assert artifact.size_bytes < 0.45 * exported.size_bytes
    assert artifact.manifest.signature == exported.manifest.signature
    notes = artifact.manifest.notes
    assert notes["computing"] == notes["computing_int8"] == 7
    kinds = Counter(node.op_type for node in graph(artifact).node)
    assert (notes["quantize"], notes["dequantize"]) == (kinds["QuantizeLinear"], kinds["DequantizeLinear"])
    assert notes["operators"] == sum(kinds.values())
    with open_runtime(artifact, "onnxruntime") as runtime:
        assert runtime.executed().get("int8", 0) == 7


def test_the_answers_stay_near_those_of_the_parent(tmp_path: Path, exported: Artifact) -> None:
    artifact = quantize(tmp_path / "quantize", exported)
    answers = []
    for one in (exported, artifact):
        with open_runtime(one, "onnxruntime") as runtime:
            answers.append(runtime.infer(DATA.tensors("select"))["logits"])
    wanted, found = answers
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) > 0.9
    assert 10 * np.log10(np.sum(wanted**2) / np.sum((wanted - found) ** 2)) > 13


@pytest.mark.parametrize(
    "calibration", ["minmax", "moving-average", "sample-mean", "percentile", "entropy", "mse"]
)
def test_every_calibration_works_and_says_nothing(
    tmp_path: Path, exported: Artifact, capfd: pytest.CaptureFixture[str], calibration: str
) -> None:
    artifact = quantize(tmp_path / "quantize", exported, calibration=calibration)
    assert artifact.manifest.notes["computing_int8"] == 7
    assert capfd.readouterr().out == ""


def test_one_scale_for_each_channel_or_one_for_all(tmp_path: Path, exported: Artifact) -> None:
    many, one = (
        {tuple(tensor.dims) for tensor in graph(artifact).initializer if tensor.name.endswith("weight_scale")}
        or {tuple(tensor.dims) for tensor in graph(artifact).initializer if tensor.name.endswith("_scale")}
        for artifact in (
            quantize(tmp_path / "many", exported),
            quantize(tmp_path / "one", exported, per_channel=False),
        )
    )
    assert any(len(dims) == 1 and dims[0] > 1 for dims in many)
    assert all(dims in ((), (1,)) for dims in one)


@pytest.mark.parametrize(
    ("flags", "machine", "reduced"),
    [
        (("avx2", "fma"), "x86_64", True),
        (("avx2", "avx512f"), "AMD64", True),
        (("avx2", "avx512_vnni"), "x86_64", False),
        (("avx2", "avx_vnni"), "x86_64", False),
        (("avx512f", "amx_int8"), "x86_64", False),
        (("neon",), "aarch64", False),
    ],
)
def test_weights_are_held_to_seven_bits_where_eight_would_saturate(
    tmp_path: Path,
    exported: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    machine: str,
    reduced: bool,
) -> None:
    monkeypatch.setattr("lissom.runtime.machine.isa_flags", lambda: flags)
    monkeypatch.setattr("lissom.runtime.machine.platform.machine", lambda: machine)
    artifact = quantize(tmp_path / "quantize", exported)
    assert artifact.manifest.notes["reduce_range"] is reduced
    assert np.abs(weight_values(artifact).astype(int)).max() <= (64 if reduced else 127)
    assert (np.abs(weight_values(artifact).astype(int)).max() > 64) is not reduced


@pytest.mark.parametrize("reduced", [True, False])
def test_what_the_recipe_says_goes_before_the_machine(
    tmp_path: Path, exported: Artifact, reduced: bool
) -> None:
    artifact = quantize(tmp_path / "quantize", exported, reduce_range=reduced)
    assert artifact.manifest.notes["reduce_range"] is reduced
    assert isinstance(has_vnni(), bool)


def test_a_node_that_is_excluded_stays_in_float32(tmp_path: Path, exported: Artifact) -> None:
    computing = [node.name for node in graph(exported).node if node.op_type in ("Conv", "Gemm", "MatMul")]
    for name in (computing[0], computing[-1]):
        artifact = quantize(tmp_path / name, exported, exclude=[name])
        assert artifact.manifest.notes["computing_int8"] == len(computing) - 1
    artifact = quantize(tmp_path / "two", exported, exclude=computing[:2])
    assert artifact.manifest.notes["computing_int8"] == len(computing) - 2
    assert artifact.manifest.config["exclude"] == computing[:2]


def test_a_name_that_is_no_node_is_refused_with_the_nearest(tmp_path: Path, exported: Artifact) -> None:
    with pytest.raises(ModelError, match="exclude names 'node_linea', which is no node") as caught:
        quantize(tmp_path / "quantize", exported, exclude=["node_linea"])
    assert "node_linear" in caught.value.hint
    assert not (tmp_path / "quantize").exists()


def test_a_model_that_is_quantized_already_is_refused(tmp_path: Path, exported: Artifact) -> None:
    once = quantize(tmp_path / "once", exported)
    with pytest.raises(ModelError, match="quantized already") as caught:
        quantize(tmp_path / "twice", once)
    assert "export" in caught.value.hint


@pytest.mark.parametrize("num_calibrate", [1, 7])
def test_too_few_samples_are_refused(tmp_path: Path, exported: Artifact, num_calibrate: int) -> None:
    split = np.array(["calibrate"] * num_calibrate + ["select"] * (200 - num_calibrate))
    data = Data(
        "few", Dataset(DATA.dataset.inputs, DATA.dataset.labels, DATA.dataset.label_names, split=split)
    )
    with pytest.raises(
        DataError, match=f"few: {num_calibrate} calibration samples are too few; 8 are needed"
    ):
        quantize(tmp_path / "quantize", exported, data)


def test_without_calibration_data_there_is_an_error_and_no_random_numbers(
    tmp_path: Path, exported: Artifact
) -> None:
    split = np.array(["select"] * 200)
    data = Data(
        "none", Dataset(DATA.dataset.inputs, DATA.dataset.labels, DATA.dataset.label_names, split=split)
    )
    with pytest.raises(DataError, match="the calibrate split is empty"):
        quantize(tmp_path / "quantize", exported, data)


def test_ranges_come_from_the_calibrate_split_alone(tmp_path: Path, exported: Artifact) -> None:
    images, labels = DATA.dataset.inputs["image"].copy(), DATA.dataset.labels
    split = np.array(["calibrate"] * 20 + ["select"] * 90 + ["report"] * 90)
    one = Data("mine", Dataset({"image": images}, labels, DATA.dataset.label_names, split=split))
    louder = images.copy()
    louder[split != "calibrate"] *= 100
    other = Data("mine", Dataset({"image": louder}, labels, DATA.dataset.label_names, split=split))
    first = quantize(tmp_path / "first" / "q", exported, one, ladder=False)
    second = quantize(tmp_path / "second" / "q", exported, other, ladder=False)
    assert first.file(MODEL_FILE).read_bytes() == second.file(MODEL_FILE).read_bytes()


def test_calibration_samples_are_as_many_as_asked_and_spread_over_the_split() -> None:
    class Given:
        data = DATA

    whole = DATA.tensors("calibrate")["image"]
    assert np.array_equal(calibration_samples(Given, 10_000)["image"], whole)  # type: ignore[arg-type]
    few = calibration_samples(Given, 8)["image"]  # type: ignore[arg-type]
    assert few.shape == (8, 1, 8, 8)
    assert np.array_equal(few[0], whole[0])
    assert np.array_equal(few[-1], whole[-1])


def test_quantizing_twice_gives_the_same_bytes(tmp_path: Path, exported: Artifact) -> None:
    one, other = quantize(tmp_path / "a" / "q", exported), quantize(tmp_path / "b" / "q", exported)
    assert one.file(MODEL_FILE).read_bytes() == other.file(MODEL_FILE).read_bytes()
    assert one.digest == other.digest


def test_a_model_without_convolutions_is_quantized_too(chain: Callable[[str], Chain]) -> None:
    assert chain("mlp").quantized.manifest.notes["computing_int8"] == 3
