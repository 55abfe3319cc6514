#!/usr/bin/env bash
# onnx 1.23.2 (onnx.version_converter), answers by onnxruntime 1.32.0.
# Upsample (operator sets 7 to 9) and Resize of set 10 place output i at i / scale in the input ("asymmetric" since set 11).
# Behaviour: the converter writes a Resize without coordinate_transformation_mode, which then defaults to half_pixel:
# linear upsampling gives other pixels, with no error or warning. Nearest upsampling by whole factors is not changed.
# Output seen for [0, 1, 2] by 2, linear: before [0, 0.5, 1, 1.5, 2, 2], after [0, 0.25, 0.75, 1.25, 1.75, 2].
# Who is hurt: old segmentation and super-resolution files that are converted before they are quantized.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter


def before_and_after(node, array, rank, opset, constants=()):
    """Answers of onnxruntime for a file of an old operator set, and for what the converter makes of it."""
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, array.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank)])],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)
    onnx.checker.check_model(model)
    found = []
    for one in (model, version_converter.convert_version(model, 21)):
        session = onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"x": array})[0])
    return found


row = np.arange(3, dtype=np.float32).reshape(1, 1, 1, 3)
scales = numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales")
upsample = helper.make_node("Upsample", ["x", "scales"], ["y"], mode="linear")
resize = helper.make_node("Resize", ["x", "scales"], ["y"], mode="linear")
for node, opset in ((upsample, 9), (resize, 10)):
    before, after = before_and_after(node, row, 4, opset, [scales])
    print(node.op_type, opset, "before", before.ravel().tolist(), "after", after.ravel().tolist())
    assert np.allclose(before.ravel(), [0, 0.5, 1, 1.5, 2, 2])
    assert np.allclose(after.ravel(), [0, 0.25, 0.75, 1.25, 1.75, 2])
PYTHON
echo "onnx_version_converter_moves_upsampled_pixels: as described"
