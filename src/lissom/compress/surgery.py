"""Surgery: a module is left with some of its channels, in the order that is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lissom.compress.recurrence import keep_inputs, keep_units
from lissom.compress.tracing import is_turned
from lissom.compress.units import Place
from lissom.errors import ModelError

_COUNTS = ("num_features", "num_channels", "num_parameters")
_INPUTS = ("in_features", "in_channels", "input_size")


@torch.no_grad()
def select(model: nn.Module, chosen: Mapping[Place, Tensor]) -> None:
    """Leave each place with these of its channels, in this order.

    Raises:
        ModelError: blocks of a grouped convolution would become unequal.
    """
    by_module: dict[str, dict[bool, Tensor]] = {}
    for place, index in chosen.items():
        if place.parameter:
            _select_loose(model.get_submodule(place.module), place, index)
        else:
            by_module.setdefault(place.module, {})[place.gives] = index
    for name, sides in by_module.items():
        _select_layer(model.get_submodule(name), sides.get(True), sides.get(False))


def _select_loose(module: Any, place: Place, index: Tensor) -> None:
    """A parameter or buffer, and the size that its module keeps beside it."""
    old = getattr(module, place.parameter)
    kept = old.detach().index_select(place.axis, index.to(old.device))
    if isinstance(old, nn.Parameter):
        kept = nn.Parameter(kept, requires_grad=old.requires_grad)
    setattr(module, place.parameter, kept)
    _resize(module, old.shape[place.axis], len(index), axis=place.axis, dim=old.dim())


def _resize(module: Any, before: int, after: int, *, axis: int = 0, dim: int = 1) -> None:
    if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels == before:
        module.num_groups = after  # a norm of each channel by itself
    for name in _COUNTS if dim == 1 else (*_COUNTS, *_INPUTS):
        if vars(module).get(name) == before:
            setattr(module, name, after)
    shape = vars(module).get("normalized_shape")
    if isinstance(shape, tuple) and len(shape) == dim and shape[axis] == before:
        module.normalized_shape = (*shape[:axis], after, *shape[axis + 1 :])


def _select_layer(module: Any, gives: Tensor | None, reads: Tensor | None) -> None:
    if isinstance(module, nn.RNNBase):
        if gives is not None:
            directions = gives.reshape(1 + module.bidirectional, -1) % module.hidden_size
            keep_units(module, directions.tolist())
        if reads is not None:
            keep_inputs(module, reads.tolist())
    elif isinstance(module, nn.modules.conv._ConvNd):
        _select_convolution(module, gives, reads)
    elif isinstance(module, nn.Embedding):
        assert gives is not None
        _replace(module, "weight", lambda weight: weight[:, gives])
        module.embedding_dim = len(gives)
    elif isinstance(module, nn.Linear) or is_turned(module):
        _select_linear(module, gives, reads)
    elif reads is not None:  # a normalisation without a scale
        for name in _COUNTS:
            if name in vars(module):
                setattr(module, name, len(reads))
        if isinstance(vars(module).get("normalized_shape"), tuple):
            module.normalized_shape = (*module.normalized_shape[:-1], len(reads))


def _select_linear(module: Any, gives: Tensor | None, reads: Tensor | None) -> None:
    turned = is_turned(module)
    if gives is not None:
        _replace(module, "weight", lambda weight: weight.index_select(int(turned), gives))
        if module.bias is not None:
            _replace(module, "bias", lambda bias: bias[gives])
    if reads is not None:
        _replace(module, "weight", lambda weight: weight.index_select(int(not turned), reads))
    for index, sizes in ((gives, ("out_features", "nf")), (reads, ("in_features", "nx"))):
        if index is not None and hasattr(module, sizes[turned]):
            setattr(module, sizes[turned], len(index))


def _select_convolution(module: Any, gives: Tensor | None, reads: Tensor | None) -> None:
    groups = module.groups
    if groups == module.in_channels and groups > 1:
        if gives is not None:
            _select_depthwise(module, gives)
        return
    out = torch.arange(module.out_channels) if gives is None else gives
    into = torch.arange(module.in_channels) if reads is None else reads
    outs, ins = _in_blocks(out, module.out_channels, groups), _in_blocks(into, module.in_channels, groups)
    size, width = module.out_channels // groups, module.in_channels // groups
    rows, columns = (ins, outs) if module.transposed else (outs, ins)
    modulus = size if module.transposed else width

    def cut(weight: Tensor) -> Tensor:
        blocks = zip(rows, columns, strict=True)
        return torch.cat([weight[row][:, column % modulus] for row, column in blocks])

    _replace(module, "weight", cut)
    if module.bias is not None:
        _replace(module, "bias", lambda bias: bias[out])
    module.out_channels, module.in_channels = len(out), len(into)


def _select_depthwise(module: Any, gives: Tensor) -> None:
    """As many channels of each input, as there were."""
    times = module.out_channels // module.in_channels
    inputs = gives.reshape(-1, times) // times
    if bool((inputs != inputs[:, :1]).any()):
        raise ModelError("the channels made from one channel would be apart")
    _replace(module, "weight", lambda weight: weight[inputs[:, 0] if module.transposed else gives])
    if module.bias is not None:
        _replace(module, "bias", lambda bias: bias[gives])
    module.out_channels, module.in_channels, module.groups = len(gives), len(inputs), len(inputs)


def _in_blocks(index: Tensor, number: int, blocks: int) -> list[Tensor]:
    """The channels of each block, as many of each."""
    if len(index) % blocks:
        raise ModelError(f"{len(index)} channels do not make {blocks} blocks")
    found = index.reshape(blocks, -1)
    if bool((found // (number // blocks) != torch.arange(blocks).unsqueeze(1)).any()):
        raise ModelError("the blocks of a grouped convolution would mix")
    return list(found)


def _replace(module: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> None:
    old = getattr(module, name)
    new = change(old.detach().cpu()).contiguous().to(old.device)
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
