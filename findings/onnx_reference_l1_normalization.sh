#!/usr/bin/env bash
# onnx 1.23.2 (onnx.reference) beside onnxruntime 1.32.0 and openvino 2026.4.1.
# LpNormalization with p=1 divides by the L1 norm, the sum of absolute values.
# Behaviour: the reference evaluator divides by the plain sum, so that signs cancel; both engines use absolute values.
# Output seen for [3, -1]: engines [0.75, -0.25], reference [1.5, -0.5].
# Who is hurt: whoever takes the reference evaluator for the judge of an engine.
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


row = np.array([[3.0, -1.0]], np.float32)
node = helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=1)
found = answers([node], {"x": row}, [floats("y", 1, 2)])
for name, value in found.items():
    print(name, value.ravel().tolist())
for engine in ("onnxruntime", "openvino"):
    assert np.allclose(found[engine].ravel(), [0.75, -0.25])
assert np.allclose(found["reference"].ravel(), [1.5, -0.5])
PYTHON
echo "onnx_reference_l1_normalization: as described"
