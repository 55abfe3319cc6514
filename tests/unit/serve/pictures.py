"""Real artifacts of models that take pictures, rows or texts, made in milliseconds without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from tests.unit.artifacts import onnx_model, write_onnx_artifact

from lissom.artifact import Artifact, PreprocessingStep, Signature, TensorSpec
from lissom.runtime.preprocess import preprocess
from lissom.runtime.probe import probe_bytes


def linear_artifact(
    folder: Path,
    raw: np.ndarray,
    weights: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    name: str = "image",
    recipe: str = "linear",
    mean: float = 0.0,
    std: float = 1.0,
    labels: tuple[str, ...] = ("no", "yes"),
    **changes: Any,
) -> Artifact:
    """A linear classifier of anything of fixed size.

    Args:
        folder: Where the artifact is written.
        raw: Samples of the probe before preprocessing, shape [samples, ...].
        weights: Shape [values of a sample, classes]; zeros by default.
        bias: Shape [classes]; zeros by default.
        name: Of the input.
        recipe: Name under which it is served.
        mean: Subtracted from raw samples.
        std: Divided by.
        labels: Of the classes.
        changes: Fields of the manifest that differ.
    """
    dtype = "float32" if raw.dtype.kind == "f" else raw.dtype.name
    weights = np.zeros((raw[0].size, len(labels))) if weights is None else weights
    bias = np.zeros(len(labels)) if bias is None else bias
    steps = (PreprocessingStep(input=name, mean=(mean,), std=(std,)),) if dtype == "float32" else ()
    tensor = preprocess({name: raw}, steps, {name: dtype})[name]
    logits = tensor.reshape(len(tensor), -1).astype(np.float32) @ weights.astype(np.float32) + bias
    signature = Signature(
        inputs=(TensorSpec(name=name, dtype=dtype, shape=("batch", *raw.shape[1:])),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", len(labels))),),
    )
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = onnx_model(
        [
            helper.make_node("Cast", [name], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        ],
        [helper.make_tensor_value_info(name, kind, ["batch", *raw.shape[1:]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(labels)])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    probe = probe_bytes({name: tensor}, {"logits": logits.astype(np.float32)})
    fields = {"labels": labels, "preprocessing": steps, "num_parameters": weights.size + bias.size, **changes}
    return write_onnx_artifact(folder, model, signature, probe, recipe=recipe, **fields)


def digits_artifact(folder: Path, *, recipe: str = "digits", **changes: Any) -> Artifact:
    """A logistic regression that really knows handwritten digits of 8x8 pixels, values 0 to 16."""
    bunch = load_digits()
    raw = bunch.images[:, None].astype(np.float32)
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(raw.reshape(len(raw), -1) / 16.0, bunch.target)
    names = tuple(str(one) for one in bunch.target_names)
    values: dict[str, Any] = {"std": 16.0, "labels": names, **changes}
    return linear_artifact(folder, raw[:16], fitted.coef_.T, fitted.intercept_, recipe=recipe, **values)
