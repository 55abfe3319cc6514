"""The right answer for pruning, in plain torch: the original with the removed channels at zero.

Nothing of lissom is used. Which channels a layer lost is read off its bias, or its scale for a norm: every
model here gets biases and scales of its own before it is pruned. Hooks then silence those channels in the
original, and norms take their statistics over the channels that are left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)


class Net(nn.Module):
    """Layers by name, and a forward as a function of the module and its input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def with_own_numbers(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random biases, scales and running statistics, so that each channel can be told from the others."""
    torch.manual_seed(seed)
    for module in model.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.dim() == 1 and tensor.is_floating_point():
                positive = name in ("weight", "running_var")
                noise = torch.rand_like(tensor) + 0.5 if positive else torch.randn_like(tensor) * 0.3
                tensor.data.copy_(noise)
    return model.double().eval()


def kept_channels(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """For each layer and norm that became narrower, the channels that it still has."""
    found = {}
    for name, module in before.named_modules():
        other = after.get_submodule(name)
        old, new = _signature(module), _signature(other)
        if old is not None and new is not None and len(old) != len(new):
            found[name] = torch.tensor([int((old == value).nonzero()) for value in new])
    return found


def _signature(module: Any) -> Tensor | None:
    if isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        return module.bias_ih_l0.detach()[: module.hidden_size]  # type: ignore[no-any-return]
    if isinstance(module, nn.Embedding):
        return module.weight.detach()[0]
    if isinstance(module, NORMS):
        return None if module.weight is None else module.weight.detach()
    bias = getattr(module, "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else None


def zeroed(model: nn.Module, kept: Mapping[str, Tensor], also: Mapping[str, str] | None = None) -> nn.Module:
    """A copy of the model in which all but these channels are zero.

    Args:
        model: The whole model.
        kept: Channels that stay, of each layer and norm that lost any.
        also: Activations with f(0) other than 0, by name, and the layer whose channels they hold.
    """
    silent = copy.deepcopy(model)
    for name, index in kept.items():
        module: Any = silent.get_submodule(name)
        if isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
            gone = [unit for unit in range(module.hidden_size) if unit not in index.tolist()]
            module.weight_hh_l0.data[:, gone] = 0
        module.register_forward_hook(_silencer(module, index))
    for name, layer in (also or {}).items():
        if layer in kept:
            module = silent.get_submodule(name)
            module.register_forward_hook(_silencer(silent.get_submodule(layer), kept[layer]))
    return silent


def _silencer(module: Any, index: Tensor) -> Callable[..., Any]:
    def hook(called: Any, inputs: tuple[Tensor, ...], output: Any) -> Any:
        if isinstance(called, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            return _normalized(called, inputs[0], index)
        first = output[0] if isinstance(output, tuple) else output
        mask = torch.zeros(first.shape[_axis(module, first)], dtype=first.dtype)
        mask[index] = 1
        shape = [1] * first.dim()
        shape[_axis(module, first)] = -1
        silent = first * mask.view(shape)
        return (silent, *output[1:]) if isinstance(output, tuple) else silent

    return hook


def _axis(module: Any, output: Tensor) -> int:
    by_place = isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase)
    return 1 if by_place else output.dim() - 1


def _normalized(norm: Any, x: Tensor, index: Tensor) -> Tensor:
    """The norm of the channels that stay, at their places; zero elsewhere."""
    out = torch.zeros_like(x)
    if isinstance(norm, nn.LayerNorm):
        out[..., index] = functional.layer_norm(
            x[..., index], (len(index),), norm.weight[index], norm.bias[index], norm.eps
        )
    elif isinstance(norm, nn.RMSNorm):
        out[..., index] = functional.rms_norm(x[..., index], (len(index),), norm.weight[index], norm.eps)
    else:
        number = len(index) if norm.num_groups == norm.num_channels else norm.num_groups
        out[:, index] = functional.group_norm(
            x[:, index], number, norm.weight[index], norm.bias[index], norm.eps
        )
    return out
