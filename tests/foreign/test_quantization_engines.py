"""One int8 file on every engine: what holds is computed by the engines themselves, and by onnx.reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from tests.unit.small import context, make

from lissom.artifact import Artifact
from lissom.compress.quantizing.engines import Prover
from lissom.compress.quantizing.evidence import Goal, Judge
from lissom.compress.quantizing.scheme import Scheme
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.tasks import task_of
from lissom.recipe import ModelConfig, QuantizeConfig
from lissom.runtime.availability import unfit_runtimes
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.serve.repository import ranked_runtimes

RANDOM = np.random.default_rng(5)
GOAL = Goal(0.01, 0.99, 25.0)


def network(kind: str, folder: Path) -> tuple[Path, Data]:
    """A float file and samples for it."""

    def weight(name: str, *shape: int) -> Any:
        scale = np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
        return numpy_helper.from_array((RANDOM.normal(size=shape) / scale).astype(np.float32), name)

    conv = {"kernel_shape": [3], "pads": [1, 1]}
    if kind == "products":
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("MatMul", ["b", "v"], ["y"], name="two"),
        ]
        constants, shape, out = [weight("w", 32, 32), weight("v", 32, 8)], (32,), (8,)
    else:
        middle = {"relu": "Relu", "sigmoid": "Sigmoid", "noise": "Relu"}[kind]
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["a"], name="one", **conv),
            helper.make_node(middle, ["a"], ["b"], name="middle"),
            helper.make_node("Conv", ["b", "v"], ["y"], name="two", **conv),
        ]
        if kind == "noise":
            nodes[0].input[0] = "xz"
            drawn = [
                helper.make_node("RandomNormalLike", ["x"], ["z"], name="draw", scale=0.5),
                helper.make_node("Add", ["x", "z"], ["xz"], name="add"),
            ]
            nodes = drawn + nodes
        constants, shape, out = [weight("w", 16, 4, 3), weight("v", 8, 16, 3)], (4, 16), (8, 16)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *out])],
        constants,
    )
    path = folder / f"{kind}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=9), path)
    return path, Data("noise", Dataset({"x": RANDOM.normal(size=(64, *shape)).astype(np.float32)}))


def quantized(kind: str, folder: Path, **fields: Any) -> tuple[Artifact, Artifact, Data]:
    path, data = network(kind, folder)
    parent = make(folder / "load", data, "load", model=ModelConfig(source=str(path)))
    return parent, make(folder / "q", data, "quantize", parents={"input": parent}, **fields), data


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    noise = float(np.sum((wanted.astype(np.float64) - found) ** 2))
    return 200.0 if noise == 0 else 10 * float(np.log10(np.sum(wanted.astype(np.float64) ** 2) / noise))


def on_openvino(model: Any, samples: np.ndarray) -> np.ndarray:
    core = openvino.Core()
    loaded = core.read_model(model.SerializeToString())
    compiled = core.compile_model(loaded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: np.ndarray = compiled([samples])[0]
    return found


def proof_of(artifact: Artifact, runtime: str) -> dict[str, Any]:
    (found,) = [one for one in artifact.manifest.notes["engines"] if one["runtime"] == runtime]
    return dict(found)


@pytest.mark.parametrize("kind", ["relu", "sigmoid", "products"])
def test_the_file_is_compared_with_float32_on_every_engine(kind: str, tmp_path: Path) -> None:
    parent, artifact, data = quantized(kind, tmp_path)
    samples = data.tensors("calibrate")["x"][3::4]  # held out: every fourth judges
    models = [onnx.load(one.file(MODEL_FILE)) for one in (parent, artifact)]
    wanted = sqnr_db(*(on_openvino(model, samples) for model in models))
    proof = proof_of(artifact, "openvino")
    dropped = 1.5 if kind == "sigmoid" else 0.0  # no rounding is left between a layer and its activation
    assert wanted - 0.5 <= proof["sqnr_db"] <= wanted + 0.5 + dropped
    assert (proof["num_samples"], proof["offered"], proof["fault"]) == (16, True, "")
    assert proof_of(artifact, "onnxruntime")["offered"]
    assert unfit_runtimes(artifact.manifest) == {}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_samples_on_any_axis_are_calibrated_judged_proven_and_timed(axis: int, tmp_path: Path) -> None:
    """A state is added to a product; its samples lie on `axis`."""
    sizes: list[Any] = [2, 8]
    sizes.insert(axis, "batch")
    order = [axis, *(place for place in range(3) if place != axis)]
    stored = numpy_helper.from_array((RANDOM.normal(size=(16, 8)) / 4).astype(np.float32), "w")
    zero = numpy_helper.from_array(np.int64(0), "zero")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("Transpose", ["h"], ["first"], perm=order, name="turn"),
        helper.make_node("Gather", ["first", "zero"], ["h0"], axis=1, name="gather"),
        helper.make_node("Add", ["a", "h0"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, sizes),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [stored, zero],
    )
    path = tmp_path / "state.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    samples = {"x": (64, 16), "h": (64, 2, 8)}
    data = Data("states", Dataset({k: RANDOM.normal(size=v).astype(np.float32) for k, v in samples.items()}))
    parent = make(tmp_path / "load", data, "load", model=ModelConfig(source=str(path)))
    artifact = make(tmp_path / "q", data, "quantize", parents={"input": parent}, skip_slow=True)
    notes = artifact.manifest.notes
    assert notes["timed"]
    assert all(proof["sqnr_db"] > 25 for proof in notes["engines"])
    given = data.tensors("calibrate")
    wanted = given["x"] @ numpy_helper.to_array(stored) + given["h"][:, 0]
    tensors = {"x": given["x"], "h": np.ascontiguousarray(np.moveaxis(given["h"], 0, axis))}
    session = onnxruntime.InferenceSession(str(artifact.file(MODEL_FILE)))
    assert sqnr_db(wanted, session.run(None, tensors)[0]) > 25


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: np.ndarray) -> None:
        self.left = iter([{"x": row[None]} for row in samples])

    def get_next(self) -> Any:
        return next(self.left, None)


@pytest.mark.parametrize("kind", ["relu", "sigmoid", "products"])
def test_sixteen_bits_that_an_engine_drops_are_not_offered_there(kind: str, tmp_path: Path) -> None:
    path, data = network(kind, tmp_path)
    samples = data.tensors("calibrate")["x"]
    wide = tmp_path / "int16.onnx"
    kinds = {"activation_type": QuantType.QUInt16, "weight_type": QuantType.QInt8}
    quantize_static(str(path), str(wide), Reader(samples), quant_format=QuantFormat.QDQ, **kinds)
    model, parent = onnx.load(wide), onnx.load(path)
    real = sqnr_db(on_openvino(parent, samples[3::4]), on_openvino(model, samples[3::4]))
    loaded = make(tmp_path / "load", data, "load", model=ModelConfig(source=str(path)))
    judge = Judge(parent, ("y",), data, task_of("classification", data))
    made = context(tmp_path / "q", data, QuantizeConfig(name="q"))
    proofs = Prover(judge, GOAL, made, loaded.manifest.signature)(model, judge(model))
    proof = next(one for one in proofs if one.runtime == "openvino")
    assert proof.figures is not None
    assert proof.figures.sqnr_db == pytest.approx(real, abs=0.5)
    assert bool(proof.fault) is (real < 25)
    if kind == "relu":  # the quantizer took the Relu away, which the pair was to stand for
        assert "dB against float32 there" in proof.fault


def noted(parent: Artifact, folder: Path, *failing: str) -> Artifact:
    """The artifact as if its file had failed on engines."""
    proofs = [
        {"runtime": name, "arithmetic": "native", "offered": name not in failing, "fault": "12.0 dB"}
        for name in ("onnxruntime", "openvino")
    ]
    manifest = parent.manifest.model_copy(update={"notes": {"engines": proofs}})
    return Artifact(folder, manifest, parent.digest)


@pytest.mark.parametrize(
    ("failing", "left"),
    [
        (("openvino",), ["onnxruntime"]),
        (("onnxruntime",), ["openvino"]),
        (("onnxruntime", "openvino"), ["openvino", "onnxruntime"]),
        ((), ["openvino", "onnxruntime"]),
    ],
)
def test_a_server_does_not_try_an_engine_on_which_the_file_failed(
    failing: tuple[str, ...], left: list[str], tmp_path: Path
) -> None:
    path, data = network("relu", tmp_path)
    parent = make(tmp_path / "load", data, "load", model=ModelConfig(source=str(path)))
    assert ranked_runtimes(noted(parent, tmp_path, *failing)) == left


@pytest.mark.parametrize("kind", ["relu", "sigmoid", "products"])
@pytest.mark.parametrize("target", ["tensorrt", "arm"])
def test_for_another_machine_exact_arithmetic_decides(kind: str, target: str, tmp_path: Path) -> None:
    parent, artifact, data = quantized(kind, tmp_path, target=target)
    samples = {name: array[3::4] for name, array in data.tensors("calibrate").items()}
    wanted, found = (
        np.asarray(ReferenceEvaluator(onnx.load(one.file(MODEL_FILE))).run(None, dict(samples))[0])
        for one in (parent, artifact)
    )
    notes, proof = artifact.manifest.notes, artifact.manifest.notes["engines"][0]
    assert notes["arithmetic"] == proof["arithmetic"] == "exact"
    assert proof["sqnr_db"] == pytest.approx(sqnr_db(wanted, found), abs=0.7)
    assert [one["decides"] for one in notes["engines"]] == [True, *[False] * (len(notes["engines"]) - 1)]
    best = max(
        one["figures"]["sqnr_db"]
        for one in notes["rungs"]
        if one["rung"] in ("plain", "observer", "bias-correction")
    )
    assert not notes["plan"]["exclude"] or best < 26  # no layer is left in float for nothing


@pytest.mark.parametrize(
    ("scheme", "vnni", "exact"),
    [
        (Scheme("x86", False, False, True, True), True, False),
        (Scheme("x86", False, True, True, True), False, False),
        (Scheme("x86", False, False, True, True), False, True),
        (Scheme("arm", False, False, True, False), True, True),
        (Scheme("tensorrt", True, False, True, False), False, True),
    ],
)
def test_exact_arithmetic_stands_in_where_this_machine_says_nothing(
    scheme: Scheme, vnni: bool, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.compress.quantizing.scheme.has_vnni", lambda: vnni)
    assert scheme.exact is exact


@pytest.mark.parametrize("kind", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_operators_draw_the_same_in_the_models_that_are_compared(kind: str, tmp_path: Path) -> None:
    path, data = network("noise", tmp_path)
    model = onnx.load(path)
    drawing = model.graph.node[0]
    drawing.op_type = kind
    if kind != "RandomNormalLike":
        del drawing.attribute[:]
    if kind == "Bernoulli":
        half = numpy_helper.from_array(np.full((1, 4, 16), 0.5, np.float32), "half")
        zeros = numpy_helper.from_array(np.float32(0), "zero")
        model.graph.initializer.extend([half, zeros])
        product = helper.make_node("Mul", ["x", "zero"], ["nothing"], name="nothing")
        chance = helper.make_node("Add", ["nothing", "half"], ["chance"], name="chance")
        drawing.input[0] = "chance"
        nodes = [product, chance, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    onnx.save(model, path)
    judge = Judge(model, ("y",), data, task_of("classification", data))
    assert judge(model).sqnr_db == judge(model).sqnr_db == 200.0
    parent = make(tmp_path / "load", data, "load", model=ModelConfig(source=str(path)))
    artifact = make(tmp_path / "q", data, "quantize", parents={"input": parent})
    assert len(artifact.manifest.notes["random_nodes"]) == 1
    assert proof_of(artifact, "onnxruntime")["sqnr_db"] > 25
