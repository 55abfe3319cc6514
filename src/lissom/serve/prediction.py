"""`/predict`: raw rows in, labels and scores out, with the preprocessing that the model was trained with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from reprlib import repr as shortened
from typing import Any

import numpy as np

from lissom.artifact import Manifest, Signature, TensorSpec
from lissom.errors import RequestError
from lissom.runtime.finiteness import check_scores, is_finite
from lissom.runtime.layout import Layout, states_of
from lissom.runtime.scores import class_columns, class_names, class_scores, classifies
from lissom.serve.tensors import array_from_json, check_names, check_shapes

_FORM = '{"inputs": {name: [...]}}'


def raw_rows(
    document: Mapping[str, Any], manifest: Manifest, checked: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The raw rows of a request, before preprocessing.

    Args:
        document: The JSON.
        manifest: Of the model.
        checked: Names of the inputs that must be finite; None for all.

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
    check_names(list(rows), specs, states_of(manifest.signature))
    axes = Layout(manifest.signature).batching.inputs
    raw = {name: _rows(data, specs[name], checked, axes[name]) for name, data in rows.items()}
    check_shapes(raw, specs)
    return raw


def predict_response(
    outputs: Mapping[str, np.ndarray], manifest: Manifest, *, model: str, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Labels, scores of every class in the order of the manifest's labels, and the raw outputs.

    `labels` and `scores` are null when the model does not classify each row. `warnings` are those that are
    given, and one for each other output that is not finite.

    Raises:
        AnswerError: a class has no finite score, so that a label would be a guess.
    """
    answer: dict[str, Any] = {"model": model, "labels": None, "scores": None}
    output = manifest.signature.outputs[0].name
    first = Layout(manifest.signature).first_axis(output, outputs[output])
    if first is not None and classifies(manifest):
        columns = class_columns(first, manifest.scores)
        names = class_names(manifest.labels, columns.shape[1])
        with np.errstate(invalid="ignore"):
            answer["scores"] = class_scores(first, manifest.scores)
        check_scores(answer["scores"], output)
        answer["labels"] = [names[index] for index in columns.argmax(axis=1)]
    others = (name for name in outputs if name != output or answer["labels"] is None)
    answer["warnings"] = [*warnings, *(_not_finite(name) for name in others if not is_finite(outputs[name]))]
    answer["outputs"] = dict(outputs)
    return answer


def _not_finite(output: str) -> str:
    return f"output {output!r} holds NaN or infinity, which JSON writes as null"


def raw_specs(signature: Signature) -> dict[str, TensorSpec]:
    """The inputs as they come before preprocessing, which computes in float32 from whatever it is given."""
    return {
        spec.name: spec.model_copy(update={"dtype": "float64"}) if np.dtype(spec.dtype).kind == "f" else spec
        for spec in signature.inputs
    }


def _rows(data: Any, spec: TensorSpec, checked: Collection[str] | None, axis: int | None) -> np.ndarray:
    """The rows of one input; a sample that comes without the axis of the batch becomes a batch of one."""
    array = array_from_json(data, spec, checked)
    return np.expand_dims(array, axis) if axis is not None and array.ndim == len(spec.shape) - 1 else array
