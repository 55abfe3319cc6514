"""Weights that a layer computes at each call, written down as plain weights.

A weight may be computed from other tensors: by `torch.nn.utils.parametrize` (weight norm, spectral norm,
orthogonal, a class of the user), or by the older hooks of `weight_norm`, `spectral_norm` and `prune`.
Training needs them as they are. What cuts, rounds or writes a weight needs the weight itself: there each is
computed once in evaluation mode and takes the place of what it was computed from, so that every answer
stays the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)


def parametrized(model: nn.Module) -> list[str]:
    """Names of the modules that compute a weight at each call."""
    return [name for name, module in model.named_modules() if _is_parametrized(module)]


def fold(model: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Give modules plain weights in the place of computed ones, in place.

    Args:
        model: The model.
        names: Modules; default: every one that computes a weight.

    Returns:
        Names of the modules that were changed.
    """
    found = [name for name in parametrized(model) if names is None or name in names]
    with torch.no_grad():
        for name in found:
            module = model.get_submodule(name)
            training = module.training
            module.eval()  # in training mode spectral norm takes another step each time
            _fold_hooks(module)
            if parametrize.is_parametrized(module):
                _fold_parametrizations(module)
            module.train(training)
    return found


def _is_parametrized(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(isinstance(hook, _HOOKS) for hook in hooks)


def _fold_hooks(module: nn.Module) -> None:
    hooks: dict[int, Any] = dict(module._forward_pre_hooks)
    for key, hook in hooks.items():
        if isinstance(hook, _HOOKS):
            hook.remove(module)
            del module._forward_pre_hooks[key]
    # Those of spectral norm on state_dict go too; torch's own removal forgets the one that loads.
    for listed in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key in [key for key, hook in listed.items() if _belongs_to_spectral_norm(hook)]:
            del listed[key]


def _belongs_to_spectral_norm(hook: Any) -> bool:
    return isinstance(getattr(getattr(hook, "hook", hook), "fn", None), SpectralNorm)


def _fold_parametrizations(module: nn.Module) -> None:
    """As `remove_parametrizations`, which writes into the original, though other modules may share it."""
    computed: Any = module.parametrizations
    weights = {
        name: (getattr(module, name).detach().clone(), _is_learned(listed))
        for name, listed in computed.items()
    }
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, (weight, learned) in weights.items():
        if learned:
            setattr(
                module, name, nn.Parameter(weight)
            )  # recurrent layers keep a list, which this keeps right
        else:
            module.register_buffer(name, weight)


def _is_learned(listed: Any) -> bool:
    """False for a buffer that is parametrized."""
    return any(True for _ in listed.parameters(recurse=False))
