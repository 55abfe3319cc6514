"""Roundings between a layer and its activation are dropped, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom.runtime.open_vino_rounding import drop_roundings

openvino = pytest.importorskip("openvino")

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 4, 8, 8)).astype(np.float32)
CONSTANTS = {
    "w": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32) / 4,
    "b": RNG.normal(size=4).astype(np.float32),
    "v": RNG.normal(size=(4, 4, 1, 1)).astype(np.float32),
    "three": np.float32(3),
    "six": np.float32(6),
    "zero": np.float32(0),
    "half": np.float32(0.5),
    "one": np.float32(1),
    "root": np.float32(2**0.5),
}
HARD_SWISH = ["Add c three a", "Clip a zero six r", "Mul c r m", "Div m six y"]
SILU = ["Sigmoid c s", "Mul c s y"]
GELU = ["Div c root d", "Erf d e", "Add e one f", "Mul c f g", "Mul g half y"]
RESIDUAL = ["Add c x_ y"]
GATED = ["GlobalAveragePool c p", "Sigmoid p s", "Mul c s y"]
TWO_READERS = ["Sigmoid c s", "MaxPool c o", "Mul o s y"]


def node_of(text: str) -> Any:
    kind, *names = text.split()
    attributes = {"kernel_shape": [1, 1]} if kind == "MaxPool" else {}
    return helper.make_node(kind, names[:-1], names[-1:], **attributes)


def rounded(name: str, scale: float, into: str) -> tuple[list[Any], list[Any]]:
    """Q and DQ behind a tensor, and their constants."""
    grid = [
        numpy_helper.from_array(np.float32(scale), f"{name}.s"),
        numpy_helper.from_array(np.uint8(128), f"{name}.z"),
    ]
    return [
        helper.make_node("QuantizeLinear", [name, f"{name}.s", f"{name}.z"], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.s", f"{name}.z"], [into]),
    ], grid


def model_of(path: Path, activation: list[str], *, inner: bool) -> Path:
    """Convolution, activation and convolution in int8; `inner` rounds what the first convolution gives."""
    nodes, constants = rounded("x", 0.03, "x_")
    integers = {name: np.round(CONSTANTS[name] * 64).astype(np.int8) for name in ("w", "v")}
    for name, values in integers.items():
        constants += [
            numpy_helper.from_array(values, f"{name}.i"),
            numpy_helper.from_array(np.full(4, 1 / 64, np.float32), f"{name}.s"),
            numpy_helper.from_array(np.zeros(4, np.int8), f"{name}.z"),
        ]
        given = [f"{name}.i", f"{name}.s", f"{name}.z"]
        nodes.append(helper.make_node("DequantizeLinear", given, [f"{name}_"], axis=0))
    nodes.append(helper.make_node("Conv", ["x_", "w_", "b"], ["c" if not inner else "k"], pads=[1, 1, 1, 1]))
    if inner:
        found, grid = rounded("k", 0.05, "c")
        constants += grid
        nodes += found
    nodes += [node_of(text) for text in activation]
    found, grid = rounded("y", 0.03, "y_")
    nodes += [*found, helper.make_node("Conv", ["y_", "v_"], ["out"])]
    kept = {name for node in nodes for name in node.input}
    constants += [*grid, *(numpy_helper.from_array(v, k) for k, v in CONSTANTS.items() if k in kept)]
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 4, 8, 8])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("activation", [HARD_SWISH, SILU, GELU], ids=["HardSwish", "SiLU", "GELU"])
def test_the_layer_and_its_activation_are_not_rounded_apart(tmp_path: Path, activation: list[str]) -> None:
    model = openvino.Core().read_model(str(model_of(tmp_path / "int8.onnx", activation, inner=True)))
    assert drop_roundings(model) == 1
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    without = model_of(tmp_path / "without.onnx", activation, inner=False)
    session = onnxruntime.InferenceSession(str(without), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": IMAGES})[0]
    noise = np.square(next(iter(compiled(IMAGES).values())) - wanted).sum()
    assert noise < 1e-4 * np.square(wanted).sum()
    assert drop_roundings(model) == 0


@pytest.mark.parametrize(
    "others", [RESIDUAL, GATED, TWO_READERS], ids=["a sum with another", "a gate", "a pool that reads it too"]
)
def test_what_more_than_an_activation_reads_stays_rounded(tmp_path: Path, others: list[str]) -> None:
    model = openvino.Core().read_model(str(model_of(tmp_path / "int8.onnx", others, inner=True)))
    before = len(model.get_ordered_ops())
    assert drop_roundings(model) == 0
    assert len(model.get_ordered_ops()) == before


def test_a_rounding_that_is_an_answer_stays(tmp_path: Path) -> None:
    path = model_of(tmp_path / "int8.onnx", SILU, inner=True)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("k.q", TensorProto.UINT8, ["n", 4, 8, 8]))
    onnx.save(model, path)
    assert drop_roundings(openvino.Core().read_model(str(path))) == 0
