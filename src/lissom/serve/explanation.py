"""Which parts of a picture the answer of a served model hangs on, asked of the model as it is served.

Every part is covered in turn by the mean of the picture, and the score of the model's own answer is looked
at again: `lissom.models.attribution.occlusion_maps`, which needs no gradient and so works on every runtime.
Other methods need the torch model, which a server does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lissom.artifact import Artifact
from lissom.errors import ModelError, RequestError
from lissom.optional import is_installed
from lissom.runtime.finiteness import check_scores
from lissom.runtime.scores import class_columns, class_names, class_scores, classifies
from lissom.serve.bodies import Refused
from lissom.serve.repository import ServedModel
from lissom.serve.uploads import image_input

Call = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
MAX_COVERED = 1024
"""Covered samples that one explanation may take."""


def explains(artifact: Artifact) -> bool:
    """True when answers can be explained here: captum is installed, and the model classifies pictures.

    The number of samples must be free, since covered pictures are computed in batches.
    """
    return is_installed("captum") and _classifies_pictures(artifact)


def explain(model: ServedModel, inputs: Mapping[str, np.ndarray], call: Call) -> dict[str, Any]:
    """A map of one picture for the answer that the model gives; blocks for some tens of calls.

    Args:
        model: It.
        inputs: Tensors after preprocessing, one sample.
        call: Computes a batch.

    Returns:
        `model`, `label`, `score` (share of the label, 0 to 1), `method`, and `map`: [height][width], how far
        the score before softmax falls when a part is covered, positive where it speaks for the label.

    Raises:
        RequestError: there is not exactly one sample, or the model does not classify pictures.
        Refused: captum is not installed.
        AnswerError: a class has no finite score.
        Exception: whatever `call` raises.
    """
    sample = _checked(model, inputs)
    from lissom.models.attribution import occlusion_maps  # imports torch

    name, kind = model.manifest.signature.outputs[0].name, model.manifest.scores
    output = np.asarray(call(inputs)[name])[:1]
    with np.errstate(invalid="ignore"):
        scores = class_scores(output, kind)
    check_scores(scores, name)
    columns = class_columns(output, kind)[0]
    place = int(columns.argmax())
    try:
        found = occlusion_maps(call, {sample: inputs[sample]}, np.array([place]))
    except ModelError as exc:  # of this sample; others may be explained
        raise RequestError(f"the answer cannot be explained: {exc.message}") from exc
    return {
        "model": model.name,
        "label": class_names(model.manifest.labels, len(columns))[place],
        "score": float(scores[0, place]),
        "map": found.maps[0].tolist(),
        "method": found.method,
    }


def _checked(model: ServedModel, inputs: Mapping[str, np.ndarray]) -> str:
    """Name of the input that is explained."""
    if not _classifies_pictures(model.artifact):
        raise RequestError(f"answers of {model.name!r} cannot be explained: it does not classify pictures")
    if not is_installed("captum"):
        raise Refused(501, "this server lacks captum, which explains answers: pip install 'lissom[explain]'")
    ((name, array),) = inputs.items()
    if len(array) != 1:
        raise RequestError(f"one sample is explained at a time; {len(array)} were sent")
    from lissom.models.attribution import num_calls

    if (covered := num_calls(array.shape[1:])) > MAX_COVERED:
        raise RequestError(
            f"a picture of this size takes {covered:,} calls; at most {MAX_COVERED:,} are made"
        )
    return name


def _classifies_pictures(artifact: Artifact) -> bool:
    manifest = artifact.manifest
    spec = image_input(artifact)
    return spec is not None and classifies(manifest) and isinstance(spec.shape[0], str)
