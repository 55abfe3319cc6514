"""Every configuration of lissom, as frozen pydantic models; a recipe is one YAML file of them.

A recipe is a small directed graph: every stage has a `name` and a `from` (default: the stage before
it), `distill` also names its `teacher`. This package imports neither torch nor onnx.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from lissom.artifact import Frozen
from lissom.errors import RecipeError, near
from lissom.recipe.distillation import DistillConfig
from lissom.recipe.exporting import ExportConfig
from lissom.recipe.pruning import PruneConfig
from lissom.recipe.quantization import QuantizeConfig
from lissom.recipe.stage import LoadConfig, ModelConfig, Name, StageConfig
from lissom.recipe.stages import load_plugins, register_stage_type, stage_types
from lissom.recipe.training import (
    AugmentConfig,
    EarlyStoppingConfig,
    Optimization,
    OptimizationConfig,
    TrainConfig,
)

__all__ = [
    "GATE_NAMES",
    "AccuracyGate",
    "AugmentConfig",
    "BenchmarkConfig",
    "DataConfig",
    "DistillConfig",
    "EarlyStoppingConfig",
    "ExportConfig",
    "GatesConfig",
    "LoadConfig",
    "ModelConfig",
    "NotSlowerGate",
    "Optimization",
    "OptimizationConfig",
    "PruneConfig",
    "QuantizeConfig",
    "Recipe",
    "StageConfig",
    "TrainConfig",
    "check_allowed",
    "default_threads",
    "load_plugins",
    "register_stage_type",
    "stage_types",
]

GateName = Literal["reload", "parity", "accuracy", "not-slower", "precision", "splits"]
GATE_NAMES: tuple[GateName, ...] = ("reload", "parity", "accuracy", "not-slower", "precision", "splits")
RuntimeName = Literal[
    "torch", "inductor", "aotinductor", "onnxruntime", "openvino", "tensorrt", "torch_tensorrt"
]


class DataConfig(Frozen):
    """Which data are used."""

    source: str = Field(
        "digits",
        description="Built-in name, .npz, .csv or .parquet file, folder, or factory; options after '?', "
        "as in photos/?image_size=64.",
    )


class AccuracyGate(Frozen):
    """How much accuracy may be lost."""

    max_drop: float = Field(
        0.01, ge=0, le=1, description="Allowed drop on the report split; 0.01 is one point."
    )


class NotSlowerGate(Frozen):
    """How much slower the result may be."""

    margin: float = Field(
        0.02, ge=0, le=1, description="Relative; the gate fails when it is surely exceeded."
    )


class GatesConfig(Frozen):
    """Limits of the gates."""

    accuracy: AccuracyGate = Field(default_factory=AccuracyGate, description="How much may be lost.")
    not_slower: NotSlowerGate = Field(
        default_factory=NotSlowerGate, alias="not-slower", description="How much slower it may be."
    )


class BenchmarkConfig(Frozen):
    """How the artifacts are measured."""

    runtimes: tuple[RuntimeName, ...] | None = Field(
        None, description="Runtimes to measure on; default: every one that works on this machine."
    )
    device: Literal["cpu", "cuda"] | None = Field(
        None, description="Where runtimes compute; default: the usual place of each. A fallback fails a gate."
    )
    threads: int | None = Field(None, ge=1, le=1024, description="Threads of a runtime; default: all cores.")
    batch_size: int = Field(1, ge=1, description="Samples in a timed call.")
    num_rounds: int = Field(24, ge=4, le=10_000, description="Interleaved rounds; each times every arm once.")
    max_rounds: int | None = Field(
        None,
        ge=4,
        le=10_000,
        description="Rounds at most, while it is not sure which runtime is fastest; default: three times "
        "num_rounds.",
    )
    round_ms: float = Field(10.0, gt=0, le=60_000, description="Time for one arm in one round, milliseconds.")
    num_warmup: int = Field(
        20, ge=1, description="Calls before anything is timed; more follow until they get no faster."
    )
    energy_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="How long energy is counted for each arm where a counter can be read; 0 for never.",
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (),
        description="Batch sizes, ascending, at which the chosen artifact and the original are timed beside "
        "each other; default: none.",
    )
    slo_ms: float | None = Field(
        None,
        gt=0,
        description="Latency that 99 % of the queries should have at most, milliseconds. Where it is given, "
        "the chosen artifact and the original are asked at six rates.",
    )
    load_seconds: float = Field(
        2.0, gt=0, le=600, description="How long each is asked at each rate, seconds."
    )

    @field_validator("batch_sizes")
    @classmethod
    def _ascending(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)):
            raise ValueError("batch sizes ascend, and none is there twice")
        return sizes


class Recipe(Frozen):
    """One compression, from data to gates."""

    name: Name = Field(description="Names the run's folder and the served model.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds every stage.")
    data: DataConfig = Field(default_factory=DataConfig, description="Which data are used.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Where the first stage starts from.")
    stages: tuple[SerializeAsAny[Annotated[StageConfig, BeforeValidator(lambda raw: _stage(raw))]], ...] = (
        Field(min_length=1, description="In order; each goes on from the one before, or from its `from`.")
    )
    gates: GatesConfig = Field(default_factory=GatesConfig, description="Limits of the gates.")
    benchmark: BenchmarkConfig = Field(
        default_factory=BenchmarkConfig, description="How the artifacts are measured."
    )
    ship: Literal["fastest", "last"] = Field(
        "fastest", description="The fastest artifact within the budget, or that of the last stage."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_and_link(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or not isinstance(raw.get("stages"), list | tuple):
            return raw
        return {**raw, "stages": _linked(raw["stages"])}

    @model_validator(mode="after")
    def _stages_hold_together(self) -> Self:
        formats: dict[str, str] = {}
        for stage in self.stages:
            _check_order(stage, formats)
            formats[stage.name] = (
                self.model_of(stage).format if isinstance(stage, LoadConfig) else stage.makes
            )
        return self

    def model_of(self, stage: StageConfig) -> ModelConfig:
        """The model from which a stage without parents starts."""
        return (stage.model if isinstance(stage, LoadConfig) else None) or self.model

    @classmethod
    def from_file(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML recipe; each override is `a.b=value`, stages addressed by name or number.

        Raises:
            RecipeError: the file is missing, not YAML, or does not hold together.
        """
        path = Path(path)
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError) as exc:
            raise RecipeError(f"no recipe at {path}", hint=_recipes_nearby(path)) from exc
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise RecipeError(f"{path} is not YAML: {' '.join(str(exc).split())}") from exc
        if not isinstance(document, dict):
            raise RecipeError(f"{path} holds no mapping of keys; a recipe begins with `name:` and `stages:`")
        return cls.from_document(document, overrides, where=str(path))

    @classmethod
    def from_document(
        cls, document: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "recipe"
    ) -> Self:
        """Validate a recipe that was read or built elsewhere.

        Raises:
            RecipeError: listing every problem, with the nearest known key.
        """
        load_plugins()
        for override in overrides:
            document = _overridden(document, override)
        try:
            return cls.model_validate(document)
        except ValidationError as exc:
            problems = "".join(f"\n  {line}" for line in _problems(exc, document))
            raise RecipeError(f"{where} does not hold together:{problems}") from exc


def check_allowed(names: Iterable[str]) -> None:
    """Refuse names that are no gates.

    Raises:
        RecipeError: a name is unknown.
    """
    for name in names:
        if name not in GATE_NAMES:
            raise RecipeError(f"--allow {name}: no gate is called so; {near(name, GATE_NAMES)}")


def default_threads() -> int:
    """Cores that this process may use, by affinity and by cgroup quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def _stage(raw: Any) -> Any:
    if isinstance(raw, StageConfig):
        return raw
    if not isinstance(raw, Mapping):
        raise ValueError("a stage is a mapping such as {stage: prune, ratio: 0.5}")
    kind = raw.get("stage")
    if not isinstance(kind, str) or kind not in stage_types():
        raise ValueError(f"unknown stage {kind!r}; {near(str(kind), stage_types())}")
    return stage_types()[kind].model_validate(raw)


def _linked(stages: Sequence[Any]) -> list[Any]:
    linked: list[Any] = []
    names: set[str] = set()
    before: str | None = None
    for stage in stages:
        if isinstance(stage, StageConfig):
            stage = stage.model_dump(by_alias=True)
        if isinstance(stage, Mapping) and isinstance(stage.get("stage"), str):
            name = stage.get("name") or _free_name(stage["stage"], names)
            starts = stage["stage"] == LoadConfig.model_fields["stage"].default
            stage = {**stage, "name": name, "from": stage.get("from") or (None if starts else before)}
            names.add(str(name))
            before = str(name)
        linked.append(stage)
    return linked


def _free_name(kind: str, taken: set[str]) -> str:
    return next(
        name
        for number in range(1, 1000)
        if (name := kind if number == 1 else f"{kind}-{number}") not in taken
    )


def _check_order(stage: StageConfig, formats: Mapping[str, str]) -> None:
    if stage.name in formats:
        raise ValueError(f"two stages are called {stage.name!r}; give one of them another name")
    if isinstance(stage, LoadConfig) and stage.from_:
        raise ValueError(f"stage {stage.name!r}: load starts from a model, not from a stage")
    if not formats and not isinstance(stage, LoadConfig | TrainConfig):
        raise ValueError(f"the first stage is train or load, found {stage.stage!r} ({stage.name})")
    for role, source in stage.sources.items():
        if source not in formats:
            known = near(source, formats) if formats else "it is the first stage"
            raise ValueError(
                f"stage {stage.name!r} reads {source!r} ({role}), which no stage before it makes; {known}"
            )
        wanted = ("torch",) if role.startswith("teacher") else stage.accepts
        if formats[source] not in wanted:
            advice = _ADVICE.get(wanted, "")
            raise ValueError(
                f"stage {stage.name!r} ({stage.stage}) needs a model in the format {' or '.join(wanted)}, "
                f"but {source!r} is {formats[source]}{advice}"
            )


_ADVICE: dict[tuple[str, ...], str] = {
    ("onnx",): "; put an export stage between them",
    ("torch",): "; an ONNX file can be quantized, measured and served: "
    "what changes layers or trains starts from the torch model",
}


def _overridden(document: Mapping[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(
            f"--set {override!r} is not of the form a.b=value", hint="--set stages.train.epochs=5"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise RecipeError(f"--set {override!r}: the value is not YAML") from exc
    updated: dict[str, Any] = _set(document, path.split("."), value, override)
    return updated


def _set(node: Any, keys: list[str], value: Any, override: str) -> Any:
    if not keys:
        return value
    key, *rest = keys
    if isinstance(node, Mapping):
        return {**node, key: _set(node.get(key, {}), rest, value, override)}
    if isinstance(node, list | tuple):
        names = [str(item.get("name", "")) if isinstance(item, Mapping) else "" for item in _linked(node)]
        index = int(key) if key.isdigit() else names.index(key) if key in names else -1
        if not 0 <= index < len(node):
            raise RecipeError(f"--set {override!r}: there is no {key!r} in the list; {near(key, names)}")
        return [_set(item, rest, value, override) if i == index else item for i, item in enumerate(node)]
    raise RecipeError(f"--set {override!r}: {key!r} is inside a value that has no keys")


def _problems(exc: ValidationError, document: Mapping[str, Any]) -> list[str]:
    """One line a problem."""
    errors = exc.errors()
    if len(errors) > 1:
        errors = [error for error in errors if error["type"] != "too_short"]
    return [_problem(error, document) for error in errors]


def _problem(error: Any, document: Mapping[str, Any]) -> str:
    *parents, key = error["loc"] or ("recipe",)
    where = ".".join(str(part) for part in (*parents, key))
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key; {near(str(key), _keys_at(parents, document))}"
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    found = error.get("input")
    if error["type"] == "literal_error":
        return f"{where}: unknown value {found!r}; {near(str(found), _quoted(error['ctx']['expected']))}"
    return f"{where}: {error['msg']}" + ("" if isinstance(found, Mapping | list) else f", found {found!r}")


def _quoted(text: str) -> list[str]:
    """What stands in quotes, as pydantic lists the values of a literal.

    >>> _quoted("'mse', 'mae' or 'huber'")
    ['mse', 'mae', 'huber']
    """
    return re.findall(r"'([^']*)'", text)


def _keys_at(loc: Sequence[Any], document: Any) -> list[str]:
    """The keys that are known at a place of the document."""
    model: type[Frozen] = Recipe
    for part in loc:
        document = document.get(part) if isinstance(document, Mapping) else document[part]
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        if isinstance(part, int):
            model = stage_types().get(document.get("stage"), StageConfig)
        elif field is not None:
            model = _config_in(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _config_in(annotation: Any) -> type[Frozen] | None:
    """The config that a field holds, alone or as one of several types."""
    options = get_args(annotation) or (annotation,)
    return next((kind for kind in options if isinstance(kind, type) and issubclass(kind, Frozen)), None)


def _recipes_nearby(path: Path) -> str:
    found = sorted(
        {str(recipe) for folder in (path.parent, Path("recipes")) for recipe in folder.glob("[!.]*.y*ml")}
    )
    return f"found {', '.join(found[:5])}" if found else "lissom --help shows examples"
