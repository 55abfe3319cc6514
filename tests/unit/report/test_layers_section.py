"""Where the time goes: the picture, its words, and nothing where nothing is known."""

from __future__ import annotations

import json

import pytest
from tests.unit.report import samples

from lissom.report.drawing import light
from lissom.report.layers_section import (
    draw_layers,
    layer_rows,
    layers_told,
    operators_changed,
    watching_told,
)
from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.roof_section import draw_roof, roof_rows
from lissom.report.schema import (
    Ceilings,
    Interval,
    LayerChange,
    LayerFigures,
    LayerTable,
    Report,
    RooflineFigures,
)


def figures(ms: float, *operators: str, precision: str = "float32") -> LayerFigures:
    return LayerFigures(operators=operators, precision=precision, ms=ms)


TABLE = LayerTable(
    runtime="openvino",
    before="export",
    after="quantize",
    changes=(
        LayerChange(
            name="stem.0",
            before=figures(2.0, "Conv", "Relu"),
            after=figures(0.5, "Quantize", "QConv", precision="int8"),
        ),
        LayerChange(name="blocks.0", before=figures(1.0, "Conv"), after=figures(1.5, "Conv")),
        LayerChange(name="(rest)", before=None, after=figures(0.25, "Reorder", precision="")),
    ),
)
ROOF = RooflineFigures(flops_per_s=50e9, intensity=12.5, share=0.25, bound="memory", precision="float32")


def known() -> Report:
    report = samples.typical()
    arms = (report.arms[0].model_copy(update={"roofline": ROOF}), *report.arms[1:])
    peaks = Ceilings(device="cpu", threads=2, flops_per_s={"float32": 200e9}, bytes_per_s=16e9)
    return report.model_copy(update={"layers": TABLE, "arms": arms, "ceilings": peaks})


def test_the_sentence_says_the_totals_and_how_many_layers_got_slower() -> None:
    told = layers_told(TABLE).replace("\u00a0", " ")
    assert told == (
        "quantize spends 2.25 ms in its operators on openvino, export 3.00 ms. 2 layers of 3 got slower."
    )


def test_operators_that_came_and_went_are_counted() -> None:
    told = operators_changed(TABLE)
    assert told.startswith("Operators: 3 → 4 (")
    assert "Relu 1 → 0" in told
    assert "QConv 0 → 1" in told


def test_every_layer_has_a_row_and_what_it_saved() -> None:
    rows = layer_rows(TABLE)
    assert [row[0] for row in rows] == ["stem.0", "blocks.0", "(rest)"]
    assert rows[0][1:] == ("Conv + Relu, float32", "Quantize + QConv, int8", "2.00", "0.500", "1.50")
    assert rows[2][1:5] == ("–", "Reorder", "–", "0.250")


def test_the_picture_shows_the_layers_in_which_most_time_is_first() -> None:
    drawing = draw_layers(known())
    assert drawing is not None
    figure = json.loads(drawing.figure)
    names = [note["text"] for note in figure["layout"]["annotations"]]
    assert names == ["stem.0", "blocks.0", "(rest)"]
    assert "stem.0 2.00\u00a0ms before and 0.500\u00a0ms after" in drawing.label


def test_a_long_model_is_drawn_in_part_and_told_whole() -> None:
    many = tuple(
        LayerChange(name=f"layer.{index}", before=figures(index + 1.0, "Conv"), after=figures(1.0, "Conv"))
        for index in range(60)
    )
    report = known().model_copy(update={"layers": TABLE.model_copy(update={"changes": many})})
    drawing = draw_layers(report)
    assert drawing is not None
    assert len(json.loads(drawing.figure)["layout"]["annotations"]) == 20
    assert html_from_report(report).count("layer.") >= 60


def test_page_and_markdown_say_the_same() -> None:
    page, text = html_from_report(known()), markdown_from_report(known()).replace("\\", "")
    for words in ("Where the time goes", "stem.0", "200 GFLOP/s", "16.0 GB/s"):
        assert words in page.replace("\u00a0", " ")
        assert words in text.replace("\u00a0", " ")
    assert 'href="#layers"' in page


def test_the_roof_has_a_row_for_every_arm_that_is_known() -> None:
    (row,) = roof_rows(known())
    assert row[2:] == ("float32", "50.0\u00a0GFLOP/s", "12.5", "25.0\u00a0%", "memory")


def test_the_roof_rises_with_the_bytes_and_is_level_behind_its_ridge() -> None:
    drawn = draw_roof(known())
    assert drawn is not None
    figure = json.loads(drawn.figure)
    line, arms = figure["data"]
    assert line["y"][-1] == line["y"][-2] == pytest.approx(200)
    assert line["x"][1] == pytest.approx(200e9 / 16e9)
    assert (arms["x"], arms["y"]) == ([12.5], [50])
    assert [one["text"] for one in figure["layout"]["annotations"]] == ["float32"]
    assert "comes nearest with 25" in drawn.label


def test_the_chosen_arm_lies_on_top_of_a_thousand_and_markup_in_their_names_is_text() -> None:
    report = known()
    first, last = report.arms[0], report.arms[-1].model_copy(update={"roofline": ROOF})
    many = tuple(first.model_copy(update={"artifact": samples.HOSTILE}) for _ in range(1000))
    drawn = draw_roof(report.model_copy(update={"arms": (last, *many)}))
    assert drawn is not None
    *_, arms = json.loads(drawn.figure)["data"]
    assert len(arms["x"]) == 1001
    assert arms["marker"]["color"][-1] == light("accent")
    assert "<script" not in arms["hovertext"][0]


def test_without_ceilings_there_is_no_picture_of_the_roof() -> None:
    assert draw_roof(known().model_copy(update={"ceilings": None})) is None
    assert draw_roof(samples.typical()) is None


def test_without_layers_and_roof_there_is_no_section() -> None:
    page = html_from_report(samples.typical())
    assert "Where the time goes" not in page
    assert "Where the time goes" not in markdown_from_report(samples.typical())
    assert draw_layers(samples.typical()) is None


def test_names_of_the_user_are_escaped() -> None:
    hostile = LayerChange(name=samples.HOSTILE, before=figures(1.0, "Conv"), after=figures(1.0, "Conv"))
    report = known().model_copy(update={"layers": TABLE.model_copy(update={"changes": (hostile,)})})
    assert "<img" not in html_from_report(report)
    drawing = draw_layers(report)
    assert drawing is not None
    assert "<img" not in drawing.figure


def test_times_that_are_mostly_the_watching_are_said_to_be_so() -> None:
    report = known()
    chosen = next(arm for arm in report.arms if arm.chosen)
    assert chosen.latency is not None
    assert chosen.latency.median_ms.value < 0.1  # and the operators take 2.25 ms
    assert "the engine watching itself" in watching_told(report)
    slow = chosen.latency.model_copy(update={"median_ms": Interval(value=2.2, low=2.1, high=2.3)})
    arms = tuple(arm.model_copy(update={"latency": slow}) if arm.chosen else arm for arm in report.arms)
    assert watching_told(report.model_copy(update={"arms": arms})) == ""
