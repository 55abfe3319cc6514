"""What /predict and /v2 answer for models that do not classify each row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.unit.artifacts import onnx_model, write_onnx_artifact
from tests.unit.serve.asgi import request

from lissom.artifact import Artifact, Signature, TensorSpec
from lissom.runtime.probe import probe_bytes
from lissom.serve.app import Application
from lissom.serve.repository import Repository

WEIGHTS = np.linspace(-1, 1, 35, dtype=np.float32).reshape(7, 5)
RUNTIMES = ["onnxruntime", "openvino"]


def tokens_artifact(folder: Path) -> Artifact:
    """Tokens [batch, 4] to logits [batch, 4, 5], one row of the weights a token."""
    model = onnx_model(
        [helper.make_node("Gather", ["weights", "tokens"], ["logits"])],
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 5])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    signature = Signature(
        inputs=(TensorSpec(name="tokens", dtype="int64", shape=("batch", 4)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 4, 5)),),
    )
    tokens = np.array([[0, 1, 2, 6]])
    probe = probe_bytes({"tokens": tokens}, {"logits": WEIGHTS[tokens]})
    changes: dict[str, Any] = {"labels": (), "preprocessing": (), "task": "language-modelling"}
    return write_onnx_artifact(folder, model, signature, probe, recipe="tokens", **changes)


def values_artifact(folder: Path, *, flat: bool) -> Artifact:
    """Features [batch, 7] to values of shape [batch, 5], or to their mean of shape [batch]."""
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["values" if not flat else "five"])]
    constants = [numpy_helper.from_array(WEIGHTS, "weights")]
    if flat:
        constants.append(numpy_helper.from_array(np.array([1]), "axes"))
        nodes.append(helper.make_node("ReduceMean", ["five", "axes"], ["values"], keepdims=0))
    shape = ("batch",) if flat else ("batch", 5)
    model = onnx_model(
        nodes,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 7])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, shape)],
        constants,
    )
    signature = Signature(
        inputs=(TensorSpec(name="features", dtype="float32", shape=("batch", 7)),),
        outputs=(TensorSpec(name="values", dtype="float32", shape=shape),),
    )
    rows = np.eye(7, dtype=np.float32)
    wanted = WEIGHTS.mean(axis=1) if flat else WEIGHTS
    probe = probe_bytes({"features": rows}, {"values": wanted})
    changes: dict[str, Any] = {"labels": (), "preprocessing": (), "task": "regression"}
    return write_onnx_artifact(folder, model, signature, probe, recipe="values", **changes)


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tokens(tmp_path: Path, runtime: str) -> Iterator[Application]:
    with Repository.open([tokens_artifact(tmp_path / "tokens").path], runtime=runtime, threads=1) as found:
        yield Application(found)


def predict(app: Application, **inputs: Any) -> Any:
    return request(app, "POST", "/predict", {"inputs": inputs})


def test_a_language_model_answers_with_its_outputs_alone(tokens: Application) -> None:
    found = predict(tokens, tokens=[[1, 2, 3, 4], [0, 0, 0, 6]])
    assert found.status == 200
    assert found.json["labels"] is None
    assert found.json["scores"] is None
    assert np.allclose(found.json["outputs"]["logits"], WEIGHTS[[[1, 2, 3, 4], [0, 0, 0, 6]]])


def test_one_sequence_without_the_axis_of_the_batch_is_a_batch_of_one(tokens: Application) -> None:
    assert np.shape(predict(tokens, tokens=[1, 2, 3, 4]).json["outputs"]["logits"]) == (1, 4, 5)


@pytest.mark.parametrize("rows", [[[1.0, 2.0, 3.0, 4.0]], [[1, 2, 3]], [["a", "b", "c", "d"]]])
def test_tokens_are_integers_in_rows_of_the_length_of_the_model(tokens: Application, rows: Any) -> None:
    found = predict(tokens, tokens=rows)
    assert found.status == 400
    assert "'tokens'" in found.json["error"]


def test_the_protocol_takes_int64_and_gives_three_axes(tokens: Application) -> None:
    entry = {"name": "tokens", "datatype": "INT64", "shape": [1, 4], "data": [1, 2, 3, 4]}
    found = request(tokens, "POST", "/v2/models/tokens/infer", {"inputs": [entry]}).json["outputs"][0]
    assert found["shape"] == [1, 4, 5]
    assert np.allclose(np.reshape(found["data"], found["shape"]), WEIGHTS[[[1, 2, 3, 4]]])


@pytest.mark.parametrize("flat", [True, False])
def test_a_regression_answers_with_its_values_alone(tmp_path: Path, runtime: str, flat: bool) -> None:
    artifact = values_artifact(tmp_path / "values", flat=flat)
    with Repository.open([artifact.path], runtime=runtime, threads=1) as repository:
        found = predict(Application(repository), features=np.eye(7)[:2].tolist())
        single = predict(Application(repository), features=np.eye(7)[0].tolist())
    assert found.json["labels"] is None
    assert found.json["scores"] is None
    wanted = WEIGHTS[:2].mean(axis=1) if flat else WEIGHTS[:2]
    assert np.allclose(found.json["outputs"]["values"], wanted, atol=1e-6)
    assert np.shape(single.json["outputs"]["values"]) == (1, *wanted.shape[1:])


def test_a_token_that_the_model_does_not_know_is_a_fault_of_the_client(tmp_path: Path) -> None:
    with Repository.open([tokens_artifact(tmp_path / "t").path], runtime="onnxruntime", threads=1) as found:
        refused = predict(Application(found), tokens=[[1, 2, 3, 7]])
    assert refused.status == 400
    assert "idx=7 must be within" in refused.json["error"]
