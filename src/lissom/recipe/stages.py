"""The config of every kind of stage, and the model that the first one starts from."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lissom.artifact import MANIFEST_NAME, Frozen
from lissom.errors import RecipeError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]


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
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Of sgd and rmsprop; one-cycle swings 0.05 about it."
    )
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
