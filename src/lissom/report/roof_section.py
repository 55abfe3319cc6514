"""How near arms come to what the machine can do at most: the roofline as a picture and a table."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from lissom.report.drawing import Drawing, escaped, figure_json, light, log_axis, note
from lissom.report.reading import arm_name, is_reference
from lissom.report.schema import Arm, Ceilings, Report
from lissom.report.sections import plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import NO_BREAK, count, percent, shortened, significant

ROOF_HEADER = ("artifact", "runtime", "type", "reached", "operations a byte", "of the roof", "bound by")


def roof_rows(report: Report) -> list[tuple[str, ...]]:
    """Artifact, runtime, type, operations a second, operations a byte, share of the roof, what bounds it."""
    return [
        (
            arm.artifact,
            arm.runtime,
            arm.roofline.precision,
            f"{significant(arm.roofline.flops_per_s / 1e9)}{NO_BREAK}GFLOP/s",
            significant(arm.roofline.intensity),
            percent(arm.roofline.share),
            arm.roofline.bound,
        )
        for arm in report.arms
        if arm.roofline is not None
    ]


def roof_told(report: Report) -> str:
    """What the machine can do at most, as a sentence."""
    found = report.ceilings
    if found is None:
        return ""
    peaks = ", ".join(
        f"{kind} {significant(peak / 1e9)}{NO_BREAK}GFLOP/s" for kind, peak in found.flops_per_s.items()
    )
    threads = "" if found.device == "cuda" else f" with {count(found.threads, 'thread')}"
    return (
        f"Measured here{threads}: large matrix products {peaks}; a large copy "
        f"{significant(found.bytes_per_s / 1e9)}{NO_BREAK}GB/s read and written."
    )


def draw_roof(report: Report) -> Drawing | None:
    """Operations a second against operations a byte, under the roof of each type; None where unknown."""
    found = report.ceilings
    arms = [arm for arm in report.arms if arm.roofline is not None]
    if found is None or not arms:
        return None
    points = [(arm.roofline.intensity, arm.roofline.flops_per_s) for arm in arms if arm.roofline]
    types = sorted({arm.roofline.precision for arm in arms if arm.roofline} & {*found.flops_per_s})
    ridges = [found.flops_per_s[kind] / found.bytes_per_s for kind in types]
    low, high = min(x for x, _ in points) / 2, 3 * max([x for x, _ in points] + ridges)
    heights = [found.flops_per_s[kind] for kind in types] + [y for _, y in points]
    layout = {
        "xaxis": log_axis("operations a byte", [low, high], pad=0.02),
        "yaxis": log_axis("GFLOP/s", [height / 1e9 for height in heights], pad=0.12),
        "annotations": [
            note(
                kind,
                x=math.log10(high),
                y=math.log10(found.flops_per_s[kind] / 1e9),
                xanchor="right",
                yanchor="bottom",
            )
            for kind in types
        ],
    }
    traces = [*(_roof_line(found, kind, low, high) for kind in types), _arm_points(report, arms)]
    best = max(arms, key=lambda arm: arm.roofline.share if arm.roofline else 0.0)
    share = percent(best.roofline.share) if best.roofline else ""
    label = f"{roof_told(report)} {arm_name(best)} comes nearest with {share} of its roof."
    return Drawing("roof", figure_json(traces, layout), 360, label)


def _roof_line(found: Ceilings, kind: str, low: float, high: float) -> dict[str, Any]:
    """Up along what memory allows, then level at the peak of a type."""
    peak, ridge = found.flops_per_s[kind], found.flops_per_s[kind] / found.bytes_per_s
    x = [low, ridge, high] if low < ridge else [low, high]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": [min(peak, found.bytes_per_s * place) / 1e9 for place in x],
        "line": {"color": light("warn"), "width": 2},
        "hoverinfo": "skip",
    }


def _arm_points(report: Report, arms: list[Arm]) -> dict[str, Any]:
    ordered = sorted(arms, key=lambda arm: arm.chosen)
    colours = ["accent" if arm.chosen else "ink" if is_reference(report, arm) else "mute" for arm in ordered]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [arm.roofline.intensity for arm in ordered if arm.roofline],
        "y": [arm.roofline.flops_per_s / 1e9 for arm in ordered if arm.roofline],
        "marker": {
            "size": [12 if arm.chosen else 9 for arm in ordered],
            "opacity": 0.9,
            "color": [light(colour) for colour in colours],
        },
        "hovertext": [
            f"<b>{escaped(shortened(arm_name(arm), 60))}</b><br>"
            f"{significant(arm.roofline.flops_per_s / 1e9)} GFLOP/s, {percent(arm.roofline.share)} of the "
            f"{escaped(arm.roofline.precision)} roof"
            for arm in ordered
            if arm.roofline
        ],
        "hoverinfo": "text",
    }


def part(report: Report) -> str:
    """What the machine can do, and how near each arm comes; nothing where that is unknown."""
    rows = roof_rows(report)
    if not rows:
        return ""
    columns = [Column(title.capitalize(), 2 < place < 6) for place, title in enumerate(ROOF_HEADER)]
    caption = (
        "Operations are counted on the float32 graph, two a multiply-add; bytes are weights, inputs and "
        "outputs once. A small model lives in caches that are faster than the memory whose copy was timed."
    )
    cells = [
        [text(cell) if place in (0, 1, 2, 6) else Cell(cell) for place, cell in enumerate(row)]
        for row in rows
    ]
    keys = (
        '<span class="keys"><span class="key accent">chosen</span><span class="key ink">reference</span>'
        '<span class="key mute">the others</span></span>'
    )
    what = (
        f"{keys}An arm cannot lie above the roof of its type: on the slope it waits for memory, on the level "
        "for arithmetic. How far below it lies is what the engine leaves unused."
    )
    figure = plot(draw_roof(report), "", what, "There is no plot: the ceilings of the machine are unknown.")
    return (
        f"<h3>Share of what the machine can do</h3><p>{escape(roof_told(report))}</p>{figure}"
        f"{table('roof-table', caption, columns, cells)}"
    )
