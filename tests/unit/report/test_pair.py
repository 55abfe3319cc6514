"""The pair: batches, load and flips of the chosen arm and the original; what is told and drawn of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.report import samples
from tests.unit.report.test_pages import Page

import lissom
from lissom.artifact import Artifact
from lissom.errors import MissingExtra, RecipeError
from lissom.report import pair
from lissom.report.building import percentile_figures
from lissom.report.files import read_report
from lissom.report.markdown import markdown_from_report
from lissom.report.pages import html_from_report
from lissom.report.pair_section import draw_batches, draw_load, load_told, within_slo
from lissom.report.schema import BatchFigures, Interval, LoadFigures, Report

RECIPE: dict[str, Any] = {
    "name": "pair",
    "data": {"source": "digits"},
    "model": {"source": "resnet", "kwargs": {"widths": [16], "blocks": [1]}},
    "stages": [
        {"stage": "train", "epochs": 1, "learning_rate": 0.1},
        {"stage": "prune", "ratio": 0.5},
    ],
    "gates": {"accuracy": {"max_drop": 1.0}},
    "benchmark": {
        "runtimes": ["torch"],
        "num_rounds": 4,
        "max_rounds": 4,
        "round_ms": 0.5,
        "num_warmup": 1,
        "energy_seconds": 0,
        "batch_sizes": [1, 4],
        "slo_ms": 100.0,
        "load_seconds": 0.05,
    },
}


def _run(folder: Path, **benchmark: Any) -> Report:
    recipe = {**RECIPE, "benchmark": {**RECIPE["benchmark"], **benchmark}}
    lissom.run(lissom.Recipe.model_validate(recipe), out=folder, allow=("not-slower", "accuracy"))
    return read_report(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pair") / "run"


@pytest.fixture(scope="module")
def measured(folder: Path) -> Report:
    return _run(folder)


def _pairs(folder: Path) -> list[dict[str, Any]]:
    return [record for record in Artifact.open(folder / "artifact").evidence() if "pair" in record]


def test_both_arms_are_timed_at_every_batch_size(measured: Report) -> None:
    assert [(one.artifact, one.batch_size) for one in measured.batches] == [
        ("train", 1),
        ("prune", 1),
        ("train", 4),
        ("prune", 4),
    ]
    for one in measured.batches:
        assert one.median_ms is not None
        assert one.samples_per_second == pytest.approx(1e3 * one.batch_size / one.median_ms.value)


def test_both_arms_are_asked_at_every_rate(measured: Report) -> None:
    assert len(measured.load) == 2 * len(pair.SHARES_OF_CAPACITY)
    assert all(one.error is None and one.num_queries >= 3 for one in measured.load)
    assert measured.slo_ms == 100.0


def test_answers_that_flipped_are_explained_by_both_models(measured: Report) -> None:
    flips = measured.predictions.flips
    assert flips
    assert all(flip.before_map and flip.after_map for flip in flips)
    assert "What speaks for" in html_from_report(measured)


def test_a_rerun_measures_nothing_again(folder: Path, measured: Report) -> None:
    assert len(_pairs(folder)) == 1
    assert _run(folder) == measured
    assert len(_pairs(folder)) == 1


def test_another_target_asks_nothing_again_and_times_no_arm(folder: Path, measured: Report) -> None:
    other = _run(folder, slo_ms=50.0)
    assert other.slo_ms == 50.0
    assert other.load == measured.load
    assert other.measurement == measured.measurement


def test_what_is_not_asked_for_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingExtra("captum is not installed", hint="")

    monkeypatch.setattr(pair, "occlusion_maps", missing)
    report = _run(tmp_path / "run", batch_sizes=(), slo_ms=None)
    assert (report.batches, report.load, report.slo_ms) == ((), (), None)
    assert all(flip.before_map is None for flip in report.predictions.flips)
    assert 'id="load"' not in html_from_report(report)


def test_an_interrupted_pair_leaves_a_report_that_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pair, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "run")
    report = read_report(tmp_path / "run")
    assert not report.complete
    assert report.batches
    assert not report.load


def test_a_rate_that_fails_is_told_and_the_other_arm_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(pair, "ask", fails)
    found = pair._at_rate(None, {}, 10.0, 1.0, 0)  # type: ignore[arg-type]
    assert (found["error"], found["kept_up"], found["percentiles"]) == ("no", False, [])


@pytest.mark.parametrize("sizes", [[4, 1], [1, 1], [0], [1.5]])
def test_batch_sizes_ascend_and_are_whole(sizes: list[float]) -> None:
    raw = {**RECIPE, "benchmark": {"batch_sizes": sizes}}
    with pytest.raises((RecipeError, ValueError), match="batch_sizes"):
        lissom.Recipe.model_validate(raw)


def test_the_estimate_counts_rates_and_batches() -> None:
    config = lissom.Recipe.model_validate(RECIPE).benchmark
    assert pair.estimated_seconds(config) == pytest.approx(2 * 2 * 4 * 0.5e-3 + 2 * 6 * 0.05)


def _load(rate: float, milliseconds: float, *, arm: str = "quantize", kept_up: bool = True) -> LoadFigures:
    told = percentile_figures(np.full(1000, milliseconds))
    return LoadFigures.model_validate(
        {
            "artifact": arm,
            "runtime": "openvino",
            "rate": rate,
            "num_queries": 1000,
            "kept_up": kept_up,
            "percentiles": told,
            "error": None,
        }
    )


def paired(**changes: Any) -> Report:
    """A report with batches and rates of both arms."""
    batch = {
        "artifact": samples.HOSTILE,
        "runtime": "openvino",
        "batch_size": 8,
        "samples_per_second": 800.0,
        "rounds_ms": ((10.0,),),
        "median_ms": Interval(value=10.0, low=9.0, high=11.0),
        "error": None,
    }
    failed = {
        **batch,
        "median_ms": None,
        "samples_per_second": None,
        "rounds_ms": (),
        "error": "out of memory",
    }
    told = {
        "batches": (BatchFigures.model_validate(batch), BatchFigures.model_validate(failed)),
        "load": (_load(100, 2), _load(200, 3), _load(400, 9, kept_up=False), _load(90, 1, arm="train")),
        "slo_ms": 5.0,
    }
    return samples.typical().model_copy(update={**told, **changes})


def test_the_highest_rate_within_the_target_ends_at_the_first_that_is_not() -> None:
    figures = [_load(100, 2), _load(200, 9), _load(300, 2)]
    assert within_slo(figures, 5.0) == 100
    assert within_slo(figures, 1.0) is None
    assert within_slo([_load(100, 2, kept_up=False)], 5.0) is None


def test_the_sentence_names_every_arm_and_its_rate() -> None:
    told = load_told(paired())
    assert "quantize on openvino answers 200 queries a second" in told
    assert "train on openvino answers 90.0 queries a second" in told
    assert "not even the lowest rate" in load_told(paired(slo_ms=0.1))


def test_both_pictures_are_drawn_and_their_tables_hold_the_figures() -> None:
    report = paired()
    page = html_from_report(report)
    assert {"plot-batches", "plot-load"} <= {
        attributes["id"] for _, attributes in Page(page).elements if attributes.get("class") == "chart"
    }
    assert "out of memory" in page
    assert "<script>alert" not in page
    assert "queries a second" in markdown_from_report(report)
    json.loads(draw_batches(report).figure)  # type: ignore[union-attr]
    assert "circle-open" in draw_load(report).figure  # type: ignore[union-attr]


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw_batches(samples.typical()) is None
    assert draw_load(samples.typical()) is None
    assert draw_load(paired(load=())) is None
