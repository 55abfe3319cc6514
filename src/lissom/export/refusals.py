"""Why a torch model cannot be captured or written: operator, layer and line of the user's code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lissom.causes import told
from lissom.errors import ModelError

_OPERATOR = re.compile(r"OpOverload\(op='(?P<name>[\w.]+)'")
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<code>.+)')


def unsupported(
    name: str, model: nn.Module, arguments: tuple[torch.Tensor, ...], exc: Exception
) -> ModelError:
    """The error for a model that the ONNX exporter refused.

    Args:
        name: The artifact's.
        model: What was to be exported.
        arguments: Its inputs.
        exc: What the exporter raised; its causes name the operator.
    """
    operator = next((found["name"] for text in _causes(exc) if (found := _OPERATOR.search(text))), None)
    if isinstance(model, torch.jit.ScriptModule):
        return ModelError(
            f"{name!r} cannot be exported: its factory gives a ScriptModule, and torch captures none",
            hint="let the factory give the module that was handed to torch.jit",
        )
    if operator is None:
        return ModelError(
            f"{name!r} cannot be exported to ONNX:{told(exc)}",
            hint="write the forward without Python decisions on values, or keep the model in torch",
        )
    place = _place(model, arguments, operator)
    return ModelError(
        f"{name!r} cannot be exported to ONNX: there is no form of {operator}{place}",
        hint="write it with operators that ONNX has, or keep it in torch: --format aotinductor",
    )


def check_axes(program: Any, names: list[str], axes: tuple[dict[int, Any], ...]) -> None:
    """Refuse a captured program in which an axis that may vary has been given a size.

    Args:
        program: A torch ExportedProgram.
        names: Of its inputs.
        axes: For each input the axes that may vary.

    Raises:
        ModelError: naming the first.
    """
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    for name, given, varying in zip(names, program.graph_signature.user_inputs, axes, strict=True):
        for axis in varying:
            size = values[given].shape[axis]
            known = size if isinstance(size, int) else size.node.maybe_as_int()
            if known is not None:
                raise fixed(name, axis, known)


def fixed(name: str, axis: int, size: int, dim: str | None = None) -> ModelError:
    """The error for an axis that may vary and was given a size by the exporter."""
    called = f" ({dim})" if dim else ""
    return ModelError(
        f"the exporter fixed axis {axis}{called} of {name!r} at {size}",
        hint="the forward depends on this size; write it without Python ints taken from shapes",
    )


def _causes(exc: BaseException | None) -> Iterator[str]:
    while exc is not None:
        yield str(exc)
        exc = exc.__cause__


def _place(model: nn.Module, arguments: tuple[torch.Tensor, ...], operator: str) -> str:
    """Layer and line of the first call of an operator; empty where the capture has no such call."""
    base = operator.rpartition(".")[2]
    try:
        program = torch.export.export(model, arguments, strict=False)
    except Exception:  # it was captured before; what matters is the operator
        return ""
    for node in program.graph.nodes:
        if node.op == "call_function" and base in str(node.target):
            return f", called {_layer(node)}{_line(node)}"
    return ""


def _layer(node: Any) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    return f"in the layer {path!r}" if path else "in the model's own forward"


def _line(node: Any) -> str:
    """The innermost frame outside torch."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    own = [found for found in frames if "/torch/" not in found["file"]]
    if not own:
        return ""
    found = own[-1]
    return f" ({found['file'].rpartition('/')[2]}:{found['line']}: {found['code'].strip()})"
