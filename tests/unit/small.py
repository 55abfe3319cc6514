"""Small data, and artifacts made from them by the real stages without a run around them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Artifact, ParentRef, content_id
from lissom.logs import NoProgress
from lissom.models.data import Data, Dataset
from lissom.models.stages import Context
from lissom.recipe import ModelConfig, StageConfig, stage_types
from lissom.registry import stage_function

TOYS = "tests.unit.toys"
KWARGS: dict[str, dict[str, Any]] = {
    "resnet": {"widths": [16, 32], "blocks": [1, 1]},
    "mlp": {"hidden": [32, 16]},
}
"""Built-in models smaller than their defaults, where those would take seconds."""


class Chain(NamedTuple):
    """One model after each of three stages."""

    trained: Artifact
    exported: Artifact
    quantized: Artifact


def blobs(
    num_samples: int = 160, *, shape: tuple[int, ...] = (1, 8, 8), num_classes: int = 4, noise: float = 0.5
) -> Data:
    """Labelled samples around one centre a class, easy to learn, called `image`."""
    generator = np.random.default_rng(7)
    labels = np.arange(num_samples) % num_classes
    centres = generator.normal(size=(num_classes, *shape))
    samples = centres[labels] + noise * generator.normal(size=(num_samples, *shape))
    names = tuple(f"class {index}" for index in range(num_classes))
    return Data("blobs", Dataset({"image": samples.astype(np.float32)}, labels, names))


DATA = blobs(200)


def context(
    folder: Path,
    data: Data,
    config: StageConfig,
    *,
    model: ModelConfig | None = None,
    parents: Mapping[str, Artifact] | None = None,
    seed: int = 0,
) -> Context:
    """What a stage gets, with the fields that the pipeline would fill."""
    name = config.name or config.stage
    refs = tuple(
        ParentRef(role=role, name=parent.name, id=parent.id, digest=parent.digest)
        for role, parent in (parents or {}).items()
    )
    inputs = {"stage": config.stage, "config": config.settings, "seed": seed, "folder": folder.name}
    fields: dict[str, Any] = {
        "id": content_id(inputs),
        "id_inputs": inputs,
        "recipe": "small",
        "name": name,
        "stage": config.stage,
        "task": "classification",
        "labels": data.dataset.label_names,
        "preprocessing": data.dataset.preprocessing,
        "parents": refs,
        "config": config.settings,
        "seed": seed,
        "data": data.source,
        "splits": data.split_hashes,
        "tools": {},
        "made_on": {},
    }
    return Context(folder, fields, model or ModelConfig(), data, seed, NoProgress())


def make(
    folder: Path,
    data: Data,
    kind: str,
    *,
    model: ModelConfig | None = None,
    parents: Mapping[str, Artifact] | None = None,
    seed: int = 0,
    **fields: Any,
) -> Artifact:
    """The artifact of one stage, made by the function that the registry has for it."""
    config = stage_types()[kind].model_validate({"name": folder.name, **fields})
    made = context(folder, data, config, model=model, parents=parents, seed=seed)
    artifact: Artifact = stage_function(config)(parents or {}, config, made)
    return artifact


def load(folder: Path, data: Data, source: str, *, seed: int = 0, **kwargs: Any) -> Artifact:
    """An untrained model as an artifact, by the stage `load`."""
    return make(folder, data, "load", model=ModelConfig(source=source, kwargs=kwargs), seed=seed)


def toy(folder: Path, data: Data, name: str, **kwargs: Any) -> Artifact:
    """A model of `tests/unit/toys.py` as an artifact."""
    return load(folder, data, f"{TOYS}:{name}", **kwargs)
