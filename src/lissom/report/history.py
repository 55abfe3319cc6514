"""Several runs on one page: their verdicts in a table, and how score, speed and size moved between them."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from lissom.report import exemplars_section
from lissom.report.drawing import Drawing, escaped, figure_json, light, linear_axis
from lissom.report.frame import filled, framed
from lissom.report.reading import chosen_arm, stage_row
from lissom.report.schema import Interval, Report
from lissom.report.sections import ABSENT_CELL, plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import between, count, moment, percent, points, shortened, significant, size, times

HTML_FILE, CSV_FILE = "runs.html", "runs.csv"


class Entry(NamedTuple):
    """One run."""

    path: Path
    report: Report

    @property
    def failed(self) -> list[str]:
        """Names of the gates that failed and were not allowed to."""
        return [gate.name for gate in self.report.gates if gate.state == "fail" and not gate.allowed]


def history_page(entries: Sequence[Entry], folder: Path) -> str:
    """The whole page, the oldest run first.

    Args:
        entries: At least one run.
        folder: Where the page goes; runs are linked from there.
    """
    from lissom.report.exemplars import LEAST_SEEDS, exemplars_of, population  # with what loads slowly

    ordered = in_order(entries)
    runs = population([entry.report for entry in ordered])
    exemplars = exemplars_section.section(runs, exemplars_of(runs))
    names = sorted({entry.report.name for entry in ordered})
    body = filled(
        "history.html",
        heading=escape(f"{count(len(ordered), 'run')} of {', '.join(names)}"),
        summary=escape(summary(ordered)),
        panels="".join(
            plot(drawing, title, "", "")
            for title, drawing in (
                ("Score", draw_scores(ordered)),
                ("Speed-up over the original", draw_speedups(ordered)),
                ("Size", draw_sizes(ordered)),
            )
            if drawing
        ),
        advice=exemplars_section.advice(runs, LEAST_SEEDS),
        exemplars=exemplars,
        exemplars_link=exemplars_section.LINK if exemplars else "",
        table=_table(ordered, folder),
    )
    return framed(body, title="lissom: runs", skip="Skip to the runs")


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """By the time of their measurement."""
    return sorted(entries, key=lambda entry: (entry.report.created, str(entry.path)))


def summary(entries: Sequence[Entry]) -> str:
    """How many runs passed, and what the newest says, in sentences."""
    passed = sum(entry.report.verdict.ok for entry in entries)
    newest = entries[-1].report.verdict.sentence
    return f"{passed} of {count(len(entries), 'run')} passed. The newest: {newest}"


def draw_scores(entries: Sequence[Entry]) -> Drawing | None:
    """Score of the chosen arm of every run, with the interval of its drop; None where none has one."""
    values: list[Interval | None] = []
    for entry in entries:
        arm = chosen_arm(entry.report)
        if arm is None or arm.accuracy is None:
            values.append(None)
            continue
        found, before = arm.accuracy, arm.accuracy.report + arm.accuracy.drop.value
        values.append(
            Interval(value=found.report, low=before - found.drop.high, high=before - found.drop.low)
        )
    return _draw("history-score", entries, values, tickformat=".1%")


def draw_speedups(entries: Sequence[Entry]) -> Drawing | None:
    """How much faster than the original at its best the chosen arm of every run was."""
    values = [entry.report.verdict.speedup for entry in entries]
    return _draw("history-speed", entries, values, ticksuffix="×")


def draw_sizes(entries: Sequence[Entry]) -> Drawing | None:
    """Bytes of the chosen artifact of every run."""
    values: list[Interval | None] = []
    for entry in entries:
        row = stage_row(entry.report, entry.report.verdict.artifact)
        found = float(row.size_bytes) if row else None
        values.append(None if found is None else Interval(value=found, low=found, high=found))
    return _draw("history-size", entries, values, tickformat="~s", ticksuffix="B", rangemode="tozero")


def _draw(
    name: str, entries: Sequence[Entry], values: Sequence[Interval | None], **axis: Any
) -> Drawing | None:
    known = [(place, one) for place, one in enumerate(values) if one is not None]
    if not known:
        return None
    colours = [light("accent" if entries[place].report.verdict.ok else "bad") for place, _ in known]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [place + 1 for place, _ in known],
        "y": [one.value for _, one in known],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [one.high - one.value for _, one in known],
            "arrayminus": [one.value - one.low for _, one in known],
            "color": light("mute"),
            "thickness": 1,
            "width": 0,
        },
        "line": {"color": light("pale"), "width": 1},
        "marker": {"size": 10, "opacity": 1, "color": colours},
        "hovertext": [
            escaped(f"{entries[place].report.name}, {moment(entries[place].report.created)}")
            for place, _ in known
        ],
        "hoverinfo": "text",
    }
    layout = {
        "xaxis": linear_axis("run", range=[0.5, len(entries) + 0.5], dtick=max(1, len(entries) // 8)),
        "yaxis": linear_axis("", nticks=5, **axis),
    }
    label = "; ".join(f"run {place + 1} {significant(one.value)}" for place, one in known[:20])
    return Drawing(name, figure_json([trace], layout), 260, label)


def _table(entries: Sequence[Entry], folder: Path) -> str:
    columns = [
        Column("Run", True),
        Column("Measured"),
        Column("Gates"),
        Column("Chosen"),
        Column("Score", True),
        Column("Drop", True, "points"),
        Column("Latency", True, "median, ms"),
        Column("Speed-up", True, "over the original"),
        Column("Size", True),
        Column("Machine"),
    ]
    rows = [_row(number, entry, folder) for number, entry in enumerate(entries, start=1)]
    return table("runs-table", "The oldest first", columns, rows, sortable=True)


def _row(number: int, entry: Entry, folder: Path) -> list[Cell]:
    report, arm = entry.report, chosen_arm(entry.report)
    state = "pass" if report.verdict.ok else "fail"
    why = ", ".join(entry.failed) or ("" if report.complete else "interrupted")
    faster = report.verdict.speedup
    stage = stage_row(report, report.verdict.artifact)
    latency, score = (arm.latency, arm.accuracy) if arm else (None, None)
    return [
        Cell(str(number), key=float(number)),
        Cell(
            f'<a href="{escape(_link(entry.path, folder))}">{escape(shortened(report.name, 28))}</a>',
            escape(moment(report.created)),
            report.created,
        ),
        Cell(f'<span class="state {state}">{state}</span>', escape(why), state),
        text(f"{arm.artifact} on {arm.runtime}" if arm else "nothing"),
        Cell(percent(score.report), key=score.report) if score else ABSENT_CELL,
        Cell(points(score.drop.value), between(score.drop, points), score.drop.value)
        if score
        else ABSENT_CELL,
        Cell(significant(latency.median_ms.value), between(latency.median_ms), latency.median_ms.value)
        if latency
        else ABSENT_CELL,
        Cell(times(faster.value), between(faster, times), faster.value) if faster else ABSENT_CELL,
        Cell(size(stage.size_bytes), key=stage.size_bytes) if stage else ABSENT_CELL,
        text(str(report.environment.get("cpu", "")), str(report.environment.get("git") or "")),
    ]


def _link(path: Path, folder: Path) -> str:
    """The page of a run from the folder of this page."""
    place = (path if path.suffix != ".json" else path.parent).resolve() / "report.html"
    return Path(os.path.relpath(place, folder.resolve())).as_posix()
