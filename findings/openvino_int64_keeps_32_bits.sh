#!/usr/bin/env bash
# openvino 2026.4.1 beside onnxruntime 1.32.0, onnx 1.23.2; CPU.
# Behaviour: inputs and arithmetic declared int64 are computed in int32 and keep the low 32 bits; the output still says int64.
# Output seen for x + 5 with x = [2**40, 3000000000]: onnxruntime [1099511627781, 3000000005], openvino [5, -1294967291].
# Who is hurt: hashes, timestamps in milliseconds and large indices inside a graph.
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


row = np.array([2**40, 3_000_000_000], np.int64)
node = helper.make_node("Add", ["x", "five"], ["y"])
whole = helper.make_tensor_value_info("y", TensorProto.INT64, (2,))
found = answers([node], {"x": row}, [whole], [numpy_helper.from_array(np.int64(5), "five")])
for name, value in found.items():
    print(name, value.dtype, value.tolist())
assert found["onnxruntime"].tolist() == (row + 5).tolist()
assert found["openvino"].dtype == np.int64
assert found["openvino"].tolist() == (row + 5).astype(np.int32).tolist()
PYTHON
echo "openvino_int64_keeps_32_bits: as described"
