#!/usr/bin/env bash
# torch-pruning 1.6.1, torch 2.13.0.
# Behaviour: round_to rounds the number of channels that stay down, whatever was asked: of 10 channels 30 % shall go, 7 stay;
# with round_to=4 only 4 stay, 60 % have gone, where 8 (20 %) is nearer; with round_to=8 nothing goes at all.
# Output seen: round_to None 7, 2 6, 4 4, 8 10.
# Who is hurt: narrow layers, which lose twice the share that was asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torch-pruning==1.6.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch_pruning

left = {}
for multiple in (None, 2, 4, 8):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 10, 1), torch.nn.Conv2d(10, 4, 1))
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.rand(1, 3, 4, 4),
        torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.3,
        round_to=multiple,
        ignored_layers=[model[1]],
    )
    pruner.step()
    left[multiple] = model[0].out_channels
print(left)
assert left == {None: 7, 2: 6, 4: 4, 8: 10}
PYTHON
echo "torch_pruning_round_to_takes_too_much: as described"
