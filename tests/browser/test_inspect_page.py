"""The page of a look inside in a real Chromium: offline, light and dark, on a phone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.browser.test_report_page import Browser, browser, pytestmark
from tests.unit.report import dissections

from lissom.report.dissection import Dissection
from lissom.report.dissection_page import html_from_dissection

__all__ = ["browser", "pytestmark"]
EVERY_PAGE = [dissections.pair, dissections.hostile, dissections.text]


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("sample", EVERY_PAGE)
def test_every_page_draws_its_plots_fetches_nothing_and_never_scrolls_sideways(
    browser: Browser, tmp_path: Path, sample: Callable[[Path], Dissection], width: int
) -> None:
    browser.show(html_from_dissection(sample(tmp_path)), width=width)
    assert browser.num_drawn == len(browser.all(".chart"))
    assert browser.requests == []
    assert browser.complaints == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert not browser.run("window.hacked")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sample", EVERY_PAGE)
def test_nothing_on_the_page_keeps_people_out(
    browser: Browser, tmp_path: Path, sample: Callable[[Path], Dissection], scheme: str
) -> None:
    browser.show(html_from_dissection(sample(tmp_path)), scheme=scheme)
    browser.driver.execute_script(
        "document.querySelectorAll('details').forEach((folded) => { folded.open = true; })"
    )
    assert browser.faults() == []


def test_two_models_of_images_have_every_plot_and_every_map(browser: Browser, tmp_path: Path) -> None:
    browser.show(html_from_dissection(dissections.pair(tmp_path)))
    names = {chart.get_attribute("id") for chart in browser.all(".chart")}
    assert names == {
        f"plot-{name}"
        for name in ("cosines-0", "cosines-1", "parameters", "operations", "held", "dead", "training")
    }
    assert len(browser.all(".maps li")) == 12
    assert len(browser.all(".maps img")) == 12 * 5
    assert len(browser.all(".channels img")) == 6


def test_a_text_is_shown_letter_by_letter(browser: Browser, tmp_path: Path) -> None:
    browser.show(html_from_dissection(dissections.text(tmp_path)))
    assert browser.all(".maps blockquote")[0].text == "what a <b>text</b>"
    assert browser.all(".chart") == []
