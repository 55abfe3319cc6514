"""LSTM and GRU for the ONNX exporter, without walking through every step of the sequence.

The exporter asks torch three times for the shapes of what a layer gives, and torch finds them by computing
the layer step by step on tensors without values: a minute for two layers that read 256 steps in both
directions. What comes out is one LSTM node all the same. Here the shapes are said at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor


@contextmanager
def not_unrolled() -> Iterator[None]:
    """While this is open, LSTM and GRU on tensors without values only give shapes.

    The two places are torch's own and not public: the kernels of an operation that are written in Python,
    and the table of what it decomposes to. The tests hold every version that is allowed against them.
    """
    from torch._decomp import decomposition_table

    with ExitStack() as stack:
        for operation, shapes in _shapes().items():
            kernels = dict.fromkeys(operation.py_kernels, shapes)
            stack.callback(operation._dispatch_cache.clear)
            stack.enter_context(patch.dict(operation.py_kernels, kernels))
            operation._dispatch_cache.clear()
            stack.enter_context(patch.dict(decomposition_table, {operation: shapes}))
        yield


def _shapes() -> dict[Any, Callable[..., Any]]:
    return {torch.ops.aten.lstm.input: _lstm, torch.ops.aten.gru.input: _gru}


def _lstm(inputs: Tensor, state: Sequence[Tensor], *settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    hidden, cell = state
    return _outputs(inputs, hidden, settings), torch.empty_like(hidden), torch.empty_like(cell)


def _gru(inputs: Tensor, state: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    return _outputs(inputs, state, settings), torch.empty_like(state)


def _outputs(inputs: Tensor, hidden: Tensor, settings: Sequence[Any]) -> Tensor:
    """Outputs of the last layer, [..., directions * units]; settings as in `torch._VF.lstm`."""
    bidirectional = bool(settings[5])
    return inputs.new_empty((*inputs.shape[:-1], (1 + bidirectional) * hidden.shape[-1]))
