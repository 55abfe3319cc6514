"""Models of float16 and float64 are quantized as in float32, and keep the types of their ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.foreign.test_quantization_engines import sqnr_db
from tests.unit.small import make

from lissom.artifact import TensorSpec
from lissom.models.data import Data, Dataset
from lissom.recipe import ModelConfig
from lissom.runtime.onnx_runtime import MODEL_FILE

RANDOM = np.random.default_rng(3)
HALF, DOUBLE = TensorProto.FLOAT16, TensorProto.DOUBLE


def constant(name: str, kind: int, *shape: int) -> Any:
    values = RANDOM.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)


def products(kind: int) -> tuple[list[Any], list[Any], tuple[int, ...]]:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "v", "c"], ["y"]),
    ]
    return nodes, [constant("w", kind, 16, 32), constant("v", kind, 32, 8), constant("c", kind, 8)], (16,)


def convolutions(kind: int) -> tuple[list[Any], list[Any], tuple[int, ...]]:
    half = numpy_helper.from_array(np.array(0.5, helper.tensor_dtype_to_np_dtype(kind)))
    nodes = [
        helper.make_node("Constant", [], ["half"], value=half),
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1]),
        helper.make_node("Mul", ["a", "half"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "v"], ["y"], pads=[1, 1]),
    ]
    return nodes, [constant("w", kind, 8, 4, 3), constant("v", kind, 4, 8, 3)], (4, 16)


def cast_inside(kind: int) -> tuple[list[Any], list[Any], tuple[int, ...]]:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["f"], ["s"]),
        helper.make_node("Cast", ["s"], ["h"], to=kind),
        helper.make_node("MatMul", ["h", "w"], ["a"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    return nodes, [constant("w", kind, 16, 8), constant("c", kind, 8)], (16,)


def file_of(network: Any, kind: int, folder: Path) -> tuple[Path, Data]:
    nodes, constants, shape = network(kind)
    ends = [
        [helper.make_tensor_value_info(name, kind, ["n", *sizes])]
        for name, sizes in (("x", shape), ("y", (4, 16) if len(shape) > 1 else (8,)))
    ]
    graph = helper.make_graph(nodes, "graph", *ends, constants)
    path = folder / "theirs.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=9), path)
    samples = RANDOM.normal(size=(64, *shape)).astype(helper.tensor_dtype_to_np_dtype(kind))
    return path, Data("noise", Dataset({"x": samples}))


def answers(path: Path, samples: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": samples})[0]
    return found


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
@pytest.mark.parametrize("kind", [HALF, DOUBLE], ids=["float16", "float64"])
@pytest.mark.parametrize("network", [products, convolutions, cast_inside])
def test_it_is_quantized_and_its_ends_keep_their_type(
    network: Any, kind: int, mode: str, tmp_path: Path
) -> None:
    if network is convolutions and (mode != "static" or kind == DOUBLE):
        pytest.skip("no other mode quantizes convolutions, and no engine has them in float64")
    path, data = file_of(network, kind, tmp_path)
    spec = TensorSpec(name="x", dtype=helper.tensor_dtype_to_np_dtype(kind).name, shape=("batch", 1))
    data = data.taken_by([spec])
    parent = make(tmp_path / "load", data, "load", model=ModelConfig(source=str(path)))
    fields = {"bits": 8} if mode == "weight-only" else {}
    artifact = make(tmp_path / "q", data, "quantize", parents={"input": parent}, mode=mode, **fields)
    made = onnx.load(artifact.file(MODEL_FILE))
    assert [end.type.tensor_type.elem_type for end in (*made.graph.input, *made.graph.output)] == [kind, kind]
    samples = data.tensors("calibrate")["x"]
    found = answers(artifact.file(MODEL_FILE), samples)
    assert sqnr_db(answers(path, samples), found.astype(np.float64)) > 25
