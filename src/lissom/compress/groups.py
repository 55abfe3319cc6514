"""Groups: channels, heads and units that can only be removed together.

Removing an output channel of one layer removes the same channel of every layer that is added to it or reads
it. One call shows which channels these are, whatever the forward does with them on the way (see
`provenance` and `units`). A group is all units of the layers that are tied to each other: each loses the
share that is asked for. Where its units are made or read in different ways, as the two chunks of a gate,
the blocks of a grouped convolution or the two directions of a recurrent layer, they form segments, of which
each loses as many.

Kept at their widths, with all that goes together with them: the last layers; the queries, keys and values
of an attention, which lose whole heads instead (see `heads`); layers that share a weight; torch's own
attention; recurrent layers whose inner states are read; and whatever goes into an operation that may mix
channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissom.compress.heads import Attention, attentions_of
from lissom.compress.naming import excluded
from lissom.compress.parts import Part, part_of
from lissom.compress.provenance import OUTPUT, Ledger, trace_channels
from lissom.compress.recurrence import WHOLE, seen_as_one, used_states
from lissom.compress.tracing import (
    Graph,
    all_require_grad,
    fault,
    read_graph,
    without_cache,
)
from lissom.compress.units import Place, Units, block_count, find_units
from lissom.errors import ModelError
from lissom.logs import quiet_libraries

FEW = 2
"""Samples that are enough to trace."""


@dataclass(frozen=True)
class Group:
    """Units that are removed one by one, and what each of them is made of.

    Attributes:
        name: Of the layer that the group is named for.
        layers: Names of the layers whose outputs become fewer.
        num_units: Units that there are.
        unit: Channels of the named layer in a unit.
        segments: Runs of units of which each loses as many.
        blocks: Segments that are blocks of one width, as those of a grouped convolution.
        width: Channels of a unit where it has the fewest.
        parts: What every module contributes.
        kind: Groups of one kind have the same modules in the same order.
        units: Of `Units`, in order; empty for heads.
        attention: Whose heads these are; None for channels.
    """

    name: str
    layers: tuple[str, ...]
    num_units: int
    unit: int
    segments: int
    blocks: int
    width: int
    parts: tuple[Part, ...]
    kind: str
    units: tuple[int, ...] = ()
    attention: Attention | None = None


@dataclass(frozen=True)
class Groups:
    """All groups of a model, and what its call showed.

    Attributes:
        groups: In the order of the model.
        graph: The call that was traced.
        ledger: What became of each channel.
        units: What goes together.
        left: Layers that keep all channels, and why.
        names: Of the modules of the model that was traced.
    """

    groups: list[Group]
    graph: Graph
    ledger: Ledger
    units: Units
    left: Mapping[str, str]
    names: Mapping[nn.Module, str]


def find_groups(model: nn.Module, example: list[Tensor], exclude: Sequence[str] = ()) -> Groups:
    """Every group of a model in evaluation mode.

    Args:
        model: The model.
        example: Positional inputs.
        exclude: Names of modules that are kept as they are.

    Raises:
        ModelError: a name to exclude is unknown, or the model cannot be traced; the line of the user's code
            that failed is shown.
    """
    left_out = [part for module in excluded(model, exclude) for part in module.modules()]
    names = {module: name for name, module in model.named_modules()}
    ledger = Ledger()
    try:
        with quiet_libraries(), without_cache(model):
            with torch.enable_grad(), all_require_grad(model), seen_as_one(model):
                graph = read_graph(model, example)
                attentions = attentions_of(model, graph)
                reasons = _kept(model, graph, left_out)
            trace_channels(model, few(example), ledger)
    except Exception as exc:  # the user's forward may raise anything
        raise ModelError(
            f"the model cannot be traced for pruning: {fault(exc)}{never(model)}",
            hint="the forward must run on plain tensors; prune.exclude takes names of modules; "
            "method: depth, low-rank and magnitude need no trace",
        ) from exc
    units = find_units(ledger, model, {names[module]: reason for module, reason in reasons.items()})
    found = _channel_groups(model, units)
    heads = [
        _head_group(names, attention)
        for attention in attentions
        if not {id(layer) for layer in attention.layers} & {id(module) for module in left_out}
    ]
    pruned = {layer for group in (*found, *heads) for layer in group.layers}
    left = {name or "the model": why for name, why in _left(units, ledger).items() if name not in pruned}
    left |= _indivisible(found)
    return Groups([*found, *heads], graph, ledger, units, left, names)


def few(example: Sequence[Tensor]) -> list[Tensor]:
    """The first samples of a batch; all where the inputs are of different length."""
    sizes = {tensor.shape[0] for tensor in example if tensor.dim()}
    return [tensor[:FEW] for tensor in example] if len(sizes) == 1 else list(example)


def never(model: nn.Module) -> str:
    """The end of a message: which modules are never pruned."""
    kinds = [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, WHOLE)
    ]
    return f"; never pruned, nor what they read: {', '.join(kinds)}" if kinds else ""


def _kept(model: nn.Module, graph: Graph, left_out: Iterable[nn.Module]) -> dict[nn.Module, str]:
    """Modules whose outputs stay, and why."""
    found = dict.fromkeys(left_out, "prune.exclude names it")
    for module in graph.shared:
        found.setdefault(module, "it shares a weight")
    for module in model.modules():
        if isinstance(module, WHOLE):
            found.setdefault(module, "attention of torch is kept")
        elif isinstance(module, nn.RNNBase) and (module.proj_size or used_states(module, graph.nodes)):
            found.setdefault(module, "its inner states are read")
    return found


def _left(units: Units, ledger: Ledger) -> dict[str, str]:
    """Layers that keep channels, and why; that the last layers do needs no reason."""
    read = {unit for place, found in units.places.items() if not place.gives for unit in found.tolist()}
    found = {name: reason for name, reason in ledger.shared.items() if (name, "") not in ledger.labels}
    for place, of_channel in units.places.items():
        if place.gives and not place.parameter:
            kept = [unit for unit in set(of_channel.tolist()) if unit in units.kept]
            reasons = [units.kept[unit] for unit in kept if unit in read or units.kept[unit] != OUTPUT]
            if reasons:
                found[place.module] = reasons[0]
    return found


def _indivisible(groups: Iterable[Group]) -> dict[str, str]:
    """Layers of which nothing can go although nothing keeps them, and why."""
    return {
        layer: "each of its parts has one unit" if group.segments > 1 else "its channels go only together"
        for group in groups
        for layer in group.layers
        if group.num_units <= group.segments and group.segments * group.unit > 1
    }


class _Member(NamedTuple):
    """A channel of a unit: the number of its place, what part and what block of it, and its index."""

    place: int
    part: int
    block: int
    channel: int


def by_rows(model: nn.Module, groups: Groups) -> dict[str, list[Group]]:
    """For groups whose channels a reshape cuts into rows, the same units with as many to lose of each row.

    Which groups these replace is told by their name. Whether that is needed depends on what the forward does
    with the rows: a channel shuffle needs it, a patch of pixels does not.
    """
    cut = {unit for line, _ in groups.units.splits for unit in line.tolist()}
    touched = [group for group in groups.groups if cut & set(group.units)]
    if not touched:
        return {}
    units = replace(groups.units, blocks=(*groups.units.blocks, *groups.units.splits))
    found = _channel_groups(model, units)
    return {
        group.name: [other for other in found if set(other.units) & set(group.units)]
        for group in touched
        if not any(
            set(other.units) - set(group.units) for other in found if set(other.units) & set(group.units)
        )
    }


def _channel_groups(model: nn.Module, units: Units) -> list[Group]:
    modules = dict(model.named_modules())
    order = {name: number for number, name in enumerate(modules)}
    places = sorted(units.places, key=lambda place: (order[place.module], not place.gives, place.parameter))
    members = _members(units, places, modules)
    owners: dict[str, str] = {}

    def owner(name: str) -> str:
        while owners.setdefault(name, name) != name:
            name = owners[name]
        return name

    makers: dict[int, list[str]] = {}
    for unit, found in members.items():
        layers = [places[one.place].module for one in found if _is_made(places[one.place])]
        makers[unit] = layers
        for layer in layers[1:]:
            one, other = sorted((owner(layers[0]), owner(layer)), key=lambda name: order[name])
            owners[other] = one
    tied: dict[str, list[int]] = {}
    for unit, layers in makers.items():
        if layers:
            tied.setdefault(owner(layers[0]), []).append(unit)
    return [
        group
        for name in sorted(tied, key=lambda name: order[name])
        for group in _groups_of(modules, places, members, name, tied[name])
    ]


def _is_made(place: Place) -> bool:
    return place.gives and not place.parameter


def _members(
    units: Units, places: Sequence[Place], modules: Mapping[str, nn.Module]
) -> dict[int, list[_Member]]:
    """The channels of each unit that may go."""
    found: dict[int, list[_Member]] = {}
    for number, place in enumerate(places):
        of_channel = units.places[place].tolist()
        module = modules[place.module]
        blocks = 1 if place.parameter else block_count(module, gives=place.gives)
        for channel, unit in enumerate(of_channel):
            if unit and unit not in units.kept:
                block = channel * blocks // len(of_channel)
                in_part = isinstance(module, nn.RNNBase)
                member = _Member(number, block if in_part else 0, 0 if in_part else block, channel)
                found.setdefault(unit, []).append(member)
    for number, (labels, blocks) in enumerate(units.blocks):
        for channel, unit in enumerate(labels.tolist()):
            if unit in found:
                found[unit].append(_Member(-1 - number, 0, channel * blocks // len(labels), -1))
    return found


def _groups_of(
    modules: Mapping[str, nn.Module],
    places: Sequence[Place],
    members: Mapping[int, list[_Member]],
    name: str,
    units: Sequence[int],
) -> list[Group]:
    """The units of layers that are tied; one group where all its segments are equal, else several."""
    parts: dict[Any, dict[Any, list[int]]] = {}
    for unit in units:
        kinds = sorted((one.place, one.part) for one in members[unit])
        blocks = sorted((one.place, one.block) for one in members[unit])
        parts.setdefault(tuple(kinds), {}).setdefault(tuple(blocks), []).append(unit)
    sizes = {len(found) for blocks in parts.values() for found in blocks.values()}
    if len(sizes) == 1 and len({len(blocks) for blocks in parts.values()}) == 1:
        runs = [[found for blocks in parts.values() for found in blocks.values()]]
    else:
        runs = [
            run
            for blocks in parts.values()
            for run in (
                [list(blocks.values())]
                if len({len(found) for found in blocks.values()}) == 1
                else [[found] for found in blocks.values()]
            )
        ]
    number = len(next(iter(parts.values())))
    return [
        _channel_group(modules, places, members, name if not index else f"{name}#{index + 1}", run, number)
        for index, run in enumerate(runs)
    ]


def _channel_group(
    modules: Mapping[str, nn.Module],
    places: Sequence[Place],
    members: Mapping[int, list[_Member]],
    name: str,
    run: list[list[int]],
    blocks: int,
) -> Group:
    units = [unit for segment in run for unit in segment]
    channels: dict[int, list[list[int]]] = {}
    for index, unit in enumerate(units):
        for member in members[unit]:
            if member.place >= 0:
                if member.place not in channels:
                    channels[member.place] = [[] for _ in units]
                channels[member.place][index].append(member.channel)
    parts = tuple(
        part
        for number in sorted(channels)
        if (part := part_of(modules[places[number].module], places[number], channels[number])) is not None
    )
    named = [number for number in sorted(channels) if _is_made(places[number])]
    first = next((number for number in named if places[number].module == name), named[0])
    return Group(
        name,
        tuple(dict.fromkeys(places[number].module for number in named)),
        len(units),
        max(map(len, channels[first])),
        len(run),
        blocks if len(run) % blocks == 0 else 1,
        min(len(found) for lists in channels.values() for found in lists if found),
        parts,
        " ".join(f"{type(part.module).__name__}{'+-'[not part.gives]}" for part in parts),
        tuple(units),
    )


def _head_group(names: Mapping[nn.Module, str], attention: Attention) -> Group:
    """The heads of one attention."""
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
        1,
        attention.head_dim,
        parts,
        "heads",
        attention=attention,
    )
