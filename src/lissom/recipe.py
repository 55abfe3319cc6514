"""Every configuration of lissom, as frozen pydantic models; a recipe is one YAML file of them.

A recipe is a small directed graph: every stage has a `name` and a `from` (default: the stage before
it), `distill` also names its `teacher`. This module imports neither torch nor onnx.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from lissom.artifact import MANIFEST_NAME, Frozen
from lissom.errors import RecipeError, near

GateName = Literal["reload", "parity", "accuracy", "not-slower", "precision", "splits"]
GATE_NAMES: tuple[GateName, ...] = ("reload", "parity", "accuracy", "not-slower", "precision", "splits")
RuntimeName = Literal[
    "torch", "inductor", "aotinductor", "onnxruntime", "openvino", "tensorrt", "torch_tensorrt"
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]


class DataConfig(Frozen):
    """Which data are used."""

    source: str = Field(
        "digits",
        description="Built-in name, .npz, .csv or .parquet file, folder, or factory; options after '?', "
        "as in photos/?image_size=64.",
    )


class ModelConfig(Frozen):
    """Which architecture is built, or which model is loaded."""

    source: str = Field(
        "resnet",
        description="Built-in name, package.module:factory, path/file.py:factory, artifact, or .onnx file.",
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword arguments of the factory; channels and classes come from the data.",
    )
    weights: str | None = Field(
        None, description="A .safetensors, .pt or .pth file of weights to start from."
    )
    task: str | None = Field(
        None,
        description="classification, regression, language-modelling, package.module:factory or "
        "path/file.py:factory; default: what the labels say.",
    )

    @property
    def format(self) -> str:
        """Format of the model, read from the file or manifest that `source` names."""
        manifest = Path(self.source) / MANIFEST_NAME
        if manifest.is_file():
            try:
                return str(json.loads(manifest.read_bytes())["format"])
            except (ValueError, KeyError) as exc:
                raise RecipeError(f"{manifest} is not a manifest of lissom") from exc
        return "onnx" if self.source.endswith(".onnx") else "torch"


class StageConfig(Frozen):
    """What every stage has."""

    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version decides what the stage makes; part of the artifact's id."""
    consumes: ClassVar[tuple[str, ...]] = ()
    """Formats that the stage can start from; empty when it starts from the model of the recipe."""
    produces: ClassVar[str] = "torch"
    extra: ClassVar[tuple[str, str] | None] = None
    """A module that the stage needs, and the extra of lissom that brings it."""

    stage: str = Field(description="Kind of the stage.")
    name: Name = Field("", validate_default=False, description="Name of the stage; default: its kind.")
    from_: str | None = Field(None, alias="from", description="Stage to start from; default: the one before.")

    @property
    def sources(self) -> dict[str, str]:
        """Role and name of every stage that this one reads."""
        return {"input": self.from_} if self.from_ else {}

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result: everything but the names of stages."""
        return self.model_dump(mode="json", by_alias=True, exclude={"name", "from_", "teacher"})


class LoadConfig(StageConfig):
    """Take a model as it is."""

    libraries = ("torch",)
    stage: Literal["load"] = Field("load", description="Kind of the stage.")

    model: ModelConfig | None = Field(None, description="Another model than the recipe's.")


class AugmentConfig(Frozen):
    """How images are varied while a model trains; drawn anew for each sample, decided by the seed."""

    crop: int = Field(0, ge=0, le=1024, description="Shift by up to this many pixels, zeros at the edge.")
    flip: float = Field(0.0, ge=0, le=1, description="Probability of a horizontal flip.")
    colour: float = Field(
        0.0, ge=0, le=1, description="Strength of changes in brightness, contrast, saturation and hue."
    )
    rand_augment: int = Field(
        0, ge=0, le=16, description="RandAugment: operations for each image, arXiv 1909.13719."
    )
    magnitude: int = Field(9, ge=0, le=30, description="RandAugment: strength of each operation.")
    mixup: float = Field(0.0, ge=0, le=10, description="Alpha of mixup, arXiv 1710.09412; 0 is off.")
    cutmix: float = Field(0.0, ge=0, le=10, description="Alpha of CutMix, arXiv 1905.04899; 0 is off.")

    @property
    def mixes(self) -> bool:
        """True when two samples are mixed into one, with soft labels."""
        return bool(self.mixup or self.cutmix)

    @property
    def active(self) -> bool:
        """True when anything is varied."""
        return bool(self.crop or self.flip or self.colour or self.rand_augment or self.mixes)


class EarlyStoppingConfig(Frozen):
    """When training ends before its last epoch."""

    patience: int = Field(5, ge=1, description="Epochs without a better score on the select split.")
    min_delta: float = Field(0.0, ge=0, description="A score must be higher by more than this to count.")


class OptimizationConfig(StageConfig):
    """How weights are optimised; shared by the stages that train."""

    libraries = ("torch", "lightning", "torchmetrics", "kornia")

    epochs: int = Field(20, ge=1, le=100_000, description="Passes over the train split.")
    batch_size: int = Field(64, ge=1, description="Samples in a step, over all processes.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are added up before a step.")
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = Field(
        "sgd", description="sgd has Nesterov momentum."
    )
    learning_rate: float = Field(0.1, gt=0, le=100, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd and rmsprop.")
    weight_decay: float = Field(5e-4, ge=0, le=10, description="L2 penalty, decoupled for adamw.")
    schedule: Literal["one-cycle", "cosine", "step", "plateau", "constant"] = Field(
        "one-cycle", description="How the learning rate changes; plateau goes by the select split."
    )
    warmup_epochs: float = Field(
        0.0, ge=0, description="Linear rise of the learning rate before the schedule."
    )
    step_epochs: int = Field(10, ge=1, description="step, plateau: epochs between (or without) improvement.")
    step_factor: float = Field(0.1, gt=0, lt=1, description="step, plateau: the rate is multiplied by this.")
    loss: Literal["cross-entropy", "focal", "mse", "mae", "huber"] | None = Field(
        None, description="Default: that of the task, cross-entropy or mse."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all classes."
    )
    focal_gamma: float = Field(2.0, ge=0, le=10, description="focal: how much easy samples are discounted.")
    huber_delta: float = Field(1.0, gt=0, description="huber: error at which the loss turns linear.")
    l1: float = Field(0.0, ge=0, description="Added to the loss: this times the sum of absolute weights.")
    l2: float = Field(0.0, ge=0, description="Added to the loss: this times half the sum of squared weights.")
    clip_norm: float | None = Field(None, gt=0, description="Gradients are scaled down to this norm.")
    clip_value: float | None = Field(None, gt=0, description="Each element of a gradient is cut at this.")
    normalize_gradient: bool = Field(False, description="Gradients are scaled to norm 1 before each step.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Keep the moving average of the weights with this decay, such as 0.999."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Mixed precision of training; weights stay float32. float16 needs a GPU."
    )
    channels_last: bool = Field(
        False, description="Lay images out with channels last, faster for convolutions on most machines."
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="How images are varied.")
    early_stopping: EarlyStoppingConfig | None = Field(
        None, description="End when the select split stops improving, and keep the best epoch's weights."
    )
    keep: Literal["last", "best"] = Field(
        "last", description="Weights of the last epoch, or of the best on the select split."
    )
    num_workers: int = Field(0, ge=0, le=256, description="Processes that load batches; 0: this one.")

    @property
    def selects(self) -> bool:
        """True when the select split decides which weights are kept."""
        return self.keep == "best" or self.early_stopping is not None


class TrainConfig(OptimizationConfig):
    """Train the model of the recipe, or go on from another stage."""

    consumes = ("torch",)
    stage: Literal["train"] = Field("train", description="Kind of the stage.")


class PruneConfig(StageConfig):
    """Remove whole channels by a dependency graph (structured width pruning)."""

    libraries = ("torch", "torch-pruning")
    consumes = ("torch",)
    stage: Literal["prune"] = Field("prune", description="Kind of the stage.")

    ratio: float = Field(0.5, ge=0, lt=1, description="Share of the channels removed in every group.")
    importance: Literal["l1", "l2"] = Field(
        "l2", description="Norm by which the channels of a group are ranked."
    )
    ranking: Literal["local", "global"] = Field("local", description="Rank within each group, or over all.")
    round_to: int = Field(8, ge=1, le=256, description="Kept channels are a multiple of this.")
    exclude: tuple[str, ...] = Field((), description="Names of modules that keep their width.")


class DistillConfig(OptimizationConfig):
    """Train a student on the labels and on its teacher's softened answers."""

    consumes = ("torch",)
    stage: Literal["distill"] = Field("distill", description="Kind of the stage.")

    learning_rate: float = Field(0.05, gt=0, le=100, description="Peak learning rate.")
    teacher: str = Field(description="Name of the stage whose model teaches.")
    temperature: float = Field(
        4.0, gt=0, le=100, description="Softens both answers; 1 leaves them as they are."
    )
    alpha: float = Field(
        0.7, ge=0, le=1, description="Weight of the teacher; 1 - alpha is that of the labels."
    )

    @property
    def sources(self) -> dict[str, str]:
        """Role and name of every stage that this one reads."""
        return super().sources | {"teacher": self.teacher}


class ExportConfig(StageConfig):
    """Write the model as ONNX with a batch size that may vary."""

    libraries = ("torch", "onnx", "onnxscript")
    consumes = ("torch",)
    produces = "onnx"
    extra = ("onnxruntime", "cpu")
    stage: Literal["export"] = Field("export", description="Kind of the stage.")

    opset: int = Field(20, ge=18, le=23, description="Version of the ONNX operator set.")


class QuantizeConfig(StageConfig):
    """Static int8 quantization of an ONNX model, in Q/DQ form."""

    libraries = ("onnx", "onnxruntime")
    consumes = ("onnx",)
    produces = "onnx"
    extra = ("onnxruntime", "cpu")
    stage: Literal["quantize"] = Field("quantize", description="Kind of the stage.")

    mode: Literal["static"] = Field("static", description="static: ranges of activations come from data.")
    calibration: Literal["minmax", "percentile", "entropy"] = Field(
        "minmax", description="How the range of an activation is found on the calibrate split."
    )
    num_samples: int = Field(256, ge=8, description="At most this many calibration samples.")
    per_channel: bool = Field(True, description="One scale for each output channel of a weight.")
    reduce_range: bool | None = Field(
        None, description="7-bit weights, for x86 without VNNI; default: decided by this machine's CPU."
    )
    exclude: tuple[str, ...] = Field((), description="Names of ONNX nodes that stay in float32.")


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
    threads: int | None = Field(None, ge=1, le=1024, description="Threads of a runtime; default: all cores.")
    batch_size: int = Field(1, ge=1, description="Samples in a timed call.")
    num_rounds: int = Field(24, ge=4, le=10_000, description="Interleaved rounds; each times every arm once.")
    round_ms: float = Field(10.0, gt=0, le=60_000, description="Time for one arm in one round, milliseconds.")
    num_warmup: int = Field(20, ge=1, description="Calls before anything is timed.")


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
                self.model_of(stage).format if isinstance(stage, LoadConfig) else stage.produces
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


_STAGE_TYPES: dict[str, type[StageConfig]] = {}


def register_stage_type(config: type[StageConfig]) -> type[StageConfig]:
    """Make a kind of stage known to recipes; its kind is the default of its field `stage`.

    Raises:
        ValueError: the kind is taken.
    """
    kind = config.model_fields["stage"].default
    if _STAGE_TYPES.get(kind, config) is not config:
        raise ValueError(f"two kinds of stage are called {kind!r}: {_STAGE_TYPES[kind]} and {config}")
    _STAGE_TYPES[kind] = config
    return config


for _config in (LoadConfig, TrainConfig, PruneConfig, DistillConfig, ExportConfig, QuantizeConfig):
    register_stage_type(_config)


def stage_types() -> dict[str, type[StageConfig]]:
    """Every known kind of stage."""
    return dict(_STAGE_TYPES)


def load_plugins() -> None:
    """Register the stage configs that other packages offer under the entry point `lissom.stage_configs`."""
    for entry in entry_points(group="lissom.stage_configs"):
        register_stage_type(entry.load())


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
    if not isinstance(kind, str) or kind not in _STAGE_TYPES:
        raise ValueError(f"unknown stage {kind!r}; {near(str(kind), _STAGE_TYPES)}")
    return _STAGE_TYPES[kind].model_validate(raw)


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
        wanted = ("torch",) if role == "teacher" else stage.consumes
        if formats[source] not in wanted:
            advice = "; put an export stage between them" if wanted == ("onnx",) else ""
            raise ValueError(
                f"stage {stage.name!r} ({stage.stage}) needs a model in the format {' or '.join(wanted)}, "
                f"but {source!r} is {formats[source]}{advice}"
            )


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
    return f"{where}: {error['msg']}" + ("" if isinstance(found, Mapping | list) else f", found {found!r}")


def _keys_at(loc: Sequence[Any], document: Any) -> list[str]:
    """The keys that are known at a place of the document."""
    model: type[Frozen] = Recipe
    for part in loc:
        document = document.get(part) if isinstance(document, Mapping) else document[part]
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        if isinstance(part, int):
            model = _STAGE_TYPES.get(document.get("stage"), StageConfig)
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
