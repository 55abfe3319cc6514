"""How weights are optimised, and the stage that trains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lissom.artifact import Frozen
from lissom.recipe.stage import StageConfig


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
