"""The page of a report: one HTML file that works offline, on a phone, by keyboard, in light and dark.

`html_from_report` and `markdown_from_report` are pure functions of the report.
"""

from __future__ import annotations

from html import escape

from lissom.report import harm_section, layers_section, pair_section, rungs_section, sections
from lissom.report.confusion import draw_confusion
from lissom.report.distribution import draw_distribution, draw_tail
from lissom.report.figures import draw_pareto, split_scale
from lissom.report.frame import filled, framed
from lissom.report.glossary import drop_explained
from lissom.report.markdown import markdown_from_report
from lissom.report.metrics import every_metric_table, metrics_table
from lissom.report.reading import (
    arm_name,
    chosen_arm,
    is_classification,
    measured_points,
    reference_arm,
    score_title,
)
from lissom.report.resources_section import resources
from lissom.report.schema import Report
from lissom.report.waterfall import draw_accuracy_steps, draw_latency_steps, draw_size_steps
from lissom.report.wording import moment, percent

__all__ = ["html_from_report", "markdown_from_report"]


def html_from_report(report: Report) -> str:
    """The whole page."""
    title = f"{escape(report.name)}: {'pass' if report.verdict.ok else 'fail'} · lissom report"
    return framed(_body(report), title=title, skip="Skip to the verdict")


def _body(report: Report) -> str:
    from lissom.report.harm import harm_of  # with scipy, which importing the pages need not

    harm, layers = harm_section.section(report, harm_of(report)), layers_section.section(report)
    load = pair_section.section(report)
    return filled(
        "page.html",
        name=escape(report.name),
        created=escape(report.created),
        when=escape(moment(report.created)),
        version=escape(report.lissom),
        verdict=sections.verdict(report),
        gates=sections.gates(report),
        remarks=sections.remarks(report),
        pareto=_pareto(report),
        waterfall=_waterfall(report),
        arms=sections.arms(report),
        resources=resources(report),
        metrics=_metrics(report),
        score=escape(report.score_name),
        score_title=escape(score_title(report)),
        drop=drop_explained(report),
        distribution=_distribution(report),
        harm=harm,
        harm_link='<a href="#harm">Who is harmed</a> ' if harm else "",
        load=load,
        load_link='<a href="#load">Load</a> ' if load else "",
        layers=layers,
        layers_link='<a href="#layers">Where the time goes</a> ' if layers else "",
        quantization=rungs_section.section(report),
        quantization_link=rungs_section.link(report),
        stages=sections.stages(report),
        environment=sections.environment(report),
        splits=sections.splits(report),
        measurement=escape(report.measurement),
    )


def _pareto(report: Report) -> str:
    better = "more accurate" if is_classification(report) else "better"
    keys = _keys(
        ("accent", "chosen"),
        ("soft", f"on the front: no arm is both faster and {better}"),
        ("mute", "dominated"),
    )
    _, below = split_scale(found) if (found := measured_points(report)) else ([], [])
    names = ", ".join(f"{arm_name(point.arm)} ({percent(point.accuracy.report)})" for point in below)
    arrows = f" Arrows at the foot stand for arms far below: {escape(names)}." if below else ""
    caption = (
        f"{keys}Up and to the left is better. The area of a bubble is the size of the model. Thin bars are "
        "95 % intervals: across, of the median latency over the rounds; upright, of the drop against the "
        f"reference.{arrows}"
    )
    article = "an" if report.score_name[:1] in "aeiou" else "a"
    absent = f"There is no plot: no arm has both {article} {report.score_name} and a latency."
    return sections.plot(draw_pareto(report), "", caption, absent)


def _waterfall(report: Report) -> str:
    panels = "".join(
        (
            sections.plot(draw_size_steps(report), "Size", "", "No stage was finished."),
            sections.plot(draw_latency_steps(report), "Latency", "", "No latency was measured."),
            sections.plot(
                draw_accuracy_steps(report),
                score_title(report),
                "This axis does not begin at zero.",
                f"No {report.score_name} was measured.",
            ),
        )
    )
    keys = _keys(
        ("mute", "after the stage"),
        ("accent", "the chosen artifact"),
        ("pale", "made better by the stage"),
        ("warn", "made worse by the stage"),
    )
    legend = f'<p class="note">{keys}</p>' if report.waterfall else ""
    return f'<div class="panels">{panels}</div>{legend}{sections.waterfall_table(report)}'


def _metrics(report: Report) -> str:
    """The table of metrics, for few classes the confusion matrix, and the table of every arm."""
    if not any(arm.metrics for arm in report.arms):
        return '<p class="nothing">No metric was measured.</p>'
    first, drawing = metrics_table(report), draw_confusion(report)
    if drawing is None:
        return first + every_metric_table(report)
    caption = (
        "Rows are the true classes, columns the answers of the chosen arm, numbers are samples. Off the "
        "diagonal a cell is the redder, the larger its share of the true class; point at one to compare it "
        "with the reference."
    )
    matrix = sections.plot(drawing, "Which class is taken for which", caption, "")
    return f'<div class="quality">{first}{matrix}</div>{every_metric_table(report)}'


def _distribution(report: Report) -> str:
    named = (("accent", "chosen", chosen_arm(report)), ("ink", "reference", reference_arm(report)))
    keys = [(colour, f"{arm_name(arm)} ({role})") for colour, role, arm in named if arm and arm.latency]
    if len(keys) == 2 and keys[0][1].partition(" (")[0] == keys[1][1].partition(" (")[0]:
        keys.pop()
    caption = (
        f"{_keys(*keys, ('mute', 'the others'))}Every timed call of every arm; point at a line to read its "
        "name. Further left is faster, steeper is steadier, and a long flat top is a slow tail."
    )
    whole = sections.plot(
        draw_distribution(report), "", caption, "There is no plot: no latency was measured."
    )
    slow = (
        "The same calls with every further nine as far as the one before: what one call in a hundred waits, "
        "or in a thousand. A line ends at its slowest call."
    )
    return whole + sections.plot(draw_tail(report), "The tail", slow, "") if draw_tail(report) else whole


def _keys(*entries: tuple[str, str]) -> str:
    """The meaning of colours, in one line."""
    return (
        '<span class="keys">'
        + "".join(f'<span class="key {c}">{escape(text)}</span>' for c, text in entries)
        + "</span>"
    )
