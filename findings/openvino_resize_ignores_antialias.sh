#!/usr/bin/env bash
# openvino 2026.4.1 beside onnxruntime 1.32.0, onnx 1.23.2 (onnx.reference).
# Resize with antialias=1 (operator set 18) widens the filter when it makes smaller, as PIL and torchvision do.
# Behaviour: OpenVINO ignores the attribute, without an error, and gives the answer of antialias=0.
# Output seen for 0, 0, 0, 8, 0, 0, 0, 0 to 2, linear: onnxruntime [1.25, 0.75], openvino [0, 0].
# Who is hurt: preprocessing that was put into the graph: thumbnails of fine patterns.
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


row = np.array([0, 0, 0, 8, 0, 0, 0, 0], np.float32).reshape(1, 1, 1, 8)
sizes = numpy_helper.from_array(np.array([1, 1, 1, 2], np.int64), "sizes")


def resized(antialias):
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=antialias)
    found = answers([node], {"x": row}, [floats("y", 1, 1, 1, 2)], [sizes], opset=19)
    return {name: value.ravel() for name, value in found.items()}


smooth, plain = resized(1), resized(0)
print("antialias 1", {name: value.round(3).tolist() for name, value in smooth.items()})
print("antialias 0", {name: value.round(3).tolist() for name, value in plain.items()})
assert np.allclose(smooth["onnxruntime"], smooth["reference"], atol=1e-4)
assert np.allclose(smooth["onnxruntime"].sum(), 2, atol=0.1)
assert np.array_equal(smooth["openvino"], plain["openvino"])
assert not np.allclose(smooth["openvino"], smooth["onnxruntime"], atol=0.1)
PYTHON
echo "openvino_resize_ignores_antialias: as described"
