"""The pages of a report, from reports made by hand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from tests.unit.report import samples

from lissom.report.distribution import draw_distribution, draw_tail
from lissom.report.drawing import PALETTE
from lissom.report.figures import draw_pareto, split_scale
from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.reading import measured_points, pareto_front, serve_command
from lissom.report.schema import Report
from lissom.report.waterfall import draw_accuracy_steps, draw_latency_steps, draw_size_steps

EVERY_REPORT = [
    samples.typical,
    samples.with_errors,
    samples.without_choice,
    samples.without_accuracy,
    samples.collapsed,
    samples.with_metrics,
    samples.regression,
    samples.language,
    samples.quantized,
    samples.quantized_without_labels,
    samples.empty,
    samples.hostile,
]
EVERY_DRAWING = [
    draw_pareto,
    draw_size_steps,
    draw_latency_steps,
    draw_accuracy_steps,
    draw_distribution,
    draw_tail,
]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """The elements, the visible text and the scripts of a page; complains about a tag that does not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [
            value or "" for _, attributes in self.elements for key, value in attributes.items() if key == name
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.mark.parametrize("sample", EVERY_REPORT)
def test_every_report_becomes_a_page_whose_tags_match(sample: Callable[[], Report]) -> None:
    page = Page(html_from_report(sample()))
    assert page.open == []
    assert [tag for tag, _ in page.elements].count("h1") == 1


@pytest.mark.parametrize("sample", EVERY_REPORT)
def test_no_two_elements_share_an_id_and_every_reference_is_met(sample: Callable[[], Report]) -> None:
    page = Page(html_from_report(sample()))
    ids = page.attributes("id")
    targets = {link[1:] for link in page.attributes("href") if link.startswith("#")}
    targets |= {
        *page.attributes("aria-labelledby"),
        *page.attributes("data-figure"),
        *page.attributes("data-copy"),
    }
    assert len(ids) == len(set(ids))
    assert targets <= set(ids)


@pytest.mark.parametrize("sample", EVERY_REPORT)
def test_a_page_and_its_markdown_are_pure_functions_of_the_report(sample: Callable[[], Report]) -> None:
    again = Report.model_validate_json(sample().model_dump_json(by_alias=True))
    assert html_from_report(sample()) == html_from_report(again)
    assert markdown_from_report(sample()) == markdown_from_report(again)


def test_the_sections_stand_in_the_order_of_the_questions() -> None:
    page = html_from_report(samples.typical())
    names = ("verdict", "gates", "pareto", "stages-effect", "arms", "metrics", "distribution", "stages")
    places = [page.index(f' id="{name}"') for name in (*names, "environment", "splits", "reading")]
    assert places == sorted(places)


def test_the_verdict_names_the_choice_and_the_command_that_serves_it() -> None:
    page = Page(html_from_report(samples.typical())).text
    assert "7.74x (95 % 7.41 to 8.08) faster" in page
    assert "Chosen: quantize on openvino" in page
    assert "lissom serve runs/digits/artifact" in page


def test_the_serve_command_names_the_folder_of_the_run() -> None:
    assert serve_command(samples.typical(out="a b")) == "lissom serve 'a b/artifact'"


def test_nothing_but_the_scripts_of_the_page_may_run_and_nothing_may_be_fetched() -> None:
    page = Page(html_from_report(samples.hostile()))
    code = [
        script
        for script, (_, attributes) in zip(
            page.scripts, [element for element in page.elements if element[0] == "script"], strict=True
        )
        if attributes.get("type") != "application/json"
    ]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in code]
    policy = next(value for value in page.attributes("content") if "default-src" in value)
    assert len(code) == 2
    assert re.findall(r"sha256-([^']+)", policy) == hashes
    assert "default-src 'none'" in policy
    assert not any(
        address.startswith(("http", "//")) for address in page.attributes("href") + page.attributes("src")
    )


def test_plotly_is_inlined_once_and_each_plot_has_its_data_and_a_text_alternative() -> None:
    page = Page(html_from_report(samples.typical()))
    plots = [attributes for _, attributes in page.elements if attributes.get("class") == "chart"]
    assert sum("Plotly, Inc." in script for script in page.scripts) == 1
    assert [plot["id"] for plot in plots] == [
        "plot-pareto",
        "plot-steps-size",
        "plot-steps-latency",
        "plot-steps-accuracy",
        "plot-rounds",
        "plot-distribution",
        "plot-tail",
    ]
    assert all(plot["role"] == "img" and len(plot["aria-label"] or "") > 40 for plot in plots)


def test_markup_in_any_text_of_the_user_is_shown_and_never_read() -> None:
    page = Page(html_from_report(samples.hostile()))
    assert "img" not in [tag for tag, _ in page.elements]
    assert page.text.count(samples.HOSTILE) > 50
    assert not any("hacked" in script for script in page.scripts if "\\u003c" not in script)


@pytest.mark.parametrize("draw", EVERY_DRAWING)
def test_markup_of_the_user_is_escaped_for_plotly_too(draw: Callable[[Report], object]) -> None:
    drawing = draw(samples.hostile())
    assert drawing is not None
    figure = drawing.figure  # type: ignore[attr-defined]
    assert "<script" not in figure
    assert "<img" not in figure


def test_markup_of_the_user_is_not_read_by_markdown() -> None:
    page = markdown_from_report(samples.hostile())
    outside = re.sub(r"^(`{3,})sh\n.*?^\1$", "", page, flags=re.S | re.M)
    assert "hacked" in outside
    assert "<" not in outside
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert widths == {6, 7, 8, 12}


def test_a_table_of_arms_has_a_row_for_each_arm_and_its_error() -> None:
    report = samples.with_errors()
    page = html_from_report(report)
    body = page[page.index('id="arms-table"') :].partition("<tbody>")[2].partition("</tbody>")[0]
    assert body.count("<tr") == len(report.arms)
    assert "not measured</span> engine build failed" in body
    assert "accuracy unknown" in body


def test_a_failure_that_was_allowed_is_still_called_a_failure() -> None:
    assert "fail allowed by --allow" in Page(html_from_report(samples.with_errors())).text
    assert "fail (allowed)" in markdown_from_report(samples.with_errors())


def test_every_state_is_said_in_words() -> None:
    text = Page(html_from_report(samples.with_errors())).text
    assert all(f" {word} " in text for word in ("pass", "fail", "inconclusive"))
    assert " skipped " in Page(html_from_report(samples.without_accuracy())).text


def test_a_report_without_choice_says_so_and_offers_nothing_to_serve() -> None:
    report = samples.without_choice()
    page = Page(html_from_report(report)).text
    assert "Nothing was chosen" in page
    assert "lissom serve" not in page
    assert "lissom serve" not in markdown_from_report(report)
    assert serve_command(report) is None


def test_what_was_not_measured_is_named_where_it_would_stand() -> None:
    page = Page(html_from_report(samples.without_accuracy())).text
    assert "no arm has both an accuracy and a latency" in page
    assert "No accuracy was measured." in page


def test_a_report_of_nothing_draws_no_plot_and_still_says_what_is_absent() -> None:
    report = samples.empty()
    page = Page(html_from_report(report))
    assert [draw(report) for draw in EVERY_DRAWING] == [None] * len(EVERY_DRAWING)
    assert "chart" not in page.attributes("class")
    assert "This run is not complete" in page.text
    assert "Nothing was measured." in markdown_from_report(report)


def test_the_front_holds_exactly_the_arms_that_none_beats() -> None:
    names = [
        (point.arm.artifact, point.arm.runtime) for point in pareto_front(measured_points(samples.typical()))
    ]
    assert names == [("quantize", "openvino"), ("export", "openvino"), ("train", "inductor")]


def test_an_arm_far_below_does_not_squeeze_the_others() -> None:
    report = samples.collapsed()
    near, below = split_scale(measured_points(report))
    drawing = draw_pareto(report)
    assert drawing is not None
    low, high = json.loads(drawing.figure)["layout"]["yaxis"]["range"]
    assert {point.arm.artifact for point in below} == {"prune"}
    assert all(low < 100 * point.accuracy.report < high for point in near)
    assert low > 85
    assert "far below: prune · inductor (8.9 %), prune · torch (8.9 %)." in Page(
        html_from_report(report)
    ).text.replace("\u00a0", " ")


@pytest.mark.parametrize("draw", EVERY_DRAWING)
def test_every_colour_of_a_plot_has_a_dark_twin(draw: Callable[[Report], object]) -> None:
    figure = draw(samples.with_errors()).figure  # type: ignore[attr-defined]
    twins = dict(PALETTE.values())
    found = set(re.findall(r'"(#[0-9a-f]{3,8})"', figure))
    assert found
    assert found <= set(twins)


@pytest.mark.parametrize("which", [0, 1])
def test_every_colour_of_text_can_be_read_on_its_ground(which: int) -> None:
    for ground in ("paper", "panel"):
        for name in ("ink", "soft", "accent", "good", "bad", "warn"):
            assert _contrast(PALETTE[name][which], PALETTE[ground][which]) >= 4.5, (name, ground)
    assert _contrast(PALETTE["mute"][which], PALETTE["paper"][which]) >= 3


def test_markdown_holds_verdict_gates_arms_stages_hardware_and_command() -> None:
    page = markdown_from_report(samples.typical()).replace("\u00a0", " ")
    assert page.startswith("## digits: PASS\n")
    assert "| accuracy | pass | drop 0.7 points | 1.0 point |" in page
    assert (
        "| **quantize** (chosen) | openvino | 21.7 kB | 0.0221 (0.0215 to 0.0228) | needs 662 calls | 18.2× "
        "| 97.0 % |" in page
    )
    assert "| prune | torch | 41.9 kB (−60 %) | 0.361 ms (−10 %) | 95.2 % (−2.6 pt) |" in page
    assert "- cpu: AMD EPYC 9R14\n" in page
    assert "```sh\nlissom run recipes/digits.yaml\n```" in page


def test_importing_the_pages_imports_no_heavy_library() -> None:
    heavy = "{'plotly', 'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy'}"
    code = f"import sys, lissom.report.pages; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def _contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
