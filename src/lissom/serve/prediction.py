"""`/predict`: raw rows in, labels and scores out, with the preprocessing that the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any

import numpy as np

from lissom.artifact import Manifest, Signature, TensorSpec
from lissom.errors import RequestError
from lissom.runtime.preprocess import preprocess, softmax
from lissom.serve.tensors import array_from_json, check_finite, check_names, check_shapes

_FORM = '{"inputs": {name: [...]}}'


def predict_inputs(document: Mapping[str, Any], manifest: Manifest) -> dict[str, np.ndarray]:
    """Tensors for the model from the raw rows of a request.

    Raises:
        RequestError: the rows do not fit the signature.
    """
    rows = document.get("inputs")
    if not isinstance(rows, dict):
        found = "missing" if rows is None else f"a {type(rows).__name__}"
        raise RequestError(f"'inputs' is {found}; the form is {_FORM}")
    if unknown := sorted(document.keys() - {"inputs"}):
        raise RequestError(f"unknown key {shortened(unknown[0])}; the form is {_FORM}")
    specs = raw_specs(manifest.signature)
    check_names(list(rows), specs)
    raw = {name: _rows(data, specs[name]) for name, data in rows.items()}
    check_shapes(raw, specs)
    return prepared(raw, manifest)


def prepared(raw: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, np.ndarray]:
    """Tensors for the model from raw arrays of shape [samples, ...].

    Raises:
        RequestError: a number is outside the range of the dtype that the model takes.
    """
    dtypes = {spec.name: spec.dtype for spec in manifest.signature.inputs}
    with np.errstate(over="ignore"):
        inputs = preprocess(raw, manifest.preprocessing, dtypes)
    for spec in manifest.signature.inputs:
        check_finite(inputs[spec.name], spec)
    return inputs


def predict_response(outputs: Mapping[str, np.ndarray], manifest: Manifest, *, model: str) -> dict[str, Any]:
    """Labels, scores of every class in the order of the manifest's labels, and the raw outputs.

    `labels` and `scores` are null when the model does not classify each row.
    """
    answer: dict[str, Any] = {"model": model, "labels": None, "scores": None}
    first = outputs[manifest.signature.outputs[0].name]
    if manifest.task == "classification" and first.ndim == 2:
        names = manifest.labels or [str(index) for index in range(first.shape[1])]
        answer["labels"] = [names[index] for index in first.argmax(axis=1)]
        with np.errstate(invalid="ignore"):  # an output that is not finite gives scores of null
            answer["scores"] = softmax(first)
    answer["outputs"] = {name: np.ascontiguousarray(array) for name, array in outputs.items()}
    return answer


def raw_specs(signature: Signature) -> dict[str, TensorSpec]:
    """The inputs as they come before preprocessing, which computes in float32 from whatever it is given."""
    return {
        spec.name: spec.model_copy(update={"dtype": "float64"}) if np.dtype(spec.dtype).kind == "f" else spec
        for spec in signature.inputs
    }


def _rows(data: Any, spec: TensorSpec) -> np.ndarray:
    """The rows of one input; a sample that comes without the axis of the batch becomes a batch of one."""
    array = array_from_json(data, spec)
    single = spec.shape and isinstance(spec.shape[0], str) and array.ndim == len(spec.shape) - 1
    return array[np.newaxis] if single else array
