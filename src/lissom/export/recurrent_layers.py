"""LSTM and GRU for the ONNX exporter, without walking through every step of the sequence.

The exporter asks torch three times for the shapes of what a layer gives, and torch finds them by computing
the layer step by step on tensors without values, which takes longer the longer the sequence is. What comes
out is one LSTM node all the same. Here the shapes are said at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def not_unrolled() -> Iterator[None]:
    """While this is open, LSTM and GRU on tensors without values only give shapes.

    The two places are torch's own and not public: the kernels of an operation that are written in Python,
    and the table of what it decomposes to. What torch registers there meanwhile stays.
    """
    from torch._decomp import decomposition_table

    with ExitStack() as stack:
        for operation, shapes in _shapes().items():
            stack.callback(operation._dispatch_cache.clear)
            for key in operation.py_kernels:
                stack.callback(operation.py_kernels.__setitem__, key, operation.py_kernels[key])
                operation.py_kernels[key] = shapes
            stack.callback(decomposition_table.__setitem__, operation, decomposition_table[operation])
            decomposition_table[operation] = shapes
            operation._dispatch_cache.clear()
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
