"""Torch to an AOTInductor package: native code that needs neither Python's torch.compile nor a warm-up.

The package is code for this machine's processor, linked against this version of torch. It is opened only
when the manifest's digest matches, as every payload file is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lissom.adaptation import frozen
from lissom.artifact import Artifact
from lissom.causes import told
from lissom.errors import MachineError, ModelError
from lissom.export.onnx_from_torch import dynamic_axes
from lissom.export.refusals import check_axes
from lissom.logs import quiet_libraries
from lissom.models.stages import Context
from lissom.runtime.aot_inductor import PACKAGE_FILE
from lissom.runtime.arrays import tensor_of
from lissom.runtime.machine import compiler
from lissom.structure import load_model


def package_from_torch(parent: Artifact, context: Context, precision: str) -> Mapping[str, bytes]:
    """The package of a torch artifact, with a batch that may vary.

    Raises:
        MachineError: there is no C++ compiler.
        ModelError: torch cannot capture or compile the model.
    """
    if compiler() is None:
        raise MachineError("AOTInductor compiles C++, and there is no compiler", hint="apt-get install g++")
    signature = parent.manifest.signature
    model = _Positional(load_model(parent, plain=True), getattr(torch, precision)).eval()
    arguments = tuple(tensor_of(array) for array in context.call_inputs(signature).values())
    axes = dynamic_axes(signature)
    with tempfile.TemporaryDirectory() as place, quiet_libraries(), frozen(model):
        path = Path(place) / PACKAGE_FILE
        try:
            # One entry, because the wrapper takes its inputs as *inputs.
            program = torch.export.export(model, arguments, dynamic_shapes=(axes,), strict=False)
            check_axes(program, [spec.name for spec in signature.inputs], axes)
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )
        except ModelError:
            raise
        except Exception as exc:  # torch.compile raises whatever its passes stumble over
            raise ModelError(f"{parent.name!r} cannot be compiled by inductor:{told(exc)}") from exc
        return {PACKAGE_FILE: path.read_bytes()}


class _Positional(nn.Module):
    """A model that computes in a type, with inputs and outputs as before."""

    def __init__(self, model: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.model = model.to(kind)
        self.kind = kind

    def forward(self, *inputs: torch.Tensor) -> Any:
        outputs = self.model(*(_as(tensor, self.kind) for tensor in inputs))
        if isinstance(outputs, tuple | list):
            return tuple(_as(tensor, torch.float32) for tensor in outputs)
        return _as(outputs, torch.float32)


def _as(tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """The tensor in a floating type; whole numbers as they are."""
    return tensor.to(kind) if tensor.is_floating_point() else tensor
