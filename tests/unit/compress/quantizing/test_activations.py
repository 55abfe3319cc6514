"""Activations stay whole: HardSwish is one operator, and nothing is rounded within a formula."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom.compress.quantizing.activations import join_hard_swishes, parts_of_activations
from lissom.compress.quantizing.scheme import Scheme
from lissom.compress.quantizing.static import Plan, StaticQuantizer, prepared

WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32) * 3


def model_of(*nodes: Any, outputs: tuple[str, ...] = ("y",), opset: int = 17) -> Any:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), *nodes],
        "activations",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, 6, 6]) for name in outputs],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def gate(alpha: float = 1 / 6, beta: float = 0.5) -> Any:
    return helper.make_node("HardSigmoid", ["c"], ["h"], alpha=alpha, beta=beta)


def operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def answers(model: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": IMAGES}))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("HardSwish", ["c"], ["y"])],
        [gate(), helper.make_node("Mul", ["c", "h"], ["y"])],
        [gate(), helper.make_node("Mul", ["h", "c"], ["y"])],
    ],
    ids=["whole", "in parts", "in parts, turned"],
)
def test_it_is_one_operator_in_the_prepared_model(tmp_path: Path, nodes: list[Any]) -> None:
    model = model_of(*nodes)
    onnx.save(model, tmp_path / "model.onnx")
    found = prepared(tmp_path / "model.onnx")
    onnx.checker.check_model(found, full_check=True)
    assert operators(found) == {"Conv": 1, "HardSwish": 1}
    convolved = answers(model_of(helper.make_node("Identity", ["c"], ["y"])))[0]
    wanted = convolved * np.clip(convolved / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(answers(found)[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        model_of(gate(alpha=0.2), helper.make_node("Mul", ["c", "h"], ["y"])),
        model_of(gate(beta=0.4), helper.make_node("Mul", ["c", "h"], ["y"])),
        model_of(gate(), helper.make_node("Mul", ["h", "h"], ["y"])),
        model_of(gate(), helper.make_node("Mul", ["c", "h"], ["y"]), outputs=("y", "h")),
        model_of(
            gate(), helper.make_node("Mul", ["c", "h"], ["m"]), helper.make_node("Add", ["m", "h"], ["y"])
        ),
        model_of(gate(), helper.make_node("Mul", ["c", "h"], ["y"]), opset=13),
    ],
    ids=["another slope", "another offset", "its square", "an output", "read twice", "an old operator set"],
)
def test_what_is_none_stays(model: Any) -> None:
    before = operators(model)
    join_hard_swishes(model)
    assert operators(model) == before


FORMULAS = {
    "HardSwish": ["Add c three a", "Clip a zero six r", "Mul c r m", "Div m six y"],
    "SiLU": ["Sigmoid c s", "Mul c s y"],
    "GELU": ["Div c root d", "Erf d e", "Add e one f", "Mul c f g", "Mul g half y"],
    "Mish": ["Softplus c s", "Tanh s t", "Mul c t y"],
}
OTHERS = {
    "one operator": ["Sigmoid c y"],
    "ReLU and a shift": ["Relu c r", "Add r three y"],
    "a clip": ["Clip c zero six y"],
    "a sum of two tensors": ["GlobalAveragePool c p", "Add c p y"],
}
NUMBERS = {"zero": 0, "half": 0.5, "one": 1, "root": 2**0.5, "three": 3, "six": 6}


def written_out(formula: list[str]) -> Any:
    words = [text.split() for text in formula]
    nodes = [helper.make_node(kind, names[:-1], names[-1:], name=names[-1]) for kind, *names in words]
    model = model_of(*nodes)
    read = {name for node in nodes for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), name) for name, value in NUMBERS.items() if name in read
    )
    return model


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_all_of_an_activation_that_is_written_out_is_part_of_it(formula: list[str]) -> None:
    assert list(parts_of_activations(written_out(formula))) == [text.split()[-1] for text in formula]


@pytest.mark.parametrize("formula", OTHERS.values(), ids=OTHERS)
def test_what_is_one_operator_or_of_two_tensors_is_rounded_as_ever(formula: list[str]) -> None:
    assert not list(parts_of_activations(written_out(formula)))


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_nothing_is_rounded_within_an_activation(tmp_path: Path, formula: list[str]) -> None:
    model = written_out(formula)
    model.graph.node.append(helper.make_node("Conv", ["y", "v"], ["z"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 4, 1, 1), np.float32), "v"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2, 6, 6]))
    onnx.save(model, tmp_path / "model.onnx")
    scheme = Scheme("x86", symmetric=False, reduce_range=True, per_channel=True, here=True)
    made = StaticQuantizer(prepared(tmp_path / "model.onnx"), {"x": IMAGES}, scheme).build(Plan("all"))
    counts = operators(made)
    assert counts["QuantizeLinear"] == 4  # x, c, y and z: each side of the two layers
    wanted = answers(model)[0]
    assert np.square(answers(made)[0] - wanted).sum() < 0.01 * np.square(wanted).sum()
