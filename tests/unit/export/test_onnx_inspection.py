"""Inspection of ONNX models, float and quantized: steps that are taken, clipped values, dead units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.unit.artifacts import onnx_model, tiny_onnx_artifact, write_onnx_artifact
from tests.unit.small import Chain, data_for

from lissom.artifact import Artifact, Signature, TensorSpec
from lissom.errors import ModelError
from lissom.export.onnx_inspection import look_inside_onnx
from lissom.models import inspection
from lissom.models.inspection import look_inside_torch
from lissom.runtime.probe import probe_bytes
from lissom.structure import load_model


def rounded_onnx_artifact(folder: Path, *, scale: float = 0.1, zero_point: int = 0) -> Artifact:
    """Rows times weights on a grid of one scale, rounded to another before they are given back."""
    weights = np.array([[1, -2], [3, 0]], np.int8)
    constants = [
        numpy_helper.from_array(weights, "layer.weight_quantized"),
        numpy_helper.from_array(np.array(0.5, np.float32), "weight_scale"),
        numpy_helper.from_array(np.array(0, np.int8), "weight_zero"),
        numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        numpy_helper.from_array(np.array(zero_point, np.uint8), "zero"),
    ]
    nodes = [
        helper.make_node(
            "DequantizeLinear", ["layer.weight_quantized", "weight_scale", "weight_zero"], ["w"]
        ),
        helper.make_node("MatMul", ["x", "w"], ["product"], name="multiply"),
        helper.make_node("QuantizeLinear", ["product", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], ["y"]),
    ]
    model = onnx_model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        constants,
    )
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 2)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
    )
    probe = probe_bytes({"x": np.zeros((1, 2), np.float32)}, {"y": np.zeros((1, 2), np.float32)})
    changes = {"preprocessing": (), "labels": ()}
    return write_onnx_artifact(folder, model, signature, probe, recipe="rounded", **changes)


ROWS = {"x": np.array([[1.0, 0.0], [0.0, 1.0], [60.0, 0.0]], np.float32)}


def test_weights_are_shown_on_their_grid(tmp_path: Path) -> None:
    (layer,) = look_inside_onnx(rounded_onnx_artifact(tmp_path / "a"), ROWS).layers
    assert (layer.name, layer.operator, layer.num_parameters, layer.flops) == ("layer", "MatMul", 4, 8)
    assert layer.weights is not None
    grid = layer.weights.grid
    assert grid is not None
    assert (grid.low, grid.high, grid.step, grid.num_levels, grid.used) == (-64.0, 63.5, 0.5, 256, 4)
    assert (layer.weights.histogram.low, layer.weights.histogram.high) == (-1.0, 1.5)
    assert grid.clipped is None


def test_of_large_activations_fewer_samples_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = rounded_onnx_artifact(tmp_path / "a")
    monkeypatch.setattr(inspection, "MOST_VALUES", 4)  # the layer gives two values for a row
    found = look_inside_onnx(artifact, ROWS)
    outputs = found.layers[0].outputs
    assert outputs is not None
    assert (found.num_samples, sum(outputs.histogram.counts)) == (2, 4)


def test_outputs_beyond_the_grid_are_counted_as_clipped(tmp_path: Path) -> None:
    artifact = rounded_onnx_artifact(tmp_path / "a", scale=0.1, zero_point=128)
    (layer,) = look_inside_onnx(artifact, ROWS).layers
    assert layer.outputs is not None
    assert layer.outputs.grid is not None
    assert layer.outputs.grid.low == pytest.approx(-12.8)
    assert layer.outputs.grid.high == pytest.approx(12.7)
    assert layer.outputs.grid.clipped == pytest.approx(2 / 6)  # 30 and -60 of six products


def test_a_grid_that_begins_at_zero_is_a_rectifier(tmp_path: Path) -> None:
    found = look_inside_onnx(rounded_onnx_artifact(tmp_path / "a", scale=0.1), ROWS)
    (one,) = found.rectifiers
    assert (one.name, one.num_units, one.num_dead) == ("layer", 2, 1)  # the second is never above zero
    outputs = found.layers[0].outputs
    assert outputs is not None
    assert outputs.histogram.low == 0  # what the rectifier cuts off is not clipped


def test_units_that_the_grid_rounds_to_zero_are_dead(tmp_path: Path) -> None:
    few = {"x": np.array([[1.0, 0.0]], np.float32)}
    (coarse,) = look_inside_onnx(rounded_onnx_artifact(tmp_path / "coarse", scale=4.0), few).rectifiers
    (fine,) = look_inside_onnx(rounded_onnx_artifact(tmp_path / "fine", scale=0.1), few).rectifiers
    assert (fine.num_dead, coarse.num_dead) == (1, 2)


def test_an_exported_model_shows_what_the_torch_model_shows(chain: Callable[[str], Chain]) -> None:
    made, data = chain("resnet"), data_for("resnet")
    inputs = {name: array[:8] for name, array in data.tensors("report").items()}
    torch_model = look_inside_torch(load_model(made.trained), inputs)
    exported = look_inside_onnx(made.exported, inputs)
    work = {layer.name: layer.flops for layer in torch_model.layers if layer.flops}
    assert {layer.name: layer.flops for layer in exported.layers} == work
    assert exported.feature_maps is not None
    dead = [(one.num_units, one.num_dead) for one in torch_model.rectifiers]
    assert [(one.num_units, one.num_dead) for one in exported.rectifiers] == dead


def test_a_quantized_model_has_grids_everywhere(chain: Callable[[str], Chain]) -> None:
    made, data = chain("resnet"), data_for("resnet")
    inputs = {name: array[:8] for name, array in data.tensors("report").items()}
    layers = look_inside_onnx(made.quantized, inputs).layers
    gridded = [layer for layer in layers if layer.weights and layer.weights.grid]
    assert gridded
    assert all(layer.weights.grid.used > 1 for layer in gridded if layer.weights and layer.weights.grid)
    assert any(layer.outputs and layer.outputs.grid for layer in layers)


@pytest.mark.parametrize("source", ["lstm", "gpt", "mlp"])
def test_other_architectures_are_seen(chain: Callable[[str], Chain], source: str) -> None:
    inputs = {name: array[:4] for name, array in data_for(source).tensors("report").items()}
    for artifact in (chain(source).exported, chain(source).quantized):
        found = look_inside_onnx(artifact, inputs)
        assert found.layers
        assert all(layer.weights for layer in found.layers)
    torch_model = look_inside_torch(load_model(chain(source).trained), inputs)
    known = {layer.name: layer.num_parameters for layer in torch_model.layers}
    for layer in look_inside_onnx(chain(source).exported, inputs).layers:
        if layer.name in known:
            assert layer.num_parameters == known[layer.name], layer.name
    names = {layer.name for layer in look_inside_onnx(chain(source).exported, inputs).layers}
    assert names & {*known}
    assert "head" in names or source != "lstm"


def test_an_unknown_layer_is_answered_with_near_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no layer 'lair'") as caught:
        look_inside_onnx(rounded_onnx_artifact(tmp_path / "a"), ROWS, layer="lair")
    assert "layer" in (caught.value.hint or "")


def test_a_layer_without_maps_is_refused(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    (layer,) = look_inside_onnx(artifact, {"image": np.ones((2, 1, 2, 2), np.float32)}).layers
    with pytest.raises(ModelError, match="gives no feature maps"):
        look_inside_onnx(artifact, {"image": np.ones((2, 1, 2, 2), np.float32)}, layer=layer.name)
