"""Whether a model is made for NaN and infinity, such as features that are missing.

Most models turn one NaN into an answer that is none, and some engines into a confident one, so such samples
are refused. A few look for them: they fill a gap themselves, or send it down a branch of a tree. A torch
model is asked by a call, since torch carries NaN through everything else to the output. Engines of ONNX do
not (Relu, Clip and MaxPool may drop it), so of a file the operators are looked at. An artifact has it in its
manifest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lissom.artifact import MANIFEST_NAME, Artifact, Manifest
from lissom.errors import LissomError
from lissom.export.external_data import read_graph
from lissom.export.graphs import all_nodes
from lissom.models.data import Data
from lissom.models.loading import start
from lissom.models.stages import call
from lissom.recipe import ModelConfig

_LOOKS_FOR_GAPS = frozenset(("IsNaN", "IsInf", "Imputer")) | {
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
}
_NUM_ROWS = 32


def accept_missing(data: Data, config: ModelConfig) -> Data:
    """The data, with the inputs whose gaps the model of a recipe is made for as they are.

    Data without NaN and infinity cost nothing but the look at them.
    """
    held = data.nonfinite_inputs
    if not held:
        return data
    source = Path(config.source)
    if (source / MANIFEST_NAME).is_file():
        return accept_recorded(data, Artifact.open(source).manifest)
    if source.suffix == ".onnx":
        found = any(
            node.op_type in _LOOKS_FOR_GAPS
            or (node.op_type == "Equal" and len({*node.input}) == 1)  # nothing but NaN differs from itself
            for node in all_nodes(read_graph(source))
        )
        return data.accepting(held) if found else data
    return data.accepting(held) if _is_finite_beside_gaps(data.accepting(held), config) else data


def accept_recorded(data: Data, manifest: Manifest) -> Data:
    """The data, with the inputs as they are whose calibration samples held such values as well."""
    recorded = {one.input for one in manifest.input_ranges if one.nonfinite}
    return data.accepting(recorded & {*data.dataset.inputs}) if recorded else data


def _is_finite_beside_gaps(data: Data, config: ModelConfig) -> bool:
    """Whether a torch model gives finite numbers for samples with NaN or infinity."""
    try:
        with torch.random.fork_rng(devices=[]):
            model, _ = start(config, data)
            rows = data.rows(np.flatnonzero(data.has_gap)[:_NUM_ROWS])
            found = call(model.eval(), data, rows)
    except LissomError:
        return False  # what is wrong is told when the model is built for good
    outputs = found if isinstance(found, tuple | list) else [found]
    tensors = [one for one in outputs if isinstance(one, torch.Tensor)]
    return bool(tensors) and all(bool(torch.isfinite(one).all()) for one in tensors)
