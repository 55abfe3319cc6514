"""Who is harmed: what an average hides of the change from the reference to the chosen arm.

Accuracy can be equal while whole classes are forgotten and many answers flip (Hooker et al. 2019, "What do
compressed deep neural networks forget?"; Dutta et al. 2024, "Accuracy is not all you need"). Both arms answer
the same samples, so every class is tested by its flips, exactly, and adjusted for how many are asked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lissom.bench.statistics import flips, holm, wilson
from lissom.models.metrics import NUM_BINS, confusion_matrix
from lissom.report.reading import chosen_arm, is_classification, trusted_arm
from lissom.report.schema import Arm, Report

ALPHA = 0.05


class Share(NamedTuple):
    """A part of the samples: a class, or a group.

    Attributes:
        name: Of it.
        num_samples: In the report split.
        before: Share of right answers of the reference.
        after: Of the chosen arm.
        interval: Wilson's 95 % interval of `after`.
        lost: Answers that became wrong.
        gained: Answers that became right.
        p_value: Of McNemar's exact test, adjusted by Holm's method over all parts.
    """

    name: str
    num_samples: int
    before: float
    after: float
    interval: tuple[float, float]
    lost: int
    gained: int
    p_value: float

    @property
    def change(self) -> float:
        """Of the share of right answers."""
        return self.after - self.before

    @property
    def is_harmed(self) -> bool:
        """True when it surely lost, also in view of how many were asked."""
        return self.change < 0 and self.p_value < ALPHA


class Confusion(NamedTuple):
    """Answers that are given more or less often than before, for samples of one true class."""

    truth: str
    answer: str
    before: int
    after: int


class Bin(NamedTuple):
    """Answers of about the same confidence."""

    confidence: float
    right: float
    num_samples: int


class Calibration(NamedTuple):
    """Whether an arm is right as often as it is sure.

    Attributes:
        error: Expected calibration error, as the metrics of the arm have it.
        bins: Those that have samples.
    """

    error: float
    bins: tuple[Bin, ...]


class Harm(NamedTuple):
    """The chosen arm against the reference.

    Attributes:
        before: Names of the reference.
        after: Names of the chosen arm.
        num_samples: In the report split.
        changed: Share of answers that are other than before, right or wrong.
        lost: Answers that became wrong.
        gained: Answers that became right.
        p_value: Of McNemar's exact test over all samples.
        classes: By how much they lost.
        groups: By how much they lost; empty for data without groups.
        confusions: Beyond what chance does, largest first.
        calibration: Of both; None where probabilities are unknown.
        kl: Mean, 95th percentile and largest divergence from the reference, nats; None where unknown.
    """

    before: Arm
    after: Arm
    num_samples: int
    changed: float
    lost: int
    gained: int
    p_value: float
    classes: tuple[Share, ...]
    groups: tuple[Share, ...]
    confusions: tuple[Confusion, ...]
    calibration: tuple[Calibration, Calibration] | None
    kl: tuple[float, float, float] | None


def harm_of(report: Report) -> Harm | None:
    """None where answers are no classes, or the reference itself was chosen."""
    arms = compared(report)
    if arms is None:
        return None
    told = report.predictions
    labels, answers = classes_of(told.labels), [answers_of(report, arm) for arm in arms]
    right = [found == labels for found in answers]
    overall = flips(right[0], right[1])
    classes = class_names(report, labels)
    return Harm(
        *arms,
        len(labels),
        float(np.mean(answers[0] != answers[1])),
        overall.lost,
        overall.gained,
        overall.p_value,
        _shares(labels, classes, right),
        _groups(told.groups, right),
        _confusions(labels, answers, classes),
        _calibrations(report, arms, right),
        _divergence(report, _key(arms[1])),
    )


def compared(report: Report) -> tuple[Arm, Arm] | None:
    """The reference and the chosen arm; None unless they are two, and both gave a class for every sample."""
    before, after = trusted_arm(report), chosen_arm(report)
    if not is_classification(report) or before is None or after is None or before == after:
        return None
    told = report.predictions
    answered = all(_key(arm) in told.arms for arm in (before, after))
    return (before, after) if told.labels and answered else None


def answers_of(report: Report, arm: Arm) -> np.ndarray:
    """The class that an arm gave to each sample of the report split."""
    return classes_of(report.predictions.arms[_key(arm)])


def classes_of(values: Sequence[float]) -> np.ndarray:
    """Classes as the report keeps them, as whole numbers."""
    return np.asarray(values, dtype=np.int64)


def class_names(report: Report, labels: np.ndarray) -> list[str]:
    """Names of the classes, or their numbers where they have none."""
    return list(report.labels) or [str(index) for index in range(int(labels.max(initial=0)) + 1)]


def class_name(names: Sequence[str], index: int) -> str:
    """The name of one class, or its number where an answer is beyond those that are named."""
    return names[index] if index < len(names) else str(index)


def _key(arm: Arm) -> str:
    """How predictions name an arm."""
    return f"{arm.artifact}/{arm.runtime}"


def _shares(parts: np.ndarray, names: Sequence[str], right: Sequence[np.ndarray]) -> tuple[Share, ...]:
    """Every part that has samples, those that lost most first.

    Args:
        parts: Index of the part of each sample.
        names: Of the parts.
        right: Of both arms, shape [samples].
    """
    found = []
    for index in np.unique(parts):
        mine = parts == index
        before, after = (one[mine] for one in right)
        moved = flips(before, after)
        interval = wilson(int(after.sum()), int(mine.sum()))
        figures = (int(mine.sum()), float(before.mean()), float(after.mean()), interval)
        found.append(Share(class_name(names, int(index)), *figures, moved.lost, moved.gained, moved.p_value))
    adjusted = holm([one.p_value for one in found])
    shares = [one._replace(p_value=value) for one, value in zip(found, adjusted, strict=True)]
    return tuple(sorted(shares, key=lambda one: (one.change, one.p_value, one.name)))


def _groups(groups: Sequence[str], right: Sequence[np.ndarray]) -> tuple[Share, ...]:
    if not groups:
        return ()
    names, parts = np.unique(np.asarray(groups), return_inverse=True)
    return _shares(parts, [str(name) for name in names], right)


def _confusions(
    labels: np.ndarray, answers: Sequence[np.ndarray], classes: Sequence[str]
) -> tuple[Confusion, ...]:
    """Wrong answers given surely more or less often, by an exact sign test adjusted by Holm's method."""
    from scipy import stats

    before, after = (confusion_matrix(given, labels, len(classes)) for given in answers)
    size = max(len(before), len(after))
    before, after = (np.pad(one, (0, size - len(one))) for one in (before, after))
    wrong = ~np.eye(size, dtype=bool)
    cells = np.argwhere((before + after > 0) & wrong).tolist()
    numbers = [(int(before[truth, answer]), int(after[truth, answer])) for truth, answer in cells]
    p_values = holm([float(stats.binomtest(one, one + other).pvalue) for one, other in numbers])
    found = [
        Confusion(class_name(classes, truth), class_name(classes, answer), *counts)
        for (truth, answer), counts, p_value in zip(cells, numbers, p_values, strict=True)
        if p_value < ALPHA
    ]
    return tuple(sorted(found, key=lambda one: (-(one.after - one.before), one.truth, one.answer)))


def _calibrations(
    report: Report, arms: Sequence[Arm], right: Sequence[np.ndarray]
) -> tuple[Calibration, Calibration] | None:
    told = report.predictions.certainty
    found = [
        Calibration(arm.metrics["calibration_error"], reliability(np.asarray(sure.confidence), own))
        for arm, own in zip(arms, right, strict=True)
        if (sure := told.get(_key(arm))) and "calibration_error" in arm.metrics
    ]
    return (found[0], found[1]) if len(found) == 2 else None


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    """How often answers are right by how sure the model is of them, in bins of equal width.

    Args:
        confidence: Probability of each answer, shape [samples].
        right: Whether it is right, shape [samples].
    """
    places = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return tuple(
        Bin(float(confidence[mine].mean()), float(right[mine].mean()), int(mine.sum()))
        for index in np.unique(places)
        for mine in [places == index]
    )


def _divergence(report: Report, name: str) -> tuple[float, float, float] | None:
    told = report.predictions.certainty.get(name)
    if told is None or not told.kl:
        return None
    values = np.asarray(told.kl)
    return float(values.mean()), float(np.quantile(values, 0.95)), float(values.max())
