"""The plots of the page of a look inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lissom.models.inspection import Held, Layer
from lissom.report.dissection import Dissection, Training
from lissom.report.drawing import (
    Drawing,
    escaped,
    figure_json,
    light,
    linear_axis,
    log_axis,
    note,
    row_dots,
    row_line,
    row_name,
)
from lissom.report.explanations import Explained
from lissom.report.wording import count, percent, shortened, significant

ROW_PIXELS, MOST_ROWS = 34, 20
_MOST_LAYERS, _SMALL = 14, 0.005
"""Layers that are drawn, and the share of the largest below which one is not."""
MOST_HELD = 10
"""Layers whose histograms are drawn; the table has every layer."""
_HELD_PIXELS = 118


def draw_cosines(found: Dissection, explained: Explained, name: str) -> Drawing | None:
    """Every sample by its class; None for one model, or where no sample has two maps."""
    if explained.cosines is None or not np.isfinite(explained.cosines).any():
        return None
    groups = by_target(found, explained.cosines)[:MOST_ROWS]
    lowest = min(float(min(values)) for _, values in groups)
    level = explained.unrelated.cosine if explained.unrelated else None
    low = min(lowest, level if level is not None else lowest, 0.9)
    layout: dict[str, Any] = {
        "margin": {"l": 6, "r": 12, "t": 0, "b": 8},
        "xaxis": linear_axis(
            "cosine of both maps", range=[low - 0.1 * (1 - low), 1 + 0.02 * (1 - low)], nticks=6
        ),
        "yaxis": linear_axis("", range=[len(groups) - 0.5, -0.8], visible=False),
        "annotations": [row_name(row, shortened(label, 32)) for row, (label, _) in enumerate(groups)],
        "shapes": [] if level is None else [_upright(level)],
    }
    samples = {
        "type": "scatter",
        "mode": "markers",
        "x": [value for _, values in groups for value in values],
        "y": [row for row, (_, values) in enumerate(groups) for _ in values],
        "marker": {"size": 9, "opacity": 0.55, "color": light("accent")},
        "hovertemplate": "cosine %{x:.3f}<extra></extra>",
    }
    lines = [row_line(row, (min(values), max(values)), "rule", 2) for row, (_, values) in enumerate(groups)]
    label = "Cosine of both maps by class, median: " + "; ".join(
        f"{label} {np.median(values):.2f}" for label, values in groups[:10]
    )
    return Drawing(name, figure_json([*lines, samples], layout), ROW_PIXELS * len(groups) + 64, label)


def by_target(found: Dissection, values: np.ndarray) -> list[tuple[str, list[float]]]:
    """Finite values of the samples of each class, the class whose median is lowest first."""
    groups = []
    for target in np.unique(found.targets):
        mine = values[found.targets == target]
        finite = mine[np.isfinite(mine)].tolist()
        if finite:
            groups.append((target_name(found, int(target)), finite))
    return sorted(groups, key=lambda group: float(np.median(group[1])))


def target_name(found: Dissection, target: int) -> str:
    """A class by its name, else by its number."""
    return found.labels[target] if target < len(found.labels) else str(target)


def draw_layers(
    found: Dissection, name: str, title: str, of: Callable[[Layer], int | None]
) -> Drawing | None:
    """A figure of the layers that have most of it, of both sides; None where it is not known.

    Args:
        found: What was seen.
        name: Of the drawing.
        title: Of the axis.
        of: The figure of a layer.
    """
    sides = [
        {layer.name: of(layer) for layer in side.inside.layers} if side.inside else {} for side in found.sides
    ]
    most = {
        layer: max(side.get(layer) or 0 for side in sides)
        for layer in {key for side in sides for key in side}
    }
    largest = max(most.values(), default=0)
    if not largest:
        return None
    rows = [
        layer for layer in sorted(most, key=lambda key: (-most[key], key)) if most[layer] > _SMALL * largest
    ]
    rows = rows[:_MOST_LAYERS]
    colours = ["accent"] if len(sides) == 1 else ["mute", "accent"]
    span = [-0.02 * largest, 1.04 * largest]
    layout = _rows_layout(rows, title, span, nticks=5, tickformat="~s")
    traces = [row_line(row, (0, most[layer]), "rule", 2) for row, layer in enumerate(rows)]
    traces += [
        row_dots([side.get(layer) for layer in rows], c) for side, c in zip(sides, colours, strict=True)
    ]
    label = f"{title.capitalize()} of the largest layers: " + "; ".join(
        f"{layer} {' and '.join(_known(side.get(layer)) for side in sides)}" for layer in rows[:8]
    )
    return Drawing(name, figure_json(traces, layout), ROW_PIXELS * len(rows) + 64, label)


def shown_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Those whose histograms are drawn, in their order: where most is clipped, then the largest."""
    clipped = {
        layer.name: layer.outputs.grid.clipped or 0.0 if layer.outputs and layer.outputs.grid else 0.0
        for layer in layers
    }
    known = [layer for layer in layers if layer.weights or layer.outputs]
    most = sorted(known, key=lambda one: (-round(clipped[one.name], 4), -one.num_parameters))[:MOST_HELD]
    return [layer for layer in known if layer in most]


def draw_held(layers: Sequence[Layer]) -> Drawing | None:
    """Histograms of weights and outputs of layers, each with the ends of its grid; None without layers."""
    if not layers:
        return None
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "margin": {"l": 6, "r": 6, "t": 4, "b": 4},
        "bargap": 0,
        "annotations": [],
        "shapes": [],
    }
    for row, layer in enumerate(layers):
        for column, (title, held) in enumerate((("weights", layer.weights), ("outputs", layer.outputs))):
            if held is not None:
                _add_panel(traces, layout, held, (row, column), len(layers), f"{layer.name} · {title}")
    label = "Histograms, counts on a logarithmic axis, of " + "; ".join(
        f"{layer.name}: "
        + ", ".join(
            _range(title, held)
            for title, held in (("weights", layer.weights), ("outputs", layer.outputs))
            if held
        )
        for layer in layers
    )
    return Drawing("held", figure_json(traces, layout), _HELD_PIXELS * len(layers) + 10, label)


def _add_panel(
    traces: list[dict[str, Any]],
    layout: dict[str, Any],
    held: Held,
    place: tuple[int, int],
    num_rows: int,
    title: str,
) -> None:
    """One histogram, in a row and a column."""
    row, column = place
    number = 2 * row + column + 1
    suffix = "" if number == 1 else str(number)
    top, height = 1 - row / num_rows, 1 / num_rows
    left, width = (0.0, 0.47) if column == 0 else (0.53, 0.47)
    found, grid = held.histogram, held.grid
    step = (found.high - found.low or 1.0) / len(found.counts)
    ends = [found.low, found.low + step * len(found.counts), *((grid.low, grid.high) if grid else ())]
    free = 0.03 * (max(ends) - min(ends))
    traces.append(
        {
            "type": "bar",
            "x": [found.low + step * (index + 0.5) for index in range(len(found.counts))],
            "y": [math.log10(1 + number) for number in found.counts],
            "width": step,
            "marker": {"color": light("accent" if column else "soft"), "line": {"width": 0}},
            "xaxis": f"x{suffix}",
            "yaxis": f"y{suffix}",
            "customdata": list(found.counts),
            "hovertemplate": "%{customdata} values near %{x:.3g}<extra></extra>",
        }
    )
    layout[f"xaxis{suffix}"] = linear_axis(
        "",
        domain=[left, left + width],
        range=[min(ends) - free, max(ends) + free],
        anchor=f"y{suffix}",
        nticks=5,
        showgrid=False,
        automargin=False,
    )
    layout[f"yaxis{suffix}"] = linear_axis(
        "",
        domain=[top - 0.78 * height, top - 0.2 * height],
        anchor=f"x{suffix}",
        visible=False,
        automargin=False,
        rangemode="tozero",
    )
    where = {"xref": "paper", "yref": "paper", "x": left, "y": top - 0.18 * height}
    text = note(escaped(shortened(title, 25)), **where, xanchor="left", yanchor="bottom")
    layout["annotations"].append(text)
    for end in (grid.low, grid.high) if grid else ():
        layout["shapes"].append(
            {
                "type": "line",
                "xref": f"x{suffix}",
                "yref": f"y{suffix} domain",
                "x0": end,
                "x1": end,
                "y0": 0,
                "y1": 1,
                "line": {"color": light("warn"), "width": 2},
            }
        )


def draw_dead(found: Dissection) -> Drawing | None:
    """Share of dead units behind each rectifier that has any, of both sides; None where there are none."""
    sides = _dead_shares(found)
    names = list(dict.fromkeys(name for side in sides for name, share in side.items() if share))
    rows = sorted(names, key=lambda name: -max(side.get(name, 0.0) for side in sides))[:MOST_ROWS]
    if not rows:
        return None
    colours = ["accent"] if len(sides) == 1 else ["mute", "accent"]
    most = max(side.get(name, 0.0) for side in sides for name in rows)
    layout = _rows_layout(rows, "dead units", [-0.02 * most, 1.04 * most], tickformat=".0%", nticks=6)
    traces = [
        row_line(row, (0, max(side.get(name, 0.0) for side in sides)), "rule", 2)
        for row, name in enumerate(rows)
    ]
    traces += [row_dots([side.get(name) for name in rows], c) for side, c in zip(sides, colours, strict=True)]
    label = "Share of dead units: " + "; ".join(
        f"{name} {' and '.join(percent(side.get(name, 0.0)) for side in sides)}" for name in rows[:10]
    )
    return Drawing("dead", figure_json(traces, layout), ROW_PIXELS * len(rows) + 64, label)


def _dead_shares(found: Dissection) -> list[dict[str, float]]:
    """Shares by rectifier.

    Where both sides have as many, the second is called as the first: an exporter names them otherwise, but
    keeps their order.
    """
    sides = [side.inside.rectifiers if side.inside else () for side in found.sides]
    names = [[one.name for one in side] for side in sides]
    if len({len(own) for own in names}) == 1:
        names = [names[0]] * len(names)
    return [
        {name: one.num_dead / one.num_units for name, one in zip(own, side, strict=True)}
        for own, side in zip(names, sides, strict=True)
    ]


def _rows_layout(rows: Sequence[str], title: str, span: list[float], **axis: Any) -> dict[str, Any]:
    """Names above their lines, the figure across."""
    return {
        "margin": {"l": 6, "r": 12, "t": 0, "b": 8},
        "minreducedheight": 24,  # plotly would rather put the title over the ticks of a single row
        "xaxis": linear_axis(title, range=span, **axis),
        "yaxis": linear_axis("", range=[len(rows) - 0.5, -0.8], visible=False),
        "annotations": [row_name(row, shortened(name, 36)) for row, name in enumerate(rows)],
    }


def _known(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def draw_training(training: Training) -> Drawing | None:
    """Gradient norm by epoch, typical and largest, with what was flagged; None where it was not watched."""
    epochs = [
        (number, epoch)
        for number, epoch in enumerate(training.history, start=1)
        if epoch.get("gradient_norm", 0.0) > 0 and math.isfinite(epoch.get("gradient_norm_max", math.inf))
    ]
    if not epochs:
        return None
    numbers = [number for number, _ in epochs]
    flagged = [(number, epoch) for number, epoch in epochs if flags(epoch)]
    values = [epoch[key] for _, epoch in epochs for key in ("gradient_norm", "gradient_norm_max")]
    traces = [
        _line(numbers, [epoch["gradient_norm_max"] for _, epoch in epochs], "mute", "largest"),
        _line(numbers, [epoch["gradient_norm"] for _, epoch in epochs], "accent", "median"),
        {
            "type": "scatter",
            "mode": "markers",
            "x": [number for number, _ in flagged],
            "y": [epoch["gradient_norm_max"] for _, epoch in flagged],
            "marker": {"size": 12, "symbol": "diamond", "opacity": 1, "color": light("bad")},
            "hovertext": [", ".join(flags(epoch)) for _, epoch in flagged],
            "hoverinfo": "text",
        },
    ]
    layout = {
        "xaxis": linear_axis("epoch", range=[0.5, numbers[-1] + 0.5], nticks=8),
        "yaxis": log_axis("gradient norm", values, pad=0.1),
    }
    first, last = epochs[0][1]["gradient_norm"], epochs[-1][1]["gradient_norm"]
    label = (
        f"Median gradient norm of {count(len(epochs), 'epoch')}: {significant(first)} in the first, "
        f"{significant(last)} in the last. {count(len(flagged), 'epoch')} flagged."
    )
    return Drawing("training", figure_json(traces, layout), 300, label)


def flags(epoch: Mapping[str, float]) -> list[str]:
    """What was wrong with the gradients of an epoch."""
    return [name for name in ("vanishing", "exploding") if epoch.get(name)]


def _line(x: Sequence[int], y: Sequence[float], colour: str, name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(x),
        "y": list(y),
        "line": {"color": light(colour), "width": 2},
        "marker": {"size": 6, "opacity": 1, "color": light(colour)},
        "hovertemplate": f"{name} %{{y:.3g}} in epoch %{{x}}<extra></extra>",
    }


def _upright(place: float) -> dict[str, Any]:
    return {
        "type": "line",
        "layer": "below",
        "yref": "paper",
        "x0": place,
        "x1": place,
        "y0": 0,
        "y1": 1,
        "line": {"color": light("warn"), "width": 1.5, "dash": "dash"},
    }


def _range(title: str, held: Held) -> str:
    found = held.histogram
    return f"{title} {significant(found.low)} to {significant(found.high)}"
