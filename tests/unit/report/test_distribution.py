"""The distribution of latency: quantiles, and a tail that goes as far as there are calls."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.unit.report import samples

from lissom.report.distribution import draw_distribution, draw_tail, nines, tail
from lissom.report.schema import LatencyFigures


def _latency(times: np.ndarray) -> LatencyFigures:
    known = next(arm.latency for arm in samples.typical().arms if arm.latency)
    return known.model_copy(update={"rounds_ms": (tuple(times.tolist()),)})


@pytest.mark.parametrize("number", [1, 2, 50, 10_000])
def test_the_tail_ends_at_the_slowest_call_and_begins_at_the_fastest(number: int) -> None:
    times = np.random.default_rng(0).exponential(size=number) + 0.1
    shares, found = tail(_latency(times))
    assert found[0] == times.min()
    assert found[-1] == times.max()
    assert found == sorted(found)
    assert shares[-1] == pytest.approx(1 - 1 / number)
    assert len(found) <= 61


def test_every_nine_is_as_far_as_the_one_before() -> None:
    assert nines(0.99) - nines(0.9) == pytest.approx(nines(0.999) - nines(0.99))


def test_ticks_end_where_there_are_no_more_calls() -> None:
    drawing = draw_tail(samples.typical())
    assert drawing is not None
    ticks = [text.strip() for text in json.loads(drawing.figure)["layout"]["yaxis"]["ticktext"]]
    assert ticks[:3] == ["0", "50", "90"]
    assert "99.99" not in ticks


def test_a_time_stands_at_one_place_in_both_plots() -> None:
    both = [draw(samples.typical()) for draw in (draw_distribution, draw_tail)]
    first, second = (json.loads(drawing.figure)["layout"]["xaxis"] for drawing in both if drawing)
    assert first == second


def test_nothing_measured_gives_no_plot() -> None:
    assert draw_tail(samples.empty()) is None
