"""What it takes to begin: columns that were measured, and nothing where nothing was."""

from __future__ import annotations

import json
import statistics

import pytest
from tests.unit.report import samples

from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.resources_section import draw_rounds, resource_rows, resources
from lissom.report.schema import Control, EnergyFigures, Interval, MemoryFigures, Report


def changed(**figures: object) -> Report:
    report = samples.typical()
    first, *others = report.arms
    return report.model_copy(update={"arms": (first.model_copy(update=figures), *others)})


def test_columns_without_a_figure_are_left_out() -> None:
    header, rows = resource_rows(samples.typical())
    assert "memory of the card" not in header
    assert "energy a call, mJ" not in header
    assert len(rows) == len(samples.typical().arms)
    assert {len(row) for row in rows} == {len(header)}
    assert any("44, not steady" in row for row in rows)


def test_energy_and_the_card_have_columns_where_they_were_measured() -> None:
    energy = EnergyFigures(counter="NVML", joules=0.25, above_idle_joules=0.2, num_calls=100, seconds=5.0)
    memory = MemoryFigures(held_bytes=1, peak_bytes=2_000_000, device_bytes=512_000_000)
    report = changed(energy=(energy,), memory=memory)
    header, rows = resource_rows(report)
    told = dict(zip(header, rows[0], strict=True))
    assert told["energy a call, mJ"] == "250"
    assert "512" in told["memory of the card"]
    assert "250" in markdown_from_report(report)


def test_readings_are_summed_up_with_their_units() -> None:
    reading = {"cpu_mhz": 2600.0, "others": 0.25, "gpu": {"sm_mhz": 1980, "watts": 310.4, "celsius": None}}
    page = resources(samples.typical().model_copy(update={"readings": (reading, reading)}))
    assert "2,600 MHz" in page
    assert "25 %" in page
    assert "310 W" in page
    assert "heat of the card" not in page
    assert "Read 2 times" in page


def test_a_report_in_which_nothing_was_opened_has_no_such_section() -> None:
    report = samples.typical()
    none = report.model_copy(
        update={"arms": tuple(arm.model_copy(update={"open_ms": None}) for arm in report.arms)}
    )
    assert resources(none) == ""
    assert "To begin" not in html_from_report(none)


def test_rounds_are_drawn_each_over_the_mean_of_all() -> None:
    ratio = Interval(value=1.0, low=0.99, high=1.01)
    control = Control(artifact="export", runtime="openvino", ratio=ratio, rounds=(0.99, 1.01))
    drawing = draw_rounds(samples.typical().model_copy(update={"control": control}))
    assert drawing is not None
    traces = json.loads(drawing.figure)["data"]
    assert len(traces) == 3
    assert traces[2]["y"] == [0.99, 1.01]
    assert statistics.geometric_mean(traces[1]["y"]) == pytest.approx(1.0)
    assert len(traces[1]["y"]) == 24
    assert "24 rounds" in drawing.label


def test_a_report_without_a_choice_and_a_control_draws_no_rounds() -> None:
    assert draw_rounds(samples.without_choice()) is None
    assert "From round to round" not in html_from_report(samples.without_choice())
