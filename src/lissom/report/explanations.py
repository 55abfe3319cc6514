"""What answers of one model or two hang on, by methods that all of them allow.

Two models are asked about the same class of the same samples; where one has no gradients, both are covered
part by part. How alike two maps are says little by itself, so that it is held against maps of the same model
for other samples of the class.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import nn

from lissom.artifact import Artifact
from lissom.errors import MissingExtra, ModelError
from lissom.logs import Progress
from lissom.models.attribution import (
    NUM_STEPS,
    Attributed,
    cosine,
    gradient_maps,
    num_calls,
    occlusion_maps,
)
from lissom.report.wording import listed
from lissom.runtime.base import Runtime
from lissom.structure import load_model

SECONDS, FEWEST = 60.0, 4
"""That explaining may take unless a number of samples was asked for, and samples that always are."""
_TIMED = 32
"""Samples of the call that is timed, as many as are covered at once."""
Tensors = Mapping[str, np.ndarray]


class Unrelated(NamedTuple):
    """How alike maps of one model are for different samples.

    Attributes:
        cosine: Median.
        of_a_class: The samples are of one class; else of different ones, because each class has one sample.
    """

    cosine: float
    of_a_class: bool


class Explained(NamedTuple):
    """Maps of the same samples of every side.

    Attributes:
        maps: Of each side, all by one method.
        cosines: Of the maps of both sides, shape [samples], NaN where one is empty; None for one side.
        unrelated: Of maps of the first side for different samples; None where there is one sample.
    """

    maps: tuple[Attributed, ...]
    cosines: np.ndarray | None
    unrelated: Unrelated | None


class Explanations(NamedTuple):
    """What was explained, by method, and what a reader should know: why a method or a sample is missing."""

    explained: tuple[Explained, ...]
    remarks: tuple[str, ...]


def explain(
    runtimes: Sequence[Runtime],
    inputs: Tensors,
    targets: np.ndarray,
    progress: Progress,
    *,
    num_samples: int | None = None,
) -> Explanations:
    """Maps by every method that all models allow; nothing is raised where they allow none.

    Args:
        runtimes: One open model, or two.
        inputs: Tensors after preprocessing, shape [samples, ...].
        targets: Class that is explained, shape [samples].
        progress: Shows how far it is.
        num_samples: That were asked for; None for as many as a minute allows.
    """
    remarks: list[str] = []
    artifacts = [runtime.artifact for runtime in runtimes]
    try:
        if have_gradients(artifacts):
            before = len(remarks)
            try:
                models = [load_model(artifact, plain=True) for artifact in artifacts]
                number = _affordable(
                    _seconds_of_gradients(models, inputs, targets), num_samples, targets, remarks
                )
                few, goals = first_of(inputs, number), targets[:number]
                sides = [gradient_maps(model, few, goals, progress=progress) for model in models]
                return Explanations(_paired(sides, goals), tuple(remarks))
            except ModelError as exc:
                del remarks[before:]
                remarks.append(f"Parts are covered instead of following gradients: {exc.message}.")
        else:
            remarks.append(_without_gradients(artifacts))
        each = sum(seconds_covered(runtime, inputs) for runtime in runtimes)
        number = _affordable(each, num_samples, targets, remarks)
        few, goals = first_of(inputs, number), targets[:number]
        covered = [[occlusion_maps(one.infer_batch, few, goals, progress=progress)] for one in runtimes]
        return Explanations(_paired(covered, goals), tuple(remarks))
    except MissingExtra as exc:
        remarks.append(f"Nothing is explained: {exc.message}; {exc.hint}.")
    except ModelError as exc:
        remarks.append(f"Nothing is explained: {exc.message}.")
    return Explanations((), tuple(remarks))


def unrelated_cosine(maps: np.ndarray, targets: np.ndarray) -> Unrelated | None:
    """How alike the maps of neighbours in a class are, else of neighbours; None for one sample, or no maps.

    >>> unrelated_cosine(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([0, 0, 1]))
    Unrelated(cosine=0.0, of_a_class=True)
    """
    classes = [np.flatnonzero(targets == target).tolist() for target in np.unique(targets)]
    pairs = [pair for mine in classes for pair in pairwise(mine)]
    of_a_class = bool(pairs)
    pairs = pairs or list(pairwise(range(len(targets))))
    if not pairs:
        return None
    found = cosine(maps[[one for one, _ in pairs]], maps[[other for _, other in pairs]])
    return Unrelated(float(np.nanmedian(found)), of_a_class) if np.isfinite(found).any() else None


def have_gradients(artifacts: Sequence[Artifact]) -> bool:
    """True when gradients of all of them can be followed."""
    return all(artifact.manifest.format == "torch" for artifact in artifacts)


def seconds_a_sample(runtime: Runtime, inputs: Tensors) -> float:
    """About how long it takes to explain one sample of a model, from one call."""
    if have_gradients([runtime.artifact]):  # a step is a call and its way back, which is about two more
        return 3 * NUM_STEPS * _seconds_of_call(runtime, inputs)
    return seconds_covered(runtime, inputs)


def seconds_covered(runtime: Runtime, inputs: Tensors) -> float:
    """About how long it takes to cover every part of one sample, from one call.

    Raises:
        ModelError: a sample has no grid.
    """
    return num_calls(next(iter(inputs.values())).shape[1:]) * _seconds_of_call(runtime, inputs)


def _seconds_of_call(runtime: Runtime, inputs: Tensors) -> float:
    """For one sample of a batch."""
    few = first_of(inputs, _TIMED)
    runtime.infer_batch(few)
    started = time.perf_counter()
    runtime.infer_batch(few)
    return (time.perf_counter() - started) / len(next(iter(few.values())))


def first_of(tensors: Tensors, number: int) -> dict[str, np.ndarray]:
    """The first samples."""
    return {name: array[:number] for name, array in tensors.items()}


def _paired(sides: Sequence[Sequence[Attributed]], targets: np.ndarray) -> tuple[Explained, ...]:
    """The methods that every side has, with their cosines."""
    found = []
    for first in sides[0]:
        others = [one for side in sides[1:] for one in side if one.method == first.method]
        if len(others) + 1 == len(sides):
            same = cosine(first.maps, others[0].maps) if others else None
            found.append(Explained((first, *others), same, unrelated_cosine(first.maps, targets)))
    return tuple(found)


def _affordable(each: float, num_samples: int | None, targets: np.ndarray, remarks: list[str]) -> int:
    """As many samples as may be explained in the time there is, or as were asked for; remarks say so."""
    wanted = len(targets)
    number = min(wanted, max(FEWEST, int(SECONDS / max(each, 1e-9))))
    if num_samples is not None or number == wanted:
        return wanted
    remarks.append(
        f"{number} samples are explained, which takes about {number * each:.0f} seconds; --samples {wanted} "
        f"takes {wanted * each:.0f}."
    )
    return number


def _seconds_of_gradients(models: Sequence[nn.Module], inputs: Tensors, targets: np.ndarray) -> float:
    """To explain one sample of every model."""
    started = time.perf_counter()
    for model in models:
        gradient_maps(model, first_of(inputs, 1), targets[:1])
    return time.perf_counter() - started


def _without_gradients(artifacts: Sequence[Artifact]) -> str:
    """Why parts are covered, as a sentence."""
    without = [artifact for artifact in artifacts if artifact.manifest.format != "torch"]
    names = [f"{one.name} ({one.manifest.format}, {one.manifest.precision})" for one in without]
    both = ", in both models so that they can be compared" if len(artifacts) > 1 else ""
    has = "have" if len(names) > 1 else "has"
    return f"{listed(names)} {has} no gradients: maps show what happens when a part is covered{both}."
