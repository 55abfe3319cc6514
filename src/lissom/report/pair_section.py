"""The section “By batch size and load”: the chosen arm beside the original."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from lissom.report.drawing import Drawing, escaped, figure_json, level_line, light, log_axis, note
from lissom.report.schema import BatchFigures, LoadFigures, Report
from lissom.report.sections import plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import ABSENT, between, milliseconds, shortened, significant

BATCH_HEADER = ("artifact", "runtime", "batch", "latency, ms", "95 %", "samples a second")
LOAD_HEADER = ("artifact", "runtime", "queries a second", "p50, ms", "p99, ms", "p99 at most, ms", "kept up")


def section(report: Report) -> str:
    """Nothing where neither was asked for."""
    parts = [part for part in (_batches(report), _load(report)) if part]
    heading = '<h2 id="load">By batch size and load</h2>'
    inner = "\n".join(parts)
    return f'<section aria-labelledby="load">{heading}\n{inner}\n</section>' if parts else ""


def load_told(report: Report) -> str:
    """How many queries a second each arm answers within the latency that was asked for, as a sentence."""
    if not report.load or report.slo_ms is None:
        return ""
    told = []
    for name, runtime in _arms(report.load):
        own = [one for one in report.load if (one.artifact, one.runtime) == (name, runtime)]
        told.append(f"{name} on {runtime} {_answers(own, report.slo_ms)}")
    return f"Within {report.slo_ms:g} ms at p99: {'; '.join(told)} (of the rates that were asked)."


def _answers(own: Sequence[LoadFigures], slo_ms: float) -> str:
    """What one arm does with queries."""
    within = within_slo(own, slo_ms)
    if within is not None:
        return f"answers up to {significant(within)} queries a second"
    error = next((one.error for one in own if one.error), None)
    if error is not None:
        return f"cannot be asked: {error}"
    return f"answers not even {significant(min(one.rate for one in own))} queries a second"


def within_slo(figures: Sequence[LoadFigures], slo_ms: float) -> float | None:
    """The highest rate of one arm up to which each was answered in time; None where the lowest was not."""
    found = None
    for one in sorted(figures, key=lambda one: one.rate):
        high = _percentile(one, 0.99)
        if high is None or one.error or not one.kept_up or high > slo_ms:
            break
        found = one.rate
    return found


def batch_rows(report: Report) -> list[tuple[str, ...]]:
    """A row an arm and batch size, as plain text."""
    return [
        (
            one.artifact,
            one.runtime,
            f"{one.batch_size:,}",
            significant(one.median_ms.value) if one.median_ms else one.error or ABSENT,
            between(one.median_ms) if one.median_ms else ABSENT,
            significant(one.samples_per_second) if one.samples_per_second else ABSENT,
        )
        for one in report.batches
    ]


def load_rows(report: Report) -> list[tuple[str, ...]]:
    """A row an arm and rate, as plain text."""
    return [
        (
            one.artifact,
            one.runtime,
            significant(one.rate) if one.rate else ABSENT,
            _written(_percentile(one, 0.5)),
            _written(_percentile(one, 0.99)) if one.error is None else one.error,
            _written(_bound(one, 0.99)),
            "yes" if one.kept_up else "no",
        )
        for one in sorted(report.load, key=lambda one: (one.artifact, one.runtime, one.rate))
    ]


def draw_batches(report: Report) -> Drawing | None:
    """Samples a second against the latency of a call, one line an arm, a point a batch size."""
    known = [one for one in report.batches if one.median_ms and one.samples_per_second]
    if not known:
        return None
    traces, notes = [], []
    for name, runtime in _arms(known):
        own = [one for one in known if (one.artifact, one.runtime) == (name, runtime)]
        colour = _colour(report, name, runtime)
        traces.append(_batch_line(own, colour))
        notes += [
            note(
                str(one.batch_size),
                x=_log(one.median_ms.value),
                y=_log(one.samples_per_second),
                xshift=-5,  # above and left of the point: lines go up to the right
                yshift=11,
                font={"size": 11, "color": light("soft")},
            )
            for one in own
            if one.median_ms and one.samples_per_second
        ]
    times = [one.median_ms.value for one in known if one.median_ms]
    rates = [one.samples_per_second for one in known if one.samples_per_second]
    layout = {
        "xaxis": log_axis("latency of a call, ms", times, pad=0.08),
        "yaxis": log_axis("samples a second", rates, pad=0.12),
        "annotations": notes,
    }
    best = max(known, key=lambda one: one.samples_per_second or 0.0)
    label = (
        f"Samples a second against latency by batch size. Most: {best.artifact} on {best.runtime} with "
        f"{best.batch_size} a call, {significant(best.samples_per_second or 0.0)} a second."
    )
    return Drawing("batches", figure_json(traces, layout), 340, label)


def draw_load(report: Report) -> Drawing | None:
    """The 99th percentile against the rate, one line an arm, with the latency that was asked for."""
    known = [one for one in report.load if _percentile(one, 0.99)]
    if not known or report.slo_ms is None:
        return None
    traces = []
    for name, runtime in _arms(known):
        own = sorted(
            (one for one in known if (one.artifact, one.runtime) == (name, runtime)), key=lambda one: one.rate
        )
        traces.append(_load_line(own, _colour(report, name, runtime)))
    values = [_percentile(one, 0.99) or report.slo_ms for one in known]
    layout = {
        "xaxis": log_axis("queries a second, planned", [one.rate for one in known], pad=0.06),
        "yaxis": log_axis("99th percentile, ms", [*values, report.slo_ms], pad=0.1),
        "shapes": [level_line(report.slo_ms, "dash", "warn")],
        "annotations": [
            note(
                f"SLO {report.slo_ms:g} ms",
                xref="paper",
                x=0,
                xanchor="left",
                y=_log(report.slo_ms),
                yanchor="bottom",
                font={"size": 12, "color": light("warn")},
            )
        ],
    }
    return Drawing("load", figure_json(traces, layout), 340, load_told(report))


def _batches(report: Report) -> str:
    if not report.batches:
        return ""
    caption = (
        f"{_keys(report, report.batches)}Figures are samples in a call; up and to the left is better. "
        "All were timed in the same interleaved rounds."
    )
    inner = _folded("batches", "Latency and throughput by batch size", BATCH_HEADER, batch_rows(report))
    figure = plot(draw_batches(report), "", caption, "No batch size could be timed.")
    return f"<h3>Batches</h3>{figure}{inner}"


def _load(report: Report) -> str:
    if not report.load:
        return ""
    caption = (
        f"{_keys(report, report.load)}Queries are planned with exponential gaps, as MLPerf’s Server does, "
        "and latency counts from the plan, so that a model that falls behind shows it. Hollow: answers fell "
        "further and further behind. The dashed line is the latency that was asked for (SLO)."
    )
    inner = _folded("load", "Latency by rate", LOAD_HEADER, load_rows(report))
    figure = plot(draw_load(report), "", caption, "No rate could be asked.")
    return f"<h3>Load</h3><p>{escape(load_told(report))}</p>{figure}{inner}"


def _folded(name: str, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The figures of a plot as a table: two columns of names, then numbers."""
    columns = [Column(title.capitalize(), place > 1) for place, title in enumerate(header)]
    cells = [[text(row[0]), text(row[1]), *(Cell(escape(cell)) for cell in row[2:])] for row in rows]
    inner = table(f"{name}-table", caption, columns, cells)
    return f"<details><summary>The same figures as a table</summary>{inner}</details>"


def _batch_line(own: Sequence[BatchFigures], colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [one.median_ms.value for one in own if one.median_ms],
        "y": [one.samples_per_second for one in own],
        "line": {"color": light(colour), "width": 2},
        "marker": {"size": 8, "opacity": 1, "color": light(colour)},
        "hovertext": [
            f"<b>{escaped(shortened(f'{one.artifact} · {one.runtime}', 60))}</b><br>{one.batch_size} a call: "
            f"{milliseconds(one.median_ms.value)} ({between(one.median_ms)})<br>"
            f"{significant(one.samples_per_second or 0.0)} samples a second"
            for one in own
            if one.median_ms
        ],
        "hoverinfo": "text",
    }


def _load_line(own: Sequence[LoadFigures], colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [one.rate for one in own],
        "y": [_percentile(one, 0.99) for one in own],
        "line": {"color": light(colour), "width": 2},
        "marker": {
            "size": 9,
            "opacity": 1,
            "color": light(colour),
            "symbol": ["circle" if one.kept_up else "circle-open" for one in own],
        },
        "hovertext": [
            f"<b>{escaped(shortened(f'{one.artifact} · {one.runtime}', 60))}</b><br>{significant(one.rate)} "
            f"a second: p99 {_written(_percentile(one, 0.99))} ms{_at_most(one)}, "
            f"p50 {_written(_percentile(one, 0.5))} ms<br>"
            f"{one.num_queries:,} queries{'' if one.kept_up else ', fell behind'}"
            for one in own
        ],
        "hoverinfo": "text",
    }


def _keys(report: Report, figures: Sequence[BatchFigures | LoadFigures]) -> str:
    entries = "".join(
        f'<span class="key {_colour(report, name, runtime)}">{escape(f"{name} on {runtime}")}</span>'
        for name, runtime in _arms(figures)
    )
    return f'<span class="keys">{entries}</span>'


def _arms(figures: Sequence[BatchFigures | LoadFigures]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.artifact, one.runtime) for one in figures))


def _colour(report: Report, name: str, runtime: str) -> str:
    return "accent" if (name, runtime) == (report.verdict.artifact, report.verdict.runtime) else "ink"


def _percentile(one: LoadFigures, share: float) -> float | None:
    return next((found.value_ms for found in one.percentiles if found.share == share), None)


def _bound(one: LoadFigures, share: float) -> float | None:
    return next((found.bound_ms for found in one.percentiles if found.share == share), None)


def _at_most(one: LoadFigures) -> str:
    bound = _bound(one, 0.99)
    return f" (at most {significant(bound)})" if bound is not None else ""


def _written(value: float | None) -> str:
    return ABSENT if value is None else significant(value)


def _log(value: float | None) -> float:
    """Where a note stands on a logarithmic axis."""
    return math.log10(value) if value else 0.0
