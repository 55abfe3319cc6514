"""The page of a server under load: latency by rate, and what became of every query.

`html_from_load` is a pure function of what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from lissom.artifact import canonical_json, write_atomic
from lissom.report.drawing import Drawing, escaped, figure_json, level_line, light, log_axis, note
from lissom.report.frame import filled, framed
from lissom.report.sections import plot
from lissom.report.tables import Cell, Column, table
from lissom.report.wording import ABSENT, count, milliseconds, percent, shortened, significant
from lissom.serve.generator import Outcome
from lissom.serve.load import AtRate, Load

JSON_FILE, HTML_FILE = "load.json", "load.html"
HEADER = (
    *("queries a second", "p50, ms", "p99, ms", "p99 at most, ms", "ok", "refused", "refused p99, ms"),
    *("timed out", "failed", "goodput", "lateness p99, ms"),
)


def write_load(found: Load, folder: Path, *, machine: str) -> None:
    """Write the JSON and draw the page."""
    write_atomic(folder / JSON_FILE, canonical_json({**found.document(), "machine": machine}))
    write_atomic(folder / HTML_FILE, html_from_load(found, machine=machine).encode())


def html_from_load(found: Load, *, machine: str) -> str:
    """The whole page.

    Args:
        found: What was measured.
        machine: That the queries came from.
    """
    request = found.request
    name = str(request.model)
    caption = (
        '<span class="keys"><span class="key accent">p99</span><span class="key mute">p50</span></span>'
        "Latency counts from the plan, so that a server that falls behind shows it. Hollow: fewer than 99 % "
        "of all planned queries were answered" + ("." if request.slo_ms is None else " in time.")
    )
    body = filled(
        "load.html",
        model=escape(name),
        url=escape(request.url),
        samples=escape(f"{found.samples}, {count(found.num_bytes, 'byte')} a query"),
        machine=escape(machine),
        summary=escape(told(found)),
        plot=plot(draw_load(found), "", caption, "No query was answered."),
        remarks="".join(f'<p class="note">{escape(remark)}</p>' for remark in found.remarks),
        table=_table(found),
        timeout=escape(milliseconds(request.timeout_ms)),
        goodput=escape(_goodput(request.slo_ms)),
    )
    return framed(body, title=f"{escape(name)} under load · lissom", skip="Skip to the figures")


def told(found: Load) -> str:
    """The highest rate at which 99 % of all queries were answered, and in time, as a sentence."""
    slo = found.request.slo_ms
    within = "" if slo is None else f" within {milliseconds(slo)}"
    if found.highest is None:
        first = found.figures[0]
        return (
            f"Not even {significant(first.rate)} queries a second are answered{within} to 99 %: "
            f"{percent(first.share_in_time)} of them were."
        )
    own = next(one for one in found.figures if one.rate == found.highest)
    p99 = own.percentile_ms(0.99)
    top = ", the highest rate that was asked" if found.highest == found.figures[-1].rate else ""
    return (
        f"99 % of {significant(found.highest)} queries a second are answered{within}{top}; "
        f"p99 is {milliseconds(p99 or 0.0)} from the planned time."
    )


def rows(found: Load) -> list[tuple[str, ...]]:
    """A row a rate, as plain text."""
    return [
        (
            significant(one.rate),
            _written(one.percentile_ms(0.5)),
            _written(one.percentile_ms(0.99)),
            _written(one.percentiles[-1].bound if one.percentiles else None),
            f"{one.count(Outcome.OK):,}",
            f"{one.count(Outcome.REFUSED):,}",
            _written(one.refusals_p99_ms),
            f"{one.count(Outcome.TIMED_OUT):,}",
            f"{one.count(Outcome.FAILED):,}",
            significant(one.goodput),
            _written(one.lateness_p99_ms),
        )
        for one in found.figures
    ]


def draw_load(found: Load) -> Drawing | None:
    """The median and the 99th percentile against the rate, both axes logarithmic; None without an answer."""
    known = [one for one in found.figures if one.percentile_ms(0.99)]
    if not known:
        return None
    slo = found.request.slo_ms
    values = [one.percentile_ms(share) or 0.0 for one in known for share in (0.5, 0.99)]
    layout: dict[str, Any] = {
        "xaxis": log_axis("queries a second, planned", [one.rate for one in known], pad=0.06),
        "yaxis": log_axis("latency from the plan, ms", [*values, *([slo] if slo else [])], pad=0.1),
    }
    if slo is not None:
        place = {"xref": "paper", "x": 0, "xanchor": "left", "y": math.log10(slo), "yanchor": "bottom"}
        font = {"size": 12, "color": light("warn")}
        layout["shapes"] = [level_line(slo, "dash", "warn")]
        layout["annotations"] = [note(f"asked: {milliseconds(slo)}", font=font, **place)]
    traces = [_line(known, 0.5, "mute"), _line(known, 0.99, "accent")]
    return Drawing("load", figure_json(traces, layout), 380, told(found))


def _line(known: Sequence[AtRate], share: float, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [one.rate for one in known],
        "y": [one.percentile_ms(share) for one in known],
        "line": {"color": light(colour), "width": 2},
        "marker": {
            "size": 9,
            "opacity": 1,
            "color": light(colour),
            "symbol": ["circle" if one.holds else "circle-open" for one in known],
        },
        "hovertext": [_hover(one) for one in known],
        "hoverinfo": "text",
    }


def _hover(one: AtRate) -> str:
    lost = [
        f"{one.count(outcome):,} {word}"
        for outcome, word in (
            (Outcome.REFUSED, "refused"),
            (Outcome.TIMED_OUT, "timed out"),
            (Outcome.FAILED, "failed"),
        )
        if one.count(outcome)
    ]
    lines = [
        f"<b>{significant(one.rate)} queries a second</b>",
        f"p99 {_written(one.percentile_ms(0.99))} ms, p50 {_written(one.percentile_ms(0.5))} ms",
        f"{one.num_planned:,} planned" + "".join(f", {words}" for words in lost),
        f"{percent(one.share_in_time)} answered" + ("" if one.slo_ms is None else " in time"),
    ]
    return "<br>".join(escaped(shortened(line, 80)) if place else line for place, line in enumerate(lines))


def _table(found: Load) -> str:
    columns = [Column(title.capitalize() if title[0] != "p" else title, True) for title in HEADER]
    cells = [[Cell(escape(cell)) for cell in row] for row in rows(found)]
    return table("load-table", "Every rate", columns, cells, stacked=True)


def _goodput(slo_ms: float | None) -> str:
    if slo_ms is None:
        return "Queries a second that were answered with 200."
    return (
        f"Queries a second that were answered with 200 within {milliseconds(slo_ms)} of their planned time."
    )


def _written(value: float | None) -> str:
    return ABSENT if value is None else significant(value)
