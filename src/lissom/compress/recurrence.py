"""Hidden units of recurrent layers.

A unit of a layer is a row of every gate in the
input and the recurrent matrix, and a column of the recurrent matrix:

    weight_ih [gates * hidden, inputs]     weight_hh [gates * hidden, hidden]

All layers of a stack and both directions have one `hidden_size`, so each loses as many units; which ones,
each decides by itself. The outputs of the last layer, [forward units, backward units], are the channels that
other layers read. To the graph the whole stack is one operation: the operations inside would look like
channels that are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WHOLE = (nn.MultiheadAttention,)
"""Modules that are kept as they are, with all that they read."""


def suffixes(layer: nn.RNNBase, level: int) -> list[str]:
    """Ends of the names of one level's parameters, for each direction."""
    return [f"_l{level}", f"_l{level}_reverse"][: 1 + layer.bidirectional]


def unit_rows(
    layer: nn.RNNBase, suffix: str, read: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Tensor:
    """All weights of each unit of one level and direction, shape [hidden, weights].

    Args:
        layer: The recurrent layer.
        suffix: As `suffixes` gives them.
        read: What is taken of each parameter, such as its gradient.
    """
    size = layer.hidden_size
    inputs, recurrent = (read(getattr(layer, f"weight_{kind}{suffix}")) for kind in ("ih", "hh"))
    rows = [
        matrix.reshape(-1, size, matrix.shape[1]).transpose(0, 1).flatten(1) for matrix in (inputs, recurrent)
    ]
    return torch.cat([*rows, recurrent.t()], dim=1)


@torch.no_grad()
def keep_units(layer: nn.RNNBase, kept: Sequence[Sequence[int]]) -> None:
    """Keep these units of the last level, for each direction, and as many of the strongest in the others."""
    size = layer.hidden_size
    for level, chosen in enumerate(_units_of_levels(layer, kept)):
        for units, suffix in zip(chosen, suffixes(layer, level), strict=True):
            _cut_rows(layer, suffix, units, size)
        if level < layer.num_layers - 1:
            columns = [direction * size + unit for direction, units in enumerate(chosen) for unit in units]
            keep_inputs(layer, columns, level=level + 1)
    layer.hidden_size = len(kept[0])


def _units_of_levels(layer: nn.RNNBase, kept: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """The units that stay of each level and direction."""
    number = len(kept[0])

    def strongest(suffix: str) -> list[int]:
        found: list[int] = unit_rows(layer, suffix).norm(dim=1).topk(number).indices.sort().values.tolist()
        return found

    inner: list[list[Sequence[int]]] = [
        [strongest(suffix) for suffix in suffixes(layer, level)] for level in range(layer.num_layers - 1)
    ]
    return [*inner, list(kept)]


@torch.no_grad()
def silence_units(layer: nn.RNNBase, kept: Sequence[Sequence[int]]) -> None:
    """Let nothing inside the layer read the units that `keep_units` would remove."""
    size = layer.hidden_size
    for level, chosen in enumerate(_units_of_levels(layer, kept)):
        for direction, (units, suffix) in enumerate(zip(chosen, suffixes(layer, level), strict=True)):
            gone = [unit for unit in range(size) if unit not in set(units)]
            getattr(layer, f"weight_hh{suffix}")[:, gone] = 0
            for reader in suffixes(layer, level + 1) if level < layer.num_layers - 1 else ():
                getattr(layer, f"weight_ih{reader}")[:, [direction * size + unit for unit in gone]] = 0


@torch.no_grad()
def keep_inputs(layer: nn.RNNBase, columns: Sequence[int], *, level: int = 0) -> None:
    """Keep these inputs of a level."""
    for suffix in suffixes(layer, level):
        _replace(layer, f"weight_ih{suffix}", lambda weight: weight[:, list(columns)])
    if level == 0:
        layer.input_size = len(columns)


def _cut_rows(layer: nn.RNNBase, suffix: str, units: Sequence[int], size: int) -> None:
    kept = list(units)
    gates = getattr(layer, f"weight_hh{suffix}").shape[0] // size
    rows = [gate * size + unit for gate in range(gates) for unit in kept]
    _replace(layer, f"weight_ih{suffix}", lambda weight: weight[rows])
    _replace(layer, f"weight_hh{suffix}", lambda weight: weight[rows][:, kept])
    for name in (f"bias_ih{suffix}", f"bias_hh{suffix}") if layer.bias else ():
        _replace(layer, name, lambda bias: bias[rows])


def _replace(module: nn.Module, name: str, cut: Callable[[Tensor], Tensor]) -> None:
    old = getattr(module, name)
    setattr(
        module, name, nn.Parameter(cut(old.detach()).contiguous().clone(), requires_grad=old.requires_grad)
    )


def used_states(layer: nn.RNNBase, nodes: Iterable[Any]) -> bool:
    """True when something reads a last state that is not one with the outputs: of an inner level, or turned.

    The nodes are those of a call under `seen_as_one`.
    """
    if layer.num_layers == 1 and not layer.bidirectional:
        return False
    joined = {node for node in nodes if getattr(node, "layer", None) is layer}
    return any(
        child in joined and index > 0
        for node in nodes
        for child, index in getattr(node, "next_functions", ())
    )


class _OneStep(torch.autograd.Function):
    """Several tensors as if one operation had made them from the input."""

    @staticmethod
    def forward(
        ctx: Any, layer: nn.Module, anchor: Tensor, given: Tensor, *made: Tensor
    ) -> tuple[Tensor, ...]:
        """The tensors as they are; `anchor` gives them a place in the graph when the input has none."""
        ctx.layer = layer
        return tuple(tensor.clone() for tensor in made)


@contextmanager
def seen_as_one(model: nn.Module) -> Iterator[None]:
    """Make one operation of each recurrent layer and of torch's own attention."""

    def hide(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> Any:
        made: list[Tensor] = []
        _mapped(outputs, lambda tensor: made.append(tensor.detach()))
        join: Callable[..., tuple[Tensor, ...]] = _OneStep.apply
        hidden = iter(join(module, torch.zeros((), requires_grad=True), inputs[0], *made))
        return _mapped(outputs, lambda _: next(hidden))

    handles = [
        module.register_forward_hook(hide)
        for module in model.modules()
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mapped(found: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(found, tuple):
        return tuple(_mapped(item, change) for item in found)
    return change(found) if isinstance(found, torch.Tensor) else found
