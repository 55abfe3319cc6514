#!/usr/bin/env bash
# onnx 1.23.2 (onnx.reference) beside onnxruntime 1.32.0 and openvino 2026.4.1.
# LRN sums squares over neighbouring channels, for every channel.
# Behaviour: the reference evaluator goes over as many channels as there are samples: with one sample the first channel
# alone is normalised, the others are divided by bias ** beta; both engines follow the text.
# Output seen for ones, 1 sample, 3 channels, size 3, alpha 3, beta 1, bias 1: engines [1/3, 1/4, 1/3], reference [1/3, 1, 1];
# with 3 samples all agree.
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


node = helper.make_node("LRN", ["x"], ["y"], size=3, alpha=3.0, beta=1.0, bias=1.0)
for samples in (1, 3):
    ones = np.ones((samples, 3, 1, 1), np.float32)
    found = answers([node], {"x": ones}, [floats("y", samples, 3, 1, 1)])
    first = {name: value[0].ravel().tolist() for name, value in found.items()}
    print(samples, "samples:", first)
    wanted = [1 / 3, 1 / 4, 1 / 3]
    assert np.allclose(first["onnxruntime"], wanted) and np.allclose(first["openvino"], wanted)
    assert np.allclose(first["reference"], [1 / 3, 1, 1] if samples == 1 else wanted)
PYTHON
echo "onnx_reference_lrn_counts_samples: as described"
