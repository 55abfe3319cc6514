"""Groups: channels, heads and units that can only be removed together.

Removing an output channel of one layer removes the same channel of every layer that is added to it or reads
it. torch-pruning finds these groups (Fang et al., DepGraph, arXiv 2301.12900). A unit is the least that can
be removed: one channel; where convolutions or norms work on blocks of channels, the same channel of every
block; of a recurrent layer that reads in both directions, a unit of either, as many of one as of the other.

Kept at their widths, with all that is added to them: the last layers; the queries, keys and values of an
attention, which lose whole heads instead (see `heads`); layers that share a weight; torch's own attention;
recurrent layers whose inner states are read.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissom.compress.heads import Attention, attentions_of
from lissom.compress.naming import excluded
from lissom.compress.recurrence import WHOLE, seen_as_one, special_pruners, suffixes, unit_rows, used_states
from lissom.compress.tracing import (
    Graph,
    all_require_grad,
    fault,
    is_layer,
    is_turned,
    read_graph,
    without_cache,
)
from lissom.errors import ModelError
from lissom.logs import quiet_libraries

Read = Callable[[Tensor], Tensor | None]
"""What is taken of a parameter: the weight itself, or its gradient."""


class Part(NamedTuple):
    """What one module contributes to a group.

    Attributes:
        module: The module, or a parameter that stands in no layer.
        gives: True where the module's own outputs become fewer, False where it reads fewer.
        norm: True for a normalisation.
        rows: All weights of each unit, shape [units, weights], of what `Read` takes.
        channels: Index of the module's channels, for each unit; shape [units, channels of a unit].
    """

    module: nn.Module | nn.Parameter
    gives: bool
    norm: bool
    rows: Callable[[Read], Tensor | None]
    channels: Tensor


@dataclass(frozen=True)
class Group:
    """Units that are removed one by one, and what each of them is made of.

    Attributes:
        name: Of the layer that the group is named for.
        layers: Names of the layers whose outputs become fewer.
        num_units: Units that there are.
        unit: Channels of the named layer in a unit.
        segments: Blocks of units of which each loses as many.
        parts: What every module contributes.
        kind: Groups of one kind have the same modules in the same order.
        keep: Removes all units but those listed, from the model that was traced.
    """

    name: str
    layers: tuple[str, ...]
    num_units: int
    unit: int
    segments: int
    parts: tuple[Part, ...]
    kind: str
    keep: Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class Groups:
    """All groups of a model, and what a pruned model must still give.

    Attributes:
        groups: In the order of the model.
        graph: The call that was traced.
    """

    groups: list[Group]
    graph: Graph


def find_groups(
    model: nn.Module,
    example: list[Tensor],
    exclude: Sequence[str] = (),
    *,
    proven: Container[str] | None = None,
) -> Groups:
    """Every group of a model in evaluation mode.

    Args:
        model: The model.
        example: Positional inputs.
        exclude: Names of modules that are kept as they are.
        proven: Groups of heads that were found before, in this model or in a copy of it; no others are.
            Default: all are looked for, and each is tried out.

    Raises:
        ModelError: a name to exclude is unknown, or the model cannot be traced; the line of the user's code
            that failed is shown.
    """
    left_out = [part for module in excluded(model, exclude) for part in module.modules()]
    try:
        with (
            quiet_libraries(),
            torch.enable_grad(),
            all_require_grad(model),
            seen_as_one(model),
            without_cache(model),
        ):
            graph = read_graph(model, example)
            attentions = attentions_of(model, graph, example, proven)
            kept = [*left_out, *graph.last, *graph.multiplied, *graph.shared, *_whole(model, graph)]
            found = _channel_groups(model, example, kept)
    except Exception as exc:  # the user's forward, or torch-pruning on an unusual layer, may raise anything
        raise ModelError(
            f"the model cannot be traced for pruning: {fault(exc)}{never(model)}",
            hint="the forward must run on plain tensors; prune.exclude takes names of modules; "
            "method: depth, low-rank and magnitude need no trace",
        ) from exc
    heads = [
        _head_group(model, attention)
        for attention in attentions
        if not {id(layer) for layer in attention.layers} & {id(module) for module in left_out}
    ]
    return Groups([*found, *heads], graph)


def never(model: nn.Module) -> str:
    """The end of a message: which modules are never pruned."""
    kinds = [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, WHOLE)
    ]
    return f"; never pruned, nor what they read: {', '.join(kinds)}" if kinds else ""


def _whole(model: nn.Module, graph: Graph) -> list[nn.Module]:
    """Modules that are kept: torch's attention, recurrent layers whose inner states are read or projected."""
    return [
        module
        for module in model.modules()
        if isinstance(module, WHOLE)
        or (isinstance(module, nn.RNNBase) and (module.proj_size or used_states(module, graph.nodes)))
    ]


def _channel_groups(model: nn.Module, example: list[Tensor], kept: list[nn.Module]) -> list[Group]:
    import torch_pruning

    special = special_pruners(model)
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(
        model,
        tuple(example),
        # Its own call would try other arguments when the first call fails, and hide what failed.
        forward_fn=lambda called, inputs: called(*inputs),
        customized_pruners=special,
        verbose=False,
    )
    roots = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, *special)
    names = {module: name for name, module in model.named_modules()}
    return [
        _channel_group(graph, found, names)
        for found in graph.get_all_groups(ignored_layers=kept, root_module_types=roots)
    ]


def _channel_group(graph: Any, found: Any, names: dict[nn.Module, str]) -> Group:
    """One group of the dependency graph."""
    root = found[0].dep
    module, handler = root.target.module, root.handler
    num_channels = len(found[0].idxs)
    blocks = lcm(*(_blocks(item.dep, graph) for item in found))
    per_block = num_channels // blocks
    units = [[block * per_block + index for block in range(blocks)] for index in range(per_block)]
    segments = max(
        (
            1 + item.dep.target.module.bidirectional
            for item in found
            if isinstance(item.dep.target.module, nn.RNNBase)
            and graph.is_out_channel_pruning_fn(item.dep.handler)
        ),
        default=1,
    )
    parts = tuple(part for item in found if (part := _part(item, units, graph)) is not None)
    gives = dict.fromkeys(
        names[part.module]
        for part in parts
        if part.gives and isinstance(part.module, nn.Module) and _counts(part.module)
    )

    def keep(kept: Sequence[int]) -> None:
        stay = set(kept)
        gone = sorted(channel for index, unit in enumerate(units) if index not in stay for channel in unit)
        graph.get_pruning_group(module, handler, gone).prune(record_history=False)

    return Group(
        names[module],
        tuple(gives),
        per_block,
        blocks,
        segments,
        parts,
        " ".join(f"{type(part.module).__name__}{'+-'[not part.gives]}" for part in parts),
        keep,
    )


def _counts(module: Any) -> bool:
    return is_layer(module) or isinstance(module, nn.RNNBase | nn.Embedding)


def _blocks(dep: Any, graph: Any) -> int:
    """Blocks in which a module treats the channels of a group; one channel alone is no block."""
    module = dep.target.module
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        depthwise = module.groups == module.out_channels
        return 1 if depthwise else int(module.groups)
    return 1


def _part(item: Any, units: Sequence[Sequence[int]], graph: Any) -> Part | None:
    """What a module contributes; None for an operation without weights, or one that knows no channels."""
    dep = item.dep
    module = dep.target.module
    gives = bool(graph.is_out_channel_pruning_fn(dep.handler))
    places: dict[int, list[int]] = {}
    for own, root in zip(item.idxs, item.root_idxs, strict=True):
        places.setdefault(int(root), []).append(int(own))
    channels = [[place for channel in unit for place in places.get(channel, ())] for unit in units]
    if not channels or not channels[0] or len({len(unit) for unit in channels}) > 1:
        return None
    index = torch.tensor(channels)
    matrix = _matrix(module, gives, dep.target.pruning_dim)
    if matrix is None:
        return None

    def rows(read: Read) -> Tensor | None:
        found = matrix(read)
        return None if found is None else found[index.flatten()].reshape(len(channels), -1)

    norm = isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm)
    return Part(module, gives, norm, rows, index)


def _matrix(module: Any, gives: bool, axis: int) -> Callable[[Read], Tensor | None] | None:
    """How to see the weights of a module as [channels, weights of a channel]; None where it has none."""
    if isinstance(module, nn.RNNBase):
        return lambda read: _recurrent_matrix(module, gives, read)
    if isinstance(module, nn.Parameter):
        return lambda read: _by_axis(read(module), axis)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return None
    turned = is_turned(module) or isinstance(module, nn.Embedding | nn.modules.conv._ConvTransposeNd)
    grouped = isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1
    if weight.dim() > 1 and gives == turned and not (grouped and not gives):
        return lambda read: _by_axis(read(module.weight), 1)
    if grouped and not gives and module.groups != module.out_channels:
        return lambda read: _grouped_inputs(module, read)
    return lambda read: _by_axis(read(module.weight), 0)


def _by_axis(tensor: Tensor | None, axis: int) -> Tensor | None:
    """As a matrix with a row for each index of the axis."""
    return None if tensor is None else tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def _grouped_inputs(module: nn.Conv2d, read: Read) -> Tensor | None:
    """Weights by input channel of a grouped convolution: [groups * inputs of a group, weights]."""
    found = read(module.weight)
    if found is None:
        return None
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


def _head_group(model: nn.Module, attention: Attention) -> Group:
    """The heads of one attention."""
    names = {module: name for name, module in model.named_modules()}
    parts = tuple(
        Part(layer, gives, False, partial(attention.rows, layer, gives, index), index)
        for layer, gives, index in attention.places()
    )
    return Group(
        names[attention.layers[0]],
        tuple(names[layer] for layer in attention.sources),
        attention.num_heads,
        attention.head_dim,
        1,
        parts,
        "heads",
        attention.keep,
    )
