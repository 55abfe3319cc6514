"""What the stages of a recipe will make: the id of every artifact, from all that decides its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.artifact import ID_LENGTH, MANIFEST_NAME, Artifact, content_id, sha256_file
from lissom.errors import RequestError
from lissom.optional import version
from lissom.recipe import ModelConfig, Recipe, StageConfig
from lissom.registry import MODELS, TASKS, source_sha256
from lissom.runtime.machine import machine

if TYPE_CHECKING:
    from lissom.models.data import Data


@dataclass(frozen=True)
class Planned:
    """A stage with the id that its artifact will have."""

    index: int
    config: StageConfig
    id: str
    id_inputs: Mapping[str, Any]
    parents: Mapping[str, str]

    @property
    def folder_name(self) -> str:
        """`<NN>-<stage name>-<id16>`."""
        return f"{self.index:02d}-{self.config.name}-{self.id[:ID_LENGTH]}"


def plan_stages(recipe: Recipe, data: Data) -> list[Planned]:
    """Every stage with the id of its artifact; nothing is computed."""
    planned: list[Planned] = []
    ids: dict[str, str] = {}
    for index, config in enumerate(recipe.stages, start=1):
        parents = {role: ids[name] for role, name in config.sources.items()}
        inputs = _id_inputs(recipe, config, data, parents)
        ids[config.name] = content_id(inputs)
        planned.append(Planned(index, config, ids[config.name], inputs, parents))
    return planned


def _id_inputs(recipe: Recipe, config: StageConfig, data: Data, parents: Mapping[str, str]) -> dict[str, Any]:
    return {
        "stage": config.stage,
        "config": config.settings,
        "seed": recipe.seed,
        "parents": dict(parents),
        "splits": data.split_hashes,
        "task": _task_identity(recipe.model_of(config).task, data),
        "tools": {"lissom": version("lissom")} | {name: version(name) for name in config.calls},
        "model": None if parents else model_identity(recipe.model_of(config)),
        # Whether 8-bit weights saturate depends on the processor.
        "isa": machine()["isa"] if config.stage == "quantize" else None,
    }


def _task_identity(asked: str | None, data: Data) -> dict[str, Any]:
    """Name of the task, and the hash of its source when it is the user's own."""
    from lissom.models.tasks import task_name

    name = task_name(asked, data)
    return {"name": name, "source": None if name in TASKS else source_sha256(name, known=TASKS)}


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """What decides a model before any stage: its artifact, its file, or its factory and weights."""
    if (Path(model.source) / MANIFEST_NAME).is_file():
        return {"artifact": Artifact.open(model.source).digest}
    if model.source.endswith(".onnx"):
        return {"onnx": _file_hash(model.source, "model"), **_weights_beside(Path(model.source))}
    return {
        "source": model.source,
        "kwargs": model.kwargs,
        "factory": source_sha256(model.source, known=MODELS),
        "weights": _file_hash(model.weights, "weights") if model.weights else None,
        **({"output": model.output} if model.output is not None else {}),
    }


def _weights_beside(path: Path) -> dict[str, Any]:
    """Hashes of the files in which an ONNX file keeps its weights; nothing where it has them itself."""
    from lissom.export.external_data import external_files

    hashes = {str(file.relative_to(path.parent)): sha256_file(file) for file in external_files(path)}
    return {"weights_beside": hashes} if hashes else {}


def _file_hash(path: str, what: str) -> str:
    if not Path(path).is_file():
        raise RequestError(f"no {what} at {path}")
    return sha256_file(Path(path))
