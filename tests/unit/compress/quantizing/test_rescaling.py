"""Scale moves between tensors and weights, and the model computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from tests.unit.compress.quantizing.graphs import (
    answer,
    images,
    model_of,
    normal,
    normalized,
    separable,
    sqnr_db,
    tokens,
)

from lissom.compress.quantizing.calibration import Calibration
from lissom.compress.quantizing.graph import Graph
from lissom.compress.quantizing.rescaling import can_be_equalized, can_be_smoothed, equalized, smoothed
from lissom.compress.quantizing.static import inferred


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_smoothing_changes_no_output(alpha: float, everywhere: bool) -> None:
    for model, samples in ((separable(outlier=50), images()), (normalized(outlier=50), tokens())):
        largest = {name: found.largest for name, found in Calibration(model, samples).channels.items()}
        changed = smoothed(model, largest, alpha=alpha, everywhere=everywhere)
        assert sqnr_db(answer(model, samples), answer(changed, samples)) > 90


def test_smoothing_takes_the_outlier_out_of_the_activation() -> None:
    model, samples = normalized(outlier=50), tokens()
    before = Calibration(model, samples)
    largest = {name: found.largest for name, found in before.channels.items()}
    after = Calibration(inferred(smoothed(model, largest, alpha=0.5, everywhere=False)), samples)

    def spread(found: Calibration) -> float:
        return float(found.channels["n"].largest.max() / np.median(found.channels["n"].largest))

    assert spread(before) > 20
    assert spread(after) < 4


def test_without_a_place_to_fold_into_a_multiplication_is_added_only_where_it_is_wanted() -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="product"),
    ]
    model = model_of(nodes, {"w": normal(6, 3)}, {"x": ["n", 6]})
    samples = {"x": normal(20, 6)}
    largest = {name: found.largest for name, found in Calibration(model, samples).channels.items()}
    assert not can_be_smoothed(model)
    folded = smoothed(model, largest, alpha=0.5, everywhere=False)
    assert [node.op_type for node in folded.graph.node] == ["Tanh", "MatMul"]
    added = smoothed(model, largest, alpha=0.5, everywhere=True)
    assert [node.op_type for node in added.graph.node] == ["Tanh", "Mul", "MatMul"]
    assert sqnr_db(answer(model, samples), answer(added, samples)) > 90


def test_equalisation_changes_no_output_and_gives_channels_equal_ranges() -> None:
    model, samples = separable(outlier=100), images()
    changed = equalized(model)
    assert sqnr_db(answer(model, samples), answer(changed, samples)) > 90
    graph = Graph(changed)
    first = np.abs(graph.array("w1")).reshape(8, -1).max(axis=1)
    second = np.abs(graph.array("w2")).reshape(8, -1).max(axis=1)
    assert np.allclose(first, second, rtol=0.3)


def test_what_another_node_reads_too_is_left_alone() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="one"),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="two"),
        helper.make_node("Add", ["c", "d"], ["y"], name="sum"),
    ]
    constants = {"w1": normal(3, 3, 1, 1), "w2": normal(3, 3, 1, 1)}
    model = model_of(nodes, constants, {"x": ["n", 3, 4, 4]})
    assert not can_be_equalized(model)
    assert np.array_equal(Graph(equalized(model)).array("w1"), constants["w1"])


def test_a_tied_weight_is_left_alone() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="two"),
    ]
    assert not can_be_equalized(model_of(nodes, {"w": normal(4, 4)}, {"x": ["n", 4]}))


def test_a_dead_channel_does_no_harm() -> None:
    model = separable()
    weight = Graph(model).array("w1").copy()
    weight[2] = 0
    Graph(model).write("w1", weight)
    samples = images()
    changed = equalized(model)
    assert np.isfinite(answer(changed, samples)).all()
    assert sqnr_db(answer(model, samples), answer(changed, samples)) > 90
