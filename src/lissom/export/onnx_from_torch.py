"""Torch to ONNX by the dynamo exporter, with named batch axes and without traces of this machine."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from lissom.adaptation import frozen
from lissom.artifact import Artifact, Signature, TensorSpec
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
    arguments = tuple(tensor_of(array) for array in context.call_inputs(signature).values())
    module = load_model(parent, plain=True) if model is None else model
    axes = by_parameter(module, dynamic_axes(signature))

    def exported(source: Any) -> Any:
        program = torch.onnx.export(
            source,
            arguments,
            dynamic_shapes=axes,
            input_names=[spec.name for spec in signature.inputs],
            output_names=[spec.name for spec in signature.outputs],
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        return program.model_proto

    with quiet_libraries(), not_unrolled(), frozen(module):
        try:
            found = exported(module)
        except torch.onnx.OnnxExporterError as exc:
            raise unsupported(parent.name, module, arguments, exc) from exc
        if has_fixed(found, signature):
            # A size taken as len(x) is a plain int while the module runs, but not where its bytecode is read.
            with suppress(Exception):
                found = exported(torch.export.export(module, arguments, dynamic_shapes=axes, strict=True))
    return found


def has_fixed(model: Any, signature: Signature) -> bool:
    """True when the exporter gave a size to an axis that may vary."""
    values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    return any(
        values[spec.name].type.tensor_type.shape.dim[axis].HasField("dim_value")
        for spec in (*signature.inputs, *signature.outputs)
        for axis in varying_axes(signature, spec)
    )


def varying_axes(signature: Signature, spec: TensorSpec) -> list[int]:
    """Axes of an input or output that have no size, and are not that of a fixed number of samples."""
    batching = signature.batching
    fixed = None
    if batching is not None and batching.size is not None:
        fixed = {**batching.inputs, **batching.outputs}.get(spec.name)
    return [axis for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and axis != fixed]


def by_parameter(model: nn.Module, axes: tuple[dict[int, Any], ...]) -> tuple[Any, ...]:
    """Axes for each parameter of the forward: those that a starred one takes up stand in one entry."""
    bound = inspect.signature(model.forward).bind(*range(len(axes))).arguments.values()
    return tuple(
        tuple(axes[place] for place in one) if isinstance(one, tuple) else axes[one] for one in bound
    )


def dynamic_axes(signature: Signature) -> tuple[dict[int, Any], ...]:
    """For each input the axes that may vary, as torch.export takes them; it finds out which go together."""
    return tuple(
        dict.fromkeys(varying_axes(signature, spec), torch.export.Dim.AUTO) for spec in signature.inputs
    )
