"""The page of a look inside one model, or two side by side.

`html_from_dissection` is a pure function of what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from lissom.artifact import Artifact, canonical_json, write_atomic
from lissom.models.inspection import Held, Inside, Layer
from lissom.optional import version
from lissom.report.dissection import Dissection, Side, document
from lissom.report.dissection_drawings import (
    by_target,
    draw_cosines,
    draw_dead,
    draw_held,
    draw_layers,
    draw_training,
    flags,
    shown_layers,
    target_name,
)
from lissom.report.explanations import Explained, Unrelated
from lissom.report.frame import filled, framed
from lissom.report.pictures import map_picture, marked_text, overlaid, picture_of
from lissom.report.sections import ABSENT_CELL, plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import count, listed, percent, shortened, significant

JSON_FILE, HTML_FILE = "inspect.json", "inspect.html"
MOST_SHOWN = 12
"""Samples whose maps are shown."""
_METHODS = {
    "grad-cam": "Grad-CAM",
    "integrated-gradients": "Integrated gradients",
    "occlusion": "Occlusion",
}


def write_dissection(found: Dissection, folder: Path) -> None:
    """Write what was seen as JSON, and its page."""
    write_atomic(folder / JSON_FILE, canonical_json(document(found)))
    write_atomic(folder / HTML_FILE, html_from_dissection(found).encode())


def html_from_dissection(found: Dissection) -> str:
    """The whole page."""
    last, sentences = found.sides[-1].artifact, told(found)
    body = filled(
        "dissection.html",
        name=escape(_name(last)),
        kind=escape(_kind(found)),
        summary=escape(sentences[0]),
        rest=escape(" ".join(sentences[1:])),
        samples=escape(_samples(found)),
        remarks="".join(f'<p class="banner">{escape(remark)}</p>' for remark in found.remarks),
        explanations=_explanations(found),
        layers=_layers(found),
        held=_held(found),
        dead=_dead(found),
        maps=_maps(found),
        training=_training(found),
        version=escape(version("lissom")),
        machine=escape(found.machine),
    )
    title = f"Inside {escape(_name(last))} · lissom"
    return framed(body, title=title, skip="Skip to the summary")


def _name(artifact: Artifact) -> str:
    """Of the recipe and of the artifact; a file from elsewhere gives both the same."""
    recipe = artifact.manifest.recipe
    return artifact.name if artifact.name == recipe else f"{recipe}: {artifact.name}"


def told(found: Dissection) -> list[str]:
    """What matters most, in sentences: how far explanations moved, units that are dead."""
    sentences = [_moved(found, one) for one in found.explained if one.cosines is not None]
    if not sentences and found.explained:
        methods = listed([_METHODS[one.maps[0].method] for one in found.explained])
        sentences.append(f"{count(len(found.places), 'sample')} explained by {methods}.")
    last = found.sides[-1].inside
    if last is not None and last.rectifiers:
        sentences.append(dead_told(last))
    return sentences or [f"{found.sides[-1].artifact.name}, as far as it can be seen."]


def _moved(found: Dissection, one: Explained) -> str:
    assert one.cosines is not None
    known = one.cosines[np.isfinite(one.cosines)]
    if not known.size:
        return f"{_METHODS[one.maps[0].method]}: no sample has a map in both models."
    control = ""
    if one.unrelated is not None:
        control = f", {one.unrelated.cosine:.3f} between {_unrelated(one.unrelated)}"
    method, median = _METHODS[one.maps[0].method], float(np.median(known))
    what = f"{method} before and after agree with a median cosine of {median:.3f}"
    return f"{what} (lowest {known.min():.3f}{control})."


def _unrelated(found: Unrelated) -> str:
    return f"different samples {'of a class' if found.of_a_class else 'of different classes'}"


def dead_told(inside: Inside) -> str:
    """How many units are dead, as a sentence."""
    dead = sum(one.num_dead for one in inside.rectifiers)
    units = sum(one.num_units for one in inside.rectifiers)
    return (
        f"{dead:,} of {units:,} units behind rectifiers are dead for {count(inside.num_samples, 'sample')}."
    )


def _kind(found: Dissection) -> str:
    words = [
        f"{side.artifact.manifest.format}, {side.artifact.manifest.precision}, on {side.runtime}"
        for side in found.sides
    ]
    if len(words) == 1:
        return words[0]
    return f"{words[1]}; against {found.sides[0].artifact.name} ({words[0]})"


def _samples(found: Dissection) -> str:
    samples = f"{count(len(found.places), 'sample')} of the {found.split} split of {found.data}"
    if found.sides[0].certainty is None:
        return f"{samples}; maps explain the first value."
    turn = ", class by class in turn" if found.labelled and found.labels else ""
    who = "the true class" if found.labelled else "the answer of the first model"
    return f"{samples}{turn}; maps explain the score of {who}."


def _explanations(found: Dissection) -> str:
    if not found.explained:
        return '<p class="nothing">Nothing is explained; the remark above says why.</p>'
    parts = [_cosines(found, one, number) for number, one in enumerate(found.explained)]
    return "".join(parts) + _gallery(found)


def _cosines(found: Dissection, one: Explained, number: int) -> str:
    if one.cosines is None:
        return ""
    drawing = draw_cosines(found, one, f"cosines-{number}")
    caption = "Each dot is a sample, classes whose maps moved most first."
    if one.unrelated is not None:
        caption += (
            f" The dashed line is the median for {_unrelated(one.unrelated)}: left of it a map says no more "
            "about the sample than any other."
        )
    layers = [side.layer for side in one.maps]
    where = f" of {listed([escape(layer) for layer in dict.fromkeys(layers)])}" if all(layers) else ""
    heading = f"<h3>{_METHODS[one.maps[0].method]}{where}: before against after</h3>"
    figure = plot(drawing, "", caption, "No sample has a map in both models.")
    return heading + figure + _cosine_table(found, one, number)


def _cosine_table(found: Dissection, one: Explained, number: int) -> str:
    assert one.cosines is not None
    rows = [
        [
            text(label),
            Cell(f"{len(values):,}", key=len(values)),
            Cell(f"{np.median(values):.3f}", key=float(np.median(values))),
            Cell(f"{min(values):.3f}", key=min(values)),
        ]
        for label, values in by_target(found, one.cosines)
    ]
    columns = [Column("Class"), Column("Samples", True), Column("Median", True), Column("Lowest", True)]
    caption = f"{_METHODS[one.maps[0].method]}: cosine of both maps by class"
    inner = table(f"cosines-{number}-table", caption, columns, rows, sortable=True)
    return f"<details><summary>Every class as a table</summary>{inner}</details>"


def _gallery(found: Dissection) -> str:
    """Samples with their maps: those whose maps moved most, or the first of every class."""
    first = next((one for one in reversed(found.explained) if one.cosines is not None), None)
    order = np.arange(len(found.places))
    title = "Samples"
    if first is not None and first.cosines is not None:
        order = np.argsort(np.where(np.isfinite(first.cosines), first.cosines, 2.0), kind="stable")
        title = "Where the explanation moved most"
    items = "".join(_sample(found, int(place)) for place in order[:MOST_SHOWN])
    return f'<h3>{title}</h3><ul class="maps">{items}</ul>'


def _sample(found: Dissection, place: int) -> str:
    raw = {name: array[place] for name, array in found.raw.items()}
    answers = [_answer(found, side, place) for side in found.sides]
    picture = picture_of(raw)
    shown = [_figure(f'<img src="{picture}" alt="The sample">', "sample")] if picture else []
    for one in found.explained:
        for side, own in zip(found.sides, one.maps, strict=True):
            caption = _METHODS[own.method] + (f", {side.artifact.name}" if len(found.sides) > 1 else "")
            shown.append(_figure(_map(raw, own.maps[place], caption), caption))
    moved = [
        f"{_METHODS[one.maps[0].method]} {one.cosines[place]:.3f}"
        for one in found.explained
        if one.cosines is not None and np.isfinite(one.cosines[place])
    ]
    cosines = f"<br>cosine: {escape(', '.join(moved))}" if moved else ""
    target = target_name(found, int(found.targets[place]))
    heading = (
        f"<p><strong>{escape(shortened(target, 40))}</strong> · {escape('; '.join(answers))}{cosines}</p>"
    )
    return f"<li>{heading}<div>{''.join(shown)}</div></li>"


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def _map(raw: dict[str, np.ndarray], scores: np.ndarray, caption: str) -> str:
    """A map over an image, in a text, or as the values that weigh most."""
    name, first = next(iter(raw.items()))
    if first.ndim > 1:
        return f'<img src="{overlaid({name: first}, scores)}" alt="{escape(caption)}">'
    if first.dtype.kind in "iu":
        return f"<blockquote>{marked_text(first, scores)}</blockquote>"
    strongest = np.argsort(-np.abs(scores), kind="stable")[:5]
    items = ", ".join(f"{int(place)}: {significant(float(scores[place]))}" for place in strongest)
    return f"<blockquote>weighing most, by place: {items}</blockquote>"


def _answer(found: Dissection, side: Side, place: int) -> str:
    if side.certainty is None or not np.isfinite(side.certainty[place]):
        answer = significant(float(side.answers[place]))
    else:
        answer = f"{target_name(found, int(side.answers[place]))} {percent(float(side.certainty[place]))}"
    return f"{side.artifact.name} says {answer}"


def _layers(found: Dissection) -> str:
    if all(side.inside is None for side in found.sides):
        return _unseen(found)
    keys = _keys(found)
    panels = [
        plot(
            draw_layers(found, "parameters", "parameters", lambda one: one.num_parameters),
            "Parameters",
            keys,
            "",
        ),
        plot(
            draw_layers(found, "operations", "operations of a sample", lambda one: one.flops),
            "Operations",
            keys,
            "Operations are not known.",
        ),
    ]
    tables = "".join(_layer_table(side, number) for number, side in enumerate(found.sides) if side.inside)
    return f'<div class="panels">{"".join(panels)}</div>{tables}{_unseen(found)}'


def _layer_table(side: Side, number: int) -> str:
    assert side.inside is not None
    columns = [Column("Layer"), Column("Kind"), Column("Parameters", True), Column("Operations", True)]
    columns += [Column("Weights", True, "lowest to highest"), Column("Outputs", True, "lowest to highest")]
    columns += [Column("Clipped", True, "outputs"), Column("Levels", True, "weights, outputs")]
    rows = [
        [
            text(layer.name),
            text(layer.operator),
            Cell(f"{layer.num_parameters:,}", key=layer.num_parameters),
            ABSENT_CELL if layer.flops is None else Cell(f"{layer.flops:,}", key=layer.flops),
            _range_cell(layer.weights),
            _range_cell(layer.outputs),
            _clipped_cell(layer),
            _levels_cell(layer),
        ]
        for layer in side.inside.layers
    ]
    total, whole = sum(layer.num_parameters for layer in side.inside.layers), side.artifact.manifest
    of = f" of {whole.num_parameters:,}" if whole.num_parameters is not None else ""
    has = f"{count(len(rows), 'layer')} with {total:,}{of} parameters"
    caption = f"{side.artifact.name}: {has}, in the order of execution"
    inner = table(f"layers-{number}-inside", caption, columns, rows, sortable=True)
    return (
        f"<details><summary>Every layer of {escape(side.artifact.name)} as a table</summary>{inner}</details>"
    )


def _range_cell(held: Held | None) -> Cell:
    if held is None:
        return ABSENT_CELL
    seen = held.histogram
    outside = f"{seen.num_outside:,} not finite" if seen.num_outside else ""
    spread = seen.high - seen.low
    return Cell(f"{significant(seen.low)} to {significant(seen.high)}", outside, spread)


def _clipped_cell(layer: Layer) -> Cell:
    grid = layer.outputs.grid if layer.outputs else None
    if grid is None or grid.clipped is None:
        return ABSENT_CELL
    return Cell(f"{100 * grid.clipped:.3f} %", key=grid.clipped)


def _levels_cell(layer: Layer) -> Cell:
    grids = [held.grid for held in (layer.weights, layer.outputs) if held and held.grid]
    if not grids:
        return ABSENT_CELL
    levels = "; ".join(f"{grid.used} of {grid.num_levels}" for grid in grids)
    return Cell(levels, key=min(grid.used / grid.num_levels for grid in grids))


def _held(found: Dissection) -> str:
    side = found.sides[-1]
    if side.inside is None:
        return _unseen(found)
    shown = shown_layers(side.inside.layers)
    more = "" if len(shown) == len(side.inside.layers) else ", those that clip most and the largest"
    grids = any(held and held.grid for layer in shown for held in (layer.weights, layer.outputs))
    ends = " Upright lines are the ends of the grid of a quantized tensor." if grids else ""
    caption = (
        f"{count(len(shown), 'layer')} of {side.artifact.name}{more}: weights on the left, what the layer "
        f"gives for {count(side.inside.num_samples, 'sample')} on the right. Counts are on a logarithmic "
        f"axis.{ends}"
    )
    return plot(draw_held(shown), "", escape(caption), "The model has no layers with weights.")


def _dead(found: Dissection) -> str:
    if all(side.inside is None for side in found.sides):
        return _unseen(found)
    sentences = [
        f"{side.artifact.name}: "
        + (dead_told(side.inside) if side.inside.rectifiers else "it has no rectifiers.")
        for side in found.sides
        if side.inside is not None
    ]
    sentence = f"<p>{escape(' '.join(sentences))}</p>"
    drawing = draw_dead(found)
    return sentence + (plot(drawing, "", _keys(found), "") if drawing else "") + _unseen(found)


def _maps(found: Dissection) -> str:
    parts = []
    for side in found.sides:
        maps = side.inside.feature_maps if side.inside else None
        if maps is None:
            continue
        low, high = float(maps.maps.min()), float(maps.maps.max())
        items = "".join(
            f'<li><img src="{map_picture(values, low, high)}" alt="Channel {channel}">'
            f"<span>{channel}</span></li>"
            for channel, values in zip(maps.channels, maps.maps, strict=True)
        )
        shown = f"{len(maps.channels)} of {count(maps.num_channels, 'channel')}"
        which = f"{side.artifact.name}: {shown} of {maps.layer}, those that vary most, for the first sample."
        parts.append(f'<p>{escape(which)}</p><ul class="channels">{items}</ul>')
    name = found.sides[-1].artifact.path.as_posix()
    hint = f"<p>Another layer: <code>lissom inspect {escape(name)} --layer NAME</code></p>" if parts else ""
    return "".join(parts) + hint or '<p class="nothing">No layer gives maps: samples are no images.</p>'


def _training(found: Dissection) -> str:
    if found.training is None:
        return '<p class="nothing">How it was trained is not known: no trained artifact lies beside it.</p>'
    flagged = [
        f"epoch {number}: {', '.join(flags(epoch))}"
        for number, epoch in enumerate(found.training.history, start=1)
        if flags(epoch)
    ]
    drawing = draw_training(found.training)
    if drawing is None:
        return '<p class="nothing">Gradients were not watched while it was trained.</p>'
    wrong = "; ".join(flagged) if flagged else "no epoch had vanishing or exploding gradients"
    keys = (
        '<span class="keys"><span class="key accent">median of the steps watched</span>'
        '<span class="key mute">largest</span>'
        + '<span class="key bad">flagged</span>' * bool(flagged)
        + "</span>"
    )
    sentence = f"Stage {found.training.stage}, {count(len(found.training.history), 'epoch')}: {wrong}."
    return f"<p>{escape(sentence)}</p>{plot(drawing, '', keys, '')}"


def _unseen(found: Dissection) -> str:
    sentences = [f"{side.artifact.name}: {side.unseen}." for side in found.sides if side.unseen]
    return "".join(f'<p class="nothing">{escape(sentence)}</p>' for sentence in sentences)


def _keys(found: Dissection) -> str:
    if len(found.sides) == 1:
        return ""
    colours: Sequence[str] = ("mute", "accent")
    entries = [
        f'<span class="key {colour}">{escape(side.artifact.name)}</span>'
        for colour, side in zip(colours, found.sides, strict=True)
    ]
    return f'<span class="keys">{"".join(entries)}</span>'
