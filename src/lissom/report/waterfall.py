"""What each stage did to size, latency and accuracy: three panels with one row a stage.

In size and latency the solid bar is what the model is after the stage, a pale rest is what the stage removed,
an amber rest what it added. Accuracies lie close together far from zero, so they are points on an axis that
does not begin at zero; the stroke is the move that the stage made, pale for a gain and amber for a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from lissom.report.drawing import Drawing, escaped, figure_json, light, linear_axis, note
from lissom.report.reading import score_title
from lissom.report.schema import Report, Step
from lissom.report.wording import MINUS, NO_BREAK, milliseconds, percent, points, shortened, size

ROW_PIXELS = 52


def draw_size_steps(report: Report) -> Drawing | None:
    """Size after each stage; None without stages."""
    values = [float(step.size_bytes) for step in report.waterfall]
    return _draw_bars(report, "size", values, lambda value: size(round(value)))


def draw_latency_steps(report: Report) -> Drawing | None:
    """Median latency after each stage, on the runtime named; None when nothing was measured."""
    return _draw_bars(report, "latency", [step.latency_ms for step in report.waterfall], milliseconds)


def draw_accuracy_steps(report: Report) -> Drawing | None:
    """Accuracy after each stage; None when nothing was measured."""
    values = [step.accuracy for step in report.waterfall]
    known = [(row, value) for row, value in enumerate(values) if value is not None]
    if not known:
        return None
    low, high = min(value for _, value in known), max(value for _, value in known)
    free = max((high - low) * 0.06, 0.002)
    span = [low - free, high + free]
    final = _final_row(report)
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [value for _, value in known],
        "y": [row for row, _ in known],
        "marker": {"size": 12, "opacity": 1, "color": [light(_solid(row == final)) for row, _ in known]},
        "hoverinfo": "skip",
    }
    tracks = [_stroke(row, span[0], span[1], "rule", 1) for row in range(len(values))]
    moves = [
        _stroke(row, before, now, "warn" if now < before else "pale", 4)
        for (_, before), (row, now) in pairwise(known)
    ]
    return _drawing(report, "accuracy", [*tracks, *moves, dots], values, percent, span)


def change(kind: str, now: float, before: float) -> str:
    r"""What a stage changed: points of accuracy, else per cent of what was there.

    >>> change("size", 25, 100), change("accuracy", 0.96, 0.97)
    ('−75\xa0%', '−1.0\xa0pt')
    """
    if kind == "accuracy":
        return f"{points(now - before, signed=True)}{NO_BREAK}pt"
    share = round(100 * (now / before - 1)) if before else 0
    return f"{share:+d}{NO_BREAK}%".replace("-", MINUS) if share else f"0{NO_BREAK}%"


def changes(kind: str, values: Sequence[float | None]) -> list[str]:
    """The change of each stage against the last one that was measured; empty where there is none."""
    texts, before = [], None
    for value in values:
        texts.append("" if value is None or before is None else change(kind, value, before))
        before = before if value is None else value
    return texts


def _draw_bars(
    report: Report, kind: str, values: Sequence[float | None], write: Callable[[float], str]
) -> Drawing | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    final = _final_row(report)
    kept, removed, added = [], [], []
    before: float | None = None
    for value in values:
        now = value or 0.0
        start = now if before is None or value is None else before
        kept.append(min(now, start))
        removed.append(max(start - now, 0.0))
        added.append(max(now - start, 0.0))
        before = before if value is None else value
    solid = [light(_solid(row == final)) for row in range(len(values))]
    traces = [_bar(kept, solid), _bar(removed, light("pale")), _bar(added, light("warn"))]
    return _drawing(report, kind, traces, values, write, [0, max(known)])


def _bar(lengths: Sequence[float], colour: str | list[str]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "x": list(lengths),
        "y": list(range(len(lengths))),
        "width": 0.2,
        "marker": {"color": colour, "line": {"width": 0}},
        "hoverinfo": "skip",
    }


def _solid(is_final: bool) -> str:
    return "accent" if is_final else "mute"


def _stroke(row: int, start: float, end: float, colour: str, width: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [start, end],
        "y": [row, row],
        "line": {"color": light(colour), "width": width},
        "hoverinfo": "skip",
    }


def _drawing(
    report: Report,
    kind: str,
    traces: list[dict[str, Any]],
    values: Sequence[float | None],
    write: Callable[[float], str],
    span: list[float],
) -> Drawing:
    steps = report.waterfall
    texts = ["not measured" if value is None else write(value) for value in values]
    hidden = {"visible": False}
    layout = {
        "barmode": "stack",
        "margin": {"l": 1, "r": 1, "t": 0, "b": 0},
        "xaxis": linear_axis("", range=span, **hidden),
        "yaxis": linear_axis("", range=[len(steps) - 0.6, -0.8], **hidden),
        "annotations": _row_texts(steps, kind, texts, changes(kind, values)),
    }
    title = score_title(report) if kind == "accuracy" else kind.capitalize()
    label = f"{title} after each stage: " + ", ".join(
        f"{_row_name(step, kind)} {text}" for step, text in zip(steps, texts, strict=True)
    )
    return Drawing(f"steps-{kind}", figure_json(traces, layout), ROW_PIXELS * len(steps) + 12, label + ".")


def _row_texts(
    steps: Sequence[Step], kind: str, texts: Sequence[str], changed: Sequence[str]
) -> list[dict[str, Any]]:
    """Above each bar its name at the left, the figure and the change at the right."""
    notes = []
    for row, (step, text, difference) in enumerate(zip(steps, texts, changed, strict=True)):
        place = {
            "y": row - 0.2,
            "yanchor": "bottom",
            "xref": "paper",
            "font": {"size": 13, "color": light("ink")},
        }
        name = escaped(shortened(_row_name(step, kind), 26))
        notes.append(note(name, x=0, xanchor="left", xshift=-3, **place))
        right = f"{difference}{NO_BREAK * 3}<b>{text}</b>" if difference else f"<b>{text}</b>"
        notes.append(note(right, x=1, xanchor="right", xshift=3, **place))
    return notes


def _row_name(step: Step, kind: str) -> str:
    return f"{step.stage} · {step.runtime}" if kind == "latency" else step.stage


def _final_row(report: Report) -> int:
    names = [step.stage for step in report.waterfall]
    return names.index(report.verdict.artifact) if report.verdict.artifact in names else len(names) - 1
