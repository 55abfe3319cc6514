"""Torch to ONNX by the dynamo exporter, with named batch axes and without traces of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lissom.artifact import Artifact
from lissom.errors import ModelError
from lissom.export.onnx_file import add_onnx
from lissom.export.recurrent_layers import not_unrolled
from lissom.logs import quiet_libraries
from lissom.models.stages import FLOAT32_TOLERANCE, Context
from lissom.recipe import ExportConfig
from lissom.structure import load_model


def export(parents: Mapping[str, Artifact], config: ExportConfig, context: Context) -> Artifact:
    """Write the torch model of the parent as ONNX."""
    parent = parents["input"]
    with context.progress.task(f"export {context.fields['name']}", 1) as advance:
        model = onnx_from_torch(parent, context, opset=config.opset)
        advance(1)
    with context.draft() as draft:
        add_onnx(draft, model, parent.manifest.signature, context)
        return draft.commit(
            **context.fields,
            format="onnx",
            precision=parent.manifest.precision,
            signature=parent.manifest.signature,
            factory=None,
            num_parameters=parent.manifest.num_parameters,
            notes={"opset": config.opset, "operators": len(model.graph.node)},
            tolerance=FLOAT32_TOLERANCE,
        )


def onnx_from_torch(parent: Artifact, context: Context, *, opset: int, model: nn.Module | None = None) -> Any:
    """The ONNX ModelProto of a torch artifact, or of `model`, which is the same with other weights.

    Raises:
        ModelError: torch cannot capture the model, or an operator has no ONNX form.
    """
    signature = parent.manifest.signature
    arguments = tuple(torch.from_numpy(array) for array in context.probe_inputs().values())
    shapes = tuple(
        {axis: torch.export.Dim.AUTO for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in signature.inputs
    )
    try:
        with quiet_libraries(), not_unrolled():
            program = torch.onnx.export(
                load_model(parent) if model is None else model,
                arguments,
                dynamic_shapes=shapes,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as exc:
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        raise ModelError(f"{parent.name!r} cannot be exported to ONNX: {' '.join(lines)[:600]}") from exc
    assert program is not None
    return program.model_proto
