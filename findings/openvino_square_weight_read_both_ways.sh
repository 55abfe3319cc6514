#!/usr/bin/env bash
# openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2 (onnx.reference); CPU, float32.
# Behaviour: a square weight that one layer reads as it is and another turned (transB=1) is turned for both or for
# neither: the second layer gets the weight as the first had it packed. A weight that is not square is right.
# Output seen: y = (x w) w' on openvino is (x w) w, to the last bit of what plain products give; no warning.
# Who is hurt: autoencoders and other models whose square layers are tied, on the engine that opens them all.
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

random = np.random.default_rng(0)


def answers(rows, columns, flags):
    """Answers of three engines to one sample set, for two layers that read one weight, turned where flagged."""
    weight = random.normal(size=(rows, columns)).astype(np.float32)
    samples = random.normal(size=(4, columns if flags[0] else rows)).astype(np.float32)
    names = ["x", "h", "y"]
    nodes = [
        helper.make_node("Gemm", [names[place], "w"], [names[place + 1]], transB=flag)
        for place, flag in enumerate(flags)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "tied", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = {
        "onnxruntime": session.run(None, {"x": samples})[0],
        "reference": ReferenceEvaluator(model).run(None, {"x": samples})[0],
        "openvino": np.asarray(compiled({"x": samples})[0]),
    }
    first = weight.T if flags[0] else weight
    second = weight.T if flags[1] else weight
    right = samples @ first @ second
    wrong = samples @ first @ first if rows == columns else None
    return found, right, wrong


for size in (8, 64):
    for flags in ((0, 1), (1, 0)):
        found, right, wrong = answers(size, size, flags)
        apart = {name: float(np.abs(value - right).max()) for name, value in found.items()}
        print(f"{size} x {size}, turned {flags}: largest error {apart}")
        assert apart["onnxruntime"] < 1e-3 and apart["reference"] < 1e-3
        assert apart["openvino"] > 1
        assert np.allclose(found["openvino"], wrong, rtol=1e-4, atol=1e-3)
found, right, _ = answers(16, 8, (0, 1))
print("16 x 8:", {name: float(np.abs(value - right).max()) for name, value in found.items()})
assert all(np.allclose(value, right, rtol=1e-4, atol=1e-4) for value in found.values())
PYTHON
