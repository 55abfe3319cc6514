#!/usr/bin/env bash
# onnxruntime 1.32.0 and openvino 2026.4.1 beside onnx 1.23.2 (onnx.reference) and exact arithmetic.
# Resize, nearest, half_pixel, floor, 7 -> 1: the place in the input is (0 + 0.5) * 7 - 0.5 = 3, so element 3.
# Behaviour: both engines divide by a float32 scale of 1/7, get a place just below 3, and floor takes element 2.
# Output seen for 0..6: onnxruntime 2, openvino 2, reference 3; round_prefer_floor gives 3 everywhere.
# Who is hurt: exports that use floor with an odd factor; a picture moves by a pixel.
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


row = np.arange(7, dtype=np.float32).reshape(1, 1, 7)
sizes = numpy_helper.from_array(np.array([1, 1, 1], np.int64), "sizes")


def resized(nearest):
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode="nearest",
        coordinate_transformation_mode="half_pixel", nearest_mode=nearest,
    )
    return {
        name: float(value.ravel()[0])
        for name, value in answers([node], {"x": row}, [floats("y", 1, 1, 1)], [sizes], opset=19).items()
    }


floor, nearest = resized("floor"), resized("round_prefer_floor")
print("floor", floor, "round_prefer_floor", nearest)
assert floor == {"onnxruntime": 2.0, "openvino": 2.0, "reference": 3.0}
assert set(nearest.values()) == {3.0}
PYTHON
echo "resize_nearest_floor_is_one_off: as described"
