"""Pruning: parts of a model are removed, once or in steps with training between them.

Each method ranks the parts of a model once and can then remove any share of them, from the model or from a
copy of it. So a target in multiply-adds, parameters or measured latency is met by trying shares on copies.
After `k` of `n` steps the share removed is

    linear   s * k / n
    cubic    s * (1 - (1 - k / n)^3)

of the whole share `s` (Zhu and Gupta, To Prune or Not to Prune, arXiv 1710.01878). What remains is a smaller
model, whose structure is stored as data, not pickled, or one of the same size with zeros.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import nn

from lissom.artifact import Artifact
from lissom.compress.latency import Stopwatch, timed_against
from lissom.compress.layer_times import LayerTimes
from lissom.compress.samples import Samples
from lissom.compress.targets import Reduction, Target, macs, num_parameters, target_for
from lissom.compress.width import group_penalty
from lissom.models.masks import is_sparse, keep_zeros, recount_zeros
from lissom.models.stages import Context, save_torch
from lissom.models.training import fit
from lissom.recipe import PruneConfig
from lissom.registry import resolve
from lissom.runtime.availability import usable_runtimes
from lissom.structure import factory_of, load_model

METHODS: dict[str, str] = {
    "width": "lissom.compress.width:rank_channels",
    "depth": "lissom.compress.depth:rank_blocks",
    "low-rank": "lissom.compress.low_rank:rank_factors",
    "magnitude": "lissom.compress.sparsity:rank_weights",
    "2:4": "lissom.compress.sparsity:rank_weights",
}
"""(model, its state before the first step, config, samples) to a `Reduction`."""


def prune(parents: Mapping[str, Artifact], config: PruneConfig, context: Context) -> Artifact:
    """Remove the least important parts of the parent."""
    parent = parents["input"]
    model, before = load_model(parent, plain=True), parent.manifest.notes
    samples = Samples.of(context, parent.manifest.signature)
    with ExitStack() as stack:

        def latency() -> Stopwatch:
            return stack.enter_context(timed_against(model, factory_of(parent), context, config.runtime))

        target = target_for(model, config, samples, latency)
        notes = _remove(model, config, context, samples, target, before) | target.notes(model)
    if is_sparse(before):  # removing channels moves its zeros, which need not be two of four any more
        pattern = "2:4" if config.method == "2:4" else "unstructured"
        notes |= recount_zeros(model, before, notes, pattern=pattern)
    return save_torch(model, factory_of(parent), context, notes=notes)


def _remove(
    model: nn.Module,
    config: PruneConfig,
    context: Context,
    samples: Samples,
    target: Target,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Carry out every step; gives the notes. `before` are those of the parent."""
    rank: Callable[..., Reduction] = resolve(METHODS[config.method], known={})
    notes: dict[str, Any] = {}
    whole = copy.deepcopy(model)
    for step, share in enumerate(shares(config), start=1):
        _tune(model, config, context, samples, step, keep_zeros(model, before, notes))
        with context.progress.task(_label(context, config, step), target.num_trials + 1) as advance:
            reduction = rank(model, whole, config, samples)
            part = target.part_for(share, model, reduction, advance=advance)
            notes = merged(notes, reduction.apply(model, part))
            advance(1)
    return notes


@dataclass(frozen=True)
class Preview:
    """What pruning would remove and save.

    Attributes:
        removed: As the manifest's notes would say it.
        macs: Multiply-adds of one sample, before and after.
        parameters: Parameters, before and after.
        runtime: Where latency was measured.
        latency: Share of the time that one sample would take, measured.
        predicted: The same, predicted from single layers; None where the runtime executes no ONNX.
        layer_times: Predicted share of the whole model's time that each changed module takes, before and
            after.
    """

    removed: dict[str, Any]
    macs: tuple[float, float]
    parameters: tuple[float, float]
    runtime: str
    latency: float
    predicted: float | None
    layer_times: dict[str, tuple[float, float]]


def preview(parents: Mapping[str, Artifact], config: PruneConfig, context: Context) -> Preview:
    """What pruning would remove, on a copy and without training between the steps."""
    parent = parents["input"]
    whole = load_model(parent, plain=True)
    samples = Samples.of(context, parent.manifest.signature)
    at_once = config.model_copy(update={"steps": 1, "tune": None, "group_norm": 0.0})
    runtime = config.runtime or usable_runtimes(None)[0]
    with timed_against(whole, factory_of(parent), context, runtime) as measure:
        model = copy.deepcopy(whole)
        target = target_for(whole, at_once, samples, lambda: measure)
        removed = _remove(model, at_once, context, samples, target, parent.manifest.notes)
        return Preview(
            removed,
            (macs(whole, samples.example), macs(model, samples.example)),
            (num_parameters(whole), num_parameters(model)),
            runtime,
            measure(model),
            measure.predicted(model) if measure.predicts else None,
            _layer_times(measure.layers, whole, model, removed) if measure.predicts else {},
        )


def _layer_times(
    layers: LayerTimes, whole: nn.Module, model: nn.Module, removed: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """Predicted share of the time of every module that was changed, with all that it consists of."""
    before, after = layers.by_module(whole), layers.by_module(model)
    names = [*removed.get("channels", ()), *removed.get("ranks", ())]
    names += removed.get("blocks", {}).get("removed", ())
    return {name: (_sum_within(name, before), _sum_within(name, after)) for name in names}


def _sum_within(outer: str, times: Mapping[str, float]) -> float:
    return sum(time for name, time in times.items() if f"{name}.".startswith(f"{outer}."))


def shares(config: PruneConfig) -> list[float]:
    """Share that is gone after each step.

    >>> shares(PruneConfig(ratio=0.5, steps=2, schedule="linear", tune={"epochs": 1}))
    [0.25, 0.5]
    """
    done = [step / config.steps for step in range(1, config.steps + 1)]
    if config.schedule == "cubic":
        done = [1 - (1 - part) ** 3 for part in done]
    return [config.ratio * part for part in done]


def merged(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Notes of two steps as one: `[before, after]` goes from the first step to the last, names add up."""
    found = {**before, **after}
    for key, value in after.items():
        old: Any = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            found[key] = merged(old, value)
        elif _is_span(value) and _is_span(old):
            found[key] = [old[0], value[1]]
        elif isinstance(value, list) and isinstance(old, list):
            found[key] = old + value
    return found


def _tune(
    model: nn.Module,
    config: PruneConfig,
    context: Context,
    samples: Samples,
    step: int,
    after_step: Callable[[], None] | None,
) -> None:
    """Train before a step: between the steps, and before the first where groups are to become small."""
    if config.tune is None or (step == 1 and not config.group_norm):
        return
    penalty = group_penalty(model, config, samples) if config.group_norm else None
    fit(model, context, config.tune, added=penalty, after_step=after_step, part=f"step-{step}")


def _is_span(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(item, int | float) for item in value)
    )


def _label(context: Context, config: PruneConfig, step: int) -> str:
    name = str(context.fields["name"])
    return f"prune {name}" if config.steps == 1 else f"prune {name}, step {step} of {config.steps}"
