"""Int8 models from plans: each of its parts does what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

from lissom.compress.quantizing.bias_correction import output_shift
from lissom.compress.quantizing.calibration import Calibration
from lissom.compress.quantizing.graph import Graph, operator_counts
from lissom.compress.quantizing.rounding import Grid, adaptively_rounded
from lissom.compress.quantizing.scheme import Scheme
from lissom.compress.quantizing.static import Plan, StaticQuantizer, nearest, weight_grids
from lissom.errors import DataError, ModelError

X86 = Scheme("x86", symmetric=False, reduce_range=True, per_channel=True, here=True)
TENSORRT = Scheme("tensorrt", symmetric=True, reduce_range=False, per_channel=True, here=False)
MODELS = [(separable, images), (normalized, tokens)]


@pytest.mark.parametrize(("build", "feed"), MODELS)
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_a_plain_model_is_int8_and_near_the_float_one(
    build: Callable[[], Any], feed: Callable[[], dict[str, np.ndarray]], observer: str
) -> None:
    model, samples = build(), feed()
    made = StaticQuantizer(model, samples, X86).build(Plan("layers", observer))
    counts = operator_counts(made)
    assert counts["computing_int8"] == counts["computing"] == len(Graph(model).layers)
    assert sqnr_db(answer(model, samples), answer(made, samples)) > 25


def test_an_excluded_layer_stays_and_one_alone_can_be_quantized() -> None:
    quantizer = StaticQuantizer(separable(), images(), X86)
    assert operator_counts(quantizer.build(Plan(exclude=("first",))))["computing_int8"] == 2
    assert operator_counts(quantizer.build(Plan(), only="first"))["computing_int8"] == 1


def test_tensorrt_gets_integers_around_zero_and_float_biases() -> None:
    model, samples = separable(), images()
    made = StaticQuantizer(model, samples, TENSORRT).build(Plan())
    graph = Graph(made)
    zeros = [node.input[2] for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert zeros
    assert all((graph.array(name) == 0).all() for name in zeros)
    assert {graph.array(name).dtype for name in zeros} == {np.dtype(np.int8)}
    biases = [node.input[2] for node in made.graph.node if node.op_type == "Conv" and len(node.input) > 2]
    assert biases
    assert all(graph.is_constant(name) for name in biases)


def test_seven_bits_are_held_where_eight_would_overflow() -> None:
    model, samples = separable(), images()
    for scheme, most in ((X86, 64), (X86._replace(reduce_range=False), 127)):
        made = StaticQuantizer(model, samples, scheme).build(Plan())
        grids = weight_grids(model, made)
        assert {grid.high for grid in grids.values()} == {most}


@pytest.mark.parametrize(("build", "feed"), MODELS)
def test_rescaling_brings_back_what_outliers_cost(
    build: Callable[..., Any], feed: Callable[[], dict[str, np.ndarray]]
) -> None:
    model, samples = build(outlier=60.0), feed()
    quantizer = StaticQuantizer(model, samples, X86)
    wanted = answer(model, samples)
    plain = sqnr_db(wanted, answer(quantizer.build(Plan("layers")), samples))
    plan = Plan("layers", smoothing=0.5)
    assert sqnr_db(wanted, answer(quantizer.build(plan), samples)) > plain + 6


def test_bias_correction_takes_off_the_mean_shift() -> None:
    model, samples = separable(), images(256)
    samples["x"] = np.abs(samples["x"])  # with a mean of zero there would be nothing to take off
    quantizer = StaticQuantizer(model, samples, X86._replace(per_channel=False))
    wanted = answer(model, samples)

    def shift(plan: Plan) -> float:
        return float(np.abs((answer(quantizer.build(plan), samples) - wanted).mean(axis=0)).mean())

    assert shift(Plan("layers", corrected=True)) < 0.8 * shift(Plan("layers"))


@pytest.mark.parametrize(("build", "feed"), MODELS)
def test_the_shift_of_a_layer_is_that_of_its_mean_output(
    build: Callable[[], Any], feed: Callable[[], dict[str, np.ndarray]]
) -> None:
    model, samples = build(), feed()
    calibration, graph = Calibration(model, samples), Graph(model)
    for layer in graph.layers:
        weight = graph.array(layer.weight)
        found = output_shift(layer, weight, calibration.channels[layer.data].mean)
        assert found.shape == (weight.shape[layer.out_axis],)


def test_adaround_changes_the_output_of_a_layer_less_than_the_nearest_integers() -> None:
    weight = normal(24, 6)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    model = model_of([node], {"w": weight}, {"x": ["n", 24]})
    # Inputs that move together: errors of the weights that they meet can be chosen to cancel.
    samples = {"x": normal(256, 3) @ normal(3, 24)}
    grid = Grid(np.float32(np.abs(weight).max() / 7), -7, 7)
    made = adaptively_rounded(
        model, {"w": grid}, Calibration(model, samples), seed=0, advance=lambda steps: None
    )
    wanted = answer(model, samples)
    plain = samples["x"] @ nearest(weight, grid)
    assert sqnr_db(wanted, answer(made, samples)) > sqnr_db(wanted, plain) + 3


def test_adaround_leaves_every_weight_on_its_grid() -> None:
    model, samples = separable(), images()
    quantizer = StaticQuantizer(model, samples, X86)
    plain = weight_grids(model, quantizer.build(Plan()))
    made = quantizer.build(Plan(rounded=True))
    for name, grid in weight_grids(model, made).items():
        assert np.allclose(grid.scale, plain[name].scale, rtol=1e-5)
        weight = Graph(model).array(name)
        found = Graph(made).array(f"{name}_quantized") * grid.scale
        assert np.abs(found - weight).max() <= grid.scale.max() * 1.001
        assert np.abs(nearest(weight, grid) - weight).max() <= grid.scale.max() * 0.501


def test_the_range_of_a_tensor_does_not_depend_on_how_samples_are_cut_into_batches() -> None:
    model, samples = separable(), images(50)
    whole = Calibration(model, samples)
    one = {name: array[:1] for name, array in samples.items()}
    first = Calibration(model, one)
    assert whole.seen["c1"].extremes.low <= first.seen["c1"].extremes.low
    assert np.isclose(whole.channels["x"].mean, samples["x"].mean(axis=(0, 2, 3)), atol=1e-5).all()
    assert np.isclose(whole.channels["x"].largest, np.abs(samples["x"]).max(axis=(0, 2, 3))).all()


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    samples = images()
    samples["x"][3, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="1 calibration values of input 'x' are not finite"):
        Calibration(separable(), samples)


def test_a_model_that_overflows_is_refused_by_tensor() -> None:
    model = separable()
    Graph(model).write("w1", np.full((8, 3, 3, 3), 3e38, np.float32))
    with pytest.raises(ModelError, match="tensor 'c1' of the model is not finite"):
        Calibration(model, images())


CHANGED = [Plan(corrected=True), Plan(rounded=True), Plan(corrected=True, rounded=True)]


def _layer(model: Any, name: str) -> Any:
    return next(layer for layer in Graph(model).layers if layer.name == name)


@pytest.mark.parametrize("plan", CHANGED)
def test_a_layer_in_float32_keeps_its_weights_and_its_bias(plan: Plan) -> None:
    model, samples = separable(), images()
    quantizer = StaticQuantizer(model, samples, X86)
    before, layer = Graph(model), _layer(model, "depthwise")
    excluding = plan._replace(exclude=("depthwise",))
    for made in (quantizer.build(plan, only="first"), quantizer.build(excluding)):
        graph = Graph(made)
        kept = _layer(made, "depthwise")
        assert np.array_equal(graph.array(kept.weight), before.array(layer.weight))
        assert (graph.bias_of(kept) is None) == (before.bias_of(layer) is None)
        if (bias := before.bias_of(layer)) is not None:
            assert np.array_equal(graph.array(graph.bias_of(kept)), before.array(bias))


@pytest.mark.parametrize("plan", CHANGED)
def test_what_was_found_for_more_layers_is_right_for_fewer(plan: Plan) -> None:
    model, samples = separable(), images()
    used, fewer = StaticQuantizer(model, samples, X86), plan._replace(exclude=("depthwise",))
    used.build(plan)
    fresh = StaticQuantizer(model, samples, X86).build(fewer)
    assert np.array_equal(answer(used.build(fewer), samples), answer(fresh, samples))
    assert not np.array_equal(answer(used.build(plan), samples), answer(fresh, samples))
