"""The config of every kind of stage, and the model that the first one starts from."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

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
    output: str | None = Field(
        None,
        description="Output that matters where the model gives several by name, or all; default: logits "
        "where there is one, else the first, or all where the data have no labels.",
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
    """Format of what the stage makes."""
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
    def accepts(self) -> tuple[str, ...]:
        """Formats that the stage can start from."""
        return self.consumes

    @property
    def makes(self) -> str:
        """Format of what the stage makes."""
        return self.produces

    @property
    def needs(self) -> tuple[str, str] | None:
        """A module that the stage needs, and the extra of lissom that brings it."""
        return self.extra

    @property
    def calls(self) -> tuple[str, ...]:
        """Distributions whose version decides what the stage makes."""
        return self.libraries

    @property
    def trains(self) -> bool:
        """True when the stage optimises weights, in which every process takes part."""
        return False

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
    magnitude: int = Field(9, ge=1, le=29, description="RandAugment: strength of each operation, of 30.")
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


class Optimization(Frozen):
    """How weights are optimised."""

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
        0.0,
        ge=0,
        description="Epochs at the beginning, counted among `epochs`, in which the rate rises linearly to "
        "its peak; the schedule has the rest.",
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


class OptimizationConfig(Optimization, StageConfig):
    """A stage that optimises weights."""

    libraries = ("torch", "lightning", "torchmetrics", "kornia")

    @property
    def trains(self) -> bool:
        """Always."""
        return True


class TrainConfig(OptimizationConfig):
    """Train the model of the recipe, or go on from another stage."""

    consumes = ("torch",)
    stage: Literal["train"] = Field("train", description="Kind of the stage.")


class PruneConfig(StageConfig):
    """Remove parts of a model: channels, heads and units, whole blocks, ranks, or single weights."""

    libraries = ("torch", "lightning", "torchmetrics", "kornia")
    consumes = ("torch",)
    stage: Literal["prune"] = Field("prune", description="Kind of the stage.")

    method: Literal["width", "depth", "low-rank", "magnitude", "2:4"] = Field(
        "width",
        description="width: channels, attention heads, recurrent units. depth: residual blocks and layers. "
        "low-rank: two thin layers for one. magnitude: single weights become zero. 2:4: two of four do.",
    )
    ratio: float = Field(0.5, ge=0, lt=1, description="Share that is removed of what `of` names.")
    of: Literal["parts", "macs", "parameters", "latency"] = Field(
        "parts",
        description="parts: channels of every group, blocks, squared singular values, weights. macs: "
        "multiply-adds. parameters. latency: on `runtime`, measured.",
    )
    runtime: str | None = Field(
        None, description="of latency: where it is measured; default: the first that works."
    )
    importance: Literal["l1", "l2", "batch-norm", "lamp", "taylor", "activation"] = Field(
        "l2",
        description="width: what ranks the parts. l1, l2: norm of the weights. batch-norm: its scale. "
        "lamp: norm over that of all larger ones. taylor: weight times gradient. activation: mean size of "
        "what a part gives. The last two look at the calibrate split.",
    )
    ranking: Literal["local", "global", "isomorphic"] = Field(
        "local",
        description="width, magnitude: rank within each group, over all, or over groups of the same shape.",
    )
    round_to: int = Field(8, ge=1, le=256, description="Kept channels and ranks are a multiple of this.")
    exclude: tuple[str, ...] = Field((), description="Names of modules that are kept as they are.")
    steps: int = Field(
        1, ge=1, le=100, description="Prune in so many steps, with the training of `tune` between them."
    )
    schedule: Literal["linear", "cubic"] = Field(
        "cubic", description="How the share grows with the steps; cubic removes most at the beginning."
    )
    tune: Optimization | None = Field(None, description="Training before every step but the first.")
    group_norm: float = Field(
        0.0,
        ge=0,
        description="width: train by `tune` before the first step too, with this times the norms of the "
        "groups added to the loss, so that whole groups become small.",
    )

    @property
    def trains(self) -> bool:
        """True when there is training between the steps."""
        return self.tune is not None

    @model_validator(mode="after")
    def _fields_fit_the_method(self) -> Self:
        wide = {"importance", "group_norm"} if self.method != "width" else set()
        if self.method not in ("width", "magnitude"):
            wide.add("ranking")
        if self.method in ("magnitude", "2:4") and self.of != "parts":
            raise ValueError(f"method {self.method}: zeros save no {self.of}; leave `of` out")
        if self.method == "2:4" and self.ratio != 0.5:
            raise ValueError("method 2:4 removes one half of the weights: leave `ratio` out")
        for name in sorted(wide & self.model_fields_set):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"method {self.method} does not take {name!r}")
        if self.runtime is not None and self.of != "latency":
            raise ValueError("runtime is where latency is measured: set of: latency, or leave it out")
        if self.steps > 1 and self.tune is None:
            raise ValueError("several steps need training between them: give tune, such as {epochs: 3}")
        if self.tune is not None and self.steps == 1 and not self.group_norm:
            raise ValueError("tune trains between steps: set steps above 1")
        if self.group_norm and self.tune is None:
            raise ValueError("group_norm is added to the loss of a training: give tune, such as {epochs: 3}")
        return self


class DistillConfig(OptimizationConfig):
    """Train a student on the labels and on what one or several teachers answer."""

    consumes = ("torch",)
    stage: Literal["distill"] = Field("distill", description="Kind of the stage.")

    learning_rate: float = Field(0.05, gt=0, le=100, description="Peak learning rate.")
    kind: Literal["kd", "dkd", "dist", "hint"] = Field(
        "kd",
        description="kd: softened answers, arXiv 1503.02531. dkd: the right class and the others apart, "
        "arXiv 2203.08679. dist: correlations, arXiv 2205.10536. hint: kd and features of a layer, "
        "arXiv 1412.6550.",
    )
    teacher: str | tuple[str, ...] = Field(
        description="Name of the stage whose model teaches, or a list of names: the mean of their softened "
        "answers teaches."
    )
    teacher_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="Weight of each of several teachers in the mean; default: equal."
    )
    temperature: float = Field(
        4.0, gt=0, le=100, description="Softens both answers; 1 leaves them as they are."
    )
    alpha: float = Field(
        0.7, ge=0, le=1, description="Weight of the teacher; 1 - alpha is that of the labels."
    )
    target_weight: float = Field(
        1.0, ge=0, le=1000, description="dkd: weight of the right class, alpha of the paper."
    )
    non_target_weight: float = Field(
        2.0, ge=0, le=1000, description="dkd: weight of the other classes, beta of the paper, where 1 to 8."
    )
    inter_weight: float = Field(
        1.0, ge=0, le=1000, description="dist: weight of the correlation over the classes of a sample."
    )
    intra_weight: float = Field(
        1.0, ge=0, le=1000, description="dist: weight of the correlation over the samples of a class."
    )
    student_layer: str | None = Field(
        None, description="hint: name of the module of the student whose output is led."
    )
    teacher_layer: str | None = Field(
        None, description="hint: name of the module of the teacher whose output leads."
    )
    hint_weight: float = Field(
        1.0,
        ge=0,
        le=10_000,
        description="hint: weight of the distance of the features, beside the rest; a large one drowns it.",
    )
    baseline: bool = Field(
        True,
        description="Train the same student without a teacher too, and report whether the teacher helped.",
    )

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the stages whose models teach."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    @property
    def sources(self) -> dict[str, str]:
        """Role and name of every stage that this one reads: teacher, or teacher-1, teacher-2 and so on."""
        names = self.teachers
        roles = ["teacher"] if len(names) == 1 else [f"teacher-{place + 1}" for place in range(len(names))]
        return super().sources | dict(zip(roles, names, strict=True))

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Self:
        layers = ("student_layer", "teacher_layer")
        own = {
            "dkd": ("target_weight", "non_target_weight"),
            "dist": ("inter_weight", "intra_weight"),
            "hint": (*layers, "hint_weight"),
        }
        for kind, names in own.items():
            for name in names if kind != self.kind else ():
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"kind {self.kind} does not take {name!r}, which is of {kind}")
        if self.kind == "hint" and not (self.student_layer and self.teacher_layer):
            raise ValueError("kind hint needs student_layer and teacher_layer, names of modules")
        if self.kind == "hint" and len(self.teachers) > 1:
            raise ValueError("kind hint leads by the features of one teacher: name one")
        if self.kind == "dkd" and self.augment.mixes:
            raise ValueError("kind dkd needs one right class a sample: leave out mixup and cutmix")
        return self

    @model_validator(mode="after")
    def _every_teacher_is_named_once(self) -> Self:
        if not self.teachers:
            raise ValueError("teacher is an empty list: name the stage whose model teaches")
        for name in self.teachers:
            if self.teachers.count(name) > 1:
                raise ValueError(f"teacher names {name!r} twice; teacher_weights makes one count more")
        if self.teacher_weights is not None and len(self.teacher_weights) != len(self.teachers):
            raise ValueError(
                f"teacher_weights has {len(self.teacher_weights)} values for {len(self.teachers)} teachers"
            )
        return self


class ExportConfig(StageConfig):
    """Write the model in the format of an engine, with a batch size that may vary."""

    libraries = ("torch", "onnx", "onnxscript")
    stage: Literal["export"] = Field("export", description="Kind of the stage.")

    format: Literal["onnx", "openvino", "aotinductor", "tensorrt"] = Field(
        "onnx",
        description="onnx: for ONNX Runtime and OpenVINO. openvino: its IR. aotinductor: native code "
        "compiled from a torch model for this machine. tensorrt: an engine for this GPU.",
    )
    precision: Literal["float32", "float16", "bfloat16"] | None = Field(
        None,
        description="Type of weights and computation; inputs and outputs stay as they are. bfloat16 is for "
        "CPUs with avx512_bf16 or AMX, float16 for GPUs and ARM. Default: that of the model.",
    )
    opset: int = Field(20, ge=18, le=23, description="onnx: version of the ONNX operator set.")

    @property
    def accepts(self) -> tuple[str, ...]:
        """Torch; ONNX too where the engine reads ONNX."""
        return ("torch",) if self.format == "aotinductor" else ("torch", "onnx")

    @property
    def makes(self) -> str:
        """The format that was asked for."""
        return self.format

    @property
    def calls(self) -> tuple[str, ...]:
        """Those of the format too."""
        return (*self.libraries, *_DISTRIBUTIONS_OF_FORMATS[self.format])

    @property
    def needs(self) -> tuple[str, str] | None:
        """The engine's library."""
        return _ENGINES_OF_FORMATS[self.format]


_DISTRIBUTIONS_OF_FORMATS = {
    "onnx": (),
    "openvino": ("openvino",),
    "aotinductor": (),
    "tensorrt": ("tensorrt", "polygraphy"),
}
_ENGINES_OF_FORMATS = {
    "onnx": ("onnxruntime", "cpu"),
    "openvino": ("openvino", "cpu"),
    "aotinductor": None,
    "tensorrt": ("tensorrt", "gpu"),
}


class QuantizeConfig(StageConfig):
    """Fewer bits: int8 activations and weights, or weights alone."""

    libraries = ("onnx", "onnxruntime")
    consumes = ("onnx",)
    produces = "onnx"
    extra = ("onnxruntime", "cpu")
    stage: Literal["quantize"] = Field("quantize", description="Kind of the stage.")

    mode: Literal["static", "dynamic", "qat", "weight-only"] = Field(
        "static",
        description="static: int8, ranges of activations come from the calibrate split. dynamic: int8, "
        "ranges are found in every call; for LSTM and transformers. qat: a torch model is trained while its "
        "layers round, then static. weight-only: weights of 4 or 8 bits in groups, activations float32; for "
        "language models.",
    )
    target: Literal["auto", "x86", "arm", "tensorrt"] = Field(
        "auto",
        description="Machine that will run it. x86, arm: activations uint8 with a zero point. tensorrt: int8 "
        "around zero. auto: this machine.",
    )
    calibration: Literal["minmax", "moving-average", "percentile", "entropy", "mse"] = Field(
        "minmax",
        description="static: how the range of an activation is found at first. percentile leaves out 0.01 %; "
        "entropy and mse lose least information, or square error.",
    )
    num_samples: int = Field(256, ge=8, description="static: at most this many calibration samples.")
    operators: Literal["auto", "all", "layers"] = Field(
        "auto",
        description="static: all operators that have an int8 form, or convolutions and products with weights "
        "alone. auto: all for convolutional networks, layers for transformers.",
    )
    per_channel: bool = Field(True, description="One scale for each output channel of a weight.")
    reduce_range: bool | None = Field(
        None, description="7-bit weights, for x86 without VNNI; default: decided by this machine's CPU."
    )
    exclude: tuple[str, ...] = Field((), description="Names of ONNX nodes that stay in float32.")
    ladder: bool = Field(
        True,
        description="static: where the plain model is not good enough on the select split, try other ranges, "
        "bias correction, SmoothQuant, mixed precision, equalisation and AdaRound.",
    )
    skip_slow: bool = Field(
        True,
        description="static: where float32 is surely faster on this machine for the first, the last or small "
        "layers, leave them so; and choose between `all` and `layers` by time.",
    )
    max_select_drop: float = Field(
        0.005, ge=0, le=1, description="ladder: score that may be lost on the select split; 0.01 is a point."
    )
    min_agreement: float = Field(
        0.99, ge=0, le=1, description="ladder: share of answers that must stay the same, with labels."
    )
    min_sqnr_db: float = Field(
        25.0, ge=0, le=200, description="ladder: signal-to-noise ratio of every output, without labels."
    )
    tune: Optimization | None = Field(
        None, description="qat: how it is trained; default: 5 epochs at a learning rate of 0.005."
    )
    bits: Literal[4, 8] = Field(4, description="weight-only: bits of a weight.")
    group_size: Literal[16, 32, 64, 128, 256] = Field(
        32, description="weight-only: neighbouring weights that share a scale."
    )

    @property
    def accepts(self) -> tuple[str, ...]:
        """Torch for qat, which trains; ONNX otherwise."""
        return ("torch",) if self.trains else self.consumes

    @property
    def calls(self) -> tuple[str, ...]:
        """Those of training too for qat."""
        return (*self.libraries, "torchao", *OptimizationConfig.libraries) if self.trains else self.libraries

    @property
    def trains(self) -> bool:
        """True for qat."""
        return self.mode == "qat"

    @property
    def tuning(self) -> Optimization:
        """How qat trains."""
        return self.tune or Optimization(epochs=5, learning_rate=0.005)

    @model_validator(mode="after")
    def _fields_fit_the_mode(self) -> Self:
        for modes, names in _FIELDS_OF_MODES.items():
            for name in names if self.mode not in modes else ():
                if getattr(self, name) != type(self).model_fields[name].default:
                    known = " and ".join(modes)
                    raise ValueError(f"mode {self.mode} does not take {name!r}, which is of {known}")
        return self


_FIELDS_OF_MODES = {
    ("static", "qat"): (
        *("calibration", "num_samples", "operators", "ladder", "skip_slow"),
        *("max_select_drop", "min_agreement", "min_sqnr_db"),
    ),
    ("qat",): ("tune",),
    ("weight-only",): ("bits", "group_size"),
}
"""Fields that only some modes take."""


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
