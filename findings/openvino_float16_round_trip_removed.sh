#!/usr/bin/env bash
# openvino 2026.4.1 beside onnxruntime 1.32.0, onnx 1.23.2; float32 is asked for.
# Cast to float16 and back rounds to 11 bits and overflows above 65504.
# Behaviour: OpenVINO removes the pair of casts, so the values come back unchanged, without an error.
# Output seen for [2049, 65520, 1e-8]: onnxruntime [2048, inf, 0], openvino the input.
# Who is hurt: models that simulate half precision inside the graph, or clip by it.
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


row = np.array([2049, 65520, 1e-8], np.float32)
nodes = [
    helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
    helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
]
found = answers(nodes, {"x": row}, [floats("y", 3)])
for name, value in found.items():
    print(name, value.tolist())
assert found["onnxruntime"].tolist() == found["reference"].tolist() == [2048, np.inf, 0]
assert np.array_equal(found["openvino"], row)
PYTHON
echo "openvino_float16_round_trip_removed: as described"
