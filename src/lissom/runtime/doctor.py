"""Which runtimes work on this machine, proved by running a tiny model on each."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import (
    Artifact,
    Draft,
    Factory,
    Signature,
    TensorSpec,
    Tolerance,
    canonical_json,
    content_id,
)
from lissom.errors import LissomError
from lissom.optional import require, version
from lissom.registry import MODELS, RUNTIMES, runtime_entry, source_sha256
from lissom.runtime.availability import absence
from lissom.runtime.base import open_runtime
from lissom.runtime.onnx_runtime import MODEL_FILE

_WEIGHTS = np.array([[1.0, -1.0], [0.5, 2.0]], dtype=np.float32)
_INPUT = np.array([[3.0, 4.0]], dtype=np.float32)
_SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
)


class Examined(NamedTuple):
    """One runtime on this machine."""

    runtime: str
    version: str
    works: bool
    reason: str


def examine() -> list[Examined]:
    """Try every runtime; the reason says why one does not work and what to type."""
    with tempfile.TemporaryDirectory() as folder:
        return [_examine(name, Path(folder)) for name in RUNTIMES]


def _examine(name: str, folder: Path) -> Examined:
    found = version(runtime_entry(name).distribution)
    if reason := absence(name):
        return Examined(name, found, False, f"{reason[0]}: {reason[1]}")
    try:
        artifact = _tiny(runtime_entry(name).formats[0], folder)
        with open_runtime(artifact, name, threads=1) as runtime:
            answer = runtime.infer({"x": _INPUT})["y"]
    except LissomError as exc:
        return Examined(name, found, False, f"{exc.message}: {exc.hint}")
    except Exception as exc:  # the point is to find out how an engine fails here
        return Examined(
            name, found, False, f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"
        )
    right = np.allclose(answer, _INPUT @ _WEIGHTS.T)
    return Examined(
        name, found, right, "a tiny model ran" if right else f"a tiny model gave {answer.tolist()}"
    )


def _tiny(model_format: str, folder: Path) -> Artifact:
    """An artifact of one matrix product."""
    path = folder / f"01-tiny-{model_format}"
    if path.exists():
        return Artifact.open(path)
    with Draft(path) as draft:
        factory = _add_torch(draft) if model_format == "torch" else None
        if factory is None:
            _add_onnx(draft)
        inputs: dict[str, Any] = {"stage": "load", "format": model_format}
        return draft.commit(
            id=content_id(inputs),
            id_inputs=inputs,
            recipe="doctor",
            name="tiny",
            stage="load",
            format=model_format,
            precision="float32",
            signature=_SIGNATURE,
            task="classification",
            labels=(),
            preprocessing=(),
            parents=(),
            config={},
            seed=0,
            data="",
            splits={},
            factory=factory,
            tools={},
            made_on={},
            num_parameters=4,
            notes={},
            tolerance=Tolerance(absolute=1e-5, relative=1e-5),
        )


def _add_torch(draft: Draft) -> Factory:
    import torch

    from lissom.structure import STRUCTURE_FILE, WEIGHTS_FILE, build, record, weights_bytes

    kwargs = {"in_features": 2, "num_classes": 2, "hidden": []}
    factory = Factory(source="mlp", kwargs=kwargs, sha256=source_sha256("mlp", known=MODELS))
    model = build(factory)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(_WEIGHTS) if parameter.ndim == 2 else torch.zeros(2))
    draft.add(STRUCTURE_FILE, canonical_json(record(model, factory)))
    draft.add(WEIGHTS_FILE, weights_bytes(model))
    return factory


def _add_onnx(draft: Draft) -> None:
    onnx: Any = require("onnx", extra="cpu")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "tiny",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 2])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(_WEIGHTS, "w")],
    )
    opset = onnx.helper.make_opsetid("", 18)
    draft.add(
        MODEL_FILE, onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    )
