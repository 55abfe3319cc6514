"""The pair: batches, load and flips of the chosen arm and the original; what is told and drawn of them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.report import samples
from tests.unit.report.test_pages import Page

import lissom
from lissom.artifact import Artifact
from lissom.bench.selection import ArmKey
from lissom.errors import LissomError, MissingExtra, RecipeError
from lissom.logs import NoProgress
from lissom.recipe import BenchmarkConfig
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
        "threads": 1,
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


@pytest.fixture(scope="module", autouse=True)
def _few_flips() -> Iterator[None]:
    """An untrained model flips many answers; explaining one of them is enough."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pair, "_FLIP_SECONDS", 0.0)
        yield


def _copied(folder: Path, to: Path) -> Path:
    """A run whose arms need not be timed again."""
    return Path(shutil.copytree(folder, to / "run", symlinks=True))


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
    assert flips[0].before_map
    assert flips[0].after_map
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


def test_what_is_not_asked_for_is_absent(
    folder: Path, measured: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingExtra("captum is not installed", hint="")

    monkeypatch.setattr(pair, "occlusion_maps", missing)
    report = _run(_copied(folder, tmp_path), batch_sizes=(), slo_ms=None)
    assert (report.batches, report.load, report.slo_ms) == ((), (), None)
    assert all(flip.before_map is None for flip in report.predictions.flips)
    assert 'id="load"' not in html_from_report(report)


def test_an_interrupted_pair_leaves_a_report_that_is_not_complete(
    folder: Path, measured: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pair, "ask", interrupted)
    copy = _copied(folder, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _run(copy, load_seconds=0.06)
    report = read_report(copy)
    assert not report.complete
    assert len(_pairs(copy)) == len(_pairs(folder))
    assert report.batches
    assert not report.load


ONE, OTHER = ArmKey("one", "torch"), ArmKey("other", "torch")


class Engine:
    """Takes so many seconds a call, and raises from some call on."""

    name, thread_safe, max_batch, threads = "torch", False, None, 1

    def __init__(self, seconds: float, *, breaks_after: int | None = None) -> None:
        self.seconds, self.breaks_after, self.num_calls = seconds, breaks_after, 0

    def infer_batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.num_calls += 1
        if self.breaks_after is not None and self.num_calls > self.breaks_after:
            raise MemoryError("too much")
        time.sleep(self.seconds)
        return dict(inputs)

    def timed_infer(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        return self.infer_batch(inputs), self.seconds


def _measured(rounds: Mapping[ArmKey, float], **benchmark: Any) -> Any:
    """A run that took so many milliseconds a call."""
    raw = {"batch_sizes": [1, 2], "slo_ms": 5.0, "load_seconds": 0.4, "num_rounds": 4, "num_warmup": 1}
    return SimpleNamespace(
        recipe=SimpleNamespace(benchmark=BenchmarkConfig.model_validate({**raw, **benchmark})),
        rounds={arm: [[ms] * 3] * 4 for arm, ms in rounds.items()},
        data=SimpleNamespace(
            indices={"select": [0, 1]},
            tensors=lambda split: {"x": np.zeros((2, 3), dtype=np.float32)},
        ),
        by_name={"one": None, "other": None},
    )


def _of(found: Iterable[dict[str, Any]], arm: ArmKey) -> list[dict[str, Any]]:
    return [record for record in found if record["artifact"] == arm.artifact]


def test_rates_are_shares_of_the_calls_that_were_timed_and_too_much_is_not_kept_up_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pair, "SHARES_OF_CAPACITY", (0.2, 2.0))
    arms: Any = pair._Opened({ONE: Engine(0.002), OTHER: Engine(0.0)}, {})
    found = list(pair._load(_measured({ONE: 2.0, OTHER: 0.5}), arms, NoProgress()))
    rates = [record["rate"] for record in _of(found, ONE)]
    assert rates == pytest.approx([500 * share for share in pair.SHARES_OF_CAPACITY])
    assert [record["rate"] for record in _of(found, OTHER)] == pytest.approx([4 * rate for rate in rates])
    assert _of(found, ONE)[0]["kept_up"]
    assert not _of(found, ONE)[-1]["kept_up"]
    assert [one["share"] for one in found[0]["percentiles"]] == [0.5, 0.9, 0.95, 0.99, 0.999]


def test_rates_are_of_single_samples_where_larger_batches_were_timed() -> None:
    arms: Any = pair._Opened({ONE: Engine(0.001)}, {})
    found = list(pair._load(_measured({ONE: 500.0}, batch_size=32), arms, NoProgress()))
    assert found[0]["rate"] > 50


def test_an_arm_that_breaks_is_told_with_what_it_did_before_and_the_other_goes_on() -> None:
    breaking, good = Engine(0.0005, breaks_after=60), Engine(0.0005)
    arms: Any = pair._Opened({ONE: breaking, OTHER: good}, {})
    found = list(pair._load(_measured({ONE: 2.0, OTHER: 2.0}), arms, NoProgress()))
    assert {record["error"] for record in _of(found, ONE)} == {"MemoryError: too much"}
    assert _of(found, ONE)[0]["num_queries"] > 0
    assert [record["error"] for record in _of(found, OTHER)] == [None] * len(pair.SHARES_OF_CAPACITY)


def test_an_arm_that_cannot_be_opened_again_is_told_at_every_batch_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opens(artifact: None, runtime: str, **options: Any) -> Any:
        raise LissomError("not today") if runtime == "torch" else ZeroDivisionError("nor tomorrow")

    monkeypatch.setattr(pair, "open_runtime", opens)
    run, other = _measured({}), ArmKey("other", "openvino")
    with ExitStack() as stack:
        opened = pair._opened(run, [ONE, other], stack)
    assert opened == ({}, {ONE: "not today", other: "ZeroDivisionError: nor tomorrow"})
    told = [(one["batch_size"], one["error"]) for one in pair._batches(run, opened.only(ONE), NoProgress())]
    assert told == [(1, "not today"), (2, "not today")]
    (asked,) = pair._load(run, opened.only(ONE), NoProgress())
    assert (asked["error"], asked["num_queries"], asked["percentiles"]) == ("not today", 0, [])
    assert "one on torch cannot be asked: not today" in load_told(
        paired(load=(LoadFigures.model_validate(asked),))
    )


@pytest.mark.parametrize(
    "wrong", [{"slo_ms": 0}, {"slo_ms": -1}, {"slo_ms": "soon"}, {"load_seconds": 0}, {"load_seconds": 601}]
)
def test_a_limit_and_its_seconds_are_above_zero(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BenchmarkConfig.model_validate(wrong)


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
    assert told.startswith("Within 5 ms at p99: quantize on openvino answers up to 200 queries a second; ")
    assert "train on openvino answers up to 90.0 queries a second" in told
    assert "answers not even 90.0 queries a second" in load_told(paired(slo_ms=0.1))


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
    load = json.loads(draw_load(report).figure)  # type: ignore[union-attr]
    assert [trace["marker"]["symbol"] for trace in load["data"]] == [
        ["circle", "circle", "circle-open"],
        ["circle"],
    ]
    assert load["layout"]["annotations"][0]["text"] == "SLO 5 ms"


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw_batches(samples.typical()) is None
    assert draw_load(samples.typical()) is None
    assert draw_load(paired(load=())) is None


def test_a_thousand_rates_of_a_hostile_name_are_drawn_with_the_name_escaped() -> None:
    load = tuple(_load(1 + rate, 2, arm=samples.HOSTILE) for rate in range(1000))
    drawn = draw_load(paired(load=load))
    assert drawn is not None
    (trace,) = json.loads(drawn.figure)["data"]
    assert len(trace["x"]) == 1000
    assert "<script" not in trace["hovertext"][0]
