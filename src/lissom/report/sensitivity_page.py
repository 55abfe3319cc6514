"""The page of a sensitivity: a heat map of groups and shares, coloured by the score that is lost.

`html_from_sensitivity` is a pure function of what was measured.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from lissom.compress.sensitivity import GroupTrials, Sensitivity, Trial
from lissom.report.drawing import Drawing, escaped, figure_json, light, linear_axis
from lissom.report.frame import filled
from lissom.report.sensitivity_frame import NAME_LENGTH, sensitivity_page, write_files
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import count, percent, points, shortened

FULL_DROP = 0.1
"""Drop at which a cell is fully red; more when the worst cell has more."""
_ROW_HEIGHT = 30


def write_sensitivity(found: Sensitivity, folder: Path) -> None:
    """Write the JSON and draw the page."""
    write_files(folder, found.document(), html_from_sensitivity(found))


def html_from_sensitivity(found: Sensitivity) -> str:
    """The whole page."""
    terms = {"score": escape(found.score_name), "runtime": escape(found.runtime)}
    return sensitivity_page(
        found,
        draw_sensitivity(found),
        name="map",
        title=f"Sensitivity of {found.model}",
        target=found.runtime,
        heading="What each group costs when it alone loses a share",
        caption=_CAPTION,
        table=_table(found),
        terms=filled("sensitivity_terms.html", **terms),
    )


def summary(found: Sensitivity) -> str:
    """What was measured, and which group is cheapest and dearest."""
    samples = count(found.num_samples, "sample")
    whole = f"The whole model has {percent(found.score)} {found.score_name} on {samples} of the select split."
    first, last = found.groups[0], found.groups[-1]
    if len(found.groups) == 1:
        return f"{whole} It has one group, {_loss(first)}."
    return f"{whole} Cheapest is {_loss(first)}; dearest {_loss(last)}."


def draw_sensitivity(found: Sensitivity) -> Drawing:
    """Groups downwards, cheapest first, and shares across."""
    names = [escaped(shortened(group.name, NAME_LENGTH)) for group in found.groups]
    shares = [percent(trial.share) for trial in found.groups[0].shares]
    drops = [[trial.drop for trial in group.shares] for group in found.groups]
    highest = max(FULL_DROP, *(drop for row in drops for drop in row))
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": drops,
        "zmin": 0,
        "zmax": highest,
        "colorscale": [[0, light("panel")], [1, light("bad")]],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "text": [[points(-drop, signed=True) for drop in row] for row in drops],
        "texttemplate": "%{text}",
        "customdata": [[_hover(found, group, trial) for trial in group.shares] for group in found.groups],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    layout = {
        "xaxis": _axis("share removed", shares, side="top"),
        "yaxis": _axis("", names, autorange="reversed"),
    }
    height = 80 + _ROW_HEIGHT * len(names)
    return Drawing("sensitivity", figure_json([trace], layout), height, summary(found))


_CAPTION = (
    "Each cell is the change of the score, in points, when one group alone loses the share; the redder, the "
    "more is lost. Point at a cell, or touch it, for the channels and the latency that is saved."
)


def _axis(title: str, names: list[str], **properties: Any) -> dict[str, Any]:
    return linear_axis(
        title, tickvals=list(range(len(names))), ticktext=names, showgrid=False, ticks="outside", **properties
    )


def _hover(found: Sensitivity, group: GroupTrials, trial: Trial) -> str:
    layers = [escaped(shortened(name, 40)) for name in group.layers]
    shown = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
    before, after = trial.channels
    if before == after:
        return f"<b>{shown}</b><br>cannot lose {percent(trial.share)} of its {before} channels"
    return "<br>".join(
        (
            f"<b>{shown}</b>",
            f"{before} to {after} channels",
            f"{escaped(found.score_name)} {percent(trial.score)}, {points(-trial.drop, signed=True)} points",
            f"latency saved {percent(1 - trial.latency_share)}",
        )
    )


def _loss(group: GroupTrials) -> str:
    """The group with what it costs and saves."""
    return (
        f"{group.name} ({points(-group.drop, signed=True)} points, {percent(group.saved)} of the time saved, "
        "mean over the shares)"
    )


def _table(found: Sensitivity) -> str:
    columns = [Column("Group"), Column("Share", True), Column("Channels", True)]
    columns += [Column(found.score_name.capitalize(), True), Column("Drop", True, "points")]
    columns.append(Column("Latency saved", True))
    rows = [
        [
            text(group.name, f"and {', '.join(others)}" if (others := _others(group)) else ""),
            Cell(percent(trial.share), key=trial.share),
            Cell(f"{trial.channels[0]} to {trial.channels[1]}", key=trial.channels[1]),
            Cell(percent(trial.score), key=trial.score),
            Cell(points(trial.drop), key=trial.drop),
            Cell(percent(1 - trial.latency_share), key=1 - trial.latency_share),
        ]
        for group in found.groups
        for trial in group.shares
    ]
    caption = f"Every group at every share; the whole model has {percent(found.score)}"
    return table("sensitivity-table", caption, columns, rows, sortable=True, stacked=True)


def _others(group: GroupTrials) -> list[str]:
    return [name for name in group.layers if name != group.name]
