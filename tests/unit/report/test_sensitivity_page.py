"""The page of a sensitivity, from figures made by hand."""

from __future__ import annotations

import json
import re

import pytest
from tests.unit.report.test_pages import Page

from lissom.compress.sensitivity import GroupTrials, Sensitivity, Trial
from lissom.report.sensitivity_page import draw_sensitivity, html_from_sensitivity, summary

HOSTILE = '</script><b onmouseover="alert(1)">'


def group(name: str, *drops: float, layers: tuple[str, ...] = ()) -> GroupTrials:
    trials = [
        Trial(share, (32, 32 - int(32 * share)), 0.9 - drop, drop, 1 - share / 2)
        for share, drop in zip((0.25, 0.5), drops, strict=False)
    ]
    return GroupTrials(name, layers or (name,), tuple(trials))


def found(*groups: GroupTrials, model: str = "train") -> Sensitivity:
    return Sensitivity(model, "digits", "openvino", "a processor, 2 cores", "accuracy", 0.9, 254, groups)


TYPICAL = found(group("stem", -0.01, 0.02), group("blocks.1.conv1", 0.1, 0.4, layers=("blocks.1.conv1", "b")))
EVERY = [TYPICAL, found(group("one", 0.0)), found(group(HOSTILE, 0.1, 0.2), model=HOSTILE)]


@pytest.mark.parametrize("sample", EVERY)
def test_the_tags_match_and_nothing_may_be_fetched(sample: Sensitivity) -> None:
    page = Page(html_from_sensitivity(sample))
    assert page.open == []
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert any("default-src 'none'" in value for value in page.attributes("content"))
    addresses = page.attributes("href") + page.attributes("src")
    assert not any(address.startswith(("http", "//")) for address in addresses)
    assert "alert(1)" not in " ".join(page.attributes("onmouseover"))


@pytest.mark.parametrize("sample", EVERY)
def test_no_two_elements_share_an_id_and_every_reference_is_met(sample: Sensitivity) -> None:
    page = Page(html_from_sensitivity(sample))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {*page.attributes("aria-labelledby"), *page.attributes("data-figure")} <= set(ids)


def test_the_map_has_a_cell_for_every_group_and_share() -> None:
    (trace,) = json.loads(draw_sensitivity(TYPICAL).figure)["data"]
    assert trace["z"] == [[-0.01, 0.02], [0.1, 0.4]]
    assert trace["text"] == [["+1.0", "−2.0"], ["−10.0", "−40.0"]]
    assert trace["zmax"] == 0.4
    assert "latency saved 25.0" in trace["customdata"][1][1]
    assert "32 to 16 channels" in trace["customdata"][1][1]


def test_a_small_drop_is_not_painted_as_a_large_one() -> None:
    (trace,) = json.loads(draw_sensitivity(found(group("one", 0.001, 0.002))).figure)["data"]
    assert trace["zmax"] == 0.1


def test_every_figure_is_in_the_table_too() -> None:
    text = Page(html_from_sensitivity(TYPICAL)).text
    for figure in ("91.0", "88.0", "80.0", "50.0", "32 to 24", "12.5", "and b"):
        assert figure in text


def test_the_summary_names_the_cheapest_and_the_dearest() -> None:
    plain = re.sub(r"\s", " ", summary(TYPICAL))
    assert "Cheapest is stem (−0.5 points, 18.8 % of the time saved" in plain
    assert "dearest blocks.1.conv1 (−25.0 points" in plain
    assert "has one group, one (" in summary(found(group("one", 0.0)))
