"""What is measured: models, engines and artifacts by name; nothing is imported, so a list costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Row = dict[str, Any]
Key = tuple[str, str, int]
"""Model, engine and batch."""

MODELS = ("resnet-50", "vit-b-16", "bert-base", "gpt-2-small")
OURS = "lissom"
BASELINE = "eager float32"

BYTES = {
    "float32": 4.0,
    "tf32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "2:4 float16": 1.125,
    "int8": 1.0,
    "fp8": 1.0,
}
"""Of one weight; 2:4 keeps half of the values and 2 bits of position for each."""


class Engine(NamedTuple):
    """One way to run a stock model.

    Attributes:
        maker: Function of engines.py that gives the call.
        precision: Type in which it multiplies.
        needs: Modules without which it does not work.
        cuda: True when it needs a GPU.
        options: Arguments of the maker.
        own_memory: True when torch's allocator does not see what it takes.
    """

    maker: str
    precision: str
    needs: tuple[str, ...] = ()
    cuda: bool = True
    options: Mapping[str, Any] = {}
    own_memory: bool = False

    @property
    def weight_bytes(self) -> float:
        """Bytes of one weight."""
        return BYTES[self.precision]

    @property
    def multiplies(self) -> str:
        """The type whose ceiling applies; that of 2:4 is the dense one, as its FLOPs are counted dense."""
        return self.precision.removeprefix("2:4 ")


_ONNX = ("onnx", "onnxscript")
_ORT = (*_ONNX, "onnxruntime")
_TENSORRT = ("polygraphy", "tensorrt", *_ONNX)
_CAST = ("pydantic", "onnxruntime")
"""What lissom.export needs to make an ONNX file float16."""


def _onnxruntime(provider: str, precision: str) -> Engine:
    needs = _ORT if precision == "float32" else (*_ORT, *_CAST[:1])
    return Engine("onnx_runtime", precision, needs, options={"provider": provider}, own_memory=True)


ENGINES: dict[str, Engine] = {
    BASELINE: Engine("eager", "float32", cuda=False),
    "eager tf32": Engine("eager", "tf32"),
    "eager bfloat16": Engine("eager", "bfloat16", cuda=False),
    "eager float16": Engine("eager", "float16"),
    "cuda graph float16": Engine("cuda_graph", "float16"),
    "2:4 float16": Engine("two_of_four", "2:4 float16"),
    "inductor float32": Engine("compiled", "float32", cuda=False),
    "inductor float16": Engine("compiled", "float16"),
    "torchao int8": Engine(
        "torchao", "int8", ("torchao",), options={"config": "Int8DynamicActivationInt8WeightConfig"}
    ),
    "torchao fp8": Engine(
        "torchao", "fp8", ("torchao",), options={"config": "Float8DynamicActivationFloat8WeightConfig"}
    ),
    "onnxruntime cuda float32": _onnxruntime("CUDAExecutionProvider", "float32"),
    "onnxruntime cuda float16": _onnxruntime("CUDAExecutionProvider", "float16"),
    "onnxruntime tensorrt float16": _onnxruntime("TensorrtExecutionProvider", "float16"),
    "tensorrt float32": Engine("tensorrt", "float32", _TENSORRT, own_memory=True),
    "tensorrt float16": Engine("tensorrt", "float16", (*_TENSORRT, *_CAST), own_memory=True),
    "tensorrt by lissom float16": Engine(
        "tensorrt", "float16", (*_TENSORRT, *_CAST), options={"by_lissom": True}, own_memory=True
    ),
    "torch-tensorrt float16": Engine(
        "compiled", "float16", ("torch_tensorrt",), options={"backend": "torch_tensorrt"}, own_memory=True
    ),
    "inductor max-autotune float16": Engine("compiled", "float16", options={"mode": "max-autotune"}),
}
"""Those that take longest to prepare come last."""

ARTIFACTS: dict[str, str] = {
    "trained": "torch",
    "distilled": "torch",
    "exported": "onnx",
    "float16": "onnx",
    "int8": "onnx",
}
"""What lissom makes of the digits, each from the one before, and its format; distilled was pruned first."""

RUNTIMES: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "torch_tensorrt", "inductor"),
    "onnx": ("onnxruntime", "tensorrt"),
}
"""Those that compute on a GPU, by the format of the artifact that they start from."""


def ours_of(batch: int) -> list[Key]:
    """The rows of our own artifacts."""
    return [
        (f"{OURS} {artifact}", f"{OURS} {runtime}", batch)
        for artifact, kind in ARTIFACTS.items()
        for runtime in RUNTIMES[kind]
    ]


def row_of(key: Key, status: str, reason: str = "", **figures: Any) -> Row:
    """A row: `measured`, `not installed` or `failed`, and why."""
    return dict(zip(("model", "engine", "batch"), key, strict=True)) | {
        "status": status,
        "reason": reason,
        **figures,
    }


def key_of(row: Row) -> Key:
    """Model, engine and batch of a row."""
    return row["model"], row["engine"], row["batch"]


def reason_of(exc: BaseException) -> str:
    """What an engine raised, in one line."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0][:300] if lines else 'no message'}"
