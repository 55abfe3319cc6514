"""Structured width pruning: channels, attention heads and recurrent units are removed.

Groups of what can only be removed together are found by tracing (`groups`), their units are ranked
(`importance`), and the least important share goes: of every group (local), of all groups together (global),
or of the groups that are made of the same modules (isomorphic; Fang et al., arXiv 2407.04616). What remains
is a smaller dense model that any engine runs faster.

With `group_norm` the norms of the groups are added to the loss of a training before, weighted so that the
weakest units are pushed hardest (Fang et al., arXiv 2301.12900, equation 4):

    sum over units u of 2^(4 (largest - norm u) / (largest - smallest)) * norm_u^2 / 2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd, lcm
from typing import Any

import torch
from torch import Tensor, nn

from lissom.compress.double import TOLERANCE
from lissom.compress.groups import Group, Groups, find_groups, never
from lissom.compress.importance import importances
from lissom.compress.outputs import check_outputs
from lissom.compress.proof import Proof, prove, remove_units, settle
from lissom.compress.samples import Samples
from lissom.compress.targets import Reduction
from lissom.compress.tracing import widths
from lissom.errors import ModelError
from lissom.recipe import PruneConfig

_STRONGEST_PUSH = 4.0


def rank_channels(model: nn.Module, whole: nn.Module, config: PruneConfig, samples: Samples) -> Reduction:
    """The channels, heads and units of a model, ranked."""
    found = settle(model, find_groups(model, samples.example, config.exclude), samples.example)
    scores = importances(found.groups, model, config.importance, samples)
    same = widths(model) == widths(whole)
    original = {group.name: group.num_units for group in found.groups}
    if not same:
        before = settle(whole, find_groups(whole, samples.example, config.exclude), samples.example)
        original = {group.name: group.num_units for group in before.groups}
    ranked = {
        group.name: Ranked(
            group.num_units,
            original.get(group.name, group.num_units),
            group.segments,
            group.blocks,
            group.width,
            group.kind,
            values,
        )
        for group, values in zip(found.groups, scores, strict=True)
        if values is not None
    }
    return Channels(config, samples.example, ranked, found)


@dataclass(frozen=True)
class Ranked:
    """The units of a group with their importance.

    Attributes:
        num_units: Units now.
        num_original: Units before the first step.
        segments: Runs of units of which each loses as many.
        blocks: Segments that are blocks of one width.
        width: Channels of a unit where it has the fewest.
        kind: Groups of one kind are made of the same modules.
        scores: Importance of each unit, shape [num_units].
    """

    num_units: int
    num_original: int
    segments: int
    blocks: int
    width: int
    kind: str
    scores: Tensor

    def kept_number(self, wanted: float, round_to: int) -> int:
        """Units that stay when about `wanted` should: channels are a multiple of `round_to`, if any go.

        That holds for each part of a fused layer. Heads are not rounded: their channels are a multiple
        already.
        """
        step = self._step(round_to)
        nearest = max(step, int(wanted / step + 0.5) * step)
        return min(nearest, self.num_units) if nearest < self.num_units else self.num_units

    def best(self, number: int) -> list[int]:
        """The most important units, as many of each segment."""
        blocks = self.scores.reshape(self.segments, -1)
        size = blocks.shape[1]
        chosen = blocks.topk(number // self.segments, dim=1).indices
        offsets = torch.arange(self.segments).unsqueeze(1) * size
        return sorted((chosen + offsets).flatten().tolist())

    def _step(self, round_to: int) -> int:
        """Least number of units whose channels, in each part, are a multiple of `round_to`."""
        if self.kind == "heads":
            return self.segments
        parts = self.segments // self.blocks
        return parts * lcm(round_to // gcd(round_to, self.width), self.blocks)


@dataclass(frozen=True)
class Channels:
    """A `Reduction` by channels, heads and units.

    Attributes:
        config: Ratio, ranking, rounding and exclusions.
        example: Positional inputs.
        ranked: The groups that may lose units.
        groups: All groups of the model that was ranked.
        left: Groups that were found to stay whole, and why; filled as shares are tried.
    """

    config: PruneConfig
    example: list[Tensor]
    ranked: Mapping[str, Ranked]
    groups: Groups
    left: dict[str, str] = field(default_factory=dict)

    def plan(self, share: float) -> dict[str, list[int]]:
        """The units of each group that stay, for the groups that lose any."""
        wanted = {"local": self._local, "global": self._together, "isomorphic": self._by_kind}
        numbers = {
            name: self.ranked[name].kept_number(number, self.config.round_to)
            for name, number in wanted[self.config.ranking](share).items()
        }
        return {
            name: self.ranked[name].best(number)
            for name, number in numbers.items()
            if number < self.ranked[name].num_units
        }

    def apply(self, model: nn.Module, share: float) -> dict[str, Any]:
        """Remove a share of the units.

        Raises:
            ModelError: nothing can be removed, or the model does not run afterwards.
        """
        kept = {name: units for name, units in self.plan(share).items() if name not in self.left}
        proof = prove(model, self.groups, kept, self.example)
        self.left.update(proof.left)
        if not proof.kept and share > 0 and self._is_all(share):
            raise self._nothing(model, share)
        before = widths(model)
        remove_units(model, self.groups, proof)
        after = widths(model)
        changed = {name: [before[name], width] for name, width in after.items() if width != before[name]}
        check_outputs(model, self.example, self.groups.graph.shapes, list(changed))
        return {"channels": changed, "proof": self._notes(proof)}

    def _notes(self, proof: Proof) -> dict[str, Any]:
        """How well the pruned model agrees with the one whose channels are zero, and what stayed whole."""
        left = {**self.groups.left, **self.left}
        return {"error": proof.error, "tolerance": TOLERANCE, "left": left}

    def _nothing(self, model: nn.Module, share: float) -> ModelError:
        reasons = [f"{name} ({reason})" for name, reason in self.left.items()]
        reasons += [f"{name} ({reason})" for name, reason in self.groups.left.items()]
        looked = f"; these stay whole: {'; '.join(reasons[:5])}" if reasons else ""
        looked += f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        return ModelError(
            f"nothing was pruned: no layer can spare {self.config.round_to} channels at a ratio of "
            f"{share:.3g}{looked}{never(model)}",
            hint="raise ratio, lower round_to, or exclude fewer layers; where layers stay whole for what the "
            "forward does with their channels, method: low-rank or magnitude need not follow them",
        )

    def _is_all(self, share: float) -> bool:
        """True when no step before has removed anything, and none after this one will."""
        untouched = all(group.num_units == group.num_original for group in self.ranked.values())
        return untouched and (self.config.of != "parts" or share >= self.config.ratio)

    def _local(self, share: float) -> dict[str, float]:
        return {name: group.num_original * (1 - share) for name, group in self.ranked.items()}

    def _together(self, share: float) -> dict[str, float]:
        return self._ranked_together(list(self.ranked), share)

    def _by_kind(self, share: float) -> dict[str, float]:
        kinds: dict[str, list[str]] = {}
        for name, group in self.ranked.items():
            kinds.setdefault(group.kind, []).append(name)
        return {
            name: number
            for names in kinds.values()
            for name, number in self._ranked_together(names, share).items()
        }

    def _ranked_together(self, names: Sequence[str], share: float) -> dict[str, float]:
        """Units that stay of each of these groups, when the least important of all of them go."""
        groups = [self.ranked[name] for name in names]
        if not groups:
            return {}
        scores = torch.cat([group.scores for group in groups])
        stay = round(sum(group.num_original for group in groups) * (1 - share))
        limit = scores.sort(descending=True).values[min(max(stay, 1), len(scores)) - 1]
        return {name: float((group.scores >= limit).sum()) for name, group in zip(names, groups, strict=True)}


def remove_channels(model: nn.Module, config: PruneConfig, samples: Samples) -> dict[str, list[int]]:
    """Prune `model` in place; gives `[before, after]` channels of every layer that changed.

    Args:
        model: Model in evaluation mode.
        config: Ratio, importance, ranking and exclusions.
        samples: For tracing, and for an importance that looks at data.

    Raises:
        ModelError: an excluded name is unknown, the model cannot be traced, or nothing could be removed.
    """
    found: dict[str, list[int]] = rank_channels(model, model, config, samples).apply(model, config.ratio)[
        "channels"
    ]
    return found


def group_penalty(model: nn.Module, config: PruneConfig, samples: Samples) -> Callable[[], Tensor]:
    """What `group_norm` adds to the loss: norms of the units, the weakest pushed hardest."""
    groups = find_groups(model, samples.example, config.exclude).groups
    pushes = [_pushes(group) for group in groups]

    def penalty() -> Tensor:
        total = torch.zeros(())
        for group, push in zip(groups, pushes, strict=True):
            total = total + (push * _squares(group, lambda parameter: parameter)).sum() / 2
        return config.group_norm * total

    return penalty


def _squares(group: Group, read: Callable[[Tensor], Tensor]) -> Tensor:
    """Squared norm of every unit over the whole group, shape [units]."""
    rows = [found for part in group.parts if not part.norm and (found := part.rows(read)) is not None]
    return torch.stack([found.square().sum(dim=1) for found in rows]).sum(dim=0)


def _pushes(group: Group) -> Tensor:
    norms = _squares(group, lambda parameter: parameter.detach()).sqrt()
    span = (norms.max() - norms.min()).clamp(min=1e-12)
    pushes: Tensor = 2.0 ** (_STRONGEST_PUSH * (norms.max() - norms) / span)
    return pushes
