"""dynamic and weight-only, targets, and what a preview says of layers that stay as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.unit.small import Chain, context, data_for, make

from lissom.artifact import Artifact
from lissom.compress.quantization import check_model, preview
from lissom.compress.quantizing.scheme import scheme_of
from lissom.errors import DataError, ModelError
from lissom.export.verification import verify
from lissom.models.data import Data
from lissom.recipe import QuantizeConfig
from lissom.runtime.base import open_runtime
from lissom.runtime.onnx_runtime import MODEL_FILE

Quantize = Callable[..., Artifact]


@pytest.fixture
def quantize(tmp_path: Path, chain: Callable[[str], Chain]) -> Quantize:
    def quantize_one(name: str, **fields: Any) -> Artifact:
        parents = {"input": chain(name).exported}
        return make(tmp_path / "quantize", data_for(name), "quantize", parents=parents, **fields)

    return quantize_one


def kinds(artifact: Artifact) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(artifact.file(MODEL_FILE)).graph.node)


@pytest.mark.parametrize("name", ["mlp", "lstm", "bert", "gpt", "vit"])
def test_dynamic_models_compute_in_int8_and_answer_as_before(
    chain: Callable[[str], Chain], quantize: Quantize, name: str
) -> None:
    artifact = quantize(name, mode="dynamic")
    wanted = artifact.manifest.notes["computing_int8"]
    assert artifact.manifest.precision == "int8"
    assert wanted
    with (
        open_runtime(chain(name).exported, "onnxruntime") as before,
        open_runtime(artifact, "onnxruntime") as after,
    ):
        assert after.executed()["int8"] == wanted
        assert all(parity.passed for parity in verify(before, after, data_for(name)))


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
def test_an_unknown_name_is_refused_in_every_mode(quantize: Quantize, mode: str) -> None:
    with pytest.raises(ModelError, match="exclude names 'nothing', which is no node"):
        quantize("mlp", mode=mode, exclude=["nothing"])


def test_dynamic_gru_stays_float_and_says_so(quantize: Quantize) -> None:
    assert quantize("gru", mode="dynamic").manifest.notes["kept_float"] == ["GRU"]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["gpt", "mlp"])
def test_weights_in_groups_are_read_as_such(quantize: Quantize, name: str, bits: int) -> None:
    artifact = quantize(name, mode="weight-only", bits=bits, group_size=16)
    number = artifact.manifest.notes["weights_in_groups"]
    assert artifact.manifest.precision == f"weight-int{bits}"
    assert kinds(artifact)["MatMulNBits"] == number > 0
    with open_runtime(artifact, "onnxruntime") as runtime:
        assert runtime.executed()[f"weight-int{bits}"] == number


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_convolutions_alone_leave_a_mode_nothing_but_the_last_layer(quantize: Quantize, mode: str) -> None:
    fields = {"group_size": 16} if mode == "weight-only" else {}
    assert kinds(quantize("resnet", mode=mode, **fields))["Conv"] == 6


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_static_leaves_recurrent_layers_and_a_preview_says_why(
    chain: Callable[[str], Chain], tmp_path: Path, name: str
) -> None:
    config = QuantizeConfig(name="quantize")
    data = data_for(name)
    found = preview({"input": chain(name).exported}, config, context(tmp_path / "q", data, config))
    kept = [layer for layer in found.layers if not layer.quantized]
    assert kept
    assert all(layer.why for layer in kept)
    assert any("dynamic" in layer.why for layer in kept) is (name == "lstm")
    assert not list(tmp_path.iterdir())


def test_a_preview_counts_weights_and_bytes(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    config = QuantizeConfig(name="quantize", target="tensorrt")
    data = data_for("resnet")
    exported = chain("resnet").exported
    found = preview({"input": exported}, config, context(tmp_path / "q", data, config))
    assert all(layer.quantized for layer in found.layers)
    assert len(found.layers) == 7
    before, after = found.size_bytes
    assert before == exported.file(MODEL_FILE).stat().st_size
    assert after < before
    assert (found.target, found.validated_here) == ("tensorrt", False)


def test_a_model_with_nothing_to_quantize_is_refused_with_the_mode_that_can(
    chain: Callable[[str], Chain], tmp_path: Path
) -> None:
    exported = chain("lstm").exported
    names = [node.name for node in onnx.load(exported.file(MODEL_FILE)).graph.node if node.op_type == "Gemm"]
    with pytest.raises(ModelError, match="mode static finds nothing to quantize") as caught:
        make(tmp_path / "q", data_for("lstm"), "quantize", parents={"input": exported}, exclude=names)
    assert "--mode dynamic" in caught.value.hint


@pytest.mark.parametrize(
    ("machine", "flags", "target", "reduced", "here"),
    [
        ("x86_64", ("avx2",), "auto", True, True),
        ("x86_64", ("avx512_vnni",), "auto", False, True),
        ("x86_64", ("avx2",), "arm", False, False),
        ("aarch64", ("neon", "asimddp"), "auto", False, True),
        ("aarch64", ("neon",), "x86", False, False),
        ("x86_64", ("avx2",), "tensorrt", False, False),
    ],
)
def test_a_scheme_follows_the_target_and_the_processor(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    flags: tuple[str, ...],
    target: str,
    reduced: bool,
    here: bool,
) -> None:
    monkeypatch.setattr("lissom.runtime.machine.isa_flags", lambda: flags)
    monkeypatch.setattr("lissom.runtime.machine.platform.machine", lambda: machine)
    scheme = scheme_of(QuantizeConfig.model_validate({"target": target}))
    assert (scheme.reduce_range, scheme.here) == (reduced, here)
    assert scheme.symmetric is (target == "tensorrt")


def test_an_old_operator_set_is_refused_with_what_to_type(
    chain: Callable[[str], Chain], tmp_path: Path
) -> None:
    exported = chain("mlp").exported
    model = onnx.load(exported.file(MODEL_FILE))
    model.opset_import[0].version = 9
    with pytest.raises(ModelError, match="operator set 9; 13 is the oldest") as caught:
        check_model(model)
    assert "version_converter" in caught.value.hint


def test_calibration_samples_of_one_class_are_refused(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    data = data_for("resnet")
    labels = data.dataset.labels
    assert labels is not None
    split = np.where(labels == 0, "calibrate", np.where(np.arange(len(labels)) % 2, "select", "report"))
    one = Data("one class", replace(data.dataset, split=split))
    with pytest.raises(DataError, match="every calibration sample is of class 'class 0'"):
        make(tmp_path / "q", one, "quantize", parents={"input": chain("resnet").exported})
