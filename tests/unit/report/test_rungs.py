"""What a quantize stage tried, on the page and in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from tests.unit.report import samples

from lissom.report.drawing import PALETTE
from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.rungs import best_row, best_word, climbed_stages, operators_told, told, trials_of
from lissom.report.rungs_section import draw_rungs, section
from lissom.report.schema import Report
from lissom.report.sections import stages


def said(report: Report) -> str:
    return told(report, climbed_stages(report)[0]).replace("\u00a0", " ")


def body(page: str, name: str) -> str:
    return page[page.index(f'id="{name}"') :].partition("<tbody>")[2].partition("</tbody>")[0]


def test_the_sentence_says_what_was_tried_what_came_out_and_that_the_goal_was_reached() -> None:
    assert said(samples.quantized()) == (
        "4 models on 3 rungs were tried. Plain int8 kept 97.1 % of the answers, the shipped model 99.3 %, "
        "with observer mse and 1 layer in float32. On the select split the goal was reached: a drop of at "
        "most 0.5 points and at least 99.0 % of the answers kept."
    )


def test_a_goal_that_was_missed_is_told_with_the_noisiest_layers() -> None:
    assert said(samples.quantized_without_labels()) == (
        "4 models on 3 rungs were tried. Plain int8 had an SQNR of 18.0 dB, the shipped model 27.6 dB, with "
        "observer mse and 1 layer in float32. On the calibrate split the goal was not reached: an SQNR of at "
        "least 25.0 dB. The noisiest layers: conv_1 (21.3 dB) and fc (30.2 dB)."
    )


def test_a_plain_model_that_was_good_enough_or_the_best_is_told_so() -> None:
    rungs = samples.climb()["rungs"]
    alone = said(samples.quantized(rungs=rungs[:1], plan={}))
    assert alone.startswith("Plain int8 kept 97.1 % of the answers; nothing else was tried. On the select")
    best = said(samples.quantized(rungs=[rungs[0], *(rung | {"kept": False} for rung in rungs[1:])], plan={}))
    assert "Plain int8 kept 97.1 % of the answers, and no other was better. On the select" in best


def test_of_values_no_share_of_answers_is_told() -> None:
    report = samples.quantized().model_copy(update={"task": "regression", "score_name": "skill"})
    assert "Plain int8 had an SQNR of 18.0 dB, the shipped model 27.6 dB" in said(report)
    assert "goal was reached: a drop of at most 0.5 points." in said(report)
    assert "Agreement" not in section(report)


def test_the_last_trial_that_was_kept_is_the_best_and_shipped_where_no_faster_variant_was_taken() -> None:
    report = samples.quantized()
    trials = trials_of(report, climbed_stages(report)[0])
    assert [trial.kept for trial in trials] == [True, True, True, False]
    assert best_row(trials) == 2
    assert best_word(samples.climb()) == "shipped"
    refused = [variant | {"kept": False} for variant in samples.faster()["timed"]]
    assert best_word(samples.faster(timed=refused)) == "shipped"
    assert best_word(samples.faster()) == "best"


def test_a_faster_variant_that_was_taken_is_told_as_the_shipped_model() -> None:
    assert said(samples.quantized(**samples.faster())) == (
        "4 models on 3 rungs were tried. Plain int8 kept 97.1 % of the answers, the best of them 99.3 %. The "
        "shipped model is the best of them with last layer in float32, taken because it is faster: 1.12x "
        "(1.05 to 1.20). Altogether it has observer mse and 2 layers in float32. On the select split the "
        "goal was reached: a drop of at most 0.5 points and at least 99.0 % of the answers kept."
    )


def test_several_variants_that_were_taken_are_told_together() -> None:
    timed = [variant | {"kept": True} for variant in samples.faster()["timed"]]
    assert (
        "The shipped model is the best of them with layers alone in int8 and last layer in float32, taken "
        "because each made it faster: 1.01x (0.97 to 1.06) and 1.12x (1.05 to 1.20). Altogether"
    ) in said(samples.quantized(**samples.faster(timed=timed)))


def test_a_variant_of_the_plain_model_is_told_as_one() -> None:
    rungs, plan = samples.climb()["rungs"], {"exclude": ["fc"]}
    shipped = "The shipped model is plain int8 with last layer in float32, taken because it is faster"
    alone = said(samples.quantized(**samples.faster(rungs=rungs[:1], plan=plan)))
    assert alone.startswith(f"Plain int8 kept 97.1 % of the answers; no other rung was tried. {shipped}")
    worse = [rungs[0], *(rung | {"kept": False} for rung in rungs[1:])]
    best = said(samples.quantized(**samples.faster(rungs=worse, plan={})))
    assert f"97.1 % of the answers, and no other was better. {shipped}" in best
    assert "(1.05 to 1.20). On the select split" in best


@pytest.mark.parametrize("draw", [html_from_report, markdown_from_report])
def test_no_trial_is_called_shipped_where_a_faster_variant_was_taken(draw: Callable[[Report], str]) -> None:
    page = draw(samples.quantized(**samples.faster())).replace("\u00a0", " ")
    assert "the shipped model 99.3 %" not in page
    assert "Shipped: " not in page
    assert "(shipped)" not in page
    assert ">shipped<" not in page
    assert "The shipped model is the best of them with last layer in float32" in page


def test_the_best_trial_is_marked_as_such_where_a_faster_variant_was_taken() -> None:
    report = samples.quantized(**samples.faster())
    page = html_from_report(report)
    rows = body(page, "rungs-0-table").split("</tr>")[:-1]
    assert [">best<" in row and "class=marked" in row for row in rows] == [False, False, True, False]
    assert "The shipped model is the best one with last layer in float32; it has no row" in page
    drawing = draw_rungs(report, climbed_stages(report)[0], "rungs-0")
    assert drawing is not None
    assert "Best: mixed precision: conv_1, 27.6" in drawing.label
    assert "Shipped is that one with last layer in float32." in drawing.label
    assert "| 27.6 dB | **kept** (best) |" in markdown_from_report(report).replace("\u00a0", " ")


def test_operators_are_counted_before_and_after_where_they_are_known() -> None:
    assert operators_told(samples.climb()) == (
        "5 of 6 layers compute in int8. The graph had 23 operators and has 61, of them 14 Q and 24 DQ."
    )
    assert operators_told({"operators": 61}) == ""


def test_what_was_timed_is_told_with_what_became_of_it() -> None:
    assert operators_told(samples.faster()).endswith(
        "Timed on this machine, each against the best before it: layers alone in int8 1.01x (0.97 to 1.06), "
        "not taken; last layer in float32 1.12x (1.05 to 1.20), taken."
    )


def test_the_table_has_a_row_for_each_trial_and_marks_the_shipped_one() -> None:
    rows = body(html_from_report(samples.quantized()), "rungs-0-table").split("</tr>")[:-1]
    assert len(rows) == 4
    assert ["kept</span>" in row for row in rows] == [True, True, True, False]
    assert "taken back</span>" in rows[3]
    assert ["shipped" in row and "class=marked" in row for row in rows] == [False, False, True, False]
    assert re.findall(r'class="number">([^<]*)<', rows[2]) == [
        "97.0\u00a0%",
        "0.4",
        "99.3\u00a0%",
        "27.6\u00a0dB",
    ]


def test_the_noisiest_layers_say_in_what_they_are_shipped() -> None:
    rows = body(html_from_report(samples.quantized()), "layers-0-table").split("</tr>")
    assert "conv_1" in rows[0]
    assert "float32" in rows[0]
    assert "fc" in rows[1]
    assert "int8" in rows[1]


def test_a_report_without_rungs_has_no_section_and_no_link() -> None:
    page = html_from_report(samples.typical())
    assert section(samples.typical()) == ""
    assert "Quantization" not in page
    assert "Quantization" not in markdown_from_report(samples.typical())
    assert '<a href="#quantization">' in html_from_report(samples.quantized())


def test_each_quantize_stage_has_a_part_of_its_own() -> None:
    report = samples.quantized()
    other = report.stages[-1].model_copy(update={"name": "quantize-2"})
    page = section(report.model_copy(update={"stages": (*report.stages, other)}))
    assert page.count("<h2") == 1
    assert "<h3>quantize</h3>" in page
    assert "<h3>quantize-2</h3>" in page
    assert 'id="plot-rungs-0"' in page
    assert 'id="plot-rungs-1"' in page


def test_what_the_section_tells_is_not_repeated_among_the_notes() -> None:
    table = stages(samples.quantized())
    assert "rungs" not in table
    assert "worst layers" not in table
    assert "min_sqnr_db" not in table
    assert "goal reached yes" in table
    kept = samples.typical().stages[-1].model_copy(update={"notes": {"plan": "own", "goal": "own"}})
    assert "plan own, goal own" in stages(samples.typical(stages=(kept,)))


def test_the_plot_marks_what_was_kept_and_draws_the_goal_only_of_a_climb_judged_by_noise() -> None:
    report = samples.quantized()
    drawing = draw_rungs(report, climbed_stages(report)[0], "rungs-0")
    assert drawing is not None
    figure = json.loads(drawing.figure)
    back, kept = figure["data"][-2:]
    assert (back["y"], kept["y"]) == ([3], [0, 1, 2])
    assert figure["layout"].get("shapes", []) == []
    report = samples.quantized_without_labels()
    drawing = draw_rungs(report, climbed_stages(report)[0], "rungs-0")
    assert drawing is not None
    figure = json.loads(drawing.figure)
    assert [line["x0"] for line in figure["layout"]["shapes"]] == [25.0]
    assert "observer: mse (not finite)" in drawing.figure
    assert "not finite" in section(report)
    low, high = figure["layout"]["xaxis"]["range"]
    assert 0 < low < 18.04
    assert 27.65 < high < 40


def test_without_any_noise_there_is_no_plot_and_a_sentence_instead() -> None:
    rungs = [rung | {"figures": rung["figures"] | {"sqnr_db": 200.0}} for rung in samples.climb()["rungs"]]
    report = samples.quantized(rungs=rungs)
    assert draw_rungs(report, climbed_stages(report)[0], "rungs-0") is None
    assert "There is no plot: no trial has a noise." in section(report)


def test_of_a_single_trial_there_is_a_table_and_no_plot() -> None:
    report = samples.quantized(rungs=samples.climb()["rungs"][:1])
    assert "<figure>" not in section(report)
    assert body(section(report), "rungs-0-table").count("<tr") == 1


@pytest.mark.parametrize("sample", [samples.quantized, samples.quantized_without_labels, samples.hostile])
def test_every_colour_has_a_dark_twin_and_markup_is_escaped(sample: Callable[[], Report]) -> None:
    report = sample()
    drawing = draw_rungs(report, climbed_stages(report)[0], "rungs-0")
    assert drawing is not None
    assert set(re.findall(r'"(#[0-9a-f]{3,8})"', drawing.figure)) <= set(dict(PALETTE.values()))
    assert "<script" not in drawing.figure
    assert "<img" not in drawing.figure
    assert len(drawing.label) > 40


def test_markdown_holds_the_sentence_the_counts_and_the_table() -> None:
    page = markdown_from_report(samples.quantized()).replace("\u00a0", " ")
    assert "### Quantization: quantize\n\n4 models on 3 rungs were tried." in page
    assert "\n\n5 of 6 layers compute in int8." in page
    assert "| rung | what | accuracy | drop, points | agreement | SQNR | outcome |" in page
    assert "| plain int8 | – | 95.2 % | 2.2 | 97.1 % | 18.0 dB | kept |" in page
    assert "| mixed precision | conv\\_1 | 97.0 % | 0.4 | 99.3 % | 27.6 dB | **kept** (shipped) |" in page
    assert "| mixed precision | 2 layers, down to fc | 97.0 % | 0.4 | 99.3 % | 27.6 dB | taken back |" in page
