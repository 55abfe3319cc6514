"""Valid graphs that few tools write: they work as ONNX Runtime says, or are refused in a sentence.

Some engines take a valid model and compute something else; none of their answers is given as the model's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom import verbs
from lissom.artifact import Artifact
from lissom.cli import main
from lissom.compress.quantizing.scheme import Scheme
from lissom.compress.quantizing.static import Plan, StaticQuantizer, prepared
from lissom.compress.quantizing.weight_only import weight_only_model
from lissom.errors import ArtifactError
from lissom.recipe import QuantizeConfig
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.onnx_runtime import OnnxRuntime
from lissom.runtime.open_vino import OpenVino

NODE, FLOAT = helper.make_node, TensorProto.FLOAT
RANDOM = np.random.default_rng(3)
SCHEME = Scheme("x86", symmetric=False, reduce_range=False, per_channel=True, here=True)
WEIGHT = (RANDOM.normal(size=(8, 8)) / 3).astype(np.float32)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def value(name: str, shape: list[Any], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    constants: dict[str, np.ndarray],
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    tensors = [
        numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in constants.items()
    ]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def answers(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found: list[np.ndarray] = session.run(None, feed)
    return found


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    noise = float(np.sum((wanted.astype(np.float64) - found) ** 2))
    return 200.0 if noise == 0 else 10 * float(np.log10(np.sum(wanted.astype(np.float64) ** 2) / noise))


PRODUCT = NODE("MatMul", ["x", "w"], ["y"])
ROWS, SCORES = value("x", ["n", 8]), value("y", ["n", 8])
PAIR = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["n", 8]))
MAPS = helper.make_sequence_type_proto(
    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
)
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "an input of text": (
        lambda: model_of(
            [NODE("Identity", ["t"], ["u"])],
            [value("t", ["n"], TensorProto.STRING)],
            [value("u", ["n"], TensorProto.STRING)],
            {},
        ),
        "input 't' of the model is text",
    ),
    "an output of text": (
        lambda: model_of(
            [PRODUCT, NODE("Cast", ["y"], ["u"], to=TensorProto.STRING)],
            [ROWS],
            [value("u", ["n", 8], TensorProto.STRING)],
            {"w": WEIGHT},
        ),
        "output 'u' of the model is text",
    ),
    "an input that is a sequence": (
        lambda: model_of(
            [NODE("ConcatFromSequence", ["s"], ["y"], axis=1)],
            [helper.make_tensor_sequence_value_info("s", FLOAT, ["n", 4])],
            [SCORES],
            {},
        ),
        "input 's' of the model is a sequence of tensors",
    ),
    "an output that is a sequence": (
        lambda: model_of(
            [PRODUCT, NODE("SplitToSequence", ["y"], ["s"], axis=1)],
            [ROWS],
            [helper.make_tensor_sequence_value_info("s", FLOAT, ["n", 1])],
            {"w": WEIGHT},
        ),
        "output 's' of the model is a sequence of tensors",
    ),
    "an input that is optional": (
        lambda: model_of(
            [NODE("OptionalGetElement", ["o"], ["x"]), PRODUCT],
            [helper.make_value_info("o", PAIR)],
            [SCORES],
            {"w": WEIGHT},
        ),
        "input 'o' of the model is optional",
    ),
    "an output of maps": (
        lambda: model_of([PRODUCT], [ROWS], [helper.make_value_info("y", MAPS)], {"w": WEIGHT}),
        "output 'y' of the model is a sequence of maps",
    ),
    "no input": (
        lambda: model_of([NODE("Identity", ["w"], ["y"])], [], [value("y", [8, 8])], {"w": WEIGHT}),
        "takes no input",
    ),
    "an operator of somebody": (
        lambda: model_of([NODE("Foo", ["x"], ["y"], domain="com.acme")], [ROWS], [SCORES], {}),
        "no operator Foo of 'com.acme'",
    ),
    "an operator that there is not": (
        lambda: model_of([NODE("Frobnicate", ["x"], ["y"])], [ROWS], [SCORES], {}),
        "no operator Frobnicate of operator set 17",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("verb", ["inspect", "predict", "quantize"])
def test_what_no_engine_could_take_is_refused_in_a_sentence(
    kind: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, told = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    model = make()
    onnx.save(model, "theirs.onnx")
    np.savez("data.npz", **{one.name: floats(16, 8) for one in model.graph.input})
    data = [] if verb == "inspect" else ["--data", "data.npz"]
    assert main([verb, "theirs.onnx", *data, "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert told in error["message"]
    assert "\n" not in error["message"]
    assert error["hint"]


def test_nodes_of_one_name_get_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"], name="n"),
        NODE("Relu", ["a"], ["b"], name="n"),
        NODE("MatMul", ["b", "w"], ["y"], name="n_2"),
        NODE("Neg", ["y"], ["z"], name="n"),
    ]
    onnx.save(model_of(nodes, [ROWS], [value("z", ["n", 8])], {"w": WEIGHT}), "theirs.onnx")
    artifact = verbs.open_model("theirs.onnx")
    samples = floats(5, 8)
    with open_runtime(artifact, "onnxruntime") as runtime:
        found = runtime.infer_batch({"x": samples})["z"]
    np.testing.assert_allclose(found, -(np.maximum(samples @ WEIGHT, 0) @ WEIGHT), rtol=1e-5, atol=1e-5)


def turned_and_not(size: int, first: str) -> onnx.ModelProto:
    """One square weight, read as it is and turned: OpenVINO 2026 turns it for neither or for both."""
    turned = NODE("Gemm", ["h", "w"], ["y"], transB=1)
    plain = NODE("MatMul", ["x", "w"], ["h"])
    if first == "turned":
        turned, plain = NODE("Gemm", ["x", "w"], ["h"], transB=1), NODE("MatMul", ["h", "w"], ["y"])
    nodes = [plain, turned] if first == "plain" else [turned, plain]
    square = RANDOM.normal(size=(size, size)).astype(np.float32)
    return model_of(nodes, [value("x", ["n", size])], [value("y", ["n", size])], {"w": square})


@pytest.mark.parametrize(("size", "first"), [(8, "plain"), (8, "turned"), (16, "plain")])
def test_the_answer_of_an_engine_that_computes_something_else_is_not_the_models(
    size: int, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = turned_and_not(size, first)
    onnx.save(model, "theirs.onnx")
    samples = floats(32, size)
    np.savez("data.npz", x=samples)
    right = answers(model, {"x": samples})[0].argmax(axis=1)
    artifact = verbs.open_model("theirs.onnx", data="data.npz")
    labels, _ = verbs.predict(artifact, {"x": samples})
    assert [int(label) for label in labels] == right.tolist()


class Wrong(OpenVino):
    """An engine that gives twice what is right."""

    def _infer_impl(self, inputs: Any) -> dict[str, np.ndarray]:
        return {name: 2 * array for name, array in super()._infer_impl(inputs).items()}


class Noisy(OpenVino):
    """An engine with random answers, as a model with random operators has."""

    _count = itertools.count()

    def _infer_impl(self, inputs: Any) -> dict[str, np.ndarray]:
        found = super()._infer_impl(inputs)
        return {name: array + next(self._count) for name, array in found.items()}


def stand_in(monkeypatch: pytest.MonkeyPatch, engine: type[Runtime]) -> None:
    import lissom.runtime.base as base

    known = {"openvino": engine, "onnxruntime": OnnxRuntime}
    monkeypatch.setattr(
        base, "resolve", lambda reference, known=None, engines=known: _engine(reference, engines)
    )
    monkeypatch.setattr("lissom.runtime.isolation.prove_opening", lambda *_, **__: None)


def _engine(reference: str, engines: dict[str, type[Runtime]]) -> type[Runtime]:
    return engines["openvino" if "vino" in reference.lower() else "onnxruntime"]


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.chdir(tmp_path)
    onnx.save(model_of([PRODUCT], [ROWS], [SCORES], {"w": WEIGHT}), "theirs.onnx")
    samples = floats(40, 8)
    np.savez("data.npz", x=samples, y=(samples @ WEIGHT).argmax(axis=1))
    return verbs.open_model("theirs.onnx", data="data.npz")


def test_a_named_engine_with_other_answers_is_refused_and_the_next_is_taken(
    plain: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, Wrong)
    samples = floats(6, 8)
    with pytest.raises(ArtifactError, match="on openvino does not reproduce its stored probe"):
        verbs.predict(plain, {"x": samples}, runtime="openvino")
    labels, _ = verbs.predict(plain, {"x": samples})
    assert [int(label) for label in labels] == (samples @ WEIGHT).argmax(axis=1).tolist()
    assert "on openvino does not reproduce" in caplog.text


def test_a_named_engine_is_evaluated_as_it_is_with_a_warning(
    plain: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, Wrong)
    assert verbs.evaluate(plain, runtime="openvino").score == 1.0  # twice the scores are of the same class
    assert "on openvino does not reproduce" in caplog.text


def test_random_answers_cannot_be_held_against_a_probe(
    plain: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, Noisy)
    labels, _ = verbs.predict(plain, {"x": floats(6, 8)}, runtime="openvino")
    assert len(labels) == 6


def test_a_bench_tells_which_engine_computes_another_model(
    plain: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, Wrong)
    words = ["bench", str(plain.path), "--rounds", "4", "--energy-seconds", "0", "--json"]
    assert main([*words, "--runtime", "openvino", "--runtime", "onnxruntime"]) == 0
    remarks = json.loads(capsys.readouterr().out.splitlines()[-1])["remarks"]
    told = [remark for remark in remarks if "gives other answers" in remark]
    assert len(told) == 1
    assert "on openvino" in told[0]


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_masks_of_infinity_are_verified(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [
        NODE("IsInf", ["m"], ["k"]),
        NODE("Where", ["k", "zero", "x"], ["h"]),
        NODE("MatMul", ["h", "w"], ["y"]),
    ]
    inputs = [ROWS, value("m", ["n", 8])]
    onnx.save(model_of(nodes, inputs, [SCORES], {"w": WEIGHT, "zero": np.float32(0)}), "theirs.onnx")
    mask = np.where(RANDOM.random((32, 8)) < share, -np.inf, 0).astype(np.float32)
    np.savez("data.npz", x=floats(32, 8), m=mask)
    artifact = verbs.open_model("theirs.onnx", data="data.npz")
    assert all(
        one.passed for one in verbs.verify(artifact, artifact, runtimes=("onnxruntime", "onnxruntime"))
    )


GRID = value("x", ["n", 8, 6])
QUANTIZED: dict[str, tuple[list[Any], list[Any], list[Any], dict[str, np.ndarray]]] = {
    f"a transposed convolution in {groups} groups": (
        [NODE("ConvTranspose", ["x", "w", "b"], ["y"], group=groups, strides=[2])],
        [GRID],
        [value("y", ["n", 2 * groups, 13])],
        {"w": floats(8, 2, 3), "b": 3 * floats(2 * groups)},
    )
    for groups in (1, 2, 4)
}
QUANTIZED |= {
    f"an Einsum {equation}": (
        [NODE("Einsum", factors, ["y"], equation=equation)],
        [value("x", ["n", *[4] * (rank - 2), 8])],
        [value("y", None)],
        {"w": WEIGHT},
    )
    for equation, factors, rank in (
        ("bi,ij", ["x", "w"], 2),
        ("ji,bi", ["w", "x"], 2),
        ("...i,ij->...j", ["x", "w"], 3),
        ("...i,ji->...j", ["x", "w"], 4),
        ("ij,...i->...j", ["w", "x"], 3),
    )
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_layers_that_few_tools_write_are_quantized(name: str, tmp_path: Path) -> None:
    nodes, inputs, outputs, constants = QUANTIZED[name]
    nodes[0].name = "layer"
    onnx.save(model_of(nodes, inputs, outputs, constants), tmp_path / "float.onnx")
    sizes = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim][1:]
    samples = {"x": floats(64, *sizes)}
    right = answers(onnx.load(tmp_path / "float.onnx"), samples)[0]
    ready = prepared(tmp_path / "float.onnx")
    np.testing.assert_allclose(answers(ready, samples)[0], right, rtol=1e-5, atol=1e-5)
    quantized = StaticQuantizer(ready, samples, SCHEME).build(Plan())
    assert any(node.op_type == "DequantizeLinear" for node in quantized.graph.node)
    assert sqnr_db(right, answers(quantized, samples)[0]) > 30


GEMMS: dict[str, list[Any]] = {
    "turned, both terms scaled": [NODE("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)],
    "scaled, without a bias": [NODE("Gemm", ["x", "w"], ["y"], alpha=3.0)],
    "a weight that is read turned and as it is": [
        NODE("MatMul", ["x", "w"], ["h"]),
        NODE("Gemm", ["h", "w", "b"], ["y"], transB=1),
    ],
    "a weight that is read turned twice": [
        NODE("Gemm", ["x", "w"], ["h"], transB=1),
        NODE("Gemm", ["h", "w", "b"], ["y"], transB=1, beta=0.5),
    ],
}


@pytest.mark.parametrize("name", GEMMS)
def test_every_gemm_with_weights_gets_them_in_groups(name: str) -> None:
    model = model_of(GEMMS[name], [value("x", ["n", 32])], [value("y", ["n", 32])], {})
    for tensor in (
        numpy_helper.from_array(floats(32, 32) / 6, "w"),
        numpy_helper.from_array(floats(32), "b"),
    ):
        model.graph.initializer.append(tensor)
    for place, node in enumerate(model.graph.node):
        node.name = f"layer {place}"
    samples = {"x": floats(64, 32)}
    right = answers(model, samples)[0]
    found, number = weight_only_model(model, QuantizeConfig(stage="quantize", mode="weight-only", bits=8))
    assert number == len(GEMMS[name])
    assert sqnr_db(right, answers(found, samples)[0]) > 30


def test_weights_of_somebody_in_integers_pass_through_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [NODE("Cast", ["q"], ["f"], to=FLOAT), NODE("Mul", ["f", "s"], ["w"]), PRODUCT]
    integers = np.round(WEIGHT / 0.01).clip(-127, 127).astype(np.int8)
    onnx.save(
        model_of(nodes, [ROWS], [SCORES], {"q": integers, "s": np.float32(0.01)}),
        "theirs.onnx",
    )
    np.savez("data.npz", x=floats(32, 8))
    words = ["export", "theirs.onnx", "--data", "data.npz", "--format", "openvino", "--json", *UNTIMED]
    quick = ["num_rounds=4", "round_ms=1", "num_warmup=1", "energy_seconds=0"]
    assert main([*words, *(word for one in quick for word in ("--set", f"benchmark.{one}"))]) == 0
    gates = json.loads(capsys.readouterr().out.splitlines()[-1])["gates"]
    assert {gate["name"]: gate["state"] for gate in gates}["precision"] in ("pass", "skipped")


@pytest.mark.parametrize("outputs", ["xy", "yx"])
def test_an_input_that_is_an_output_too_is_quantized_around(outputs: str, tmp_path: Path) -> None:
    product = NODE("MatMul", ["x", "w"], ["y"], name="product")
    model = model_of([product], [ROWS], [value(name, ["n", 8]) for name in outputs], {"w": WEIGHT})
    onnx.save(model, tmp_path / "float.onnx")
    samples = {"x": floats(64, 8)}
    quantized = StaticQuantizer(prepared(tmp_path / "float.onnx"), samples, SCHEME).build(Plan())
    assert [one.name for one in quantized.graph.output] == [*outputs]
    found = dict(zip(outputs, answers(quantized, samples), strict=True))
    np.testing.assert_array_equal(found["x"], samples["x"])
    assert sqnr_db(samples["x"] @ WEIGHT, found["y"]) > 30


UNREACHED: dict[str, tuple[list[Any], int]] = {
    "whose weight is the first factor": (
        [NODE("Transpose", ["x"], ["t"], perm=[1, 0]), NODE("MatMul", ["w", "t"], ["y"])],
        FLOAT,
    ),
    "of two tensors that are computed": ([NODE("MatMul", ["x", "x"], ["y"])], FLOAT),
    "Einsum that is no product": ([NODE("Einsum", ["x", "w"], ["y"], equation="bi,bi->bi")], FLOAT),
}


@pytest.mark.parametrize("reason", UNREACHED)
def test_why_nothing_is_quantized_is_said_as_it_is(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes, kind = UNREACHED[reason]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    shape: list[Any] = [8, 8] if nodes[0].input[1:] == ["x"] or "bi,bi" in str(nodes[0]) else ["n", 8]
    ends = [value("x", shape, kind)], [value("y", [None, None], kind)]
    onnx.save(model_of(nodes, *ends, {"w": WEIGHT.astype(dtype)}), "theirs.onnx")
    np.savez("data.npz", x=(floats(32, 8) if shape[0] == "n" else floats(32, 8, 8)).astype(dtype))
    assert main(["quantize", "theirs.onnx", "--data", "data.npz", "--dry-run", "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert reason in error["message"]


UNTIMED = ["--allow", "not-slower"]
"""A few calls on a busy machine tell nothing of the time."""
QUICK = ["num_rounds=4", "max_rounds=4", "round_ms=1", "num_warmup=1", "energy_seconds=0"]
BRIEF = [*UNTIMED, *(word for one in QUICK for word in ("--set", f"benchmark.{one}"))]


def test_export_makes_inputs_for_a_file_and_quantize_asks_for_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(model_of([PRODUCT], [ROWS], [SCORES], {"w": WEIGHT}), "theirs.onnx")
    assert main(["export", "theirs.onnx", "--format", "openvino", "--json", *BRIEF]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])["artifact"]["path"]
    samples = floats(8, 8)
    with open_runtime(Artifact.open(Path(made)), "openvino") as runtime:
        found = runtime.infer_batch({"x": samples})["y"]
    np.testing.assert_allclose(found, samples @ WEIGHT, rtol=1e-4, atol=1e-5)

    assert main(["quantize", "theirs.onnx", "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert "needs samples of what theirs.onnx takes, x: float32['batch', 8]" in error["message"]
    assert "--data samples.npz" in error["hint"]

    artifact = verbs.open_model("theirs.onnx")
    assert main(["quantize", str(artifact.path), "--json"]) == 2
    assert "made with noise" in capsys.readouterr().out


def test_quantize_takes_the_data_that_an_artifact_was_made_with(
    plain: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(plain.path), "--mode", "dynamic", "--json", *BRIEF]) in (0, 1)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["artifact"]["format"] == "onnx"


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT16])
@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_weights_of_16_bits_in_a_list_of_integers_are_the_same_on_every_engine(
    kind: int, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensor = helper.make_tensor("h", kind, [8, 8], WEIGHT.ravel().tolist())
    assert tensor.int32_data
    nodes = [NODE("Cast", ["h"], ["w"], to=FLOAT), PRODUCT]
    if place == "constant":
        nodes.insert(0, NODE("Constant", [], ["h"], value=tensor))
    model = model_of(nodes, [ROWS], [SCORES], {})
    if place == "initializer":
        model.graph.initializer.append(tensor)
    onnx.save(model, "theirs.onnx")
    samples = floats(6, 8)
    right = answers(model, {"x": samples})[0]
    artifact = verbs.open_model("theirs.onnx")
    for engine in ("onnxruntime", "openvino"):
        with open_runtime(artifact, engine) as runtime:
            np.testing.assert_allclose(runtime.infer_batch({"x": samples})["y"], right, rtol=1e-3, atol=1e-3)


def test_rows_that_are_merged_or_found_are_predicted_sample_by_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    samples = floats(12, 3, 8)
    merged = [NODE("Reshape", ["x", "s"], ["r"]), NODE("MatMul", ["r", "w"], ["y"])]
    found = [NODE("Relu", ["x"], ["r"]), NODE("NonZero", ["r"], ["y"])]
    ends = value("x", ["n", 3, 8]), value("y", ["m", 8])
    merged_model = model_of(merged, [ends[0]], [ends[1]], {"w": WEIGHT, "s": np.array([-1, 8])})
    found_model = model_of(found, [ends[0]], [value("y", [3, "k"], TensorProto.INT64)], {})
    for name, model in (("merged", merged_model), ("found", found_model)):
        onnx.save(model, f"{name}.onnx")
        np.savez(f"{name}.npz", x=samples)
        artifact = verbs.open_model(f"{name}.onnx", data=f"{name}.npz")
        labels, outputs = verbs.predict(artifact, {"x": samples})
        assert labels == []
        for place in range(12):
            right = answers(model, {"x": samples[place : place + 1]})[0]
            np.testing.assert_allclose(outputs[place], right, rtol=1e-5, atol=1e-5)
        assert main(["predict", f"{name}.onnx", "--data", f"{name}.npz", "--json"]) == 0
