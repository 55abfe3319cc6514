"""Structured width pruning: whole channels are removed, together with everything that depends on them.

Removing an output channel of one layer removes the same channel of every layer that is added to it or
reads it. torch-pruning finds these groups (Fang et al., DepGraph, arXiv 2301.12900); a channel's
importance is the mean over its group of the L1 or L2 norm of its weights, and the least important share
goes. The last layer keeps its outputs. What remains is a smaller dense model that any engine runs
faster; its structure is stored as data, not pickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lissom.artifact import Artifact
from lissom.errors import ModelError, near
from lissom.logs import quiet_libraries
from lissom.models.stages import Context, save_torch
from lissom.recipe import PruneConfig
from lissom.structure import factory_of, load_model

if TYPE_CHECKING:
    from torch import Tensor

_PRUNABLE = (nn.Conv2d, nn.Conv1d, nn.Linear)


def prune(parents: Mapping[str, Artifact], config: PruneConfig, context: Context) -> Artifact:
    """Remove the least important channels of the parent."""
    parent = parents["input"]
    model = load_model(parent)
    example = [torch.from_numpy(array) for array in context.probe_inputs().values()]
    with context.progress.task(f"prune {context.fields['name']}", 1) as advance:
        removed = remove_channels(model, config, example)
        advance(1)
    return save_torch(model, factory_of(parent), context, notes={"channels": removed})


def remove_channels(model: nn.Module, config: PruneConfig, example: list[Tensor]) -> dict[str, list[int]]:
    """Prune `model` in place; gives `[before, after]` output channels of every layer that changed.

    Args:
        model: Model in evaluation mode.
        config: Ratio, importance, ranking and exclusions.
        example: Positional inputs for tracing, each of shape [batch, ...].

    Raises:
        ModelError: an excluded name is unknown, the model cannot be traced, or nothing could be removed.
    """
    before = _widths(model)
    excluded = _excluded(model, config)
    try:
        with quiet_libraries(), torch.enable_grad():
            _pruner(model, config, example, excluded + _last_layers(model, example)).step()
    except Exception as exc:  # the user's forward, or torch-pruning on an unusual layer, may raise anything
        raise ModelError(
            f"the model cannot be traced for pruning: {type(exc).__name__}: {exc}",
            hint="prune.exclude takes names of modules; the forward must run on plain tensors",
        ) from exc
    after = _widths(model)
    changed = {name: [before[name], width] for name, width in after.items() if width != before[name]}
    if config.ratio > 0 and not changed:
        raise ModelError(
            f"nothing was pruned: no layer can spare {config.round_to} channels at a ratio of {config.ratio}",
            hint="raise ratio, lower round_to, or exclude fewer layers",
        )
    return changed


def _pruner(model: nn.Module, config: PruneConfig, example: list[Tensor], kept: list[nn.Module]) -> Any:
    import torch_pruning

    norm = {"l1": 1, "l2": 2}[config.importance]
    return torch_pruning.pruner.BasePruner(
        model,
        tuple(example),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=norm),
        pruning_ratio=min(config.ratio, _highest_ratio(model, config, kept)),
        global_pruning=config.ranking == "global",
        ignored_layers=kept,
        round_to=config.round_to,
        # torch-pruning writes into its own default dictionaries; fresh ones keep runs apart.
        num_heads={},
        out_channel_groups={},
        in_channel_groups={},
        pruning_ratio_dict=_ratios(model, config, kept),
        max_pruning_ratio=_highest_ratio(model, config, kept),
    )


def _ratios(model: nn.Module, config: PruneConfig, kept: list[nn.Module]) -> dict[nn.Module, float]:
    """Ratio of each layer, held so that `round_to` channels remain; ranked globally, one ratio serves all."""
    if config.ranking == "global":
        return {}
    return {
        module: min(config.ratio, max(0.0, 1 - (config.round_to + 0.01) / module.weight.shape[0]))
        for module in model.modules()
        if isinstance(module, _PRUNABLE) and module not in kept
    }


def _highest_ratio(model: nn.Module, config: PruneConfig, kept: list[nn.Module]) -> float:
    """Ranked globally, no layer may lose so much that its narrowest peer would keep less than `round_to`."""
    widths = [
        module.weight.shape[0]
        for module in model.modules()
        if isinstance(module, _PRUNABLE) and module not in kept and module.weight.shape[0] > config.round_to
    ]
    if config.ranking == "local" or not widths:
        return 1.0
    return 1 - (config.round_to + 0.01) / min(widths)


def _excluded(model: nn.Module, config: PruneConfig) -> list[nn.Module]:
    modules = dict(model.named_modules())
    for name in config.exclude:
        if name not in modules:
            raise ModelError(
                f"exclude names {name!r}, which is no module of the model", hint=near(name, modules)
            )
    return [modules[name] for name in config.exclude]


def _last_layers(model: nn.Module, example: list[Tensor]) -> list[nn.Module]:
    """The layers whose width shows in an output of the model, such as one logit for each class.

    From every output the autograd graph is followed back to the first layer on each path. A model that
    computes without gradients has no such graph; then it is the layer that was defined last.
    """
    layers = [module for module in model.modules() if isinstance(module, _PRUNABLE)]
    frozen = [module.weight for module in layers if not module.weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    with torch.enable_grad():
        outputs = model(*example)
    tensors = outputs if isinstance(outputs, tuple | list) else [outputs]
    found = _first_layers_behind(tensors, {id(module.weight): module for module in layers})
    for weight in frozen:
        weight.requires_grad_(False)
    return found or list(layers[-1:])


def _first_layers_behind(tensors: Sequence[Tensor], owners: Mapping[int, nn.Module]) -> list[nn.Module]:
    waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen: set[Any] = set()
    found: list[nn.Module] = []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if (layer := _layer_of(node, owners)) is not None:
            found.append(layer)
        else:
            waiting += [child for child, _ in node.next_functions if child is not None]
    return found


def _layer_of(node: Any, owners: Mapping[int, nn.Module]) -> nn.Module | None:
    """The layer whose product this node of the autograd graph is; a linear one turns its weight first."""
    leaves = [child for child, _ in node.next_functions if child is not None]
    for child in list(leaves):
        if child.name() in ("TBackward0", "TransposeBackward0", "PermuteBackward0"):
            leaves += [leaf for leaf, _ in child.next_functions]
    weights = (id(getattr(leaf, "variable", None)) for leaf in leaves)
    return next((owners[weight] for weight in weights if weight in owners), None)


def _widths(model: nn.Module) -> dict[str, int]:
    return {
        name: int(module.weight.shape[0])
        for name, module in model.named_modules()
        if isinstance(module, _PRUNABLE)
    }
