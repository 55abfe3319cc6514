"""The plot that compares arms: accuracy against latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lissom.report.drawing import (
    Drawing,
    escaped,
    figure_json,
    level_line,
    light,
    linear_axis,
    log_axis,
    note,
)
from lissom.report.reading import (
    Point,
    accuracy_budget,
    accuracy_interval,
    arm_name,
    is_reference,
    measured_points,
    pareto_front,
    score_title,
)
from lissom.report.schema import Report
from lissom.report.wording import between, milliseconds, percent, points, shortened, size

BUBBLE_PIXELS = 36
NEAR = 0.1
"""Distance from the best accuracy within which an arm is drawn in its place."""


def draw_pareto(report: Report) -> Drawing | None:
    """Accuracy against latency, one bubble an arm; None when no arm has both.

    Arms far below the best, such as a pruned model before it is trained again, would squeeze all others
    into a line: they are arrows at the foot of the plot.
    """
    found = measured_points(report)
    if not found:
        return None
    front, (near, below) = pareto_front(found), split_scale(found)
    low, high = _accuracy_span(report, near)
    largest = max(point.size_bytes for point in near) or 1
    groups = {
        "mute": [point for point in near if point not in front and not point.arm.chosen],
        "soft": [point for point in near if point in front and not point.arm.chosen],
        "accent": [point for point in near if point.arm.chosen],
    }
    traces = [_bubbles(report, group, colour, largest) for colour, group in groups.items() if group]
    names = _bubble_names(report, near, front)
    levels, level_names = _accuracy_levels(report, near)
    layout = {
        "xaxis": log_axis("median latency of one call, ms", [point.median_ms for point in found], pad=0.14),
        "yaxis": linear_axis(f"{escaped(report.score_name)}, %", ticksuffix=" ", nticks=7, range=[low, high]),
        "annotations": [*names, *level_names],
        "shapes": levels,
        "meta": {"important": sum(point.arm.chosen or is_reference(report, point.arm) for point in near)},
    }
    figure = figure_json([_front_line(front), *traces, _arrows(report, below, low, high)], layout)
    return Drawing("pareto", figure, 460, _pareto_label(report, found, front))


def split_scale(found: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The arms that the accuracy axis spans, and those too far below the best one."""
    best = max(point.accuracy.report for point in found)
    near = [point for point in found if point.arm.chosen or point.accuracy.report >= best - NEAR]
    return near, [point for point in found if point not in near]


def _bubbles(report: Report, group: Sequence[Point], colour: str, largest: int) -> dict[str, Any]:
    ordered = sorted(group, key=lambda point: -point.size_bytes)
    medians = [point.latency.median_ms for point in ordered]
    shares = [accuracy_interval(report, point.accuracy) for point in ordered]
    bar_colour = "pale" if colour == "mute" else colour
    return {
        "type": "scatter",
        "mode": "markers",
        "name": {"mute": "dominated", "soft": "front", "accent": "chosen"}[colour],
        "x": [median.value for median in medians],
        "y": [100 * share.value for share in shares],
        "error_x": _error_bars([(m.value - m.low, m.high - m.value) for m in medians], bar_colour),
        "error_y": _error_bars(
            [(100 * (s.value - s.low), 100 * (s.high - s.value)) for s in shares], bar_colour
        ),
        "marker": {
            "color": light(colour),
            "opacity": 0.82,
            "line": {"color": light("paper"), "width": 1.5},
            "size": [point.size_bytes for point in ordered],
            "sizemode": "area",
            "sizeref": 2 * largest / BUBBLE_PIXELS**2,
            "sizemin": 4,
        },
        "customdata": [_bubble_hover(report, point) for point in ordered],
        "hovertemplate": "%{customdata}<extra></extra>",
        "cliponaxis": False,
    }


def _error_bars(ends: Sequence[tuple[float, float]], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "arrayminus": [below for below, _ in ends],
        "array": [above for _, above in ends],
        "color": light(colour),
        "thickness": 1.2,
        "width": 0,
    }


def _bubble_hover(report: Report, point: Point) -> str:
    median, drop = point.latency.median_ms, point.accuracy.drop
    role = " (chosen)" if point.arm.chosen else " (reference)" if is_reference(report, point.arm) else ""
    lines = (
        f"<b>{escaped(shortened(arm_name(point.arm), 60))}</b>{role}",
        f"latency {milliseconds(median.value)} ({between(median)})",
        f"{escaped(report.score_name)} {percent(point.accuracy.report)}",
        f"drop {points(drop.value)} points ({between(drop, points)})",
        f"size {size(point.size_bytes)}",
    )
    return "<br>".join(lines)


def _bubble_names(report: Report, found: Sequence[Point], front: Sequence[Point]) -> list[dict[str, Any]]:
    """Names of the bubbles that matter, most important first: the page drops one that would cover another."""
    important = [point for point in found if point.arm.chosen]
    important += [point for point in found if is_reference(report, point.arm) and point not in important]
    important += [point for point in found if point in front and point not in important]
    largest = max(point.size_bytes for point in found) or 1
    names = []
    for point in important:
        radius = math.sqrt(point.size_bytes / largest) * BUBBLE_PIXELS / 2
        names.append(
            note(
                escaped(shortened(arm_name(point.arm), 32)),
                x=math.log10(point.median_ms),
                y=100 * point.accuracy.report,
                xanchor="center",
                yanchor="bottom",
                yshift=max(radius, 4) + 1,
                font={"size": 12, "color": light("accent" if point.arm.chosen else "ink")},
            )
        )
    return names


def _front_line(front: Sequence[Point]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [point.median_ms for point in front],
        "y": [100 * point.accuracy.report for point in front],
        "line": {"shape": "hv", "color": light("tint"), "width": 1.5},
        "hoverinfo": "skip",
    }


def _arrows(report: Report, below: Sequence[Point], low: float, high: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "below the plot",
        "x": [point.median_ms for point in below],
        "y": [low + 0.03 * (high - low)] * len(below),
        "marker": {"symbol": "triangle-down", "size": 13, "color": light("mute"), "opacity": 1},
        "customdata": [_bubble_hover(report, point) for point in below],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _accuracy_span(report: Report, near: Sequence[Point]) -> tuple[float, float]:
    """Ends of the accuracy axis, in per cent, with room for arrows below and names above."""
    intervals = [accuracy_interval(report, point.accuracy) for point in near]
    low, high = 100 * min(one.low for one in intervals), 100 * max(one.high for one in intervals)
    free = max(high - low, 1.0)
    return low - 0.12 * free, high + 0.12 * free


def _accuracy_levels(
    report: Report, near: Sequence[Point]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines at the accuracy of the reference and at the least that the gate accepts, and their names."""
    reference = next((point for point in near if point.arm.artifact == report.verdict.reference), None)
    if reference is None:
        return [], []
    level, budget = 100 * reference.accuracy.report, accuracy_budget(report)
    lines = [level_line(level, "dot")]
    names = [note("reference", xref="paper", x=0, xanchor="left", y=level, yanchor="bottom")]
    if budget is not None:
        lines.append(level_line(level - 100 * budget, "dash"))
        text = f"gate: {points(budget)} points below"
        names.append(note(text, xref="paper", x=1, xanchor="right", y=level - 100 * budget, yanchor="top"))
    return lines, names


def _pareto_label(report: Report, found: Sequence[Point], front: Sequence[Point]) -> str:
    chosen = next((point for point in found if point.arm.chosen), None)
    answer = "No arm was chosen."
    if chosen:
        figures = f"{percent(chosen.accuracy.report)} at {milliseconds(chosen.median_ms)}"
        answer = f"Chosen: {arm_name(chosen.arm)}, {figures}."
    names = ", ".join(arm_name(point.arm) for point in front)
    return (
        f"{score_title(report)} against median latency of {len(found)} arms. {answer} "
        f"Not dominated: {names}. The table of arms holds the same figures."
    )
