"""Samples that compression changes over many trainings, and not by the chance of one.

One reference and one compressed model differ in many answers that a second training would give otherwise too.
Over models of several seeds, a compression-identified exemplar is a sample whose modal answer over the
compressed models is not the modal answer over the references (Hooker et al. 2019, "What do compressed deep
neural networks forget?", arXiv 1911.05248). A class is hit when its recall, less the accuracy of its model,
fell: Welch's t test over the seeds, adjusted by Holm's method. The paper trains 30 models a population; from
three on the test can find the largest losses only.

Where two classes are answered most often, a sample has no modal answer, and is no exemplar: to take the class
with the lowest number would make exemplars of the order of the classes.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lissom.bench.statistics import holm
from lissom.report.harm import ALPHA, answers_of, class_name, class_names, classes_of, compared
from lissom.report.schema import Report

LEAST_SEEDS = 3
_FREE = ("name", "seed", "benchmark")
"""Keys of a recipe that may differ within a population: they do not say how its models are made."""
_DUST = 1e-9
"""Spread of shares below which nothing but rounding differs."""


class Exemplar(NamedTuple):
    """A sample whose modal answer changed.

    Attributes:
        place: In the report split, from 0.
        truth: Its class.
        before: Modal answer of the references.
        after: Of the compressed models.
        num_before: References that gave theirs.
        num_after: Compressed models that gave theirs.
        num_moved: Compressed models that answer otherwise than the reference of their own seed.
    """

    place: int
    truth: str
    before: str
    after: str
    num_before: int
    num_after: int
    num_moved: int


class Part(NamedTuple):
    """Samples, and the mean accuracy of both populations on them."""

    num_samples: int
    before: float
    after: float


class Impact(NamedTuple):
    """One class.

    Attributes:
        name: Of it.
        num_samples: In the report split.
        recall: Mean over the seeds, before and after.
        before: Mean over the references of the recall less the accuracy of the model.
        after: Of the compressed models.
        spread: The lowest and the highest seed of `after`.
        p_value: Of Welch's t test, adjusted by Holm's method over all classes; 1 where no seed differs from
            another.
    """

    name: str
    num_samples: int
    recall: tuple[float, float]
    before: float
    after: float
    spread: tuple[float, float]
    p_value: float

    @property
    def change(self) -> float:
        """Of the recall, beyond that of the accuracy."""
        return self.after - self.before

    @property
    def is_hit(self) -> bool:
        """True when it surely lost more than the average, also in view of how many were asked."""
        return self.change < 0 and self.p_value < ALPHA


class Exemplars(NamedTuple):
    """Models of several seeds against their references.

    Attributes:
        seeds: Of the recipe, ascending.
        num_samples: In the report split.
        num_tied: Samples without a modal answer in one of the populations; counted with the others.
        found: Those on which most models moved first.
        part: The exemplars; None where there are none.
        others: All other samples; None where there are none.
        classes: By how much more than the average they lost.
    """

    seeds: tuple[int, ...]
    num_samples: int
    num_tied: int
    found: tuple[Exemplar, ...]
    part: Part | None
    others: Part | None
    classes: tuple[Impact, ...]

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            **self._asdict(),
            "seeds": list(self.seeds),
            "found": [one._asdict() for one in self.found],
            "part": self.part._asdict() if self.part else None,
            "others": self.others._asdict() if self.others else None,
            "classes": [one._asdict() for one in self.classes],
        }


class Modes(NamedTuple):
    """The answer that most models give to each sample.

    Attributes:
        answers: Shape [samples]; without meaning where it is not known.
        counts: Models that gave it, shape [samples].
        known: False where two answers are given as often, shape [samples].
    """

    answers: np.ndarray
    counts: np.ndarray
    known: np.ndarray


def population(reports: Sequence[Report]) -> list[Report]:
    """The most runs of one recipe under different seeds that answered the same samples, by their seed.

    Of two runs with one seed the newer counts; of two recipes with as many seeds, the one that ran last.
    """
    groups: dict[str, dict[int, Report]] = defaultdict(dict)
    ordered = sorted(reports, key=lambda report: report.created)
    for report in ordered:
        if report.complete and compared(report):
            groups[_origin(report)][int(report.recipe.get("seed", 0))] = report
    if not groups:
        return []
    largest = max(groups.values(), key=lambda group: (len(group), max(one.created for one in group.values())))
    return [largest[seed] for seed in sorted(largest)]


def _origin(report: Report) -> str:
    """What runs of a population have in common."""
    told = report.predictions
    recipe = {key: value for key, value in report.recipe.items() if key not in _FREE}
    return json.dumps([recipe, report.labels, told.samples, told.labels], sort_keys=True)


def exemplars_of(runs: Sequence[Report]) -> Exemplars | None:
    """None for fewer than three seeds.

    Args:
        runs: What `population` finds.
    """
    if len(runs) < LEAST_SEEDS:
        return None
    labels = classes_of(runs[0].predictions.labels)
    pairs = [[answers_of(run, arm) for arm in arms] for run in runs if (arms := compared(run))]
    before, after = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
    names = class_names(runs[0], labels)
    modes = [modal(answers) for answers in (before, after)]
    known = modes[0].known & modes[1].known
    chosen = known & (modes[0].answers != modes[1].answers)
    right = (before == labels, after == labels)
    return Exemplars(
        tuple(int(run.recipe.get("seed", 0)) for run in runs),
        len(labels),
        int((~known).sum()),
        _exemplars(np.flatnonzero(chosen), labels, modes, (before != after).sum(axis=0), names),
        _part(chosen, right),
        _part(~chosen, right),
        _impacts(labels, right, names),
    )


def modal(answers: np.ndarray) -> Modes:
    """The modal answers of models.

    Args:
        answers: Classes, shape [models, samples].
    """
    counts = np.stack([(answers == own).sum(axis=0) for own in answers])
    most, first = counts.max(axis=0), counts.argmax(axis=0)
    # A class given by n models has n rows with the count n; more rows are those of a second class.
    known = (counts == most).sum(axis=0) == most
    return Modes(answers[first, np.arange(answers.shape[1])], most, known)


def _exemplars(
    places: np.ndarray, labels: np.ndarray, modes: Sequence[Modes], moved: np.ndarray, names: Sequence[str]
) -> tuple[Exemplar, ...]:
    before, after = modes
    found = [
        Exemplar(
            place,
            class_name(names, int(labels[place])),
            class_name(names, int(before.answers[place])),
            class_name(names, int(after.answers[place])),
            int(before.counts[place]),
            int(after.counts[place]),
            int(moved[place]),
        )
        for place in places.tolist()
    ]
    return tuple(sorted(found, key=lambda one: (-one.num_moved, -one.num_before - one.num_after, one.place)))


def _part(mine: np.ndarray, right: Sequence[np.ndarray]) -> Part | None:
    if not mine.any():
        return None
    return Part(int(mine.sum()), *(float(own[:, mine].mean()) for own in right))


def _impacts(labels: np.ndarray, right: Sequence[np.ndarray], names: Sequence[str]) -> tuple[Impact, ...]:
    """Every class that has samples, those that lost most beyond the average first."""
    counts = np.bincount(labels)
    classes = np.flatnonzero(counts)
    recalls = [
        np.stack([np.bincount(labels, weights=own)[classes] for own in models]) / counts[classes]
        for models in right
    ]
    before, after = (
        recall - models.mean(axis=1, keepdims=True) for recall, models in zip(recalls, right, strict=True)
    )
    p_values = holm(welch(before, after, counts[classes]).tolist())
    found = [
        Impact(
            class_name(names, int(index)),
            int(counts[index]),
            (float(recalls[0][:, row].mean()), float(recalls[1][:, row].mean())),
            float(before[:, row].mean()),
            float(after[:, row].mean()),
            (float(after[:, row].min()), float(after[:, row].max())),
            p_values[row],
        )
        for row, index in enumerate(classes)
    ]
    return tuple(sorted(found, key=lambda one: (one.change, one.p_value, one.name)))


def welch(before: np.ndarray, after: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """P-values of Welch's t test of each column; 1 where neither population varies.

    Seeds that all give the same are one model drawn several times, of which no test can be made. Recalls of
    few samples agree by chance, and would be sure at once; so a population varies by no less than rounding
    to whole samples does, 1 / (sqrt(12) n).

    Args:
        before: Shape [models, columns].
        after: The same of the other population.
        counts: Samples that a value of the column is a share of, shape [columns].
    """
    from scipy import stats

    means = [own.mean(axis=0) for own in (before, after)]
    deviations = [own.std(axis=0, ddof=1) for own in (before, after)]
    least = 1 / (math.sqrt(12) * counts)
    found = stats.ttest_ind_from_stats(
        *(means[0], np.maximum(deviations[0], least), len(before)),
        *(means[1], np.maximum(deviations[1], least), len(after)),
        equal_var=False,
    )
    return np.where(np.maximum(*deviations) > _DUST, found.pvalue, 1.0)
