"""Graphs that other tools wrote, quantized: what is right is computed by ONNX Runtime on the float file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom.compress.quantization import _nothing_to_quantize, check_layers, check_model
from lissom.compress.quantizing.graph import operator_counts
from lissom.compress.quantizing.preview import planned_layers
from lissom.compress.quantizing.scheme import Scheme
from lissom.compress.quantizing.static import Plan, StaticQuantizer, prepared
from lissom.compress.quantizing.weight_only import weight_only_model
from lissom.errors import DataError, ModelError
from lissom.export.loading import precision_of
from lissom.recipe import QuantizeConfig

SCHEME = Scheme("x86", symmetric=False, reduce_range=False, per_channel=True, here=True)
RANDOM = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def weight(name: str, *shape: int) -> Any:
    values = RANDOM.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
    return numpy_helper.from_array(values.astype(np.float32), name)


def constant(name: str, values: Any, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.array(values, dtype), name)


def value(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind}_{output}", **attributes)


def conv(inputs: str, output: str) -> Any:
    return node("Conv", inputs, output, pads=[1, 1])


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> Any:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: Any, samples: Mapping[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found: np.ndarray = session.run(None, dict(samples))[0]
    return found


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    noise = float(np.sum((wanted.astype(np.float64) - found) ** 2))
    return 200.0 if noise == 0 else 10 * float(np.log10(np.sum(wanted.astype(np.float64) ** 2) / noise))


def prepare(model: Any, folder: Path) -> Any:
    path = folder / "float.onnx"
    onnx.save(model, path)
    return prepared(path)


def quantizer_of(model: Any, samples: Mapping[str, np.ndarray], folder: Path) -> StaticQuantizer:
    return StaticQuantizer(prepare(model, folder), samples, SCHEME)


def attention(mask: Callable[[list[Any], list[Any]], Any], inputs: list[Any]) -> Any:
    """Attention over four positions; `mask` adds constants and nodes, and gives what makes `masked`."""
    constants = [weight("wq", 8, 16), weight("wk", 8, 16), weight("wv", 8, 16), weight("wo", 16, 8)]
    nodes = [
        node("MatMul", "x wq", "q"),
        node("MatMul", "x wk", "k"),
        node("MatMul", "x wv", "v"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "s"),
    ]
    nodes.append(mask(nodes, constants))
    nodes += [
        node("Softmax", "masked", "p", axis=-1),
        node("MatMul", "p v", "a"),
        node("MatMul", "a wo", "y"),
    ]
    return model_of(nodes, [value("x", "n", 4, 8), *inputs], [value("y", "n", 4, 8)], constants)


TRIANGLE = np.triu(np.ones((4, 4), bool), 1)


def added(low: float) -> tuple[Any, dict[str, np.ndarray]]:
    def mask(nodes: list[Any], constants: list[Any]) -> Any:
        constants.append(constant("m", np.where(TRIANGLE, low, 0)))
        return node("Add", "s m", "masked")

    return attention(mask, []), {}


def filled(low: float) -> tuple[Any, dict[str, np.ndarray]]:
    def mask(nodes: list[Any], constants: list[Any]) -> Any:
        constants.extend([constant("m", TRIANGLE, bool), constant("low", low)])
        return node("Where", "m low s", "masked")

    return attention(mask, []), {}


def fed(low: float) -> tuple[Any, dict[str, np.ndarray]]:
    def mask(nodes: list[Any], constants: list[Any]) -> Any:
        return node("Add", "s m", "masked")

    given = np.broadcast_to(np.where(TRIANGLE, low, 0), (32, 4, 4)).astype(np.float32)
    return attention(mask, [value("m", "n", 4, 4)]), {"m": given}


def computed(low: float) -> tuple[Any, dict[str, np.ndarray]]:
    def mask(nodes: list[Any], constants: list[Any]) -> Any:
        constants.extend([constant("one", 1), constant("low", low), constant("axis", [1], np.int64)])
        nodes.extend(
            [
                node("Sub", "one m", "hidden"),
                node("Mul", "hidden low", "lows"),
                node("Unsqueeze", "lows axis", "u"),
            ]
        )
        return node("Add", "s u", "masked")

    given = (np.arange(4) < RANDOM.integers(1, 5, (32, 1))).astype(np.float32)
    return attention(mask, [value("m", "n", 4)]), {"m": given}


LOWEST = float(np.finfo(np.float32).min)
MASKS = [
    *[(how, -np.inf) for how in (added, filled, fed)],
    *[(how, low) for how in (added, filled, fed, computed) for low in (-1e9, -65504.0, -1e4, LOWEST)],
]


@pytest.mark.parametrize(("how", "low"), MASKS)
@pytest.mark.parametrize("operators", ["layers", "all"])
def test_a_mask_stays_in_float_and_the_layers_are_quantized(
    how: Callable[[float], tuple[Any, dict[str, np.ndarray]]], low: float, operators: str, tmp_path: Path
) -> None:
    model, given = how(low)
    samples = {"x": floats(32, 4, 8), **given}
    found = quantizer_of(model, samples, tmp_path).build(Plan(operators=operators))
    assert operator_counts(found)["computing_int8"] >= 4
    assert sqnr_db(run(model, samples), run(found, samples)) > 25


def test_what_a_safe_softmax_hides_is_no_fault(tmp_path: Path) -> None:
    def mask(nodes: list[Any], constants: list[Any]) -> Any:
        return node("Add", "s m", "masked")

    model = attention(mask, [value("m", "n", 4, 4)])
    nodes = list(model.graph.node)
    place = next(index for index, one in enumerate(nodes) if one.op_type == "Softmax")
    nodes[place].output[0] = "raw"
    nodes[place + 1 : place + 1] = [node("IsNaN", "raw", "bad"), node("Where", "bad zero raw", "p")]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(constant("zero", 0))
    hidden = np.zeros((32, 4, 4), np.float32)
    hidden[:, 2] = -np.inf  # nothing is seen from the third position
    samples = {"x": floats(32, 4, 8), "m": hidden}
    assert np.isfinite(run(model, samples)).all()
    found = quantizer_of(model, samples, tmp_path).build(Plan(operators="all"))
    assert operator_counts(found)["computing_int8"] >= 4
    assert sqnr_db(run(model, samples), run(found, samples)) > 25


@pytest.mark.parametrize(
    ("nodes", "tensor", "kind"),
    [
        ([node("Log", "x", "a"), node("MatMul", "a w", "y")], "a", "Log"),
        ([node("MatMul", "x w", "a"), node("Sqrt", "a", "b"), node("Add", "b b", "y")], "b", "Sqrt"),
        ([node("Div", "zero zero", "n"), node("MatMul", "x w", "a"), node("Add", "a n", "y")], "", ""),
    ],
)
def test_nan_on_its_own_samples_is_named_with_tensor_and_node(
    nodes: list[Any], tensor: str, kind: str, tmp_path: Path
) -> None:
    constants = [weight("w", 8, 8), constant("zero", [0.0])]
    model = model_of(nodes, [value("x", "n", 8)], [value("y", "n", 8)], constants)
    with pytest.raises(ModelError) as caught:
        quantizer_of(model, {"x": -np.abs(floats(32, 8))}, tmp_path).build(Plan(operators="all"))
    assert f"'{tensor}'" in caught.value.message or not tensor
    assert f"({kind})" in caught.value.message or not kind


def test_nan_in_the_samples_is_a_fault_of_the_data(tmp_path: Path) -> None:
    model = model_of(
        [node("MatMul", "x w", "y")], [value("x", "n", 8)], [value("y", "n", 8)], [weight("w", 8, 8)]
    )
    samples = floats(32, 8)
    samples[3, 2] = np.nan
    with pytest.raises(DataError, match="1 calibration values of input 'x'"):
        quantizer_of(model, {"x": samples}, tmp_path).build(Plan())


def test_tensors_that_are_empty_in_every_sample_are_left_alone(tmp_path: Path) -> None:
    ends = [constant(name, [at], np.int64) for name, at in (("from", 0), ("to", 0), ("axis", 2))]
    for inner in ("Relu", "Sigmoid", "Neg"):
        nodes = [
            conv("x w", "a"),
            node("Slice", "a from to axis", "e"),
            node(inner, "e", "f"),
            node("Concat", "a f", "b", axis=2),
            conv("b v", "y"),
        ]
        constants = [weight("w", 16, 4, 3), weight("v", 8, 16, 3), *ends]
        model = model_of(nodes, [value("x", "n", 4, 16)], [value("y", "n", 8, 16)], constants)
        samples = {"x": floats(32, 4, 16)}
        found = quantizer_of(model, samples, tmp_path).build(Plan(operators="all"))
        assert operator_counts(found)["computing_int8"] == 2
        assert sqnr_db(run(model, samples), run(found, samples)) > 25


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm"])
@pytest.mark.parametrize("names", [("b1", "b2"), ("b_of_n2", "b_dup"), ("b_quantized", "b_scale")])
def test_a_shared_bias_gets_copies_whose_names_nothing_else_has(
    kind: str, names: tuple[str, str], tmp_path: Path
) -> None:
    first, second = names
    one = {} if kind == "Gemm" else {"pads": [1, 1]}
    size = (8, 8) if kind == "Gemm" else (8, 8, 3)
    nodes = [
        helper.make_node(kind, ["x", f"w{place}", "b"], [output], name=f"n{place}", **one)
        for place, output in enumerate(("c", first, second), start=1)
    ]
    nodes += [node("Add", f"c {first}", "s"), node("Add", f"s {second}", "y")]
    constants = [*[weight(f"w{place}", *size) for place in (1, 2, 3)], weight("b", 8, 1)]
    constants[-1].CopyFrom(constant("b", floats(8)))
    shape = () if kind == "Gemm" else (16,)
    model = model_of(nodes, [value("x", "n", 8, *shape)], [value("y", "n", 8, *shape)], constants)
    samples = {"x": floats(32, 8, *shape)}
    found = quantizer_of(model, samples, tmp_path).build(Plan(operators="all"))
    assert operator_counts(found)["computing_int8"] == 3
    assert sqnr_db(run(model, samples), run(found, samples)) > 25


@pytest.mark.parametrize(
    "suffix", ["_scale", "_zero_point", "_QuantizeLinear_Output", "_DequantizeLinear_Output"]
)
def test_tensors_that_are_called_as_those_of_the_quantizer_are_kept_apart(
    suffix: str, tmp_path: Path
) -> None:
    other = f"a{suffix}"
    nodes = [conv("x w", "a"), node("Relu", "a", other), node("Add", f"a {other}", "b"), conv("b v", "y")]
    constants = [weight("w", 16, 4, 3), weight("v", 8, 16, 3)]
    model = model_of(nodes, [value("x", "n", 4, 16)], [value("y", "n", 8, 16)], constants)
    samples = {"x": floats(32, 4, 16)}
    found = quantizer_of(model, samples, tmp_path).build(Plan(operators="all"))
    assert sqnr_db(run(model, samples), run(found, samples)) > 25


EQUATIONS = [
    ("bnd,de->bne", (8, 6)),
    ("bnd,dhk->bnhk", (8, 3, 5)),
    ("bnd,ed->bne", (6, 8)),
    ("bnd,de->ben", (8, 6)),
    ("bnd,dhk->bhnk", (8, 3, 5)),
    ("bnd,nde->be", (4, 8, 6)),
    ("bnd,edn->be", (6, 8, 4)),
]


@pytest.mark.parametrize(("equation", "shape"), EQUATIONS)
@pytest.mark.parametrize("weight_first", [False, True])
def test_an_einsum_with_a_weight_is_quantized_as_the_product_that_it_is(
    equation: str, shape: tuple[int, ...], weight_first: bool, tmp_path: Path
) -> None:
    samples = {"x": floats(32, 4, 8)}
    stored = weight("w", *shape)
    wanted = np.einsum(equation, samples["x"], numpy_helper.to_array(stored))
    order = "x w"
    if weight_first:
        terms, output = equation.split("->")
        equation, order = f"{','.join(reversed(terms.split(',')))}->{output}", "w x"
    sizes = ["n", *wanted.shape[1:]]
    model = model_of([node("Einsum", order, "y", equation=equation)], [value("x", "n", 4, 8)],
                     [value("y", *sizes)], [stored])  # fmt: skip
    quantizer = quantizer_of(model, samples, tmp_path)
    np.testing.assert_allclose(run(quantizer.model, samples), wanted, rtol=1e-4, atol=1e-5)
    found = quantizer.build(Plan(operators="layers"))
    assert operator_counts(found)["computing_int8"] == 1
    assert sqnr_db(wanted, run(found, samples)) > 25
    grouped, number = weight_only_model(model, QuantizeConfig(name="q", mode="weight-only", bits=8))
    assert number == 1
    assert sqnr_db(wanted, run(grouped, samples)) > 30


@pytest.mark.parametrize("equation", ["bnd,bed->bne", "bnd,d->bn", "bnn,nk->bk", "bnd,nde->bne"])
def test_an_einsum_that_is_no_such_product_stays_and_is_listed(equation: str, tmp_path: Path) -> None:
    sizes = {"b": 5, "n": 4, "d": 4, "e": 3, "k": 6}
    left, output = equation.split("->")
    data, stored = left.split(",")
    model = model_of(
        [node("Einsum", "x w", "y", equation=equation)],
        [value("x", *[sizes[letter] for letter in data])],
        [value("y", *[sizes[letter] for letter in output])],
        [weight("w", *[sizes[letter] for letter in stored])],
    )
    before = prepare(model, tmp_path)
    (planned,) = planned_layers(before, before, mode="static", exclude=())
    assert (planned.op_type, planned.quantized) == ("Einsum", False)
    assert planned.num_weights == np.prod([sizes[letter] for letter in stored])
    assert planned.why


def integer_weight(kind: str) -> tuple[list[Any], list[Any]]:
    """Nodes that make a weight `w` of 64 inputs and 32 outputs from int8, and their constants."""
    dtype = np.uint8 if kind == "uint8" else np.int8
    shape = (32, 64) if kind == "turned" else (64, 32)
    stored = RANDOM.integers(0 if dtype is np.uint8 else -127, 127, shape).astype(dtype)
    constants = [numpy_helper.from_array(stored, "integers"), constant("scale", 0.01), constant("zero", 100)]
    cast = node("Cast", "integers", "cast", to=TensorProto.FLOAT)
    if kind == "uint8":
        return [cast, node("Sub", "cast zero", "moved"), node("Mul", "moved scale", "w")], constants
    if kind == "turned":
        scaled = node("Mul", "cast scale", "scaled")
        return [cast, scaled, node("Transpose", "scaled", "w", perm=[1, 0])], constants
    if kind == "divided":
        return [cast, node("Div", "cast zero", "w")], constants
    return [cast, node("Mul", "scale cast", "w")], constants


@pytest.mark.parametrize("kind", ["plain", "uint8", "turned", "divided"])
def test_weights_stored_as_integers_and_scaled_are_quantized_already(kind: str) -> None:
    nodes, constants = integer_weight(kind)
    model = model_of(
        [*nodes, node("MatMul", "x w", "y")], [value("x", "n", 64)], [value("y", "n", 32)], constants
    )
    with pytest.raises(
        ModelError, match=r"quantized already: the weight of 'MatMul_y' is stored as integers"
    ):
        check_model(model)
    assert precision_of(model) == "weight-int8"


@pytest.mark.parametrize(
    ("kind", "domain"),
    [("MatMulNBits", "com.microsoft"), ("DynamicQuantizeLSTM", "com.microsoft"), ("QLinearConv", "")],
)
def test_integer_operators_are_named(kind: str, domain: str) -> None:
    model = model_of(
        [conv("x w", "y")], [value("x", "n", 4, 16)], [value("y", "n", 8, 16)], [weight("w", 8, 4, 3)]
    )
    check_model(model)
    model.graph.node[0].op_type, model.graph.node[0].domain = kind, domain
    with pytest.raises(ModelError, match=f"quantized already.*{kind}"):
        check_model(model)


def branches(kind: str) -> Any:
    """A product in both branches of an If, or in the body of a Loop, over weights from outside or inside."""
    inner = [weight("inner", 8, 8)] if kind == "inside" else []
    name = "inner" if inner else "w"
    bodies = [
        helper.make_graph([node("MatMul", f"x {name}", side)], side, [], [value(side, "n", 8)], inner)
        for side in ("yes", "no")
    ]
    if kind == "loop":
        body = helper.make_graph(
            [node("MatMul", "h w", "h2"), node("Identity", "go", "go2")],
            "body",
            [value("i", kind=TensorProto.INT64), value("go", kind=TensorProto.BOOL), value("h", "n", 8)],
            [value("go2", kind=TensorProto.BOOL), value("h2", "n", 8)],
        )
        around = [node("Loop", "three yes x", "y", body=body)]
        constants = [constant("three", 3, np.int64), constant("yes", True, bool)]
    else:
        around = [
            node("ReduceMean", "x", "mean", keepdims=0),
            node("Greater", "mean zero", "chosen"),
            node("If", "chosen", "y", then_branch=bodies[0], else_branch=bodies[1]),
        ]
        constants = [constant("zero", 0)]
    return model_of(around, [value("x", "n", 8)], [value("y", "n", 8)], [weight("w", 8, 8), *constants])


@pytest.mark.parametrize(("kind", "number"), [("outside", 2), ("inside", 2), ("loop", 1)])
def test_layers_in_branches_and_bodies_are_listed_and_stay_in_float(
    kind: str, number: int, tmp_path: Path
) -> None:
    model = branches(kind)
    before = prepare(model, tmp_path)
    planned = planned_layers(before, before, mode="static", exclude=())
    assert [(layer.op_type, layer.num_weights, layer.quantized) for layer in planned] == [
        ("MatMul", 64, False)
    ] * number
    assert all(layer.why in ("it stands inside If", "it stands inside Loop") for layer in planned)
    with pytest.raises(ModelError, match=r"[12] MatMul inside (If|Loop)"):
        check_layers(model, "static")


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Conv"])
def test_weights_of_float16_are_named_as_the_reason(mode: str, kind: str) -> None:
    sizes = (8, 8, 3) if kind == "Conv" else (8, 8)
    values = numpy_helper.to_array(weight("w", *sizes)).astype(np.float16)
    half = TensorProto.FLOAT16
    shape = (16,) if kind == "Conv" else ()
    ends = {"pads": [1, 1]} if kind == "Conv" else {}
    model = model_of(
        [node(kind, "x w", "y", **ends)],
        [value("x", "n", 8, *shape, kind=half)],
        [value("y", "n", 8, *shape, kind=half)],
        [numpy_helper.from_array(values, "w")],
    )
    error = _nothing_to_quantize(model, mode)
    assert "with weights of float16" in error.message
    assert "float32" in error.hint


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_convolutions_alone_are_refused_by_their_name(mode: str, kind: str) -> None:
    model = model_of(
        [helper.make_node(kind, ["x", "w"], ["y"], name="layer", pads=[1, 1])],
        [value("x", "n", 8, 16)],
        [value("y", "n", 8, 16)],
        [weight("w", 8, 8, 3)],
    )
    with pytest.raises(ModelError) as caught:
        check_layers(model, mode)
    assert f"it has 1 {kind}" in caught.value.message
    assert "--mode static" in caught.value.hint
