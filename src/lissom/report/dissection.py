"""A look inside one model, or two: what answers hang on, what layers hold, how training went.

Samples are taken class by class in turn, so that a few stand for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import MADE_PREFIX, MANIFEST_NAME, Artifact
from lissom.errors import ArtifactError, LissomError
from lissom.logs import NoProgress, Progress, log
from lissom.models.data import Data
from lissom.models.evaluation import predict
from lissom.models.inspection import Held, Inside, look_inside_torch
from lissom.report.explanations import (
    FEWEST,
    SECONDS,
    Explained,
    Explanations,
    explain,
    first_of,
    seconds_a_sample,
)
from lissom.runtime.base import Runtime
from lissom.runtime.layout import Layout
from lissom.runtime.machine import machine
from lissom.runtime.probe import open_checked
from lissom.runtime.scores import class_columns, class_scores, classifies
from lissom.structure import load_model

SCHEMA = "lissom.inspection/1"
NUM_SAMPLES, MOST_SAMPLES = 32, 96
"""That are explained unless others are asked for: two of every class, but not fewer nor more than these."""
_WATCHED, _WATCHED_VALUES = 128, 1 << 22
"""Samples that pass through the layers, and values of the first input that they may have together."""
_SPLITS = ("report", "select", "calibrate", "train")
Tensors = dict[str, np.ndarray]


class Side(NamedTuple):
    """One of the models.

    Attributes:
        artifact: It.
        runtime: Engine on which it answered.
        answers: Class or value of each sample, shape [samples].
        certainty: Probability of each answer; None where answers are no classes.
        inside: What was seen of its layers; None where nothing can be.
        unseen: Why not.
    """

    artifact: Artifact
    runtime: str
    answers: np.ndarray
    certainty: np.ndarray | None
    inside: Inside | None
    unseen: str


class Training(NamedTuple):
    """How the model was trained last, by epoch."""

    stage: str
    history: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class Dissection:
    """What was seen.

    Attributes:
        sides: The model, or the one it is held against and then the model.
        data: Source of the samples.
        split: That they are of.
        machine: In words.
        places: Of the samples in the split, shape [samples].
        hashes: Of the samples, 16 hex digits.
        raw: The samples as they came, by input name, shape [samples, ...].
        targets: Class that is explained, shape [samples].
        labels: Names of the classes.
        labelled: The target is the true class; else the answer of the first side.
        explained: By method; empty where nothing could be explained.
        remarks: What a reader should know: why a method or a part is missing.
        training: None where nothing is known.
    """

    sides: tuple[Side, ...]
    data: str
    split: str
    machine: str
    places: np.ndarray
    hashes: tuple[str, ...]
    raw: Mapping[str, np.ndarray]
    targets: np.ndarray
    labels: tuple[str, ...]
    labelled: bool
    explained: tuple[Explained, ...]
    remarks: tuple[str, ...]
    training: Training | None


@dataclass(frozen=True)
class Question:
    """What is asked of models.

    Attributes:
        artifacts: One, or the one it is held against and then it.
        data: As the models take them.
        runtimes: Of each; None for the first that works.
        layer: Whose feature maps are shown; None for the first that has some.
        num_samples: That are explained; None for two of every class, 32 to 96, as far as a minute
            allows.
    """

    artifacts: tuple[Artifact, ...]
    data: Data
    runtimes: tuple[str | None, ...]
    layer: str | None = None
    num_samples: int | None = None


def dissect(question: Question, *, progress: Progress | None = None) -> Dissection:
    """Look inside.

    Raises:
        LissomError: a model cannot be opened, or the layer is unknown to the last of them.
    """
    told, data = progress or NoProgress(), question.data
    split = _split(data)
    labels = _last(data.labels(split)) if data.dataset.labels is not None else None
    order = in_turn(labels if data.kind != "values" else None, len(data.indices[split]))
    tensors = {name: array[order] for name, array in _tensors(question, split).items()}
    chosen = first_of(tensors, _num_explained(question))
    with ExitStack() as stack:
        runtimes = [
            stack.enter_context(open_checked(artifact, runtime))
            for artifact, runtime in zip(question.artifacts, question.runtimes, strict=True)
        ]
        scores = [_last(predict(runtime.infer_batch, chosen)) for runtime in runtimes]
        places = order[: len(scores[0])]
        targets, labelled = _targets(labels, places, _columns(scores[0], question.artifacts[0]), data.kind)
        explained, remarks = _explanations(question, runtimes, chosen, targets, told)
        insides = _insides(question, first_of(tensors, _num_watched(tensors)), told)
    size = min([len(places), *(len(one.maps[0].maps) for one in explained)])
    sides = tuple(
        Side(runtime.artifact, runtime.name, *_answers(found[:size], data.kind, runtime.artifact), *inside)
        for runtime, found, inside in zip(runtimes, scores, insides, strict=True)
    )
    samples = _Samples(split, places[:size], targets[:size], labelled)
    return _dissection(question, samples, sides, explained, remarks)


class _Samples(NamedTuple):
    """Those that were explained: split, places in it, class that is explained, whether it is the true one."""

    split: str
    places: np.ndarray
    targets: np.ndarray
    labelled: bool


def _dissection(
    question: Question,
    samples: _Samples,
    sides: tuple[Side, ...],
    explained: tuple[Explained, ...],
    remarks: tuple[str, ...],
) -> Dissection:
    data, last = question.data, question.artifacts[-1]
    here = data.indices[samples.split]
    raw = data.raw(samples.split)
    return Dissection(
        sides,
        data.source,
        samples.split,
        _machine_words(),
        samples.places,
        tuple(data.sample_hashes[here[place]][:16] for place in samples.places),
        {
            spec.name: raw[spec.name][samples.places]
            for spec in last.manifest.signature.inputs
            if spec.name in raw
        },
        samples.targets,
        data.dataset.label_names if data.kind == "classes" else last.manifest.labels,
        samples.labelled,
        explained,
        remarks,
        _training(last),
    )


def _split(data: Data) -> str:
    """The first that has samples, the one that nothing was chosen on before all others."""
    return next(name for name in _SPLITS if len(data.indices[name]))


def _tensors(question: Question, split: str) -> Tensors:
    """Inputs in the order of the signature, which a torch model is called in."""
    tensors = question.data.tensors(split)
    signature = question.artifacts[-1].manifest.signature
    whole = Layout(signature).with_state_samples(tensors)
    return {spec.name: whole[spec.name] for spec in signature.inputs}


def in_turn(labels: np.ndarray | None, number: int) -> np.ndarray:
    """Places of samples: the first of every class, then the second of every class, and so on.

    >>> in_turn(np.array([1, 1, 0, 1, 0]), 5).tolist(), in_turn(None, 3).tolist()
    ([2, 0, 4, 1, 3], [0, 1, 2])
    """
    if labels is None:
        return np.arange(number)
    turns = np.zeros(number, dtype=np.int64)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        turns[mine] = np.arange(len(mine))
    return np.lexsort((labels, turns))


def estimated_seconds(question: Question) -> float:
    """About how long `dissect` would take, from one call of each model."""
    seconds = 0.0
    chosen = first_of(_tensors(question, _split(question.data)), _num_explained(question))
    for artifact, name in zip(question.artifacts, question.runtimes, strict=True):
        started = time.perf_counter()
        with open_checked(artifact, name) as runtime:
            seconds += time.perf_counter() - started + 3.0
            seconds += len(next(iter(chosen.values()))) * seconds_a_sample(runtime, chosen)
    return seconds if question.num_samples else min(seconds, SECONDS + 15.0)


def _explanations(
    question: Question, runtimes: list[Runtime], inputs: Tensors, targets: np.ndarray, progress: Progress
) -> Explanations:
    """Maps of the samples; none of made inputs, of which no part means anything."""
    if MADE_PREFIX in question.data.source:
        return Explanations((), ("Nothing is explained: inputs are made, and mean nothing; give --data.",))
    return explain(runtimes, inputs, targets, progress, num_samples=question.num_samples)


def _insides(question: Question, inputs: Tensors, progress: Progress) -> list[tuple[Inside | None, str]]:
    """What was seen of each side, or why nothing was."""
    found: list[tuple[Inside | None, str]] = []
    with progress.task("look at layers", len(question.artifacts)) as advance:
        for artifact in question.artifacts:
            layer = question.layer if artifact is question.artifacts[-1] else None
            found.append(_inside(artifact, inputs, layer))
            advance(1)
    return found


def _inside(artifact: Artifact, inputs: Tensors, layer: str | None) -> tuple[Inside | None, str]:
    kind = artifact.manifest.format
    watch: Callable[[], Inside] | None = {
        "torch": lambda: look_inside_torch(load_model(artifact, plain=True), inputs, layer=layer),
        "onnx": lambda: _of_onnx(artifact, inputs, layer),
    }.get(kind)
    if watch is None:
        return None, f"layers of the format {kind} cannot be watched; inspect the artifact it was made from"
    try:
        return watch(), ""
    except LissomError as exc:
        if layer is not None:
            raise
        return None, exc.message


def _of_onnx(artifact: Artifact, inputs: Tensors, layer: str | None) -> Inside:
    from lissom.export.onnx_inspection import look_inside_onnx

    return look_inside_onnx(artifact, inputs, layer=layer)


def _num_explained(question: Question) -> int:
    """Samples that are explained, if time allows."""
    if question.num_samples is not None:
        return question.num_samples
    return min(max(NUM_SAMPLES, 2 * question.data.num_classes), MOST_SAMPLES)


def _num_watched(tensors: Tensors) -> int:
    """Samples that pass through the layers: fewer of large ones."""
    each = int(np.prod(next(iter(tensors.values())).shape[1:]))
    return min(_WATCHED, max(FEWEST, _WATCHED_VALUES // max(each, 1)))


def _last(values: np.ndarray) -> np.ndarray:
    """Of every position of a sequence the last; what has none stays as it is."""
    return values[:, -1] if values.ndim == 3 or (values.ndim == 2 and values.dtype.kind in "iu") else values


def _targets(
    labels: np.ndarray | None, places: np.ndarray, scores: np.ndarray, kind: str
) -> tuple[np.ndarray, bool]:
    """Class or output that is explained for each sample, and whether it is the true one."""
    if kind == "values":
        return np.zeros(len(places), dtype=np.int64), False
    answers = scores.reshape(len(scores), -1).argmax(axis=1)
    if labels is None or labels.ndim != 1:
        return answers.astype(np.int64), False
    known = labels[places]  # of a language model those that do not count are negative
    return np.where(known >= 0, known, answers).astype(np.int64), bool((known >= 0).any())


def _answers(scores: np.ndarray, kind: str, artifact: Artifact) -> tuple[np.ndarray, np.ndarray | None]:
    """The answer to each sample, and how sure it is."""
    if kind == "values" or (scores.ndim != 2 and not classifies(artifact.manifest)):
        return scores.reshape(len(scores), -1)[:, 0], None
    columns = _columns(scores, artifact)
    sure = class_scores(scores, artifact.manifest.scores)
    return columns.argmax(axis=1), sure.max(axis=1).astype(np.float64)


def _columns(scores: np.ndarray, artifact: Artifact) -> np.ndarray:
    """The scores with a column a class, where classes are told."""
    return class_columns(scores, artifact.manifest.scores) if classifies(artifact.manifest) else scores


def _training(artifact: Artifact) -> Training | None:
    """The epochs of a model, else of what it was made from, as far as that lies beside it."""
    seen: set[str] = set()
    while artifact.digest not in seen:
        seen.add(artifact.digest)
        history = artifact.manifest.notes.get("history")
        if history:
            return Training(artifact.name, tuple(history))
        parents = [parent.digest for parent in artifact.manifest.parents if parent.role == "input"]
        found = next((one for one in _beside(artifact) if one.digest in parents), None)
        if found is None:
            return None
        artifact = found
    return None


def _beside(artifact: Artifact) -> list[Artifact]:
    """The other artifacts of a run; one that is damaged is passed over."""
    found = []
    for path in sorted(artifact.path.resolve().parent.glob(f"*/{MANIFEST_NAME}")):
        try:
            found.append(Artifact.open(path.parent))
        except ArtifactError as exc:
            log.debug("%s is passed over: %s", path.parent, exc)
    return found


def document(found: Dissection) -> dict[str, Any]:
    """As JSON, without the maps themselves."""
    return {
        "schema": SCHEMA,
        "data": found.data,
        "split": found.split,
        "machine": found.machine,
        "samples": [
            {"sha256": digest, "place": int(place), "target": int(target)}
            for digest, place, target in zip(found.hashes, found.places, found.targets, strict=True)
        ],
        "labels": list(found.labels),
        "models": [_side_document(side) for side in found.sides],
        "explanations": [_explained_document(one) for one in found.explained],
        "remarks": list(found.remarks),
        "training": None
        if found.training is None
        else {"stage": found.training.stage, "history": [dict(epoch) for epoch in found.training.history]},
    }


def _side_document(side: Side) -> dict[str, Any]:
    inside = side.inside
    return {
        "artifact": {
            "id": side.artifact.id,
            "digest": side.artifact.digest,
            "name": side.artifact.name,
            "format": side.artifact.manifest.format,
            "precision": side.artifact.manifest.precision,
        },
        "runtime": side.runtime,
        "answers": _finite(side.answers),
        "certainty": None if side.certainty is None else _finite(side.certainty),
        "num_watched": None if inside is None else inside.num_samples,
        "layers": None
        if inside is None
        else [
            {
                **layer._asdict(),
                "weights": _held_document(layer.weights),
                "outputs": _held_document(layer.outputs),
            }
            for layer in inside.layers
        ],
        "rectifiers": None if inside is None else [one._asdict() for one in inside.rectifiers],
        "unseen": side.unseen or None,
    }


def _held_document(held: Held | None) -> dict[str, Any] | None:
    if held is None:
        return None
    grid = held.grid._asdict() if held.grid else None
    return {"histogram": held.histogram._asdict(), "grid": grid}


def _explained_document(one: Explained) -> dict[str, Any]:
    cosines = None if one.cosines is None else _finite(one.cosines)
    return {
        "method": one.maps[0].method,
        "layers": [side.layer for side in one.maps],
        "cosines": cosines,
        "unrelated": one.unrelated._asdict() if one.unrelated else None,
    }


def _finite(values: np.ndarray) -> list[float | None]:
    """As JSON has them; what is no number is null."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _machine_words() -> str:
    here = machine()
    return f"{here['cpu']}, {here['cores']} cores"
