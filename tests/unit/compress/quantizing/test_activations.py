"""HardSwish stays one operator while a model is prepared for quantization."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom.compress.quantizing.activations import join_hard_swishes
from lissom.compress.quantizing.static import prepared

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
