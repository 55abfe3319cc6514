"""The section “Exemplars over N seeds”: samples and classes that compression changes in most trainings."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from lissom.report.drawing import Drawing, Row, draw_rows, light, linear_axis
from lissom.report.harm_section import KEYS, chance, extremes, sample_shown
from lissom.report.schema import Flip, Report
from lissom.report.sections import plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import count, listed, percent, points, shortened

if TYPE_CHECKING:
    from lissom.report.exemplars import Exemplar, Exemplars, Impact

MOST_PICTURES = 24
LINK = '<a href="#exemplars">Exemplars</a> '


def section(runs: Sequence[Report], found: Exemplars | None) -> str:
    """Empty where too few seeds answered.

    Args:
        runs: Give the pictures and texts.
        found: What `lissom.report.exemplars` finds in them.
    """
    if found is None:
        return ""
    parts = [
        f"<p>{escape(told(found))}</p>",
        _parts(found),
        _gallery(runs, found),
        _exemplars(found),
        f"<h3>Classes that lost more than the average</h3><p>{escape(classes_told(found))}</p>",
        _classes(found),
    ]
    inner = "\n".join(part for part in parts if part)
    title = f"Exemplars over {count(len(found.seeds), 'seed')}"
    return f'<section aria-labelledby="exemplars"><h2 id="exemplars">{title}</h2>\n{inner}\n</section>'


def advice(runs: Sequence[Report], least: int) -> str:
    """What to type for the section, in a quiet sentence; empty where it is there, or cannot be.

    Args:
        runs: Those of one recipe under different seeds.
        least: Seeds that the section takes.
    """
    if not runs or len(runs) >= least:
        return ""
    newest = runs[-1]
    recipe = next((word for word in newest.command if word.endswith((".yaml", ".yml"))), "recipes/x.yaml")
    seed = max(int(run.recipe.get("seed", 0)) for run in runs) + 1
    words = ("lissom", "run", recipe, "--set", f"seed={seed}", "--out", f"runs/{newest.name}-{seed}")
    return (
        f'<p class="note">Which answers compression changes in most trainings is told from {least} seeds of '
        f"one recipe on; here {'are' if len(runs) > 1 else 'is'} {len(runs)}. Another: "
        f"<code>{escape(shlex.join(words))}</code></p>"
    )


def told(found: Exemplars) -> str:
    """How many exemplars there are, and how many samples have no modal answer, in sentences."""
    number, tied = len(found.found), found.num_tied
    share = f" ({percent(number / found.num_samples)})" if number else ""
    said = (
        f"{number:,} of {count(found.num_samples, 'sample')}{share} "
        f"{'is an exemplar' if number == 1 else 'are exemplars'}: the answer that the {len(found.seeds)} "
        "chosen models give most often is not the one that their references do."
    )
    if not tied:
        return said
    have, are = ("has", "it is") if tied == 1 else ("have", "they are")
    why = f"{have} no such answer, since two are given as often; {are} counted with the others."
    return f"{said} {count(tied, 'sample')} {why}"


def classes_told(found: Exemplars) -> str:
    """Which classes surely lost more than the average, in a sentence."""
    hit = [one.name for one in found.classes if one.is_hit]
    if hit:
        named = listed([shortened(name, 24) for name in hit[:6]])
        return (
            f"{count(len(hit), 'class', 'classes')} surely lost more than the average: {named}"
            f"{' and others' * (len(hit) > 6)}."
        )
    worst = found.classes[0]
    most = f"; the largest loss beyond it is {points(-worst.change)} points, of {shortened(worst.name, 24)}"
    return (
        f"None of {count(len(found.classes), 'class', 'classes')} surely lost more than the average"
        f"{most * (worst.change < 0)}."
    )


def draw_classes(found: Exemplars) -> Drawing:
    """Recall less accuracy, points, of the classes that lost most beyond the average and that gained most."""
    shown = extremes(found.classes)
    rows = [
        Row(
            f"{shortened(one.name, 32)} · {one.num_samples:,}{' · hit' * one.is_hit}",
            100 * one.before,
            100 * one.after,
            (100 * one.spread[0], 100 * one.spread[1]),
        )
        for one in shown
    ]
    ends = [0.0, *(end for row in rows for end in (row.before, *row.line))]
    free = 0.04 * (max(ends) - min(ends)) or 1.0
    span = [min(ends) - free, max(ends) + free]
    average = {"zeroline": True, "zerolinecolor": light("mute"), "zerolinewidth": 1}
    axis = linear_axis("recall less accuracy, points", range=span, nticks=6, **average)
    label = "Recall less accuracy before and after: " + "; ".join(
        f"{one.name} {points(one.before, signed=True)} and {points(one.after, signed=True)} points"
        for one in shown[:10]
    )
    return draw_rows("exemplar-classes", rows, axis, label)


def _parts(found: Exemplars) -> str:
    columns = [
        Column("Accuracy on"),
        *(Column(title, True) for title in ("Reference", "Chosen")),
        Column("Change", True, "points"),
    ]
    rows = [
        [
            text(name, count(part.num_samples, "sample")),
            Cell(percent(part.before)),
            Cell(percent(part.after)),
            Cell(points(part.after - part.before, signed=True)),
        ]
        for name, part in (("exemplars", found.part), ("all others", found.others))
        if part
    ]
    seeds = listed([*(f"{seed}" for seed in found.seeds[:12]), *["others"] * (len(found.seeds) > 12)])
    return table("exemplar-parts-table", f"Mean over the seeds {seeds}", columns, rows)


def _gallery(runs: Sequence[Report], found: Exemplars) -> str:
    kept: dict[int, Flip] = {}
    for run in runs:
        kept |= {flip.place: flip for flip in run.predictions.flips if flip.picture or flip.text}
    shown = [one for one in found.found if one.place in kept][:MOST_PICTURES]
    if not shown:
        return ""
    items = "".join(_item(one, kept[one.place], len(found.seeds)) for one in shown)
    return (
        f"<h3>Exemplars</h3><p>{len(shown)} of {len(found.found):,}, as far as a run kept the picture or "
        f'text: those on which most models moved first.</p><ul class="flips">{items}</ul>'
    )


def _item(one: Exemplar, flip: Flip, num_seeds: int) -> str:
    return (
        f"<li>{sample_shown(flip, one.truth)}<span><strong>{escape(one.truth)}</strong><br>"
        f"{escape(one.before)} in {one.num_before} → {escape(one.after)} in {one.num_after}<br>"
        f"{one.num_moved} of {num_seeds} moved</span></li>"
    )


def _exemplars(found: Exemplars) -> str:
    if not found.found:
        return ""
    columns = [
        Column("True"),
        Column("Before"),
        Column("After"),
        Column("Moved", True, f"of {count(len(found.seeds), 'seed')}"),
        Column("Sample", True),
    ]
    rows = [
        [
            text(one.truth),
            text(one.before, f"in {one.num_before}"),
            text(one.after, f"in {one.num_after}"),
            Cell(f"{one.num_moved}", key=float(one.num_moved)),
            Cell(f"{one.place:,}", key=float(one.place)),
        ]
        for one in found.found
    ]
    inner = table("exemplars-table", "Those on which most models moved first", columns, rows, sortable=True)
    return f"<details><summary>Every exemplar as a table</summary>{inner}</details>"


def _classes(found: Exemplars) -> str:
    caption = (
        f"{KEYS}Recall of each class less the accuracy of the model, mean over the seeds; the thin line "
        "reaches from the lowest to the highest seed of the chosen models, the number is that of samples. A "
        "class is called hit when it lost and Welch’s t test over the seeds, adjusted by Holm’s method for "
        "how many classes are asked, is below 0.05."
    )
    columns = [
        Column("Class"),
        Column("Samples", True),
        Column("Before", True, "recall"),
        Column("After", True, "recall"),
        Column("Beyond the average", True, "points"),
        Column("p", True),
    ]
    rows = [_class_row(one) for one in found.classes]
    inner = table(
        "exemplar-classes-table",
        "Those that lost most beyond the average first",
        columns,
        rows,
        sortable=True,
    )
    folded = f"<details><summary>Every class as a table</summary>{inner}</details>"
    return f"{plot(draw_classes(found), '', caption, '')}{folded}"


def _class_row(one: Impact) -> list[Cell]:
    return [
        text(one.name, "hit" if one.is_hit else ""),
        Cell(f"{one.num_samples:,}", key=float(one.num_samples)),
        *(Cell(percent(recall), key=recall) for recall in one.recall),
        Cell(points(one.change, signed=True), key=one.change),
        Cell(chance(one.p_value).removeprefix("p ").removeprefix("= "), key=one.p_value),
    ]
