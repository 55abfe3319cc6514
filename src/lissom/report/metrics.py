"""The metrics of the report split: the reference beside the chosen arm, and every arm, folded away."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from lissom.report.reading import arm_name, chosen_arm, trusted_arm
from lissom.report.schema import Arm, Report
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import ABSENT, lower_is_better, metric_rank, metric_title, significant

DIGITS = 4


def compared_arms(report: Report) -> dict[str, Arm]:
    """The reference and the chosen arm by role; only one where they are the same, or one is missing."""
    roles = {"reference": trusted_arm(report), "chosen": chosen_arm(report)}
    found = {role: arm for role, arm in roles.items() if arm and arm.metrics}
    if found.get("reference") == found.get("chosen"):
        found.pop("reference", None)
    return found


def metric_names(arms: Iterable[Arm]) -> list[str]:
    """Every metric of these arms: those we know in their usual order, then the others by name."""
    names = {name for arm in arms for name in arm.metrics}
    return sorted(names, key=metric_rank)


def figure(value: float | None) -> str:
    """A figure with four digits.

    >>> figure(0.97186), figure(None), figure(0.0)
    ('0.9719', '–', '0')
    """
    if value is None:
        return ABSENT
    return significant(value, DIGITS) if value else "0"


def change(before: float, after: float) -> str:
    """A difference with two digits; 0 where the figures look the same.

    >>> change(0.97186, 0.9704), change(0.5, 0.50000001)
    ('−0.0015', '0')
    """
    if figure(before) == figure(after):
        return "0"
    return ("+" if after > before else "") + significant(after - before, 2)


def metrics_table(report: Report) -> str:
    """One row a metric: the reference, the chosen arm, and what changed."""
    arms = compared_arms(report)
    names = metric_names(arms.values())
    columns = [
        Column("Metric"),
        *(Column(role.capitalize(), True, arm_name(arm)) for role, arm in arms.items()),
        *([Column("Change", True)] if len(arms) == 2 else []),
    ]
    rows = [_row(name, list(arms.values())) for name in names]
    caption = "The report split took part in no decision"
    return table("metrics-table", caption, columns, rows) if names else ""


def every_metric_table(report: Report) -> str:
    """One row an arm, folded away."""
    measured = [arm for arm in report.arms if arm.metrics]
    names = metric_names(measured)
    columns = [Column("Artifact"), Column("Runtime"), *(Column(metric_title(name), True) for name in names)]
    rows = [
        [
            Cell(escape(arm.artifact), key=arm.artifact.casefold()),
            text(arm.runtime),
            *(Cell(figure(arm.metrics.get(name)), key=arm.metrics.get(name)) for name in names),
        ]
        for arm in measured
    ]
    marked = [row for row, arm in enumerate(measured) if arm.chosen]
    inner = table("every-metric-table", "Every arm", columns, rows, sortable=True, marked=marked)
    return f"<details><summary>The metrics of every arm</summary>{inner}</details>"


def _row(name: str, arms: list[Arm]) -> list[Cell]:
    values = [arm.metrics.get(name) for arm in arms]
    cells = [Cell(figure(value)) for value in values]
    if len(values) == 2:
        before, after = values
        cells.append(Cell(ABSENT if before is None or after is None else change(before, after)))
    return [text(metric_title(name), "lower is better" if lower_is_better(name) else ""), *cells]
