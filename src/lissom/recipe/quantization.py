"""The stage that quantizes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lissom.recipe.stage import StageConfig
from lissom.recipe.training import Optimization, OptimizationConfig


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
    calibration: Literal["minmax", "moving-average", "sample-mean", "percentile", "entropy", "mse"] = Field(
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
