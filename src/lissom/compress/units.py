"""Units: labels that can only go together, what each layer has of them, and which stay for what reason.

From what a call shows (see `provenance`) follow connected components of labels. A component is a unit:
channels of layers that make it, elements of parameters that go along, columns of layers that read it. Units
of the same layers that are made and read alike form a class; a layer loses as many of each of its classes,
so that chunks and blocks of equal size stay equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissom.compress.label_tensors import distinct, distinct_pairs
from lissom.compress.provenance import FIXED, Key, Ledger


class Place(NamedTuple):
    """Where a unit has channels.

    Attributes:
        module: Name of the module.
        parameter: Of a parameter or buffer that stands in no layer; empty for a layer.
        gives: True for what the module gives, False for what it reads.
        axis: Of the parameter; 0 for a layer.
    """

    module: str
    parameter: str
    gives: bool
    axis: int


@dataclass(frozen=True)
class Units:
    """The units of a model.

    Attributes:
        places: The unit that each channel of each place belongs to, 0 for none.
        kept: Units that stay whole, and why.
        blocks: Blocks of a normalisation: the unit of each channel, and how many blocks there are.
        splits: The same for channels that a reshape cuts into rows.
        of_label: The unit of every label.
    """

    places: Mapping[Place, Tensor]
    kept: Mapping[int, str]
    blocks: tuple[tuple[Tensor, int], ...]
    splits: tuple[tuple[Tensor, int], ...]
    of_label: Tensor


def find_units(ledger: Ledger, model: nn.Module, whole: Mapping[str, str]) -> Units:
    """The units that a ledger shows.

    Args:
        ledger: What a call of the model showed.
        model: The model.
        whole: Names of layers whose outputs stay, and why.
    """
    reads = {name: _one_line(ledger, lines) for name, lines in ledger.reads.items()}
    unit_of = _components(ledger.size, ledger.pairs)
    kept: dict[int, str] = {}
    for labels, reason in ledger.kept:
        _keep(kept, unit_of[labels], reason)
    for name, reason in {**whole, **ledger.shared}.items():
        if (name, "") in ledger.labels:
            _keep(kept, unit_of[ledger.labels[name, ""].long()], reason)
        if name in ledger.shared and name in reads:
            _keep(kept, unit_of[reads[name]], reason)
    places: dict[Place, Tensor] = {}
    for name, labels in reads.items():
        places[Place(name, "", gives=False, axis=0)] = unit_of[labels]
    made: set[int] = set()
    for (name, leaf), numbers in ledger.labels.items():
        if not leaf:
            places[Place(name, "", gives=True, axis=0)] = unit_of[numbers.long()]
            made |= set(unit_of[numbers.long()].tolist())
    for (name, leaf), numbers in ledger.labels.items():
        if leaf:
            _place_loose(places, kept, (name, leaf), unit_of[numbers.long()], made)
    blocks = tuple((unit_of[labels], number) for labels, number in ledger.blocks)
    kept.pop(0, None)
    splits = tuple((unit_of[labels], number) for labels, number in ledger.splits)
    return Units(places, kept, blocks, splits, unit_of)


def _keep(kept: dict[int, str], units: Tensor, reason: str) -> None:
    for unit in distinct(units).tolist():
        kept.setdefault(unit, reason)


def _one_line(ledger: Ledger, calls: Iterable[Tensor]) -> Tensor:
    """One label for each input channel of a layer, over all places and calls, which go together."""
    lines = torch.cat(list(calls), dim=1).long()
    found = lines.amax(dim=1)
    other = found.unsqueeze(1).expand(lines.shape)
    differing = lines != other
    lone = differing & (lines == 0)
    if lone.any():
        ledger.kept.append((distinct(other[lone]), FIXED))
    differing &= ~lone
    if differing.any():
        ledger.pairs.append(distinct_pairs(lines[differing], other[differing]))
    return found


def _components(size: int, pairs: list[Tensor]) -> Tensor:
    """For each label the smallest that it goes together with."""
    found = torch.arange(size)
    if not pairs:
        return found
    one, other = torch.cat(pairs, dim=1)
    while True:
        least = torch.minimum(found[one], found[other])
        new = found.clone()
        for side in (one, other):
            new.scatter_reduce_(0, side, least, "amin")
            new.scatter_reduce_(0, found[side], least, "amin")
        new = new[new]
        if torch.equal(new, found):
            return found
        found = new


def _place_loose(
    places: dict[Place, Tensor], kept: dict[int, str], key: Key, units: Tensor, made: set[int]
) -> None:
    """Find the axis along which a parameter or buffer goes with channels of layers."""
    name, leaf = key
    met = set(distinct(units).tolist()) & made
    if not met:
        return
    for axis in range(units.dim()):
        lines = units.movedim(axis, 0).reshape(units.shape[axis], -1)
        if bool((lines == lines[:, :1]).all()):
            places[Place(name, leaf, gives=True, axis=axis)] = lines[:, 0]
            return
    for unit in met:
        kept.setdefault(unit, f"{name}.{leaf}" if name else leaf)


def block_count(module: Any, *, gives: bool) -> int:
    """Blocks of channels of a module, of which each has to lose as many."""
    if isinstance(module, nn.RNNBase):
        return 1 + module.bidirectional if gives else 1
    if isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups < module.in_channels:
        return int(module.groups)
    return 1
