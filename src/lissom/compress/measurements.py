"""What studies of one model share: its context, and measurements that are kept.

A measurement takes seconds and there are many, so each is written as soon as it is made, under the hash of
all that decides it; a run that was killed goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lissom.artifact import ID_LENGTH, Artifact, canonical_json, content_id, write_atomic
from lissom.logs import NoProgress
from lissom.models.data import Data
from lissom.models.stages import Context
from lissom.recipe import ModelConfig

MEASURED_NAME = "measured"
"""Folder of the measurements, one file each."""
_FIELDS = (
    *("id", "id_inputs", "recipe", "name", "stage", "task", "labels", "preprocessing"),
    *("parents", "config", "seed", "data", "splits", "tools", "made_on", "foreign"),
)
"""Fields of a manifest that a copy of its model has too."""

Figures = TypeVar("Figures", bound=NamedTuple)


def kept(folder: Path, inputs: Mapping[str, Any], kind: Callable[..., Figures]) -> Figures | None:
    """Figures of a measurement; None where it is not there, or not what lissom writes.

    Args:
        folder: Of the measurements.
        inputs: All that decides the measurement.
        kind: The type of what `keep` was given; every figure is a number, or None.
    """
    try:
        figures = json.loads(_path(folder, inputs).read_bytes())["figures"]
        return kind(**{key: None if value is None else float(value) for key, value in dict(figures).items()})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def keep(folder: Path, inputs: Mapping[str, Any], figures: Figures) -> Figures:
    """Write the figures of a measurement, and give them back."""
    document = {"inputs": dict(inputs), "figures": figures._asdict()}
    write_atomic(_path(folder, inputs), canonical_json(document))
    return figures


def context_of(artifact: Artifact, data: Data) -> Context:
    """As a stage that starts from the artifact would have it; nothing is written to its folder."""
    manifest = artifact.manifest
    fields = {name: getattr(manifest, name) for name in _FIELDS}
    source = ModelConfig(source=str(artifact.path))
    return Context(artifact.path, fields, source, data, manifest.seed, NoProgress())


def _path(folder: Path, inputs: Mapping[str, Any]) -> Path:
    return folder / f"{content_id(inputs)[:ID_LENGTH]}.json"
