#!/usr/bin/env bash
# onnx 1.23.2 (onnx.version_converter), answers by onnxruntime 1.32.0.
# Up to operator set 12, Hardmax flattens every axis from `axis` on into one; from 13 on it works along that axis alone.
# Behaviour: the converter flattens and restores for Softmax and LogSoftmax of this age, and forgets Hardmax: one 1 for
# the whole block becomes one 1 for each column. No error or warning.
# Output seen for [[1, 2], [4, 3]] as [1, 2, 2], axis 1: ones before 1, after 2; Softmax is the same before and after.
# Who is hurt: old files that pick one place of a picture.
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


block = np.array([[[1, 2], [4, 3]]], np.float32)
before, after = before_and_after(helper.make_node("Hardmax", ["x"], ["y"], axis=1), block, 3, 12)
print("Hardmax before", before.tolist(), "after", after.tolist())
assert before.tolist() == [[[0, 0], [1, 0]]]
assert after.tolist() == [[[0, 0], [1, 1]]]
before, after = before_and_after(helper.make_node("Softmax", ["x"], ["y"], axis=1), block, 3, 12)
print("Softmax", np.abs(before - after).max())
assert np.allclose(before, after) and np.isclose(before.sum(), 1)
PYTHON
echo "onnx_version_converter_hardmax_axis: as described"
