"""What the pages derive from a report: which arms count, which are dominated, what to type next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from lissom.report.schema import (
    AccuracyFigures,
    Arm,
    Interval,
    LatencyFigures,
    PercentileFigures,
    Report,
    StageRow,
)
from lissom.report.wording import ABSENT, NO_BREAK, significant

SHARES = ("classification", "language-modelling")
"""Tasks whose scores are shares, never below 0."""


class Point(NamedTuple):
    """An arm with both an accuracy and a latency."""

    arm: Arm
    accuracy: AccuracyFigures
    latency: LatencyFigures
    size_bytes: int

    @property
    def median_ms(self) -> float:
        """Median latency of one call."""
        return self.latency.median_ms.value


def arm_name(arm: Arm) -> str:
    """Artifact and runtime of an arm."""
    return f"{arm.artifact} · {arm.runtime}"


def score_title(report: Report) -> str:
    """What the mean score is called, as a title begins."""
    return report.score_name[:1].upper() + report.score_name[1:]


def is_classification(report: Report) -> bool:
    """True where answers are classes, so that they are right or wrong, and change or do not."""
    return report.task == "classification"


def trusted_arm(report: Report) -> Arm | None:
    """The arm that answers are compared with: the reference in torch eager, else on its fastest runtime."""
    found = find_arm(report, report.verdict.reference, "torch")
    return found if found and found.accuracy else reference_arm(report)


def stage_row(report: Report, name: str | None) -> StageRow | None:
    """The stage called `name`, or None."""
    return next((row for row in report.stages if row.name == name), None)


def find_arm(report: Report, artifact: str | None, runtime: str | None) -> Arm | None:
    """The arm of an artifact on a runtime, or None."""
    return next((arm for arm in report.arms if (arm.artifact, arm.runtime) == (artifact, runtime)), None)


def chosen_arm(report: Report) -> Arm | None:
    """The arm that was chosen, or None."""
    return next((arm for arm in report.arms if arm.chosen), None)


def reference_arm(report: Report) -> Arm | None:
    """The reference on its fastest runtime; on torch eager where it is fastest in another format."""
    answer = report.verdict
    return find_arm(report, answer.reference_artifact, answer.reference_runtime) or find_arm(
        report, answer.reference, "torch"
    )


def is_reference(report: Report, arm: Arm) -> bool:
    """True for the arm that `reference_arm` finds."""
    return arm == reference_arm(report)


def accuracy_interval(report: Report, figures: AccuracyFigures) -> Interval:
    """Accuracy with the interval of its paired drop: how sure its distance to the reference is."""
    above = figures.report + figures.drop.value
    lowest = 0.0 if report.task in SHARES else -math.inf
    return Interval(
        value=figures.report,
        low=max(above - figures.drop.high, lowest),
        high=min(above - figures.drop.low, 1.0),
    )


def measured_points(report: Report) -> list[Point]:
    """Every arm with an accuracy and a latency, fastest first."""
    found = [
        Point(
            arm, arm.accuracy, arm.latency, row.size_bytes if (row := stage_row(report, arm.artifact)) else 0
        )
        for arm in report.arms
        if arm.accuracy and arm.latency
    ]
    return sorted(found, key=lambda point: point.median_ms)


def pareto_front(found: list[Point]) -> list[Point]:
    """The points that no other one beats on both accuracy and latency, fastest first."""
    return [point for point in found if not any(_dominates(other, point) for other in found)]


def accuracy_budget(report: Report) -> float | None:
    """The drop that the recipe allows, or None where it names none."""
    node: object = report.recipe
    for key in ("gates", "accuracy", "max_drop"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return float(node) if isinstance(node, int | float) else None


def serve_command(report: Report) -> str | None:
    """What to type to serve the chosen artifact, or None when nothing was chosen."""
    if report.verdict.artifact is None:
        return None
    return shlex.join(("lissom", "serve", f"{report.out}/artifact"))


def executed_words(arm: Arm) -> str:
    """Operators by the type they ran in, most frequent first."""
    if arm.precision_executed is None:
        return "unknown"
    ranked = sorted(arm.precision_executed.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind}{NO_BREAK}×{number}" for kind, number in ranked) or ABSENT


def bound_words(found: PercentileFigures | None) -> str:
    """The bound of a percentile, or why there is none."""
    if found is None:
        return ABSENT
    return significant(found.bound_ms) if found.bound_ms is not None else f"needs {found.needed:,} calls"


def _dominates(one: Point, other: Point) -> bool:
    mine = (-one.median_ms, one.accuracy.report)
    theirs = (-other.median_ms, other.accuracy.report)
    return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]
