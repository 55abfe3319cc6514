"""The sections of the page, each a function from the report to HTML; every text of the user is escaped."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from html import escape

import yaml

from lissom.report.drawing import Drawing
from lissom.report.reading import (
    chosen_arm,
    executed_words,
    is_classification,
    is_reference,
    score_title,
    serve_command,
    stage_row,
)
from lissom.report.schema import Arm, Gate, ParityFigures, Report
from lissom.report.tables import Cell, Column, definition_table, table, text
from lissom.report.waterfall import changes
from lissom.report.wording import (
    ABSENT,
    NO_BREAK,
    between,
    count,
    flat,
    milliseconds,
    negated,
    percent,
    plain,
    points,
    significant,
    size,
    size_change,
    times,
)

ID_LENGTH = 16
SPLITS = ("train", "calibrate", "select", "report")
TOLD = ("rungs", "plan", "goal", "worst_layers", "timed")
"""Notes of a stage with rungs that have a section of their own."""
ABSENT_CELL = Cell(f'<span class="absent">{ABSENT}</span>')


def verdict(report: Report) -> str:
    """The answer, its figures, and the command that serves it."""
    state = "pass" if report.verdict.ok else "fail"
    warning = (
        ""
        if report.complete
        else '<p class="banner">This run is not complete: what is missing below was not measured.</p>'
    )
    return (
        f'<section class="verdict" aria-labelledby="verdict">{warning}'
        f'<p class="state {state}">{state}</p><h1 id="verdict">{escape(report.verdict.sentence)}</h1>'
        f"{_facts(report)}{_chosen(report)}</section>"
    )


def gates(report: Report) -> str:
    """One row a gate."""
    if not report.gates:
        return _nothing("No gate was evaluated.")
    columns = [Column("Gate"), Column("State"), Column("Measured"), Column("Limit"), Column("Why")]
    rows = [
        [
            text(gate.name),
            _gate_state(gate),
            text(gate.measured or ABSENT),
            text(gate.limit or ABSENT),
            text(gate.reason),
        ]
        for gate in report.gates
    ]
    return table("gates-table", "What was measured against which limit", columns, rows, stacked=True)


def remarks(report: Report) -> str:
    """What a reader should know beside the gates; nothing where there is nothing."""
    if not report.remarks:
        return ""
    items = "".join(f"<li>{escape(remark)}</li>" for remark in report.remarks)
    return f'<section aria-labelledby="remarks"><h2 id="remarks">Remarks</h2>\n<ul>{items}</ul>\n</section>'


def plot(drawing: Drawing | None, title: str, caption: str, absent: str) -> str:
    """A figure with its text alternative, or a sentence that says why it is absent."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    if drawing is None:
        return f"<figure>{heading}{_nothing(absent)}</figure>"
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure>{heading}<div class="chart" id="plot-{drawing.name}" role="img" '
        f'data-figure="data-{drawing.name}" style="height:{drawing.height}px" '
        f'aria-label="{escape(drawing.label)}"></div>{below}</figure>'
        f'<script type="application/json" id="data-{drawing.name}">{script_json(drawing.figure)}</script>'
    )


def waterfall_table(report: Report) -> str:
    """The figures of the waterfall, folded away."""
    if not report.waterfall:
        return ""
    steps = report.waterfall
    columns = [
        Column("Stage"),
        Column("Runtime"),
        *(Column(title, True) for title in ("Size", "Latency", score_title(report))),
    ]
    latency = changes("latency", [step.latency_ms for step in steps])
    accuracy = changes("accuracy", [step.accuracy for step in steps])
    sizes = changes("size", [float(step.size_bytes) for step in steps])
    rows = [
        [
            text(step.stage),
            text(step.runtime),
            Cell(size(step.size_bytes), sizes[row]),
            ABSENT_CELL if step.latency_ms is None else Cell(milliseconds(step.latency_ms), latency[row]),
            ABSENT_CELL if step.accuracy is None else Cell(percent(step.accuracy), accuracy[row]),
        ]
        for row, step in enumerate(steps)
    ]
    caption = f"Size, latency and {report.score_name} after each stage"
    inner = table("waterfall-table", caption, columns, rows)
    return f"<details><summary>The same figures as a table</summary>{inner}</details>"


def arms(report: Report) -> str:
    """One row an artifact on a runtime; the headers sort."""
    if not report.arms:
        return _nothing("No artifact was measured on any runtime.")
    columns = [
        Column("Artifact"),
        Column("Runtime"),
        Column("Size", True),
        Column("Latency", True, "median, ms"),
        Column("p99", True, "at most, ms"),
        Column("Speed-up", True, "over eager"),
        Column(score_title(report), True),
        Column("Drop", True, "points"),
        Column("Flips" if is_classification(report) else "Changed", True),
        Column("Executed", False, "operators"),
        Column("Parity", False),
        Column("Eligible"),
    ]
    rows = [_arm_row(report, arm, len(columns)) for arm in report.arms]
    marked = [row for row, arm in enumerate(report.arms) if arm.chosen]
    flips = "flips" if is_classification(report) else "changed scores"
    caption = (
        f"{score_title(report)}, drop and {flips} are of the report split; "
        "small figures below are 95 % intervals. p99 is a bound that holds with 99 % confidence, above what "
        "was seen; it takes 662 calls."
    )
    return table("arms-table", caption, columns, rows, sortable=True, marked=marked)


def stages(report: Report) -> str:
    """One row an artifact of the run."""
    if not report.stages:
        return _nothing("No stage was finished.")
    columns = [
        Column("Stage"),
        Column("Made from"),
        Column("Id"),
        Column("Format"),
        Column("Parameters", True),
        Column("Size", True),
        Column("Notes"),
    ]
    rows = [
        [
            text(row.name, row.stage if row.stage != row.name else ""),
            text(", ".join(row.parents) or ABSENT),
            Cell(f'<code title="digest {escape(row.digest)}">{escape(row.id[:ID_LENGTH])}</code>'),
            text(row.format, row.precision),
            Cell(f"{row.num_parameters:,}" if row.num_parameters is not None else ABSENT),
            Cell(size(row.size_bytes)),
            Cell(_notes(row.notes)),
        ]
        for row in report.stages
    ]
    return table("stages-table", "Artifacts in the order in which they were made", columns, rows)


def environment(report: Report) -> str:
    """The machine, the command, and the recipe."""
    found = report.environment
    groups = {"": list(flat({key: value for key, value in found.items() if not isinstance(value, Mapping)}))}
    groups |= {
        key.replace("_", " "): list(flat(value)) for key, value in found.items() if isinstance(value, Mapping)
    }
    machine = (
        definition_table("machine-table", "Machine and software", groups)
        if found
        else _nothing("Not recorded.")
    )
    recipe = yaml.safe_dump(report.recipe, sort_keys=False, allow_unicode=True)
    return (
        f"<h3>Run it again</h3>{command_box('command', shlex.join(report.command))}"
        f"<details><summary>Recipe</summary>"
        f'<pre tabindex="0" aria-label="Recipe"><code>{escape(recipe)}</code></pre></details>{machine}'
    )


def splits(report: Report) -> str:
    """The splits of the data with their hashes."""
    if not report.splits:
        return _nothing("The splits were not recorded.")
    labels = (
        f"{count(len(report.labels), 'class', 'classes')}: {', '.join(report.labels)}"
        if report.labels
        else "no labels"
    )
    columns = [Column("Split"), Column("Samples", True), Column("sha256")]
    rows = [
        [text(name), Cell(f"{row.num_samples:,}"), Cell(f"<code>{escape(row.sha256)}</code>")]
        for name, row in sorted(report.splits.items(), key=lambda split: _place(split[0]))
    ]
    caption = "Disjoint splits: nothing is calibrated or chosen on the split that it is reported on"
    return f"<p>{escape(report.data)}, {escape(labels)}.</p>{table('splits-table', caption, columns, rows)}"


def command_box(name: str, command: str) -> str:
    """A command with a button that copies it."""
    return (
        '<div class="command"><pre tabindex="0" aria-label="Command">'
        f'<code id="{name}">{escape(command)}</code></pre>'
        f'<button type="button" data-copy="{name}" hidden>Copy</button></div>'
    )


def script_json(document: str) -> str:
    r"""JSON that cannot end the script element that holds it.

    >>> script_json('{"a": "</script>"}')
    '{"a": "\\u003c/script>"}'
    """
    return document.replace("<", "\\u003c")


def _place(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _nothing(sentence: str) -> str:
    return f'<p class="nothing">{escape(sentence)}</p>'


def _facts(report: Report) -> str:
    """The figures of the verdict, large."""
    answer, arm = report.verdict, chosen_arm(report)
    facts: list[tuple[str, str, str]] = []
    if answer.speedup is not None:
        against = f"{answer.reference_artifact} on {answer.reference_runtime}, the original at its best"
        facts.append((times(answer.speedup.value), f"as fast as {against}", between(answer.speedup, times)))
    if answer.speedup_eager is not None:
        interval = between(answer.speedup_eager, times)
        facts.append(
            (times(answer.speedup_eager.value), f"as fast as {answer.reference} in torch eager", interval)
        )
    if answer.size_ratio is not None:
        resized, word = size_change(answer.size_ratio)
        facts.append((times(resized), word, _sizes(report)))
    if arm and arm.accuracy:
        drop = arm.accuracy.drop
        what, change = ("drop", drop) if drop.value >= 0 else ("gain", negated(drop))
        figure = f"{points(change.value)}{NO_BREAK}pt"
        facts.append((figure, f"{what} in {report.score_name}", between(change, points)))
    items = "".join(
        f"<li><strong>{escape(figure)}</strong> <span>{escape(what)}</span> "
        f"<small>{escape(below)}</small></li>"
        for figure, what, below in facts
    )
    return f'<ul class="facts">{items}</ul>' if items else ""


def _sizes(report: Report) -> str:
    before, after = (stage_row(report, name) for name in (report.verdict.reference, report.verdict.artifact))
    return f"{size(before.size_bytes)} to {size(after.size_bytes)}" if before and after else ""


def _chosen(report: Report) -> str:
    command, answer = serve_command(report), report.verdict
    if command is None:
        why = (
            ' The column “Eligible” of the <a href="#arms">table of arms</a> says why.' if report.arms else ""
        )
        return f'<p class="choice">Nothing was chosen, so there is nothing to serve.{why}</p>'
    row = stage_row(report, answer.artifact)
    details = f", {row.format} in {row.precision}, {row.id[:ID_LENGTH]}" if row else ""
    name = " on ".join(word for word in (answer.artifact, answer.runtime) if word)
    return (
        f'<p class="choice">Chosen: <strong>{escape(name)}</strong>{escape(details)}. Serve it:</p>'
        f"{command_box('serve', command)}"
    )


def _gate_state(gate: Gate) -> Cell:
    allowed = "allowed by --allow" if gate.allowed else ""
    return Cell(f'<span class="state {gate.state}">{gate.state}</span>', allowed, gate.state)


def _arm_row(report: Report, arm: Arm, num_columns: int) -> list[Cell]:
    role = "chosen" if arm.chosen else "reference" if is_reference(report, arm) else ""
    badge = f'<span class="badge">{role}</span>' if role else ""
    first = [Cell(escape(arm.artifact), badge, arm.artifact.casefold()), text(arm.runtime, arm.version)]
    if arm.error is not None:
        error = f'<span class="state fail">not measured</span> {escape(arm.error)}'
        return [*first, Cell(error, span=num_columns - len(first))]
    row, speedup = stage_row(report, arm.artifact), arm.speedup_eager
    return [
        *first,
        Cell(size(row.size_bytes), key=row.size_bytes) if row else ABSENT_CELL,
        _latency_cell(arm),
        _bound_cell(arm),
        Cell(times(speedup.value), between(speedup, times), speedup.value) if speedup else ABSENT_CELL,
        *_accuracy_cells(report, arm),
        text(executed_words(arm), f"asked:{NO_BREAK}{arm.precision_requested}"),
        _parity_cell(arm.parity),
        _eligible_cell(arm),
    ]


def _eligible_cell(arm: Arm) -> Cell:
    word = "yes" if arm.eligible else "no"
    return Cell(f'<span class="state {word}">{word}</span>', escape(arm.reason), word)


def _latency_cell(arm: Arm) -> Cell:
    if arm.latency is None:
        return ABSENT_CELL
    median = arm.latency.median_ms
    return Cell(significant(median.value), between(median), median.value)


def _bound_cell(arm: Arm) -> Cell:
    found = arm.latency.percentile(0.99) if arm.latency else None
    if found is None or found.bound_ms is None:
        return ABSENT_CELL
    return Cell(significant(found.bound_ms), f"seen {significant(found.value_ms)}", found.bound_ms)


def _accuracy_cells(report: Report, arm: Arm) -> tuple[Cell, Cell, Cell]:
    if arm.accuracy is None:
        return ABSENT_CELL, ABSENT_CELL, ABSENT_CELL
    found = arm.accuracy
    lost, gained = ("lost", "gained") if is_classification(report) else ("fell", "rose")
    return (
        Cell(percent(found.report), key=found.report),
        Cell(points(found.drop.value), between(found.drop, points), found.drop.value),
        Cell(
            f"{found.num_flipped:,}",
            f"{found.num_lost:,} {lost}, {found.num_gained:,} {gained}",
            found.num_flipped,
        ),
    )


def _parity_cell(parity: ParityFigures | None) -> Cell:
    if parity is None:
        return Cell(f'<span class="absent" title="not a converted artifact">{ABSENT}</span>')
    word = "pass" if parity.passed else "fail"
    noise = f", {parity.sqnr_db:.0f}{NO_BREAK}dB" if parity.sqnr_db is not None else ""
    below = f"{percent(parity.top1_agreement)}{NO_BREAK}agree{noise}"
    hint = escape(f"against {parity.against}; limit: {parity.limit}")
    return Cell(f'<span class="state {word}" title="{hint}">{word}</span>', escape(below), word)


def _notes(notes: Mapping[str, object]) -> str:
    """Short notes in a line, long ones folded; without those that a section tells."""
    notes = {key: value for key, value in notes.items() if not ("rungs" in notes and key in TOLD)}
    short = {key: value for key, value in notes.items() if len(plain(value, key)) <= 80}
    line = ", ".join(
        f"{escape(key.replace('_', ' '))} {escape(plain(value, key))}" for key, value in short.items()
    )
    rest = {key: value for key, value in notes.items() if key not in short}
    if not rest:
        return line or ABSENT
    words = ", ".join(key.replace("_", " ") for key in rest)
    content = json.dumps(rest, indent=1, ensure_ascii=False, default=str)
    code = f'<pre tabindex="0" aria-label="{escape(words)}"><code>{escape(content)}</code></pre>'
    return f"{line}<details><summary>{escape(words)}</summary>{code}</details>"
