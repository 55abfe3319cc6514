#!/usr/bin/env bash
# onnxruntime 1.32.0, openvino 2026.4.1, onnx 1.23.2 (onnx.reference); CPU, float32.
# Behaviour: whether NaN reaches the answer depends on operator and engine; no engine keeps it everywhere.
# Output seen for a NaN: ReduceMax of [1, NaN, 3, 2]: both engines 3, reference NaN. Relu, Clip, Celu: onnxruntime NaN, openvino 0.
# ThresholdedRelu: openvino NaN, onnxruntime and reference 0.
# Who is hurt: whoever relies on the model to show that a pixel was NaN; the input has to be checked.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def answers(nodes, feeds, outputs, constants=(), opset=21):
    """The first output on three engines, in float32 where the engine has a choice."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnxruntime": session.run(None, feeds)[0],
        "openvino": np.asarray(compiled(feeds)[0]),
        "reference": ReferenceEvaluator(model).run(None, feeds)[0],
    }


def floats(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


nan = np.array([np.nan, 1], np.float32)


def first(operator, constants=(), **attributes):
    names = [tensor.name for tensor in constants]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    found = answers([node], {"x": nan}, [floats("y", 2)], constants, opset=18)
    print(operator, {name: float(value[0]) for name, value in found.items()})
    return {name: float(value[0]) for name, value in found.items()}


ends = [numpy_helper.from_array(np.float32(0), "low"), numpy_helper.from_array(np.float32(6), "high")]
for found in (first("Relu"), first("Clip", ends), first("Celu")):
    assert np.isnan(found["onnxruntime"])
    assert found["openvino"] == 0
found = first("ThresholdedRelu")
assert np.isnan(found["openvino"])
assert found["onnxruntime"] == found["reference"] == 0

node = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)
row = np.array([1, np.nan, 3, 2], np.float32)
found = {name: float(value) for name, value in answers([node], {"x": row}, [floats("y")], opset=18).items()}
print("ReduceMax", found)
assert found["onnxruntime"] == found["openvino"] == 3
assert np.isnan(found["reference"])
PYTHON
echo "nan_is_dropped_by_maxima_and_rectifiers: as described"
