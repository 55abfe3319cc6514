"""What the first output of an ONNX classifier holds, found by trial and, for sigmoids, in its graph.

Rows that sum to one leave no doubt. Numbers in [0, 1] that do not may be logits still: they are sigmoids
where the graph ends in one, or where larger inputs drive them to both ends and never beyond.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lissom.artifact import Signature
from lissom.errors import ModelError
from lissom.export.onnx_file import caller, open_session
from lissom.models.data import Data
from lissom.models.score_kinds import CLASSIFYING, kind_of_calls, samples_of
from lissom.runtime.layout import Layout
from lissom.runtime.scores import ScoreKind

_MOVING = frozenset(
    ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Slice", "Gather", "Clip")
) | {"Concat", "Split", "Dropout", "QuantizeLinear", "DequantizeLinear"}
"""Operators that leave numbers in [0, 1] there."""
_BOUNDED = frozenset(("Sigmoid", "HardSigmoid", "Softmax"))
_LOGARITHMS = frozenset(("Log", "LogSoftmax", "Neg"))
"""How the logarithm of a share ends; Neg follows Softplus, or else a number that nothing drives above 0."""
_END = 0.02
"""Distance from 0 and from 1 at which a sigmoid counts as driven to its end."""
_MAX_BYTES = 1_000_000_000


def kind_of_onnx(model: Any, signature: Signature, data: Data, task: str) -> ScoreKind:
    """What the first output of an ONNX model holds; logits where it cannot be asked."""
    if task not in CLASSIFYING or model.ByteSize() > _MAX_BYTES:
        return "logits"
    names = [spec.name for spec in signature.outputs]
    try:
        call = caller(open_session(model.SerializeToString()), names)
        tensors, layout = samples_of(data), Layout(signature)
        seen: list[np.ndarray] = []

        def watched(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = layout.infer_samples(call, batch)
            seen.append(found[names[0]])
            return found

        kind = kind_of_calls(watched, tensors)
    except ModelError:
        return "logits"  # the file is opened and called again when it is written, where what fails is told
    if kind == "log_probabilities" and all(array[0].size == 1 for array in seen):
        return kind if _ends_in(model, names[0], _LOGARITHMS) else "logits"
    if kind != "sigmoids" or _ends_in(model, names[0], _BOUNDED):
        return kind
    reached = np.concatenate([array.reshape(-1) for array in seen])
    driven = np.nanmin(reached) < _END and np.nanmax(reached) > 1 - _END
    return kind if driven else "logits"


def _ends_in(model: Any, name: str, known: Collection[str]) -> bool:
    """True when everything that reaches an output comes from one of some operators."""
    makers = {output: node for node in model.graph.node for output in node.output}
    pending, seen = [name], set()
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        node = makers.get(tensor)
        if node is None:
            return False
        if node.op_type in known:
            continue
        if node.op_type not in _MOVING:
            return False
        pending += node.input if node.op_type == "Concat" else node.input[:1]
    return True
