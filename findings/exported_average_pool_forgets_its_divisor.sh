#!/usr/bin/env bash
# torch 2.13.0 (dynamo exporter), onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0.
# Behaviour: AvgPool2d(divisor_override=2) is exported as a plain AveragePool, which divides by the size of the window;
# no error or warning.
# Output seen for a window of nine ones: torch 4.5, onnxruntime 1.0.
# Who is hurt: networks that sum with a pooling layer (divisor 1).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import onnxruntime
import torch

model, ones = torch.nn.AvgPool2d(3, divisor_override=2).eval(), torch.ones(1, 1, 3, 3)
content = io.BytesIO()
torch.onnx.export(model, (ones,), dynamo=True, verbose=False).save(content)
session = onnxruntime.InferenceSession(content.getvalue(), providers=["CPUExecutionProvider"])
found = session.run(None, {session.get_inputs()[0].name: ones.numpy()})[0]
print("torch", float(model(ones)), "onnxruntime", float(found.squeeze()))
assert float(model(ones)) == 4.5
assert float(found.squeeze()) == 1.0
PYTHON
echo "exported_average_pool_forgets_its_divisor: as described"
