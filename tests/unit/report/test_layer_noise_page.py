"""The page of layers in int8, from figures made by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from tests.unit.report.test_pages import Page

from lissom.compress.layer_noise import LayerNoise, NoisyLayer
from lissom.report.layer_noise_page import draw_layer_noise, html_from_layer_noise, noise, summary

HOSTILE = '</script><b onmouseover="alert(1)">'


def layer(name: str, sqnr_db: float, drop: float | None = 0.0) -> NoisyLayer:
    return NoisyLayer(name, "Conv", 1234, sqnr_db, 0.987, None if drop is None else 0.9 - drop, drop)


def found(*layers: NoisyLayer, model: str = "vit", score: float | None = 0.9) -> LayerNoise:
    machine = "a processor, 2 cores"
    return LayerNoise(model, "digits", "x86", machine, "select", 254, "accuracy", score, layers)


TYPICAL = found(layer("stem", -3.26, 0.123), layer("blocks.1.conv1", 41.2, -0.004))
UNLABELLED = found(layer("stem", 12.0, None), layer("head", 30.0, None), score=None)
EVERY = [
    TYPICAL,
    UNLABELLED,
    found(layer("one", 200.0)),
    found(layer("one", -200.0)),
    found(layer(HOSTILE, 10.0), layer("two", 200.0), model=HOSTILE),
]


@pytest.mark.parametrize("sample", EVERY)
def test_the_tags_match_and_nothing_may_be_fetched(sample: LayerNoise) -> None:
    page = Page(html_from_layer_noise(sample))
    assert page.open == []
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert any("default-src 'none'" in value for value in page.attributes("content"))
    addresses = page.attributes("href") + page.attributes("src")
    assert not any(address.startswith(("http", "//")) for address in addresses)
    assert "alert(1)" not in " ".join(page.attributes("onmouseover"))


@pytest.mark.parametrize("sample", EVERY)
def test_no_two_elements_share_an_id_and_every_reference_is_met(sample: LayerNoise) -> None:
    page = Page(html_from_layer_noise(sample))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {*page.attributes("aria-labelledby"), *page.attributes("data-figure")} <= set(ids)


def test_every_layer_has_a_bar_and_the_noisiest_is_on_top() -> None:
    figure = json.loads(draw_layer_noise(TYPICAL).figure)
    (trace,) = figure["data"]
    assert trace["x"] == [-3.26, 41.2]
    assert trace["text"] == ["−3.3", "41.2"]
    assert figure["layout"]["yaxis"]["ticktext"] == ["stem", "blocks.1.conv1"]
    assert figure["layout"]["yaxis"]["range"] == [1.5, -0.5]
    low, high = figure["layout"]["xaxis"]["range"]
    assert low < -3.26
    assert high > 41.2
    assert "accuracy 77.7\xa0%, −12.3 points" in trace["customdata"][0]


def test_a_layer_without_noise_does_not_squeeze_the_others() -> None:
    sample = found(layer("broken", -200.0), layer("stem", 20.0), layer("equal", 200.0))
    figure = json.loads(draw_layer_noise(sample).figure)
    assert figure["data"][0]["x"] == [0, 20.0, 20.0]
    assert figure["data"][0]["text"] == ["not finite", "20.0", "no noise"]
    assert figure["layout"]["xaxis"]["range"][1] < 30
    assert [noise(each) for each in sample.layers] == ["not finite", "20.0", "no noise"]


def test_every_figure_is_in_the_table_too() -> None:
    text = Page(html_from_layer_noise(TYPICAL)).text
    for figure in ("stem", "Conv", "1,234", "−3.3", "98.7", "77.7", "12.3", "−0.4"):
        assert figure in text


def test_without_labels_nothing_is_said_of_a_score() -> None:
    text = Page(html_from_layer_noise(UNLABELLED)).text
    assert "Drop" not in text
    assert "accuracy" not in text.lower()
    assert "Compared with the float32 model on 254\xa0samples of the calibrate split" in summary(
        replace(UNLABELLED, split="calibrate")
    )


def test_the_summary_names_the_noisiest_and_the_least_noisy() -> None:
    plain = re.sub(r"\s", " ", summary(TYPICAL))
    assert plain.startswith("The float32 model has 90.0 % accuracy on 254 samples of the select split.")
    assert "Noisiest of 2 layers is stem (−3.3 dB, −12.3 points)" in plain
    assert "least noisy blocks.1.conv1 (41.2 dB, +0.4 points)" in plain
    assert "has one layer, one (no noise, 0.0 points)" in re.sub(r"\s", " ", summary(EVERY[2]))
