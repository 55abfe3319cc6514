"""The stage that exports."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lissom.recipe.stage import StageConfig


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
