#!/usr/bin/env bash
# torchmetrics 1.9.0, torch 2.13.0.
# BinaryF1Score, BinaryCalibrationError and others take probabilities or logits, and guess which from the values of each batch:
# only where one value lies outside [0, 1] is sigmoid applied.
# Behaviour: the same logits give another score when they come in other batches.
# Output seen for logits [0.2, 0.4, 3.0] with labels all 1, threshold 0.5: accuracy 1.0 in one call, 0.333 row by row.
# Who is hurt: a model whose logits are small in some batches; apply sigmoid or softmax before the metric.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torchmetrics.classification import BinaryAccuracy, MulticlassCalibrationError

logits, labels = torch.tensor([0.2, 0.4, 3.0]), torch.tensor([1, 1, 1])
together, alone = BinaryAccuracy(), BinaryAccuracy()
together.update(logits, labels)
for place in range(3):
    alone.update(logits[place : place + 1], labels[place : place + 1])
print("accuracy together", float(together.compute()), "row by row", float(alone.compute()))
assert float(together.compute()) == 1.0
assert abs(float(alone.compute()) - 1 / 3) < 1e-6

rows, classes = torch.tensor([[0.9, 0.1, 0.3], [4.0, 0.0, 0.0]]), torch.tensor([0, 0])
together, alone = (MulticlassCalibrationError(num_classes=3, n_bins=10) for _ in range(2))
together.update(rows, classes)
for place in range(2):
    alone.update(rows[place : place + 1], classes[place : place + 1])
print("calibration error together", float(together.compute()), "row by row", float(alone.compute()))
assert abs(float(together.compute()) - float(alone.compute())) > 0.1
PYTHON
echo "torchmetrics_guesses_logits_a_batch: as described"
