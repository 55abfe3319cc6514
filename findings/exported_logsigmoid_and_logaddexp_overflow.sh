#!/usr/bin/env bash
# torch 2.13.0 (dynamo exporter), onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0.
# Behaviour: logsigmoid is written as Log(Sigmoid(x)), logaddexp as Log(Exp(x) + Exp(y)), without the shift that torch uses;
# onnxruntime's Sigmoid is exactly 0 from about -18 on, so that the logarithm is -inf already at -20.
# Output seen: logsigmoid(-20): torch -20, onnxruntime -inf; logaddexp(100, 200): torch 200, onnxruntime inf;
# the exporter's own verification on small numbers finds nothing.
# Who is hurt: losses, CRFs and scores in log space inside an exported model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import onnxruntime
import torch


class Apply(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(function, x):
    program = torch.onnx.export(Apply(function).eval(), (x,), dynamo=True, verbose=False)
    content = io.BytesIO()
    program.save(content)
    session = onnxruntime.InferenceSession(content.getvalue(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


x = torch.tensor([-20.0, 1.0, 100.0])
for name, function, wrong in (
    ("logsigmoid", torch.nn.functional.logsigmoid, [-np.inf, None, None]),
    ("logaddexp", lambda x: torch.logaddexp(x, 2 * x), [None, None, np.inf]),
):
    right, found = function(x).numpy(), exported(function, x)
    print(name, "torch", right.tolist(), "onnxruntime", found.tolist())
    assert np.isfinite(right).all()
    assert found[[place for place, value in enumerate(wrong) if value is not None]].tolist() == [
        value for value in wrong if value is not None
    ]
    assert np.isclose(found[1], right[1])
PYTHON
echo "exported_logsigmoid_and_logaddexp_overflow: as described"
