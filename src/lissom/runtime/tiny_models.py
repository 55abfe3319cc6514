"""A matrix product of two by two in the format of each engine, to find out whether the engine works."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from lissom.logs import quiet_libraries
from lissom.optional import require, version
from lissom.registry import MODELS, source_sha256
from lissom.runtime.arrays import tensor_of
from lissom.runtime.machine import isa_flags
from lissom.runtime.onnx_runtime import MODEL_FILE

WEIGHTS = np.array([[1.0, -1.0], [0.5, 2.0]], dtype=np.float32)
"""Of shape [outputs, inputs]."""
_SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
)


def tiny(model_format: str, folder: Path) -> Artifact:
    """An artifact `y = x @ WEIGHTS.T` in a folder, made when it is not there.

    Raises:
        LissomError: a library that makes the format is absent.
    """
    path = folder / f"01-tiny-{model_format}"
    if path.exists():
        return Artifact.open(path)
    with Draft(path) as draft:
        factory = _MAKERS[model_format](draft)
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
            tools={"torch": version("torch")},
            made_on={"isa": list(isa_flags())},
            num_parameters=4,
            notes={},
            tolerance=Tolerance(absolute=1e-5, relative=1e-5),
        )


def _torch(draft: Draft) -> Factory:
    import torch

    from lissom.factories import build
    from lissom.structure import STRUCTURE_FILE, WEIGHTS_FILE, record, weights_bytes

    kwargs = {"in_features": 2, "num_classes": 2, "hidden": []}
    factory = Factory(source="mlp", kwargs=kwargs, sha256=source_sha256("mlp", known=MODELS))
    model = build(factory)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(tensor_of(WEIGHTS) if parameter.ndim == 2 else torch.zeros(2))
    draft.add(STRUCTURE_FILE, canonical_json(record(model, factory)))
    draft.add(WEIGHTS_FILE, weights_bytes(model))
    return factory


def _onnx_model() -> Any:
    onnx: Any = require("onnx", extra="cpu")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "tiny",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 2])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(WEIGHTS, "w")],
    )
    opset = onnx.helper.make_opsetid("", 18)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)


def _onnx(draft: Draft) -> None:
    draft.add(MODEL_FILE, _onnx_model().SerializeToString())


def _openvino(draft: Draft) -> None:
    from lissom.runtime.open_vino import GRAPH_FILE, WEIGHTS_FILE

    library: Any = require("openvino", extra="cpu")
    with tempfile.TemporaryDirectory() as folder:
        source, graph = Path(folder) / MODEL_FILE, Path(folder) / GRAPH_FILE
        source.write_bytes(_onnx_model().SerializeToString())
        library.save_model(library.Core().read_model(source), graph, compress_to_fp16=False)
        for name in (GRAPH_FILE, WEIGHTS_FILE):
            draft.add(name, (Path(folder) / name).read_bytes())


def _aotinductor(draft: Draft) -> None:
    import torch

    from lissom.runtime.aot_inductor import PACKAGE_FILE

    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.data.copy_(tensor_of(WEIGHTS))
    with tempfile.TemporaryDirectory() as folder, quiet_libraries(), torch.no_grad():
        path = Path(folder) / PACKAGE_FILE
        torch._inductor.aoti_compile_and_package(
            torch.export.export(model, (torch.zeros(1, 2),)), package_path=str(path)
        )
        draft.add(PACKAGE_FILE, path.read_bytes())


def _tensorrt(draft: Draft) -> None:
    from lissom.runtime.tensor_rt import ENGINE_FILE

    backend: Any = require("polygraphy.backend.trt", extra="gpu")
    profile = backend.Profile().add("x", (1, 2), (1, 2), (1, 2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        path.write_bytes(_onnx_model().SerializeToString())
        network = backend.NetworkFromOnnxPath(str(path), strongly_typed=True)
        engine = backend.EngineBytesFromNetwork(network, backend.CreateConfig(profiles=[profile]))()
    draft.add(ENGINE_FILE, bytes(engine))


_MAKERS: dict[str, Callable[[Draft], Factory | None]] = {
    "torch": _torch,
    "onnx": _onnx,
    "openvino": _openvino,
    "aotinductor": _aotinductor,
    "tensorrt": _tensorrt,
}
