"""The report as Markdown, made to be pasted into a pull request."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from lissom.report.harm_section import SHARE_HEADER, certainty_told, share_rows
from lissom.report.harm_section import told as harm_told
from lissom.report.layers_section import (
    LAYER_HEADER,
    layer_rows,
    layers_told,
    operators_changed,
    watching_told,
)
from lissom.report.metrics import compared_arms, figure, metric_names
from lissom.report.pair_section import BATCH_HEADER, LOAD_HEADER, batch_rows, load_rows, load_told
from lissom.report.reading import (
    bound_words,
    executed_words,
    is_classification,
    is_reference,
    serve_command,
    stage_row,
)
from lissom.report.resources_section import resource_rows
from lissom.report.roof_section import ROOF_HEADER, roof_rows, roof_told
from lissom.report.rungs import (
    best_row,
    best_word,
    climbed_stages,
    columns_of,
    engines_told,
    figures_of,
    operators_told,
    told,
    trials_of,
)
from lissom.report.schema import Arm, Report, StageRow
from lissom.report.waterfall import changes
from lissom.report.wording import (
    ABSENT,
    between,
    flat,
    metric_title,
    milliseconds,
    moment,
    percent,
    points,
    significant,
    size,
    times,
)

_SPECIAL = re.compile(r"([\\`*_\[\]|~])")
_LONGEST_VALUE = 200
_UNITS = {"Drop": "drop, points", "SQNR": "SQNR"}


def markdown_from_report(report: Report) -> str:
    """Verdict, gates, arms, waterfall, hardware and command."""
    scores = "accuracies are" if is_classification(report) else f"{inline(report.score_name)} is"
    verdict = "PASS" if report.verdict.ok else "FAIL"
    serve = serve_command(report)
    parts = [
        f"## {inline(report.name)}: {verdict}",
        f"**{inline(report.verdict.sentence)}**",
        "" if report.complete else "This run is not complete: what is missing was not measured.",
        "Nothing was chosen." if serve is None else _fenced(serve),
        _section("Gates", _gates(report), "No gate was evaluated."),
        _section("Remarks", _remarks(report), "") if report.remarks else "",
        _section("Arms", _arms(report), "Nothing was measured."),
        _section("To begin", _resources(report), "Nothing was measured."),
        _section("Metrics on the report split", _metrics(report), "Nothing was measured."),
        _section("What each stage did", _waterfall(report), "No stage was finished."),
        *(
            _section(f"Quantization: {inline(row.name)}", _rungs(report, row), "")
            for row in climbed_stages(report)
        ),
        _harm(report),
        _section("By batch size and load", _pair(report), "") if report.batches or report.load else "",
        _section("Where the time goes", _layers(report), "") if report.layers or roof_rows(report) else "",
        _section("Hardware and libraries", _hardware(report), "Not recorded."),
        f"### Command\n\n{_fenced(shlex.join(report.command))}",
        f"lissom {inline(report.lissom)}, {inline(moment(report.created))}. "
        f"Times are medians of interleaved rounds, intervals are 95 %, {scores} of the report split, "
        "speed-up is over the reference on torch eager.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def inline(text: str) -> str:
    r"""`text` on one line, with nothing in it that Markdown or HTML would read.

    >>> inline("a|b <i>_x_"), inline("two\nlines")
    ('a\\|b &lt;i>\\_x\\_', 'two lines')
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\1", text)


def _gates(report: Report) -> str:
    rows = [
        (
            inline(gate.name),
            gate.state + (" (allowed)" if gate.allowed else ""),
            *map(inline, (gate.measured, gate.limit, gate.reason)),
        )
        for gate in report.gates
    ]
    return _table(("gate", "state", "measured", "limit", "why"), rows)


def _remarks(report: Report) -> str:
    return "\n".join(f"- {inline(remark)}" for remark in report.remarks)


def _arms(report: Report) -> str:
    header = (
        "artifact",
        "runtime",
        "size",
        "median ms",
        "p99 ms, at most",
        "speed-up",
        inline(report.score_name),
        "drop, points",
        "flips" if is_classification(report) else "changed",
        "executed",
        "eligible",
    )
    return _table(header, [_arm(report, arm) for arm in report.arms], numeric=range(2, 9))


def _arm(report: Report, arm: Arm) -> tuple[str, ...]:
    role = " (chosen)" if arm.chosen else " (reference)" if is_reference(report, arm) else ""
    name = f"**{inline(arm.artifact)}**{role}" if arm.chosen else f"{inline(arm.artifact)}{role}"
    if arm.error is not None:
        return (name, inline(arm.runtime), *[ABSENT] * 8, f"not measured: {inline(arm.error)}")
    row, speedup, latency, found = (
        stage_row(report, arm.artifact),
        arm.speedup_eager,
        arm.latency,
        arm.accuracy,
    )
    return (
        name,
        inline(arm.runtime),
        size(row.size_bytes) if row else ABSENT,
        f"{significant(latency.median_ms.value)} ({between(latency.median_ms)})" if latency else ABSENT,
        bound_words(latency.percentile(0.99)) if latency else ABSENT,
        times(speedup.value) if speedup else ABSENT,
        percent(found.report) if found else ABSENT,
        f"{points(found.drop.value)} ({between(found.drop, points)})" if found else ABSENT,
        f"{found.num_flipped:,}" if found else ABSENT,
        inline(executed_words(arm)),
        "yes" if arm.eligible else f"no: {inline(arm.reason)}",
    )


def _resources(report: Report) -> str:
    header, rows = resource_rows(report)
    return _table(header, [tuple(map(inline, row)) for row in rows], range(2, len(header))) if rows else ""


def _harm(report: Report) -> str:
    """Empty where answers are no classes, or the reference itself was chosen."""
    from lissom.report.harm import harm_of

    found = harm_of(report)
    if found is None:
        return ""
    parts = [inline(harm_told(found)), inline(certainty_told(found))]
    for title, shares in (("class", found.classes), ("group", found.groups)):
        rows = [tuple(map(inline, row)) for row in share_rows(shares[:20])]
        parts += [_table((title, *SHARE_HEADER[1:]), rows, range(1, 8))] if rows else []
    content = "\n\n".join(part for part in parts if part)
    return _section("Who is harmed", content, "")


def _pair(report: Report) -> str:
    parts = []
    if report.batches:
        parts += [_table(BATCH_HEADER, [tuple(map(inline, row)) for row in batch_rows(report)], range(2, 6))]
    if report.load:
        parts += [inline(load_told(report))]
        parts += [_table(LOAD_HEADER, [tuple(map(inline, row)) for row in load_rows(report)], range(2, 6))]
    return "\n\n".join(parts)


def _layers(report: Report) -> str:
    parts, roof = [], roof_rows(report)
    if report.layers:
        told_of = (layers_told(report.layers), operators_changed(report.layers), watching_told(report))
        parts += [inline(" ".join(part for part in told_of if part))]
        rows = [tuple(map(inline, row)) for row in layer_rows(report.layers)]
        parts += [_table(LAYER_HEADER, rows, range(3, 6))]
    if roof:
        parts += [inline(roof_told(report))]
        parts += [_table(ROOF_HEADER, [tuple(map(inline, row)) for row in roof], range(3, 6))]
    return "\n\n".join(parts)


def _waterfall(report: Report) -> str:
    steps = report.waterfall
    sizes = changes("size", [float(step.size_bytes) for step in steps])
    latencies = changes("latency", [step.latency_ms for step in steps])
    accuracies = changes("accuracy", [step.accuracy for step in steps])
    rows = [
        (
            inline(step.stage),
            inline(step.runtime),
            _with_change(size(step.size_bytes), sizes[row]),
            ABSENT
            if step.latency_ms is None
            else _with_change(milliseconds(step.latency_ms), latencies[row]),
            ABSENT if step.accuracy is None else _with_change(percent(step.accuracy), accuracies[row]),
        )
        for row, step in enumerate(steps)
    ]
    header = ("stage", "runtime", "size", "latency", inline(report.score_name))
    return _table(header, rows, numeric=range(2, 5))


def _rungs(report: Report, row: StageRow) -> str:
    trials = trials_of(report, row)
    best, word, titles = best_row(trials), best_word(row.notes), columns_of(report, trials)
    rows = [
        (
            inline(trial.title),
            inline(trial.what) or ABSENT,
            *figures_of(trial),
            f"**kept** ({word})" if place == best else "kept" if trial.kept else "taken back",
        )
        for place, trial in enumerate(trials)
    ]
    named = (_UNITS.get(title) or inline(title.lower()) for title in titles)
    figures = _table(("rung", "what", *named, "outcome"), rows, numeric=range(2, 2 + len(titles)))
    sentences = (
        inline(told(report, row)),
        inline(engines_told(report, row)),
        inline(operators_told(row.notes)),
        figures,
    )
    return "\n\n".join(part for part in sentences if part)


def _metrics(report: Report) -> str:
    arms = compared_arms(report)
    rows = [
        (inline(metric_title(name)), *(figure(arm.metrics.get(name)) for arm in arms.values()))
        for name in metric_names(arms.values())
    ]
    titles = [f"{role}: {inline(arm.artifact)} on {inline(arm.runtime)}" for role, arm in arms.items()]
    return _table(("metric", *titles), rows, numeric=range(1, len(titles) + 1))


def _with_change(text: str, difference: str) -> str:
    return f"{text} ({difference})" if difference else text


def _hardware(report: Report) -> str:
    return "\n".join(
        f"- {inline(key)}: {inline(value)}"
        for key, value in flat(report.environment)
        if len(value) <= _LONGEST_VALUE
    )


def _section(title: str, content: str, absent: str) -> str:
    return f"### {title}\n\n{content or absent}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    if not rows:
        return ""
    rule = ["---:" if column in numeric else "---" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _fenced(command: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"
