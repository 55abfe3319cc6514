"""Small real artifacts, made in milliseconds without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lissom.artifact import (
    Artifact,
    Draft,
    PreprocessingStep,
    Signature,
    TensorSpec,
    Tolerance,
    content_id,
)
from lissom.runtime.machine import machine
from lissom.runtime.probe import PROBE_FILE, probe_bytes

LABELS = ("cat", "dog", "owl")
MEAN, STD = 2.0, 4.0
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10 - 0.5
BIAS = np.array([0.1, 0.0, -0.1], dtype=np.float32)


def tiny_logits(rows: np.ndarray) -> np.ndarray:
    """What the model of `tiny_onnx_artifact` gives for raw rows of shape [batch, 1, 2, 2]."""
    tensor = (np.asarray(rows, dtype=np.float32) - np.float32(MEAN)) / np.float32(STD)
    return tensor.reshape(len(tensor), -1) @ WEIGHTS + BIAS


def tiny_onnx_artifact(
    folder: Path, *, recipe: str = "tiny", probe_shift: float = 0.0, **changes: Any
) -> Artifact:
    """A linear classifier of images of 2x2 pixels in three classes.

    Args:
        folder: Where the artifact is written.
        recipe: Name under which it is served.
        probe_shift: Added to the stored answers, to make them wrong.
        changes: Fields of the manifest that differ.
    """
    signature = Signature(
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 1, 2, 2)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 3)),),
    )
    raw = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    tensor = (raw - MEAN) / STD
    probe = probe_bytes({"image": tensor}, {"logits": tiny_logits(raw) + np.float32(probe_shift)})
    return write_onnx_artifact(folder, _linear(), signature, probe, recipe=recipe, **changes)


def write_onnx_artifact(
    folder: Path, model: onnx.ModelProto, signature: Signature, probe: bytes, *, recipe: str, **changes: Any
) -> Artifact:
    """Write an ONNX model as an artifact whose other fields are plausible."""
    id_inputs = {"recipe": recipe}
    fields = {
        "id": content_id(id_inputs),
        "id_inputs": id_inputs,
        "recipe": recipe,
        "name": "export",
        "stage": "export",
        "format": "onnx",
        "precision": "float32",
        "signature": signature,
        "task": "classification",
        "labels": LABELS,
        "preprocessing": (PreprocessingStep(input="image", mean=(MEAN,), std=(STD,)),),
        "parents": (),
        "config": {},
        "seed": 0,
        "data": "none",
        "splits": {},
        "factory": None,
        "tools": {},
        "made_on": machine(),
        "num_parameters": 15,
        "notes": {},
        "tolerance": Tolerance(absolute=1e-4, relative=1e-3),
    }
    with Draft(folder) as draft:
        draft.add("model.onnx", model.SerializeToString())
        draft.add(PROBE_FILE, probe)
        return draft.commit(**{**fields, **changes})


def onnx_model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]
) -> onnx.ModelProto:
    """A checked model in an operator set that every engine reads."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def identity_onnx_artifact(folder: Path, dtype: str) -> Artifact:
    """A model that gives its inputs back: `x` of shape [batch, 2] and `y` of shape [batch], of one dtype."""
    specs = (("x", ("batch", 2)), ("y", ("batch",)))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = onnx_model(
        [helper.make_node("Identity", [name], [f"{name}_again"]) for name, _ in specs],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in specs],
        [helper.make_tensor_value_info(f"{name}_again", kind, shape) for name, shape in specs],
        [],
    )
    signature = Signature(
        inputs=tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, shape in specs),
        outputs=tuple(TensorSpec(name=f"{name}_again", dtype=dtype, shape=shape) for name, shape in specs),
    )
    x, y = np.ones((2, 2), dtype=dtype), np.zeros(2, dtype=dtype)
    probe = probe_bytes({"x": x, "y": y}, {"x_again": x, "y_again": y})
    changes: dict[str, Any] = {"labels": (), "preprocessing": (), "task": "own.package:factory"}
    return write_onnx_artifact(folder, model, signature, probe, recipe=f"identity_{dtype}", **changes)


def _linear() -> onnx.ModelProto:
    return onnx_model(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(BIAS, "bias")],
    )
