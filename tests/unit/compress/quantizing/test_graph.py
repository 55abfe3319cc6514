"""What the rungs of the ladder read off an ONNX graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from tests.unit.compress.quantizing.graphs import model_of, normal, normalized, separable

from lissom.compress.quantizing.graph import Graph, float_tensors, name_nodes, operator_counts
from lissom.export.recognition import is_quantized


def test_layers_are_what_is_multiplied_by_constants() -> None:
    layers = Graph(separable()).layers
    assert [(layer.name, layer.groups) for layer in layers] == [
        ("first", 1),
        ("depthwise", 8),
        ("pointwise", 1),
    ]
    assert [layer.name for layer in Graph(normalized()).layers] == ["query", "value"]


@pytest.mark.parametrize(("turned", "shape", "in_axis", "out_axis"), [(0, (4, 6), 0, 1), (1, (6, 4), 1, 0)])
def test_axes_of_a_gemm_follow_its_flag(
    turned: int, shape: tuple[int, int], in_axis: int, out_axis: int
) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="gemm", transB=turned)
    graph = Graph(model_of([node], {"w": normal(*shape), "b": normal(6)}, {"x": ["n", 4]}))
    (layer,) = graph.layers
    assert (layer.in_axis, layer.out_axis) == (in_axis, out_axis)
    assert graph.bias_of(layer) == "b"


def test_the_bias_of_a_product_is_the_vector_that_is_added_to_it_alone() -> None:
    graph = Graph(normalized())
    query, value = graph.layers
    assert graph.bias_of(query) == "bq"
    assert graph.bias_of(value) is None


def test_a_constant_that_several_nodes_read_is_no_layers_own() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="two"),
    ]
    graph = Graph(model_of(nodes, {"w": normal(4, 4)}, {"x": ["n", 4]}))
    assert graph.is_constant("w")
    assert not graph.sole("w")


def test_constants_are_written_with_the_type_that_they_had() -> None:
    model = separable()
    graph = Graph(model)
    graph.write("b1", np.arange(8, dtype=np.float64))
    assert Graph(model).array("b1").dtype == np.float32
    assert np.array_equal(Graph(model).array("b1"), np.arange(8))


def test_nodes_without_a_name_get_one_that_is_free() -> None:
    model = separable()
    for node in model.graph.node[1:]:
        node.name = ""
    model.graph.node[0].name = "Relu_1"
    name_nodes(model)
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_float_tensors_are_fed_or_computed_and_no_constants() -> None:
    assert float_tensors(separable()) == ["x", "c1", "r1", "c2", "r2", "c3", "p", "y"]


def test_a_float_model_computes_nothing_with_integers() -> None:
    model = separable()
    assert not is_quantized(model)
    assert operator_counts(model) == {
        "operators": 7,
        "quantize": 0,
        "dequantize": 0,
        "computing": 3,
        "computing_int8": 0,
    }
