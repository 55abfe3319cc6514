"""Parts: the weights that one module contributes to a group, unit by unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissom.compress.recurrence import suffixes, unit_rows
from lissom.compress.tracing import is_turned
from lissom.compress.units import Place

Read = Callable[[Tensor], Tensor | None]
"""What is taken of a parameter: the weight itself, or its gradient."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Part(NamedTuple):
    """What one module contributes to a group.

    Attributes:
        module: The module, or a parameter that stands in no layer.
        gives: True where the module's own outputs become fewer, False where it reads fewer.
        norm: True for a normalisation.
        rows: All weights of each unit, shape [units, weights], of what `Read` takes.
        channels: Index of the module's channels, for each unit; shape [units, channels of a unit]; -1 for a
            unit that has none there.
    """

    module: nn.Module | nn.Parameter
    gives: bool
    norm: bool
    rows: Callable[[Read], Tensor | None]
    channels: Tensor


def part_of(module: Any, place: Place, lists: list[list[int]]) -> Part | None:
    """What a module contributes; None for a shift, and for what has no weights."""
    norm = isinstance(module, _NORMS)
    if norm and (place.parameter != "weight" if place.parameter else True):
        return None
    target = getattr(module, place.parameter) if place.parameter and not norm else module
    if place.parameter and not isinstance(getattr(module, place.parameter), nn.Parameter):
        return None
    longest = max(map(len, lists))
    index = torch.tensor([[*found, *[-1] * (longest - len(found))] for found in lists])
    matrix = _matrix(target, place.gives, place.axis)
    if matrix is None:
        return None

    def rows(read: Read) -> Tensor | None:
        found = matrix(read)
        if found is None:
            return None
        picked = found[index.clamp(min=0).flatten()].reshape(*index.shape, -1)
        return (picked * (index >= 0).unsqueeze(-1)).flatten(1)

    return Part(target, place.gives, norm, rows, index)


def _matrix(module: Any, gives: bool, axis: int) -> Callable[[Read], Tensor | None] | None:
    """How to see the weights of a module as [channels, weights of a channel]; None where it has none."""
    if isinstance(module, nn.RNNBase):
        return lambda read: _recurrent_matrix(module, gives, read)
    if isinstance(module, nn.Parameter):
        return lambda read: _by_axis(read(module), axis)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return None
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        return lambda read: _grouped_matrix(module, gives, read)
    turned = is_turned(module) or isinstance(module, nn.Embedding | nn.modules.conv._ConvTransposeNd)
    return lambda read: _by_axis(read(module.weight), int(weight.dim() > 1 and gives == turned))


def _by_axis(tensor: Tensor | None, axis: int) -> Tensor | None:
    """As a matrix with a row for each index of the axis."""
    return None if tensor is None else tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def _grouped_matrix(module: Any, gives: bool, read: Read) -> Tensor | None:
    """Weights of a grouped convolution by output channel, or by input channel."""
    found = read(module.weight)
    if found is None:
        return None
    if gives != module.transposed:
        return found.flatten(1)
    blocks = found.reshape(module.groups, -1, *found.shape[1:])
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)


def _recurrent_matrix(layer: nn.RNNBase, gives: bool, read: Read) -> Tensor | None:
    if any(read(weight) is None for weight in layer.parameters()):
        return None

    def taken(tensor: Tensor) -> Tensor:
        found = read(tensor)
        assert found is not None
        return found

    if gives:
        last = layer.num_layers - 1
        return torch.cat([unit_rows(layer, suffix, taken) for suffix in suffixes(layer, last)])
    inputs = [taken(getattr(layer, f"weight_ih{suffix}")).t() for suffix in suffixes(layer, 0)]
    return torch.cat(inputs, dim=1)
