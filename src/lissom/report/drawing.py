"""What the plots of the page share: colours, axes, notes, JSON.

A plot is drawn in the light colours; the page swaps each for its dark twin when the reader's system is dark.
Plotly reads a few HTML tags in every text, so a text of the user is escaped with `escaped` first.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lissom.report.wording import significant

# name: (light, dark). Each light colour occurs once, since it is what finds its dark twin.
PALETTE = {
    "paper": ("#fcfcfa", "#131417"),
    "panel": ("#f3f3ef", "#1d1f23"),
    "rule": ("#dfdfd8", "#34373d"),
    "pale": ("#cbcbc4", "#4b4f57"),
    "ink": ("#1a1b1e", "#ececea"),
    "soft": ("#5a5d64", "#a7aab0"),
    "mute": ("#8d8f93", "#757980"),
    "accent": ("#2b4fd1", "#93a9ff"),
    "tint": ("#b4c0ee", "#46568f"),
    "good": ("#17703f", "#62d296"),
    "bad": ("#b3261f", "#ff8d84"),
    "warn": ("#955c00", "#e8b654"),
}
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
MAX_LOG_TICKS = 7
ROW_PIXELS = 34


class Drawing(NamedTuple):
    """One plot of the page: plotly's JSON, its height in pixels, and its text alternative."""

    name: str
    figure: str
    height: int
    label: str


class Row(NamedTuple):
    """One thing before and after, with a thin line behind it."""

    title: str
    before: float
    after: float
    line: tuple[float, float]


def light(colour: str) -> str:
    """The light twin of a colour of the palette."""
    return PALETTE[colour][0]


def escaped(text: str) -> str:
    """`text` as plotly shows it letter by letter."""
    return html.escape(text, quote=False)


def plotly_script() -> str:
    """The source of plotly.js."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source


def figure_json(traces: Sequence[dict[str, Any]], layout: dict[str, Any]) -> str:
    """A figure as JSON, checked by plotly.

    Raises:
        ValueError: plotly knows no such property; a bug of ours.
    """
    from plotly.graph_objects import Figure

    common = {
        "template": "none",
        "autosize": True,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": light("paper"),
        "plot_bgcolor": light("paper"),
        "font": {"family": FONT, "size": 12, "color": light("soft")},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "hoverlabel": {
            "align": "left",
            "bgcolor": light("panel"),
            "bordercolor": light("rule"),
            "font": {"family": FONT, "size": 13, "color": light("ink")},
        },
    }
    text: str = Figure(data=list(traces), layout=common | layout).to_json(engine="json")
    return text


def linear_axis(title: str, **properties: Any) -> dict[str, Any]:
    """A quiet axis that cannot be dragged, so that a finger scrolls the page."""
    return {
        "title": {"text": title, "standoff": 12, "font": {"size": 12}},
        "automargin": True,
        "fixedrange": True,
        "zeroline": False,
        "showline": False,
        "gridcolor": light("rule"),
        "ticklen": 4,
        "tickcolor": light("paper"),
        **properties,
    }


def log_axis(title: str, values: Sequence[float], *, pad: float) -> dict[str, Any]:
    """A logarithmic axis over `values`, with round ticks; `pad` is the share left free on each side."""
    low, high = math.log10(min(values)), math.log10(max(values))
    free = max((high - low) * pad, 0.05)
    low, high = low - free, high + free
    ticks = _log_ticks(low, high)
    return linear_axis(
        title,
        type="log",
        showgrid=False,
        ticks="outside",
        tickcolor=light("pale"),
        range=[low, high],
        tickvals=ticks,
        ticktext=[_tick_text(tick) for tick in ticks],
    )


def note(text: str, **properties: Any) -> dict[str, Any]:
    """A text in a plot."""
    return {"text": text, "showarrow": False, "font": {"size": 12, "color": light("soft")}, **properties}


def level_line(height: float, dash: str, colour: str = "mute") -> dict[str, Any]:
    """A line across the plot at a height, behind everything."""
    return {
        "type": "line",
        "layer": "below",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": height,
        "y1": height,
        "line": {"color": light(colour), "width": 1, "dash": dash},
    }


def row_name(row: int, text: str) -> dict[str, Any]:
    """The name of a row, above its line at the left edge."""
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": row, "yanchor": "bottom", "yshift": 4}
    return note(escaped(text), **place)


def row_line(row: int, ends: Sequence[float], colour: str, width: int) -> dict[str, Any]:
    """A stroke within a row, in a colour of the palette."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(ends),
        "y": [row, row],
        "line": {"color": light(colour), "width": width},
        "hoverinfo": "skip",
    }


def row_dots(values: Sequence[float | None], colour: str) -> dict[str, Any]:
    """A dot in every row that has a value, from the first, in a colour of the palette."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(values),
        "y": list(range(len(values))),
        "marker": {"size": 10, "opacity": 1, "color": light(colour)},
        "hoverinfo": "skip",
    }


def draw_rows(name: str, rows: Sequence[Row], axis: dict[str, Any], label: str) -> Drawing:
    """A row each, from the top: its name, its thin line, and a stroke from before to after.

    Args:
        name: Of the drawing.
        rows: From the top.
        axis: Of the values.
        label: The text alternative.
    """
    layout = {
        "margin": {"l": 6, "r": 12, "t": 0, "b": 8},
        "xaxis": axis,
        "yaxis": linear_axis("", range=[len(rows) - 0.5, -0.8], visible=False),
        "annotations": [row_name(row, one.title) for row, one in enumerate(rows)],
    }
    traces = [
        *(row_line(row, one.line, "rule", 2) for row, one in enumerate(rows)),
        *(
            row_line(row, (one.before, one.after), "warn" if one.after < one.before else "pale", 4)
            for row, one in enumerate(rows)
        ),
        row_dots([one.before for one in rows], "mute"),
        row_dots([one.after for one in rows], "accent"),
    ]
    return Drawing(name, figure_json(traces, layout), ROW_PIXELS * len(rows) + 64, label)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks: list[float] = []
    for leading in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in leading]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) <= MAX_LOG_TICKS:
            break
    return ticks


def _tick_text(value: float) -> str:
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text
