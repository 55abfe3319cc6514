#!/usr/bin/env bash
# openvino 2026.4.1 beside onnxruntime 1.32.0, onnx 1.23.2; opset 21.
# QuantizeLinear with a uint16 zero point rounds to a grid and clips at its ends.
# Behaviour: OpenVINO takes such a pair out of the graph, so nothing is rounded or clipped; no error, no warning.
# A graph of nothing but such a pair does not compile there at all; with uint8 both are right.
# Output seen for [-0.4, 0.1, 0.6, 1.1] through Mul by 1, scale 0.25, zero point 0:
# onnxruntime [0, 0, 0.5, 1], openvino [-0.4, 0.1, 0.6, 1.1]; with uint8 both [0, 0, 0.5, 1].
# Who is hurt: quantizers that drop a Relu in front of a grid that begins at 0: the rectifier is gone there.
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


row = np.array([[-0.4, 0.1, 0.6, 1.1]], np.float32)


def through(kind):
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Add", ["d", "nought"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.full((1, 4), 1, np.float32), "one"),
        numpy_helper.from_array(np.array([[0, 0, 0, 1e-30]], np.float32), "nought"),
        numpy_helper.from_array(np.float32(0.25), "scale"),
        numpy_helper.from_array(kind(0), "zero"),
    ]
    return answers(nodes, {"x": row}, [floats("y", 1, 4)], constants)


wide, narrow = through(np.uint16), through(np.uint8)
print("uint16", {name: value.ravel().tolist() for name, value in wide.items()})
print("uint8", {name: value.ravel().tolist() for name, value in narrow.items()})
grid = [0, 0, 0.5, 1]
for found in (wide["onnxruntime"], wide["reference"], *narrow.values()):
    assert np.allclose(found.ravel(), grid)
assert np.allclose(wide["openvino"], row)
PYTHON
echo "openvino_uint16_grid_is_lost: as described"
