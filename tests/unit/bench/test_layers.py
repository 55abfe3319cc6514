"""Operators put together into layers, and layers of two models side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom.bench.layers import REST, LayerGroup, aligned, grouped
from lissom.runtime.base import LayerTime


def graph_of(nodes: list[Any], weights: tuple[str, ...] = ()) -> Any:
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), name) for name in weights],
    )


def node(kind: str, inputs: str, output: str) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=f"node_{output}")


def time(name: str, *tensors: str, operator: str = "Conv", precision: str = "") -> LayerTime:
    return LayerTime(name, operator, precision, (*tensors, name), 1.0)


def times(*names: str) -> list[LayerTime]:
    return [time(name) for name in names]


RESIDUAL = graph_of(
    [
        node("Conv", "x stem.weight", "a"),
        node("Relu", "a", "b"),
        node("Conv", "b body.conv.weight", "c"),
        node("Add", "c b", "d"),
        node("Relu", "d", "e"),
        node("ReduceMean", "e", "f"),
        node("Gemm", "f head.weight", "y"),
    ],
    ("stem.weight", "body.conv.weight", "head.weight"),
)
QUANTIZED = graph_of(
    [
        node("QuantizeLinear", "x", "x_QuantizeLinear_Output"),
        node("DequantizeLinear", "x_QuantizeLinear_Output", "x_DequantizeLinear_Output"),
        node("DequantizeLinear", "stem.weight_quantized", "w"),
        node("Conv", "x_DequantizeLinear_Output w", "a"),
        node("Relu", "a", "b"),
        node("QuantizeLinear", "b", "b_QuantizeLinear_Output"),
        node("DequantizeLinear", "b_QuantizeLinear_Output", "b_DequantizeLinear_Output"),
        node("Conv", "b_DequantizeLinear_Output body.conv.weight", "c"),
        node("Add", "c b_DequantizeLinear_Output", "d"),
        node("Relu", "d", "e"),
        node("ReduceMean", "e", "f"),
        node("Gemm", "f head.weight", "y"),
    ],
    ("stem.weight_quantized", "body.conv.weight", "head.weight"),
)


def test_what_an_engine_fused_in_any_way_is_one_layer() -> None:
    fused = grouped([time("b_nchwc", "reorder_token_0"), time("e"), time("f"), time("y")], RESIDUAL)
    apart = grouped(
        [time("node_a"), time("b"), time("node_c_token_3"), time("d"), time("f"), time("y")], RESIDUAL
    )
    assert [group.name for group in fused] == [group.name for group in apart] == ["b", "e", "f", "y"]
    assert [len(group.operators) for group in apart] == [2, 2, 1, 1]
    assert [group.label for group in fused] == ["stem", "body.conv", "f", "head"]


def test_a_quantized_graph_has_the_layers_of_the_one_it_was_made_from() -> None:
    executed = [
        time("x_QuantizeLinear", "x_QuantizeLinear_Output", operator="QuantizeLinear"),
        time("node_a_token_1", operator="QLinearConv", precision="int8"),
        time("node_c_token_4", operator="QLinearConv", precision="int8"),
        time("node_d", operator="QLinearAdd"),
        time("e_DequantizeLinear", "e_DequantizeLinear_Output", operator="DequantizeLinear"),
        time("f"),
        time("y", precision="float32"),
    ]
    found = grouped(executed, QUANTIZED)
    assert [group.name for group in found] == ["x", "b", "e", "f", "y"]
    assert found[2].operators == ("QLinearConv", "QLinearAdd", "DequantizeLinear")
    assert [group.label for group in found][1:3] == ["stem", "body.conv"]
    changes = aligned(grouped(times("b", "e", "f", "y"), RESIDUAL), found)
    assert [change.label for change in changes] == ["stem", "body.conv", "f", "head"]
    assert changes[0].after is not None
    assert changes[0].after.operators == ("QuantizeLinear", "QLinearConv")
    assert changes[0].after.precision == "int8"


def test_a_change_of_layout_counts_for_the_layer_that_comes_next() -> None:
    found = grouped(
        [time("x_to_nhwc", operator="Reorder"), time("b"), time("end", operator="Reorder")], RESIDUAL
    )
    assert [(group.name, group.operators) for group in found] == [("b", ("Reorder", "Conv", "Reorder"))]


def test_without_a_graph_every_operator_is_a_layer_by_its_plain_name() -> None:
    added = ("conv1/WithoutBiases", "conv2_nchwc", "linear/WithoutBiases/DequantizationMultiply")
    assert [group.name for group in grouped(times(*added))] == ["conv1", "conv2", "linear"]


def group(name: str, seconds: float = 1.0, precision: str = "float32") -> LayerGroup:
    return LayerGroup(name, name, (name,), precision, seconds)


@pytest.mark.parametrize(
    ("before", "after", "labels"),
    [
        ("abc", "abc", "abc"),
        ("abc", "ac", "ac"),
        ("ac", "abc", "ac"),
        ("ab", "abc", ["a", "b", REST]),
        ("ab", "cd", [REST]),
        ("", "ab", [REST]),
        ("", "", []),
    ],
)
def test_no_time_is_lost_where_layers_have_no_partner(before: str, after: str, labels: Any) -> None:
    sides = [[group(name, index + 1.0) for index, name in enumerate(side)] for side in (before, after)]
    found = aligned(*sides)
    assert [change.label for change in found] == list(labels)
    for side, told in zip(sides, ("before", "after"), strict=True):
        parts = [getattr(change, told) for change in found]
        assert sum(part.seconds for part in parts if part) == sum(one.seconds for one in side)


def test_layers_in_another_order_find_each_other() -> None:
    found = aligned([group("a"), group("b"), group("c")], [group("a"), group("c"), group("b")])
    assert [change.label for change in found] == ["a", "b", "c"]
    assert all(change.before and change.after for change in found)
