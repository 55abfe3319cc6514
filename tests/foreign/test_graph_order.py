"""Nodes stand behind those that they read from, also where a branch reads a tensor from outside."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom.export.graphs import sort_nodes

NUMBER = TensorProto.FLOAT


def branching(order: list[int]) -> onnx.ModelProto:
    """If x is positive on the whole, y = a + b, else a - b, with a = 2x, b = x + 1; nodes in this order."""
    branches = [
        helper.make_graph(
            [helper.make_node(operator, ["a", "b"], [f"{operator}_y"])],
            operator,
            [],
            [helper.make_tensor_value_info(f"{operator}_y", NUMBER, [4])],
        )
        for operator in ("Add", "Sub")
    ]
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["a"]),
        helper.make_node("Add", ["x", "one"], ["b"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "nought"], ["is_positive"]),
        helper.make_node("If", ["is_positive"], ["c"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Neg", ["c"], ["y"]),
    ]
    constants = {"one": 1, "two": 2, "nought": 0}
    graph = helper.make_graph(
        [nodes[place] for place in order],
        "graph",
        [helper.make_tensor_value_info("x", NUMBER, [4])],
        [helper.make_tensor_value_info("y", NUMBER, [4])],
        [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("order", [[4, 5, 3, 2, 1, 0], [2, 3, 4, 5, 0, 1], [5, 0, 4, 1, 3, 2]])
def test_any_order_of_nodes_becomes_one_that_engines_take(order: list[int]) -> None:
    model = branching(order)
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.checker.check_model(model)
    sort_nodes(model.graph)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for x in (np.array([1, 2, 3, 4], np.float32), np.array([-1, -2, -3, 4], np.float32)):
        right = -(2 * x + (x + 1)) if x.mean() > 0 else -(2 * x - (x + 1))
        np.testing.assert_allclose(session.run(None, {"x": x})[0], right)


def test_nodes_that_stand_well_are_left_alone() -> None:
    model = branching([0, 1, 2, 3, 4, 5])
    before = model.SerializeToString(deterministic=True)
    sort_nodes(model.graph)
    assert model.SerializeToString(deterministic=True) == before
