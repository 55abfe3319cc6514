"""The section “Quantization” of the page: a sentence, a plot and a table of what was tried."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from lissom.report.drawing import Drawing, escaped, figure_json, light, linear_axis, note
from lissom.report.rungs import (
    Trial,
    arithmetic_told,
    best_row,
    best_word,
    climbed_stages,
    columns_of,
    engines_of,
    figures_of,
    operators_told,
    taken_words,
    told,
    trials_of,
)
from lissom.report.schema import Report, StageRow
from lissom.report.sections import plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import count, decibel, noise_words, percent, shortened

ROW_PIXELS = 34
_KEYS = (
    '<span class="keys"><span class="key accent">kept</span><span class="key hollow">taken back</span></span>'
)


def section(report: Report) -> str:
    """One part for each quantize stage that says what it tried; empty where none does."""
    rows = climbed_stages(report)
    parts = "".join(_part(report, row, number, alone=len(rows) == 1) for number, row in enumerate(rows))
    heading = '<h2 id="quantization">Quantization</h2>'
    return f'<section aria-labelledby="quantization">{heading}\n{parts}\n</section>' if rows else ""


def link(report: Report) -> str:
    """The entry of the section in the navigation."""
    return '<a href="#quantization">Quantization</a> ' if climbed_stages(report) else ""


def draw_rungs(report: Report, row: StageRow, name: str) -> Drawing | None:
    """Noise of every trial, one row each; None where no trial has any, or there is but one."""
    trials = trials_of(report, row)
    drawn = [trial.sqnr_db for trial in trials if trial.is_drawn]
    if not drawn or len(trials) < 2:
        return None
    goal = row.notes["goal"]["min_sqnr_db"] if trials[0].drop is None else None
    low, high = (choose([*drawn, *([] if goal is None else [goal])]) for choose in (min, max))
    free = max((high - low) * 0.08, 0.5)
    span = [low - free, high + free]
    layout = {
        "margin": {"l": 6, "r": 6, "t": 18 if goal is not None else 0, "b": 8},
        "xaxis": linear_axis("SQNR, dB", range=span, nticks=6),
        "yaxis": linear_axis("", range=[len(trials) - 0.5, -0.8], visible=False),
        "shapes": [] if goal is None else [_goal_line(goal)],
        "annotations": [*_row_names(trials), *([] if goal is None else [_goal_name(goal, low, high)])],
    }
    tracks = [_track(number, span) for number in range(len(trials))]
    figure = figure_json([*tracks, _path(trials), *_dots(report, trials)], layout)
    return Drawing(name, figure, ROW_PIXELS * len(trials) + 64, _label(row, trials))


def _part(report: Report, row: StageRow, number: int, *, alone: bool) -> str:
    caption = (
        f"{_KEYS}Further right is better: 20 dB more is ten times less error. A trial is kept when its score "
        "is surely higher than that of the best before it; where scores do not surely differ, when its noise "
        "is lower."
    )
    drawing = draw_rungs(report, row, f"rungs-{number}")
    figure = plot(drawing, "", caption, "There is no plot: no trial has a noise.")
    sentences = (told(report, row), arithmetic_told(row.notes), operators_told(row.notes))
    return (
        ("" if alone else f"<h3>{escape(row.name)}</h3>")
        + "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences if sentence)
        + f'<div class="climb">{figure if len(row.notes["rungs"]) > 1 else ""}'
        + f"{_table(report, row, number)}</div>{_engines(report, row, number)}{_layers(row, number)}"
    )


def _table(report: Report, row: StageRow, number: int) -> str:
    trials = trials_of(report, row)
    best, word, taken = best_row(trials), best_word(row.notes), taken_words(row.notes)
    titles = [
        Column(title, True, "points" if title == "Drop" else "") for title in columns_of(report, trials)
    ]
    rows = [
        [
            text(trial.title, trial.what),
            _outcome(trial, word if place == best else ""),
            *(Cell(escape(figure)) for figure in figures_of(trial)),
        ]
        for place, trial in enumerate(trials)
    ]
    before = row.notes.get("parent_score")
    parent = f", whose {report.score_name} is {percent(before)}" if before is not None else ""
    shipped = f". The shipped model is the best one with {taken}; it has no row" if taken else ""
    caption = (
        f"Trials in the order in which they were made, against the model that was quantized{parent}{shipped}"
    )
    return table(
        f"rungs-{number}-table",
        caption,
        [Column("Trial"), Column("Outcome"), *titles],
        rows,
        marked=[best],
    )


def _outcome(trial: Trial, word: str) -> Cell:
    badge = f'<span class="badge">{word}</span>' if word else ""
    state, outcome = ("yes", "kept") if trial.kept else ("no", "taken back")
    return Cell(f'<span class="state {state}">{outcome}</span>', badge)


def _engines(report: Report, row: StageRow, number: int) -> str:
    """A column an engine: how near the shipped model is to float32 there, and whether it is offered."""
    engines = engines_of(report, row)
    if not engines:
        return ""

    def cells(values: Iterable[str]) -> list[Cell]:
        return [Cell(escape(value)) for value in values]

    noise = ("does not run" if engine.sqnr_db is None else noise_words(engine.sqnr_db) for engine in engines)
    kept = ("" if engine.agreement is None else percent(engine.agreement) for engine in engines)
    rows = [[text("SQNR"), *cells(noise)]]
    if any(engine.agreement is not None for engine in engines):
        rows.append([text("Agreement"), *cells(kept)])
    rows.append([text("Samples"), *cells(str(engine.num_samples) for engine in engines)])
    rows.append(
        [text("Offered"), *cells(f"no: {engine.fault}" if engine.fault else "yes" for engine in engines)]
    )
    caption = "The shipped model on every engine that executes it here, against float32 on the same engine"
    columns = [Column("Figure"), *(Column(engine.title, True) for engine in engines)]
    return table(f"engines-{number}-table", caption, columns, rows)


def _layers(row: StageRow, number: int) -> str:
    """The noisiest layers, folded away."""
    worst, kept = row.notes.get("worst_layers", ()), set(row.notes.get("plan", {}).get("exclude", ()))
    if not worst:
        return ""
    rows = [
        [
            text(layer["name"]),
            Cell(noise_words(layer["sqnr_db"])),
            text("float32" if layer["name"] in kept else "int8"),
        ]
        for layer in worst
    ]
    columns = [Column("Layer"), Column("SQNR", True), Column("Shipped in")]
    caption = "Each with all other layers in float32; the lowest ratio adds the most noise"
    inner = table(f"layers-{number}-table", caption, columns, rows)
    return f"<details><summary>The noisiest layers</summary>{inner}</details>"


def _path(trials: Sequence[Trial]) -> dict[str, Any]:
    """The line from one kept trial to the next."""
    kept = [(trial.sqnr_db, row) for row, trial in enumerate(trials) if trial.kept and trial.is_drawn]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [sqnr for sqnr, _ in kept],
        "y": [row for _, row in kept],
        "line": {"color": light("tint"), "width": 2},
        "hoverinfo": "skip",
    }


def _dots(report: Report, trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    titles = columns_of(report, trials)
    for kept, colour in ((False, "mute"), (True, "accent")):
        group = [(row, trial) for row, trial in enumerate(trials) if trial.kept is kept and trial.is_drawn]
        yield {
            "type": "scatter",
            "mode": "markers",
            "x": [trial.sqnr_db for _, trial in group],
            "y": [row for row, _ in group],
            "marker": {
                "size": 11,
                "opacity": 1,
                "symbol": "circle" if kept else "circle-open",
                "color": light(colour),
                "line": {"width": 2 if not kept else 0, "color": light(colour)},
            },
            "customdata": [_hover(trial, titles) for _, trial in group],
            "hovertemplate": "%{customdata}<extra></extra>",
            "cliponaxis": False,
        }


def _hover(trial: Trial, titles: Sequence[str]) -> str:
    figures = zip(titles, figures_of(trial), strict=True)
    lines = [
        f"<b>{escaped(shortened(trial.name, 60))}</b>{'' if trial.kept else ' (taken back)'}",
        *(f"{escaped(title)} {figure}{' points' if title == 'Drop' else ''}" for title, figure in figures),
    ]
    return "<br>".join(lines)


def _row_names(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Above each track the name of its trial, with a word where there is no noise to draw."""
    return [
        note(
            escaped(shortened(trial.name, 44))
            + ("" if trial.is_drawn else f" ({noise_words(trial.sqnr_db)})"),
            **{
                "xref": "paper",
                "x": 0,
                "xanchor": "left",
                "xshift": -3,
                "y": row - 0.15,
                "yanchor": "bottom",
            },
        )
        for row, trial in enumerate(trials)
    ]


def _track(row: int, span: Sequence[float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(span),
        "y": [row, row],
        "line": {"color": light("rule"), "width": 1},
        "hoverinfo": "skip",
    }


def _goal_line(goal: float) -> dict[str, Any]:
    return {
        "type": "line",
        "layer": "below",
        "yref": "paper",
        "x0": goal,
        "x1": goal,
        "y0": 0,
        "y1": 1,
        "line": {"color": light("mute"), "width": 1, "dash": "dash"},
    }


def _goal_name(goal: float, low: float, high: float) -> dict[str, Any]:
    side = "right" if goal > (low + high) / 2 else "left"
    return note(f"goal: {decibel(goal)}", yref="paper", y=1, yanchor="bottom", x=goal, xanchor=side)


def _label(row: StageRow, trials: Sequence[Trial]) -> str:
    kept = sum(trial.kept for trial in trials)
    best, taken = trials[best_row(trials)], taken_words(row.notes)
    return (
        f"Signal to quantization noise of {count(len(trials), 'trial')} of {row.name}; {kept} were kept. "
        f"{best_word(row.notes).capitalize()}: {best.name}, {noise_words(best.sqnr_db)}. "
        f"{f'Shipped is that one with {taken}. ' if taken else ''}The table holds the same figures."
    )
