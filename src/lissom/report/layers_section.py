"""The section “Where the time goes”: every layer before and after, and how near arms come to the roof."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from lissom.report import roof_section
from lissom.report.drawing import Drawing, figure_json, linear_axis, row_dots, row_line, row_name
from lissom.report.reading import chosen_arm
from lissom.report.schema import LayerChange, LayerFigures, LayerTable, Report
from lissom.report.sections import plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import ABSENT, NO_BREAK, count, milliseconds, shortened, significant

ROW_PIXELS, MOST_ROWS = 34, 20
"""Of the picture; the table has every layer."""
_WATCHED = 1.5
"""Sum of the operators over the whole call, from which on the watching is spoken of."""
_KEYS = '<span class="keys"><span class="key mute">before</span><span class="key accent">after</span></span>'


def section(report: Report) -> str:
    """Nothing where neither layers nor the roof are known."""
    parts = [part for part in (_layers(report), roof_section.part(report)) if part]
    heading = '<h2 id="layers">Where the time goes</h2>'
    inner = "\n".join(parts)
    return f'<section aria-labelledby="layers">{heading}\n{inner}\n</section>' if parts else ""


def layers_told(found: LayerTable) -> str:
    """The totals, and how many layers got slower, as one sentence."""
    before, after = _totals(found)
    slower = sum(1 for one in found.changes if _saved(one) < 0)
    return (
        f"{found.after} spends {milliseconds(after)} in its operators on {found.runtime}, {found.before} "
        f"{milliseconds(before)}. {count(slower, 'layer')} of {len(found.changes)} got slower."
    )


def watching_told(report: Report) -> str:
    """That the engine's watching took more than the call itself, where it did; else empty."""
    arm, found = chosen_arm(report), report.layers
    if found is None or arm is None or arm.latency is None:
        return ""
    whole, summed = arm.latency.median_ms.value, _totals(found)[1]
    if summed < _WATCHED * whole:
        return ""
    return (
        f"A call takes {milliseconds(whole)}, much less than its operators together: most of these times is "
        "the engine watching itself, and which layers got slower is not to be read from them."
    )


def operators_changed(found: LayerTable) -> str:
    """Kinds of operators that one side has more of, as a sentence; empty where both have the same."""
    sides = [
        Counter(operator for one in side if one for operator in one.operators)
        for side in (
            [change.before for change in found.changes],
            [change.after for change in found.changes],
        )
    ]
    names = sorted({*sides[0], *sides[1]}, key=lambda name: (-abs(sides[1][name] - sides[0][name]), name))
    moved = [
        f"{name} {sides[0][name]} → {sides[1][name]}" for name in names if sides[0][name] != sides[1][name]
    ]
    total = f"{sum(sides[0].values())} → {sum(sides[1].values())}"
    return f"Operators: {total} ({', '.join(moved)})." if moved else ""


def draw_layers(report: Report) -> Drawing | None:
    """The layers in which the most time is, before and after; None where none are known."""
    if report.layers is None or not report.layers.changes:
        return None
    rows = sorted(report.layers.changes, key=lambda one: -max(_ms(one.before), _ms(one.after)))[:MOST_ROWS]
    most = max(max(_ms(one.before), _ms(one.after)) for one in rows) or 1.0
    layout = {
        "margin": {"l": 6, "r": 12, "t": 0, "b": 8},
        "xaxis": linear_axis("milliseconds", range=[0, 1.04 * most], nticks=6),
        "yaxis": linear_axis("", range=[len(rows) - 0.5, -0.8], visible=False),
        "annotations": [row_name(row, shortened(one.name, 40)) for row, one in enumerate(rows)],
    }
    traces = [
        *(
            row_line(row, (_ms(one.before), _ms(one.after)), "warn" if _saved(one) < 0 else "pale", 4)
            for row, one in enumerate(rows)
        ),
        row_dots([_ms(one.before) for one in rows], "mute"),
        row_dots([_ms(one.after) for one in rows], "accent"),
    ]
    label = f"{layers_told(report.layers)} The layers that take longest: " + "; ".join(
        f"{one.name} {milliseconds(_ms(one.before))} before and {milliseconds(_ms(one.after))} after"
        for one in rows[:8]
    )
    return Drawing("layers", figure_json(traces, layout), ROW_PIXELS * len(rows) + 64, label)


def layer_rows(found: LayerTable) -> list[tuple[str, ...]]:
    """Name, operators, precision and milliseconds before and after, and what was saved, as plain text."""
    return [
        (
            one.name,
            _operators(one.before),
            _operators(one.after),
            _milliseconds(one.before.ms) if one.before else ABSENT,
            _milliseconds(one.after.ms) if one.after else ABSENT,
            _milliseconds(_saved(one)),
        )
        for one in found.changes
    ]


LAYER_HEADER = ("layer", "before", "after", "before, ms", "after, ms", "saved, ms")


def _layers(report: Report) -> str:
    found = report.layers
    if found is None or not found.changes:
        return ""
    caption = (
        f"{_KEYS}Operators that an engine fuses are one layer, so both sides of a row compute the same. The "
        "engine watched itself, which costs some microseconds an operator: sums lie "
        "above the latency of a small model."
    )
    figure = plot(draw_layers(report), "", caption, "There is no plot.")
    columns = [Column(title.capitalize(), place > 2) for place, title in enumerate(LAYER_HEADER)]
    rows = [
        [text(row[0]), text(row[1]), text(row[2]), *(Cell(cell, key=key) for cell, key in _timed(row, one))]
        for row, one in zip(layer_rows(found), found.changes, strict=True)
    ]
    inner = table(
        "layers-table",
        f"{found.before} and {found.after} on {found.runtime}, in the order of execution",
        columns,
        rows,
        sortable=True,
    )
    parts = (layers_told(found), operators_changed(found), watching_told(report))
    sentences = " ".join(part for part in parts if part)
    folded = f"<details><summary>Every layer as a table</summary>{inner}</details>"
    return f"<p>{escape(sentences)}</p>{figure}{folded}"


def _timed(row: Sequence[str], one: LayerChange) -> list[tuple[str, float]]:
    return list(zip(row[3:], (_ms(one.before), _ms(one.after), _saved(one)), strict=True))


def _totals(found: LayerTable) -> tuple[float, float]:
    return sum(_ms(one.before) for one in found.changes), sum(_ms(one.after) for one in found.changes)


def _operators(one: LayerFigures | None) -> str:
    if one is None:
        return ABSENT
    names = Counter(one.operators)
    told = " + ".join(f"{number}{NO_BREAK}{name}" if number > 1 else name for name, number in names.items())
    return f"{told}, {one.precision}" if one.precision else told


def _ms(one: LayerFigures | None) -> float:
    return one.ms if one else 0.0


def _saved(one: LayerChange) -> float:
    return _ms(one.before) - _ms(one.after)


def _milliseconds(value: float) -> str:
    return significant(value) if value else "0"
