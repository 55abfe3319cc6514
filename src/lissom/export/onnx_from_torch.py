"""Torch to ONNX by the dynamo exporter, with named batch axes and without traces of this machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lissom.artifact import Artifact, Signature
from lissom.export.recurrent_layers import not_unrolled
from lissom.export.refusals import unsupported
from lissom.logs import quiet_libraries
from lissom.models.stages import Context
from lissom.runtime.arrays import tensor_of
from lissom.structure import load_model


def onnx_from_torch(parent: Artifact, context: Context, *, opset: int, model: nn.Module | None = None) -> Any:
    """The ONNX ModelProto of a torch artifact, or of `model`, which is the same with other weights.

    Raises:
        ModelError: torch cannot capture the model, or an operator has no ONNX form.
    """
    signature = parent.manifest.signature
    arguments = tuple(tensor_of(array) for array in context.probe_inputs().values())
    module = load_model(parent) if model is None else model
    try:
        with quiet_libraries(), not_unrolled():
            program = torch.onnx.export(
                module,
                arguments,
                dynamic_shapes=dynamic_axes(signature),
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as exc:
        raise unsupported(parent.name, module, arguments, exc) from exc
    assert program is not None
    return program.model_proto


def dynamic_axes(signature: Signature) -> tuple[dict[int, Any], ...]:
    """For each input the axes that may vary, as torch.export takes them; it finds out which go together."""
    return tuple(
        {axis: torch.export.Dim.AUTO for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in signature.inputs
    )
