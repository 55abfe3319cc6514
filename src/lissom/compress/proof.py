"""Proof: what is pruned computes what the whole model computes with the removed channels at zero.

Both are called in float64 on a few samples. In the whole model the removed channels are zero where they are
made, whatever their bias, shift or activation says, and statistics over channels leave them out (see
`provenance`); the columns of removed heads are zero in the layer that mixes them. One comparison covers all
groups at once; where it fails, it is repeated on halves, and the groups that differ stay whole, each with
the reason.

On the way the order is found in which a layer reads what is left: where the forward moves channels, as a
channel shuffle does, fewer of them can arrive in another order, so the pruned model is followed as the
whole one was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lissom.compress.double import TOLERANCE, difference, doubled, in_double, outputs_in_double
from lissom.compress.groups import Group, Groups, by_rows, few
from lissom.compress.heads import twin
from lissom.compress.provenance import Key, Ledger, trace_channels
from lissom.compress.recurrence import silence_units
from lissom.compress.surgery import select
from lissom.compress.tracing import fault, is_turned, without_cache
from lissom.compress.units import Place
from lissom.errors import ModelError

_ROUNDS = 16

Kept = Mapping[str, Sequence[int]]
"""Units that stay, by the name of the group."""


@dataclass(frozen=True)
class Proof:
    """What a proof found.

    Attributes:
        error: Largest difference of the outputs, as a share of the largest number in them.
        kept: Groups that passed, and their units that stay.
        left: Groups that did not, and why.
        order: The channels that every place keeps, in the order in which it needs them.
    """

    error: float
    kept: Kept
    left: dict[str, str]
    order: Mapping[Place, Tensor] = field(default_factory=dict)


def prove(model: nn.Module, groups: Groups, kept: Kept, example: Sequence[Tensor]) -> Proof:
    """Find the groups that can lose all units but these with nothing else changed.

    Args:
        model: The model that was traced, or a copy of it.
        groups: Its groups.
        kept: Units that would stay, for every group that loses some.
        example: Positional inputs.
    """
    if not kept:
        return Proof(0.0, {}, {})
    whole = _attempt(model, groups, kept, example)
    if isinstance(whole, Proof):
        return whole
    if len(kept) == 1:
        return Proof(0.0, {}, {next(iter(kept)): whole})
    names = list(kept)
    halves = [
        prove(model, groups, {name: kept[name] for name in half}, example)
        for half in (names[: len(names) // 2], names[len(names) // 2 :])
    ]
    left = halves[0].left | halves[1].left
    both = {**halves[0].kept, **halves[1].kept}
    if not halves[0].kept or not halves[1].kept:
        alone = halves[0] if halves[0].kept else halves[1]
        return Proof(alone.error, alone.kept, left, alone.order)
    joined = _attempt(model, groups, both, example)
    if isinstance(joined, Proof):
        return Proof(joined.error, joined.kept, left, joined.order)
    first = halves[0]
    apart = dict.fromkeys(halves[1].kept, f"not together with {', '.join(list(first.kept)[:3])}: {joined}")
    return Proof(first.error, first.kept, left | apart, first.order)


def settle(model: nn.Module, groups: Groups, example: Sequence[Tensor]) -> Groups:
    """The groups that can lose units at all, each in the way in which it can.

    Where a reshape cuts channels into rows, as many of each row go where no others can. Heads are kept where
    removing the last of them is not what their zeros are.
    """
    rows = by_rows(model, groups)
    found: list[Group] = []
    for group in groups.groups:
        others = rows.get(group.name)
        if others is None or _can_lose_one(model, groups, [group], example):
            found.append(group)
        else:
            whole = replace(groups, groups=others)
            found += others if _can_lose_one(model, whole, others, example) else [group]
    last = {group.name: range(group.num_units - 1) for group in found if group.attention is not None}
    heads = prove(model, replace(groups, groups=found), last, example)
    left = {**groups.left, **{name: f"its heads cannot be told: {why}" for name, why in heads.left.items()}}
    return replace(groups, groups=[group for group in found if group.name not in heads.left], left=left)


def _can_lose_one(model: nn.Module, groups: Groups, lost: Sequence[Group], example: Sequence[Tensor]) -> bool:
    """True when each segment of these groups can lose one unit: the same of each, and another of each."""
    return all(
        isinstance(
            _attempt(model, groups, {group.name: _all_but_one(group, step) for group in lost}, example), Proof
        )
        for step in (5, 0)
    )


def _all_but_one(group: Group, step: int) -> list[int]:
    """The units of a group without one of each segment, which lies `step` further on in the next one."""
    size = group.num_units // group.segments
    gone = {segment * size + (step * segment + 2) % size for segment in range(group.segments)}
    return [unit for unit in range(group.num_units) if unit not in gone]


def remove_units(model: nn.Module, groups: Groups, proof: Proof) -> None:
    """Carry out on the model what was proven."""
    select(model, proof.order)
    _keep_heads(model, groups, proof.kept)


def _attempt(model: nn.Module, groups: Groups, kept: Kept, example: Sequence[Tensor]) -> Proof | str:
    """The proof for all of these groups together, or why there is none."""
    inputs = few(example)
    try:
        with without_cache(model), in_double():
            wanted = _zeroed_outputs(model, groups, kept, inputs)
            order = _kept_channels(groups, kept)
            try:
                error = _error(model, groups, kept, order, inputs, wanted)
            except Exception:
                error = float("inf")  # another order may do; what goes wrong then is told
            if not error <= TOLERANCE:  # channels may arrive in another order when they are fewer
                moved = _arrange(model, groups, order, inputs)
                error = _error(model, groups, kept, moved, inputs, wanted)
                order = moved
    except Exception as exc:  # the user's forward may raise anything without some of its channels
        return exc.message if isinstance(exc, ModelError) else fault(exc)
    if not error <= TOLERANCE:
        return f"without them the model is not what it is with them at zero (they differ by {error:.2g})"
    return Proof(error, kept, {}, order)


def _removed(groups: Groups, kept: Kept) -> Tensor:
    """For every label, whether its unit goes."""
    return _removed_units(groups, kept)[groups.units.of_label]


def _removed_units(groups: Groups, kept: Kept) -> Tensor:
    """For every unit, whether it goes."""
    gone = torch.zeros(groups.ledger.size, dtype=torch.bool)
    for group in groups.groups:
        if group.name in kept and group.attention is None:
            stay = set(kept[group.name])
            gone[[unit for index, unit in enumerate(group.units) if index not in stay]] = True
    return gone


def _kept_channels(groups: Groups, kept: Kept) -> dict[Place, Tensor]:
    """The channels that each place keeps."""
    gone = _removed_units(groups, kept)
    order: dict[Place, Tensor] = {}
    for place, of_channel in groups.units.places.items():
        lost = gone[of_channel]
        if lost.any():
            order[place] = (~lost).nonzero().flatten()
    return order


def _arrange(
    model: nn.Module, groups: Groups, order: Mapping[Place, Tensor], inputs: Sequence[Tensor]
) -> dict[Place, Tensor]:
    """The same channels in the order in which they arrive when there are fewer of them."""
    order, trial = dict(order), copy.deepcopy(model)
    select(trial, order)
    for _ in range(_ROUNDS):
        if not (moved := _moved(trial, groups, order, inputs)):
            break
        select(trial, moved)
        for place, places in moved.items():
            order[place] = order[place][places] if place in order else places
    return order


def _moved(
    trial: nn.Module, groups: Groups, order: Mapping[Place, Tensor], inputs: Sequence[Tensor]
) -> dict[Place, Tensor]:
    """Where channels arrive in another order than a place has them: the order that it needs."""
    ledger = Ledger(_labels_left(groups, order), groups.ledger.size)
    trace_channels(trial, inputs, ledger)
    unit_of = torch.cat(
        [groups.units.of_label, torch.zeros(ledger.size - groups.ledger.size, dtype=torch.long)]
    )
    found: dict[Place, Tensor] = {}
    for name, calls in ledger.reads.items():
        place = Place(name, "", gives=False, axis=0)
        arriving = unit_of[torch.cat(calls, dim=1).amax(dim=1).long()]
        has = groups.units.places[place]
        has = has[order[place]] if place in order else has
        if not torch.equal(arriving, has):
            found[place] = _match(has, arriving, name)
    for place, wanted in _met(groups, order, ledger, unit_of).items():
        has = groups.units.places[place]
        found[place] = _match(has[order[place]] if place in order else has, wanted, place.module)
    return found


def _labels_left(groups: Groups, order: Mapping[Place, Tensor]) -> dict[Key, Tensor]:
    found = dict(groups.ledger.labels)
    for place, index in order.items():
        if place.gives:
            key = (place.module, place.parameter)
            found[key] = found[key].index_select(place.axis, index)
    return found


def _match(has: Tensor, wanted: Tensor, name: str) -> Tensor:
    """Places of `has` in the order of `wanted`; the first of a unit for the first, and so on."""
    if len(has) != len(wanted):
        raise ModelError(f"{name} reads {len(has)} channels and would get {len(wanted)}")
    by_unit, sorted_wanted = has.argsort(stable=True), wanted.argsort(stable=True)
    if not torch.equal(has[by_unit], wanted[sorted_wanted]):
        raise ModelError(f"other channels would arrive at {name} than it reads now")
    places = torch.empty_like(by_unit)
    places[sorted_wanted] = by_unit
    return places


def _met(
    groups: Groups, order: Mapping[Place, Tensor], ledger: Ledger, unit_of: Tensor
) -> dict[Place, Tensor]:
    """For parameters and depthwise layers: the unit that arrives at each of their channels."""
    if not ledger.pairs:
        return {}
    one, other = torch.cat(ledger.pairs, dim=1)
    wrong = unit_of[one] != unit_of[other]
    if not wrong.any():
        return {}
    arriving = {int(label): int(unit_of[made]) for made, label in zip(one[wrong], other[wrong], strict=True)}
    found: dict[Place, Tensor] = {}
    for place, of_channel in groups.units.places.items():
        key = (place.module, place.parameter)
        if not place.gives or key not in ledger.labels:
            continue
        labels = ledger.labels[key].movedim(place.axis, 0).long()
        labels = labels.reshape(len(labels), -1)
        if not any(label in arriving for label in labels.flatten().tolist()):
            continue
        has = of_channel[order[place]] if place in order else of_channel
        found[place] = torch.tensor(
            [
                next((arriving[label] for label in line if label in arriving), unit)
                for line, unit in zip(labels.tolist(), has.tolist(), strict=True)
            ]
        )
    return found


def _keep_heads(model: nn.Module, groups: Groups, kept: Kept) -> None:
    for group in _heads(groups, kept):
        assert group.attention is not None
        twin(group.attention, model, groups.names).keep(kept[group.name])


def _heads(groups: Groups, kept: Kept) -> list[Group]:
    return [group for group in groups.groups if group.attention is not None and group.name in kept]


def _zeroed(model: nn.Module, groups: Groups, kept: Kept) -> nn.Module:
    """A copy in which nothing reads the heads that go, nor recurrent units inside their layer."""
    whole = copy.deepcopy(model)
    for group in _heads(groups, kept):
        assert group.attention is not None
        attention = twin(group.attention, whole, groups.names)
        mixer: Any = attention.mixer
        gone = [head for head in range(attention.num_heads) if head not in set(kept[group.name])]
        columns = torch.arange(attention.num_heads * attention.head_dim).reshape(attention.num_heads, -1)
        index = columns[gone].flatten()
        with torch.no_grad():
            mixer.weight[(index,) if is_turned(mixer) else (slice(None), index)] = 0
    dead = _removed(groups, kept)
    for name, module in whole.named_modules():
        if isinstance(module, nn.RNNBase) and (name, "") in groups.ledger.labels:
            gone_here = dead[groups.ledger.labels[name, ""].long()].reshape(1 + module.bidirectional, -1)
            if gone_here.any():
                silence_units(module, [(~line).nonzero().flatten().tolist() for line in gone_here])
    return whole


def _zeroed_outputs(model: nn.Module, groups: Groups, kept: Kept, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the whole model gives in float64 with the removed channels at zero."""
    gone = _removed_units(groups, kept)
    dead_inputs = {
        place.module: gone[found] for place, found in groups.units.places.items() if not place.gives
    }
    ledger = Ledger(dict(groups.ledger.labels), groups.ledger.size)
    whole = _zeroed(model, groups, kept).double()
    return trace_channels(
        whole,
        doubled(inputs),
        ledger,
        dead=gone[groups.units.of_label],
        dead_inputs=dead_inputs,
        double=True,
    )


def _error(
    model: nn.Module,
    groups: Groups,
    kept: Kept,
    order: Mapping[Place, Tensor],
    inputs: Sequence[Tensor],
    wanted: Sequence[Tensor],
) -> float:
    """How far a copy that keeps these channels is from what is wanted."""
    trial = copy.deepcopy(model)
    select(trial, order)
    _keep_heads(trial, groups, kept)
    return difference(wanted, outputs_in_double(trial, inputs))
