"""Small graphs as artifacts, an application that serves them, and what it is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper, numpy_helper
from tests.unit.artifacts import onnx_model, write_onnx_artifact
from tests.unit.serve.asgi import Response, request

from lissom.artifact import Artifact, InputRange, Signature, TensorSpec
from lissom.runtime.probe import probe_bytes
from lissom.serve.app import Application
from lissom.serve.repository import Repository

SIZE, CLASSES = 6, 3
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE, CLASSES)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(4, SIZE)).astype(np.float32)
ENGINES = ["onnxruntime", "openvino"]


def constant(name: str, value: Any, dtype: str = "float32") -> Any:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def classifier(
    folder: Path,
    nodes: list[Any],
    constants: list[Any],
    probe_outputs: np.ndarray,
    *,
    dtype: str = "float32",
    rows: np.ndarray = ROWS,
    recipe: str = "foreign",
    **changes: Any,
) -> Artifact:
    """A graph from `x` [n, size] to scores `y` [n, classes] as an artifact."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    width = probe_outputs.shape[1]
    model = onnx_model(
        nodes,
        [helper.make_tensor_value_info("x", kind, ["n", rows.shape[1]])],
        [helper.make_tensor_value_info("y", kind, ["n", width])],
        constants,
    )
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype=dtype, shape=("n", rows.shape[1])),),
        outputs=(TensorSpec(name="y", dtype=dtype, shape=("n", width)),),
    )
    probe = probe_bytes({"x": rows.astype(dtype)}, {"y": probe_outputs.astype(dtype)})
    labels = tuple(f"class {place}" for place in range(width))
    fields = {"preprocessing": (), "labels": labels, **changes}
    return write_onnx_artifact(folder, model, signature, probe, recipe=recipe, **fields)


def rectified(folder: Path, *, dtype: str = "float32", **changes: Any) -> Artifact:
    """relu(x) @ weights: what OpenVINO answers confidently where x is NaN."""
    nodes = [node("Relu", "x", "kept"), node("MatMul", "kept w", "y")]
    wanted = np.maximum(ROWS, 0) @ WEIGHTS
    changes.setdefault("tolerance", {"absolute": 2e-2, "relative": 2e-2})
    return classifier(folder, nodes, [constant("w", WEIGHTS, dtype)], wanted, dtype=dtype, **changes)


def open_app(*artifacts: Artifact, **options: Any) -> Application:
    options.setdefault("runtime", "onnxruntime")
    return Application(Repository.open([one.path for one in artifacts], threads=1, **options))


def infer_binary(app: Application, array: np.ndarray, datatype: str, model: str = "foreign") -> Response:
    head = {
        "inputs": [
            {
                "name": "x",
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
        ]
    }
    content = json.dumps(head).encode()
    length = {"inference-header-content-length": str(len(content))}
    return request(app, "POST", f"/v2/models/{model}/infer", content + array.tobytes(), headers=length)


def infer_json(app: Application, array: np.ndarray, datatype: str = "FP32") -> Response:
    data = [one if np.isfinite(one) else None for one in array.reshape(-1).tolist()]
    tensor = {"name": "x", "datatype": datatype, "shape": list(array.shape), "data": data}
    return request(app, "POST", "/v2/models/foreign/infer", {"inputs": [tensor]})


def predict(app: Application, rows: Any, path: str = "/predict") -> Response:
    return request(app, "POST", path, {"inputs": {"x": rows}})


def calibrated(folder: Path, samples: np.ndarray, **changes: Any) -> Artifact:
    """A classifier of `samples` [n, size], whose manifest knows what they look like."""
    kind = helper.np_dtype_to_tensor_dtype(samples.dtype)
    rows, weights = samples[:8], np.random.default_rng(2).normal(size=(samples.shape[1], 3)) / 100
    nodes = [node("Cast", "x", "f", to=1), node("MatMul", "f w", "y")]
    wanted = rows.astype(np.float32) @ weights.astype(np.float32)
    model = onnx_model(
        nodes,
        [helper.make_tensor_value_info("x", kind, ["n", samples.shape[1]])],
        [helper.make_tensor_value_info("y", 1, ["n", 3])],
        [constant("w", weights)],
    )
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype=samples.dtype.name, shape=("n", samples.shape[1])),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("n", 3)),),
    )
    values = samples.astype(np.float64)
    ranges = (
        InputRange(
            input="x",
            low=values.min(),
            high=values.max(),
            mean=values.mean(),
            std=values.std(),
            nonfinite=False,
        ),
    )
    fields = {"preprocessing": (), "labels": ("a", "b", "c"), "input_ranges": ranges, **changes}
    probe = probe_bytes({"x": rows}, {"y": wanted})
    return write_onnx_artifact(folder, model, signature, probe, recipe="foreign", **fields)
