"""The page of layers in int8: a bar for the noise of each, the noisiest first, and every figure in a table.

`html_from_layer_noise` is a pure function of what was measured.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from lissom.compress.layer_noise import NO_NOISE_DB, LayerNoise, NoisyLayer
from lissom.report.drawing import Drawing, escaped, figure_json, light, linear_axis
from lissom.report.frame import filled
from lissom.report.sensitivity_frame import NAME_LENGTH, sensitivity_page, write_files
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import MINUS, NO_BREAK, count, percent, points, shortened

_ROW_HEIGHT = 24


def write_layer_noise(found: LayerNoise, folder: Path) -> None:
    """Write the JSON and draw the page."""
    write_files(folder, found.document(), html_from_layer_noise(found))


def html_from_layer_noise(found: LayerNoise) -> str:
    """The whole page."""
    drop = "" if found.score is None else _DROP.format(score=escape(found.score_name))
    return sensitivity_page(
        found,
        draw_layer_noise(found),
        name="bars",
        title=f"Sensitivity of {found.model} to int8",
        target=f"int8 for {found.target}",
        heading="What each layer costs when it alone is int8",
        caption=_CAPTION,
        table=_table(found),
        terms=filled("layer_noise_terms.html", split=escape(found.split), drop=drop),
    )


def summary(found: LayerNoise) -> str:
    """What was measured, and which layer is noisiest and which least noisy."""
    samples = f"{count(found.num_samples, 'sample')} of the {found.split} split"
    whole = (
        f"Compared with the float32 model on {samples}."
        if found.score is None
        else f"The float32 model has {percent(found.score)} {found.score_name} on {samples}."
    )
    first, last = found.layers[0], found.layers[-1]
    if len(found.layers) == 1:
        return f"{whole} It has one layer, {_cost(first)}."
    return f"{whole} Noisiest of {len(found.layers)} layers is {_cost(first)}; least noisy {_cost(last)}."


def noise(layer: NoisyLayer) -> str:
    """The ratio in decibel, or what stands for it.

    >>> noise(NoisyLayer("conv", "Conv", 9, -3.25, 1.0, None, None))
    '−3.2'
    """
    if layer.sqnr_db >= NO_NOISE_DB:
        return "no noise"
    return "not finite" if layer.sqnr_db <= -NO_NOISE_DB else f"{layer.sqnr_db:.1f}".replace("-", MINUS)


def draw_layer_noise(found: LayerNoise) -> Drawing:
    """Layers downwards, the noisiest first, and signal to noise across."""
    names = [escaped(shortened(layer.name, NAME_LENGTH)) for layer in found.layers]
    rows = list(range(len(names)))
    real = [layer.sqnr_db for layer in found.layers if abs(layer.sqnr_db) < NO_NOISE_DB]
    low, high = min([0.0, *real]), max([1.0, *real])
    margin = 0.2 * (high - low)  # holds the figure behind the longest bar
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "x": [_length(layer, high) for layer in found.layers],
        "y": rows,
        "marker": {"color": light("accent"), "line": {"width": 0}},
        "text": [noise(layer) for layer in found.layers],
        "textposition": "outside",
        "textfont": {"size": 12, "color": light("ink")},
        "cliponaxis": False,
        "customdata": [_hover(found, layer) for layer in found.layers],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    span = [low - (margin if low < 0 else 0.0), high + margin]
    ticks = {"tickvals": rows, "ticktext": names, "showgrid": False, "range": [len(rows) - 0.5, -0.5]}
    layout = {
        "xaxis": linear_axis("SQNR, dB", range=span, side="top", nticks=6),
        "yaxis": linear_axis("", **ticks),
        "bargap": 0.35,
    }
    height = 80 + _ROW_HEIGHT * len(names)
    return Drawing("layer-noise", figure_json([trace], layout), height, summary(found))


_CAPTION = (
    "Each bar is the power of the float32 outputs over that of the error when one layer alone computes in "
    "int8; the shorter, the more noise. Point at a bar, or touch it, for all figures of the layer."
)
_DROP = (
    "<div><dt>Drop</dt>\n<dd>The {score} of the float32 model less that of the model in which this layer "
    "alone is int8, in points. One layer seldom changes many answers: a small difference on few samples is "
    "chance, and SQNR orders layers more finely.</dd></div>"
)


def _length(layer: NoisyLayer, high: float) -> float:
    """Of the bar: to the end where there is no noise, none where outputs are not finite."""
    if abs(layer.sqnr_db) < NO_NOISE_DB:
        return layer.sqnr_db
    return high if layer.sqnr_db > 0 else 0.0


def _hover(found: LayerNoise, layer: NoisyLayer) -> str:
    lines = [
        f"<b>{escaped(shortened(layer.name, 40))}</b>",
        f"{escaped(layer.op_type)}, {count(layer.num_weights, 'weight')}",
        f"SQNR {_decibel(layer)}",
        f"agreement {percent(layer.agreement)}",
    ]
    if layer.score is not None and layer.drop is not None:
        change = points(-layer.drop, signed=True)
        lines.append(f"{escaped(found.score_name)} {percent(layer.score)}, {change} points")
    return "<br>".join(lines)


def _cost(layer: NoisyLayer) -> str:
    """The layer with its noise, and the score that it costs."""
    lost = "" if layer.drop is None else f", {points(-layer.drop, signed=True)} points"
    return f"{layer.name} ({_decibel(layer)}{lost})"


def _decibel(layer: NoisyLayer) -> str:
    return f"{noise(layer)}{NO_BREAK}dB" if abs(layer.sqnr_db) < NO_NOISE_DB else noise(layer)


def _table(found: LayerNoise) -> str:
    columns = [Column("Layer"), Column("Operator"), Column("Weights", True), Column("SQNR", True, "dB")]
    columns.append(Column("Agreement", True))
    if found.score is not None:
        columns += [Column(found.score_name.capitalize(), True), Column("Drop", True, "points")]
    rows = [
        [
            text(layer.name),
            text(layer.op_type),
            Cell(f"{layer.num_weights:,}", key=layer.num_weights),
            Cell(noise(layer), key=layer.sqnr_db),
            Cell(percent(layer.agreement), key=layer.agreement),
            *_score_cells(layer),
        ]
        for layer in found.layers
    ]
    caption = "Every layer when it alone is int8" + (
        f"; the float32 model has {percent(found.score)}" if found.score is not None else ""
    )
    return table("layer-noise-table", caption, columns, rows, sortable=True, stacked=True)


def _score_cells(layer: NoisyLayer) -> list[Cell]:
    if layer.score is None or layer.drop is None:
        return []
    return [Cell(percent(layer.score), key=layer.score), Cell(points(layer.drop), key=layer.drop)]
