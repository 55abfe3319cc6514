"""Sensitivity: what it costs, and what it saves, when one group alone loses a share of its units.

A group is what width pruning can only remove together: channels, attention heads or recurrent units of all
the layers that are added to each other. Each group loses each share on a copy of the model, the least
important units first, without training (Li et al., arXiv 1608.08710, section 3.2). With the others whole,

    drop            score of the model minus that of the copy, mean over the select split
    latency share   latency of the exported copy over that of the exported model, timed in turns

A group with a small drop and a small latency share can go; one with a large drop is to be excluded, or
pruned less. Effects do not add up: a model that lost a share of every group lost more than the sum, and gets
most of it back by training.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from lissom.artifact import Artifact, sweep_temporary
from lissom.compress.groups import Group
from lissom.compress.latency import timed_against
from lissom.compress.measurements import MEASURED_NAME, context_of, keep, kept
from lissom.compress.samples import Samples
from lissom.compress.targets import Cost
from lissom.compress.width import Channels, rank_channels
from lissom.errors import DataError, ModelError, RequestError
from lissom.logs import Progress
from lissom.models.data import Data
from lissom.models.stages import Context
from lissom.optional import version
from lissom.recipe import PruneConfig
from lissom.registry import runtime_entry
from lissom.runtime.availability import usable_runtimes
from lissom.runtime.machine import machine
from lissom.structure import factory_of, load_model

SENSITIVITY_SCHEMA = "lissom.sensitivity/1"
_EXPORT_SECONDS = 4.0
"""What it typically takes to export a model, to open it and to time it."""


class Trial(NamedTuple):
    """One group without a share of its units.

    Attributes:
        share: Share that was to go.
        channels: Output channels of the layer that the group is named for, before and after; equal where
            the group cannot spare any.
        score: Mean score on the select split.
        drop: Score of the whole model minus this one.
        latency_share: Latency over that of the whole model.
    """

    share: float
    channels: tuple[int, int]
    score: float
    drop: float
    latency_share: float


class GroupTrials(NamedTuple):
    """One group, and its trials by rising share.

    Attributes:
        name: Of the layer that the group is named for.
        layers: Layers whose outputs become fewer.
        shares: The trials.
    """

    name: str
    layers: tuple[str, ...]
    shares: tuple[Trial, ...]

    @property
    def drop(self) -> float:
        """Mean over the shares."""
        return sum(trial.drop for trial in self.shares) / len(self.shares)

    @property
    def saved(self) -> float:
        """Share of the latency that is saved, mean over the shares."""
        return 1 - sum(trial.latency_share for trial in self.shares) / len(self.shares)


@dataclass(frozen=True)
class Sensitivity:
    """Every group of a model, those first that can go cheaply.

    Attributes:
        model: Name of the stage that made the model.
        data: DATA.
        runtime: Where latency was measured.
        machine: The processor that it was measured on, and its cores.
        score_name: What the mean score is called.
        score: Of the whole model, on the select split.
        num_samples: Samples of the select split.
        groups: The groups.
    """

    model: str
    data: str
    runtime: str
    machine: str
    score_name: str
    score: float
    num_samples: int
    groups: tuple[GroupTrials, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        groups = [
            {**group._asdict(), "shares": [trial._asdict() for trial in group.shares]}
            for group in self.groups
        ]
        found: dict[str, Any] = json.loads(json.dumps({**asdict(self), "groups": groups}))
        return {"schema": SENSITIVITY_SCHEMA, **found}


class PlannedGroup(NamedTuple):
    """A group that would be measured.

    Attributes:
        name: Of the layer that the group is named for.
        layers: Layers whose outputs become fewer.
        channels: Output channels of the layer that it is named for: now, and after each share.
        missing: Shares that are not measured yet.
    """

    name: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    missing: tuple[float, ...]


class Plan(NamedTuple):
    """What a run would measure, and about how many seconds it would take."""

    runtime: str
    groups: tuple[PlannedGroup, ...]
    seconds: float


@dataclass(frozen=True)
class Study:
    """A model whose groups are to be measured.

    Attributes:
        artifact: The model.
        context: As a stage that starts from the artifact would have it.
        runtime: Where latency is measured.
        config: How units are ranked, to what they are rounded, what is excluded.
        folder: Where measurements are kept.
        model: The model itself, which stays whole.
        samples: What it is judged on.
        groups: Of the model.
        reduction: The units of all groups, ranked.
    """

    artifact: Artifact
    context: Context
    runtime: str
    config: PruneConfig
    folder: Path
    model: nn.Module
    samples: Samples
    groups: Sequence[Group]
    reduction: Channels

    def alone(self, group: Group) -> Channels:
        """The reduction of one group; all others stay whole."""
        return replace(self.reduction, ranked={group.name: self.reduction.ranked[group.name]})

    def channels(self, group: Group, share: float) -> tuple[int, int]:
        """Output channels of the layer that a group is named for, before and after it loses a share."""
        kept = self.alone(group).plan(share).get(group.name)
        after = group.num_units if kept is None else len(kept)
        return group.num_units * group.unit, after * group.unit


def study_of(
    artifact: Artifact, data: Data, config: PruneConfig, *, runtime: str | None, folder: Path
) -> Study:
    """Find and rank the groups of a model.

    Args:
        artifact: A torch model.
        data: As the artifact takes them.
        config: Of method width; its ratio is not used.
        runtime: Where latency is measured; default: the first that works.
        folder: Of the run.

    Raises:
        ArtifactError: the model is not torch.
        DataError: the data have no labels, or none to select by.
        ModelError: the model cannot be traced, or has no group.
        MissingExtra: the runtime is not installed.
    """
    check_labelled(data)
    name = usable_runtimes(None if runtime is None else [runtime])[0]
    context, model = context_of(artifact, data), load_model(artifact, plain=True)
    samples = Samples.of(context, artifact.manifest.signature)
    reduction = rank_channels(model, model, config, samples)
    assert isinstance(reduction, Channels)
    groups = [group for group in reduction.groups.groups if group.name in reduction.ranked]
    if not groups:
        raise ModelError("no layer can lose channels, heads or units", hint="exclude fewer layers")
    return Study(artifact, context, name, config, folder / MEASURED_NAME, model, samples, groups, reduction)


def plan(study: Study, shares: Sequence[float]) -> Plan:
    """What `measure` would do; nothing is written."""
    started = time.perf_counter()
    study.samples.score(study.model)
    per_trial = time.perf_counter() - started + _EXPORT_SECONDS
    groups = []
    for group in study.groups:
        spans = [study.channels(group, share) for share in shares]
        missing = [
            share
            for share, (before, after) in zip(shares, spans, strict=True)
            if after < before and kept(study.folder, _inputs(study, group, share), _Figures) is None
        ]
        channels = (spans[0][0], *(after for _, after in spans))
        groups.append(PlannedGroup(group.name, group.layers, channels, tuple(missing)))
    return Plan(study.runtime, tuple(groups), per_trial * sum(len(group.missing) for group in groups))


def measure(study: Study, shares: Sequence[float], *, progress: Progress) -> Sensitivity:
    """Measure every group at every share, or read what was measured before."""
    study.folder.mkdir(parents=True, exist_ok=True)
    sweep_temporary(study.folder)
    whole = study.samples.score(study.model)
    found: list[GroupTrials] = []
    with ExitStack() as stack, progress.task("sensitivity", len(study.groups) * len(shares)) as advance:
        latency = _Latency(study, stack)
        for group in study.groups:
            trials = []
            for share in shares:
                trials.append(_trial(study, group, share, whole, latency))
                advance(1)
            found.append(GroupTrials(group.name, group.layers, tuple(trials)))
    data, task, here = study.context.data, study.context.task, machine()
    return Sensitivity(
        study.artifact.name,
        data.source,
        study.runtime,
        f"{here['cpu']}, {here['cores']} cores",
        task.score_name,
        whole,
        len(data.indices["select"]),
        tuple(sorted(found, key=lambda group: (round(group.drop, 3), -group.saved))),
    )


def _trial(study: Study, group: Group, share: float, whole: float, latency: Cost) -> Trial:
    """One measurement, from the disk where it is there."""
    before, after = channels = study.channels(group, share)
    if before == after:
        return Trial(share, channels, whole, 0.0, 1.0)
    inputs = _inputs(study, group, share)
    figures = kept(study.folder, inputs, _Figures)
    if figures is None:
        pruned = copy.deepcopy(study.model)
        study.alone(group).apply(pruned, share)
        measured = _Figures(study.samples.score(pruned), latency(pruned))
        figures = keep(study.folder, inputs, measured)
    return Trial(share, channels, figures.score, whole - figures.score, figures.latency_share)


class _Figures(NamedTuple):
    """What one measurement gives, as it is kept."""

    score: float
    latency_share: float


class _Latency:
    """Measures a copy against the whole model, which is opened when it is first needed."""

    def __init__(self, study: Study, stack: ExitStack) -> None:
        self._study, self._stack = study, stack
        self._cost: Cost | None = None

    def __call__(self, pruned: nn.Module) -> float:
        study = self._study
        if self._cost is None:
            factory = factory_of(study.artifact)
            opened = timed_against(study.model, factory, study.context, study.runtime)
            self._cost = self._stack.enter_context(opened)
        return self._cost(pruned)


def _inputs(study: Study, group: Group, share: float) -> dict[str, Any]:
    """All that decides a measurement."""
    entry, here = runtime_entry(study.runtime), machine()
    tools = ("lissom", "torch", entry.distribution)
    splits, settings = study.context.data.split_hashes, study.config.settings
    return {
        "model": study.artifact.digest,
        "splits": {name: splits[name] for name in ("calibrate", "select")},
        "group": group.name,
        "share": share,
        "config": {key: settings[key] for key in ("importance", "round_to", "exclude")},
        "runtime": study.runtime,
        "tools": {name: version(name) for name in tools},
        "machine": {key: here[key] for key in ("cpu", "isa", "cores", "gpus")},
    }


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Shares in rising order, each once.

    >>> check_shares([0.5, 0.25, 0.5])
    (0.25, 0.5)

    Raises:
        RequestError: there is none, or one is not between 0 and 1.
    """
    if not shares:
        raise RequestError("no share to remove was given", hint="name some, such as 0.25 and 0.5")
    for share in shares:
        if not 0 < share < 1:
            raise RequestError(
                f"a share of {share:g} cannot be removed", hint="a share lies between 0 and 1, such as 0.25"
            )
    return tuple(sorted(set(shares)))


def check_labelled(data: Data) -> None:
    """Refuse data on which no score can be lost.

    Raises:
        DataError: they have no labels, or no sample in the select split.
    """
    if data.dataset.labels is None or not len(data.indices["select"]):
        missing = "labels" if data.dataset.labels is None else "samples in the select split"
        raise DataError(
            f"{data.source} has no {missing}; sensitivity is the score that a model loses on them",
            hint="give labelled data: an .npz holds labels under the name y",
        )
