#!/usr/bin/env bash
# onnx 1.23.2 (onnx.reference) beside onnxruntime 1.32.0, openvino 2026.4.1 and torch's definition.
# GridSample, cubic, padding border: the 16 neighbours outside the picture take the value of the nearest edge.
# Behaviour: the reference evaluator clamps the place before it chooses neighbours, so that beyond the edge cubic
# weights of another place are used; both engines agree with torch's grid_sample.
# Output seen, ramp 0..3 in both axes, place x = 1.1 (align_corners 1): engines 3.0813, reference 3.0.
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


ramp = np.tile(np.arange(4, dtype=np.float32), (4, 1)).reshape(1, 1, 4, 4)
grid = np.array([1.1, 0.0], np.float32).reshape(1, 1, 1, 2)
node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="cubic", padding_mode="border", align_corners=1)
found = answers([node], {"x": ramp, "grid": grid}, [floats("y", 1, 1, 1, 1)], opset=20)
values = {name: float(value.ravel()[0]) for name, value in found.items()}
print(values)
place, a = (1.1 + 1) / 2 * 3, -0.75
cell, t = int(np.floor(place)), (1.1 + 1) / 2 * 3 - int(np.floor(place))


def weight(distance):
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a


right = sum(weight(step - t) * min(max(cell + step, 0), 3) for step in (-1, 0, 1, 2))
assert abs(values["onnxruntime"] - right) < 1e-5 and abs(values["openvino"] - right) < 1e-5
assert abs(values["reference"] - right) > 1e-3
PYTHON
echo "onnx_reference_cubic_grid_sample_border: as described"
