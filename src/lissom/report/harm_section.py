"""The section “Who is harmed”: classes and groups that lost, what is confused now, flips, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from lissom.report.drawing import (
    Drawing,
    Row,
    draw_rows,
    figure_json,
    light,
    linear_axis,
)
from lissom.report.marking import marked
from lissom.report.reading import arm_name
from lissom.report.schema import Flip, Report
from lissom.report.sections import plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import (
    MINUS,
    NO_BREAK,
    count,
    listed,
    percent,
    points,
    shortened,
    significant,
)

if TYPE_CHECKING:
    from lissom.report.harm import Calibration, Harm, Share

Ranked = TypeVar("Ranked")

MOST_ROWS, MOST_CONFUSIONS = 16, 20
KEYS = (
    '<span class="keys"><span class="key mute">reference</span><span class="key accent">chosen</span></span>'
)
SHARE_HEADER = ("", "samples", "before", "after", "change, points", "lost", "gained", "p")


def section(report: Report, found: Harm | None) -> str:
    """Empty where answers are no classes, or the reference itself was chosen.

    Args:
        report: Gives the samples that flipped.
        found: What `lissom.report.harm` finds in it.
    """
    if found is None:
        return ""
    parts = [
        f"<p>{escape(told(found))}</p>",
        _classes(found),
        _groups(found),
        _confusions(found),
        _certainty(found),
        _gallery(report, found),
    ]
    inner = "\n".join(part for part in parts if part)
    return f'<section aria-labelledby="harm"><h2 id="harm">Who is harmed</h2>\n{inner}\n</section>'


def told(found: Harm) -> str:
    """How many answers changed, which classes surely lost, and how far probabilities moved, in sentences."""
    harmed = [one.name for one in found.classes if one.is_harmed]
    share = f"{percent(found.changed)} of {found.num_samples:,} samples"
    who = f"{arm_name(found.after)} answers {share} otherwise"
    changed = f"{found.lost:,} answers became wrong and {found.gained:,} right"
    flipped = f"{who} than {arm_name(found.before)}: {changed} (McNemar {chance(found.p_value)})."
    several = f"{listed([shortened(name, 24) for name in harmed[:6]])}{' and others' * (len(harmed) > 6)}"
    classes = (
        f"{count(len(harmed), 'class', 'classes')} surely lost: {several}."
        if harmed
        else f"None of {count(len(found.classes), 'class', 'classes')} surely lost{_worst(found.classes[0])}."
    )
    return f"{flipped} {classes}"


def _worst(one: Share) -> str:
    lost = f"; the largest loss is {points(-one.change)} points, of {shortened(one.name, 24)}"
    return lost if one.change < 0 else ""


def certainty_told(found: Harm) -> str:
    """Calibration before and after, and the divergence; empty where probabilities are unknown."""
    sentences = []
    if found.calibration:
        before, after = found.calibration
        sentences.append(
            f"Expected calibration error {percent(before.error)} before and {percent(after.error)} after."
        )
    if found.kl:
        mean, high, most = found.kl
        sentences.append(
            f"Divergence from the reference: {significant(mean)} nats a sample, {significant(high)} for one "
            f"in twenty, {significant(most)} at most."
        )
    return " ".join(sentences)


def share_rows(shares: Sequence[Share]) -> list[tuple[str, ...]]:
    """A row a part, as plain text."""
    return [
        (
            one.name,
            f"{one.num_samples:,}",
            percent(one.before),
            f"{percent(one.after)} ({percent(one.interval[0])} to {percent(one.interval[1])})",
            points(one.change, signed=True),
            f"{one.lost:,}",
            f"{one.gained:,}",
            chance(one.p_value).removeprefix("p ").removeprefix("= "),
        )
        for one in shares
    ]


def chance(p_value: float) -> str:
    """A p-value; beyond four digits it says no more."""
    return "p < 0.0001" if p_value < 1e-4 else f"p = {significant(p_value)}"


def draw_classes(found: Harm) -> Drawing:
    """Right answers of the classes that lost most, and of those that gained most."""
    shown = extremes(found.classes)
    rows = [
        Row(
            f"{shortened(one.name, 32)} · {one.num_samples:,}{' · harmed' * one.is_harmed}",
            one.before,
            one.after,
            one.interval,
        )
        for one in shown
    ]
    low = min(min(one.before, one.interval[0]) for one in shown)
    axis = linear_axis("right answers", range=[max(0.0, low - 0.03), 1.01], tickformat=".0%", nticks=6)
    label = "Right answers before and after: " + "; ".join(
        f"{one.name} {percent(one.before)} and {percent(one.after)}" for one in shown[:10]
    )
    return draw_rows("harm-classes", rows, axis, label)


def draw_calibration(found: Harm) -> Drawing | None:
    """How often answers are right by how sure the model is; None where probabilities are unknown."""
    if found.calibration is None:
        return None
    before, after = found.calibration
    axis = {"range": [0, 1.02], "tickformat": ".0%", "nticks": 6}
    layout = {
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "xaxis": linear_axis("sure of the answer", **axis),
        "yaxis": linear_axis("right", **axis),
    }
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": [0, 1],
        "line": {"color": light("pale"), "width": 1},
        "hoverinfo": "skip",
    }
    traces = [diagonal, _curve(before, "mute"), _curve(after, "accent")]
    return Drawing("harm-calibration", figure_json(traces, layout), 320, certainty_told(found))


def extremes(ordered: Sequence[Ranked]) -> list[Ranked]:
    """The first of a sequence, and, where not all have room, a few of its last."""
    if len(ordered) <= MOST_ROWS:
        return list(ordered)
    return [*ordered[: MOST_ROWS - 4], *ordered[-4:]]


def _classes(found: Harm) -> str:
    caption = (
        f"{KEYS}Share of right answers of each class, those that lost most first; the thin line is Wilson’s "
        "95 % interval of the chosen arm, the number that of samples. A class is called harmed when "
        "McNemar’s exact test, adjusted by Holm’s method for how many classes are asked, is below 0.05."
    )
    inner = _share_table(found.classes, "harm-classes-table", "Class", "Those that lost most first")
    folded = f"<details><summary>Every class as a table</summary>{inner}</details>"
    return f"{plot(draw_classes(found), '', caption, '')}{folded}"


def _groups(found: Harm) -> str:
    if not found.groups:
        return ""
    heading = "<h3>Groups</h3>"
    return heading + _share_table(found.groups, "harm-groups-table", "Group", "Right answers by group")


def _share_table(shares: Sequence[Share], name: str, title: str, caption: str) -> str:
    columns = [Column(title), *(Column(word.capitalize(), True) for word in SHARE_HEADER[1:])]
    keys = [
        (one.num_samples, one.before, one.after, one.change, one.lost, one.gained, one.p_value)
        for one in shares
    ]
    rows = [
        [
            text(row[0], "harmed" if one.is_harmed else ""),
            *(Cell(cell, key=float(key)) for cell, key in zip(row[1:], own, strict=True)),
        ]
        for row, one, own in zip(share_rows(shares), shares, keys, strict=True)
    ]
    return table(name, caption, columns, rows, sortable=True)


def _confusions(found: Harm) -> str:
    if not found.confusions:
        return "<p>No kind of wrong answer is surely given more or less often.</p>"
    columns = [
        Column("True"),
        Column("Answer"),
        Column("Before", True),
        Column("After", True),
        Column("", True),
    ]
    rows = [
        [
            text(one.truth),
            text(one.answer),
            Cell(f"{one.before:,}"),
            Cell(f"{one.after:,}"),
            Cell(f"{one.after - one.before:+,}".replace("-", MINUS)),
        ]
        for one in found.confusions[:MOST_CONFUSIONS]
    ]
    caption = "Wrong answers that are surely given more or less often, in view of how many kinds there are"
    return f"<h3>What is confused now</h3>{table('harm-confusion-table', caption, columns, rows)}"


def _certainty(found: Harm) -> str:
    sentence = certainty_told(found)
    if not sentence:
        return ""
    caption = (
        f"{KEYS}Answers in bins by how sure the model is of them. On the thin line it is right as often as "
        "it is sure; below it is too sure."
    )
    drawing = draw_calibration(found)
    figure = plot(drawing, "", caption, "") if drawing else ""
    return f"<h3>How sure it is</h3><p>{escape(sentence)}</p>{figure}"


def _gallery(report: Report, found: Harm) -> str:
    flips = [flip for flip in report.predictions.flips if flip.picture or flip.text]
    if not flips:
        return ""
    names = [f"{arm.artifact}/{arm.runtime}" for arm in (found.before, found.after)]
    items = "".join(_flip(report, flip, names) for flip in flips)
    shown = f"{len(flips):,} of {found.lost + found.gained:,}"
    return (
        f"<h3>Answers that flipped</h3><p>{escape(shown)}: those that became wrong first, by how much the "
        f'probability of the truth fell.{_legend(flips)}</p><ul class="flips">{items}</ul>'
    )


def _legend(flips: Sequence[Flip]) -> str:
    """How maps are read, where there are some."""
    if not any(flip.before_map or flip.before_weights for flip in flips):
        return ""
    return (
        " Orange speaks for the answer that was given, blue against it: of the reference first, then of the "
        "chosen model (parts of the input covered one by one)."
    )


def _flip(report: Report, flip: Flip, names: Sequence[str]) -> str:
    told = report.predictions
    truth = _label(report, told.labels[flip.place])
    answers = [_label(report, told.arms[name][flip.place]) for name in names]
    sure = [
        f" {percent(told.certainty[name].confidence[flip.place])}" if name in told.certainty else ""
        for name in names
    ]
    became = "right" if answers[1] == truth else "wrong"
    shown = sample_shown(flip, truth) + _maps(flip, answers)
    return (
        f"<li>{shown}<span><strong>{escape(truth)}</strong> became {became}<br>"
        f"{escape(answers[0])}{sure[0]} → {escape(answers[1])}{sure[1]}</span></li>"
    )


def _maps(flip: Flip, answers: Sequence[str]) -> str:
    """What both answers hang on, over the picture; nothing where that is unknown."""
    return "".join(
        f'<img src="{escape(url)}" alt="What speaks for {escape(answer)} {when}">'
        for url, answer, when in zip(
            (flip.before_map, flip.after_map), answers, ("before", "after"), strict=True
        )
        if url
    )


def sample_shown(flip: Flip, truth: str) -> str:
    """The picture of a sample, or its text as it begins."""
    if flip.picture:
        return f'<img src="{escape(flip.picture)}" alt="Sample {flip.place}: {escape(truth)}">'
    shown = len(flip.text or "")
    sides = [weights for weights in (flip.before_weights, flip.after_weights) if len(weights) == shown > 0]
    texts = [marked(list(flip.text or ""), weights) for weights in sides] or [escape(flip.text or "")]
    return "".join(f"<blockquote>{one}</blockquote>" for one in texts)


def _label(report: Report, index: float) -> str:
    place = int(index)
    return report.labels[place] if place < len(report.labels) else str(place)


def _curve(found: Calibration, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [one.confidence for one in found.bins],
        "y": [one.right for one in found.bins],
        "line": {"color": light(colour), "width": 2},
        "marker": {"size": 7, "opacity": 1, "color": light(colour)},
        "hovertext": [f"{one.num_samples:,}{NO_BREAK}samples" for one in found.bins],
        "hoverinfo": "text",
    }
