#!/usr/bin/env bash
# openvino 2026.4.1 beside onnxruntime 1.32.0, onnx 1.23.2 (onnx.reference).
# AveragePool with ceil_mode=1 and count_include_pad=1: cells beyond the padding do not exist and are not counted.
# Behaviour: OpenVINO divides windows that stick out at the end by the full size of the kernel.
# Output seen for 1, 1, 1, 1, kernel 3, stride 2, padding 1: onnxruntime [2/3, 1, 1/2], openvino [2/3, 1, 1/3].
# Who is hurt: networks with ceil_mode whose pictures do not divide evenly; the rim of the map is too dark.
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


row = np.ones((1, 1, 4), np.float32)
node = helper.make_node(
    "AveragePool", ["x"], ["y"], kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1, count_include_pad=1
)
found = answers([node], {"x": row}, [floats("y", 1, 1, 3)], opset=19)
for name, value in found.items():
    print(name, value.shape, value.ravel().tolist())
assert np.allclose(found["onnxruntime"].ravel(), [2 / 3, 1, 1 / 2])
assert np.allclose(found["openvino"].ravel(), [2 / 3, 1, 1 / 3])
PYTHON
echo "openvino_average_pool_at_the_rim: as described"
