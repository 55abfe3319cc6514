"""From the answers of real arms to scores, metrics, gates and a report, for values and for tokens."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.small import DATA, Chain, load, make

from lissom.artifact import Artifact, canonical_json
from lissom.logs import NoProgress
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.recipe import BenchmarkConfig, Recipe
from lissom.registry import resolve, runtime_entry
from lissom.report.building import build_report
from lissom.report.evidence import Writer, find_evidence
from lissom.report.measured_run import Run
from lissom.report.measurement import measure
from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.schema import Report

QUICK = BenchmarkConfig.model_validate(
    {"runtimes": ["torch", "onnxruntime"], "num_rounds": 4, "round_ms": 1, "num_warmup": 1, "threads": 1}
)
GENERATOR = np.random.default_rng(11)


def values() -> Data:
    samples = GENERATOR.normal(size=(160, 1, 8, 8)).astype(np.float32)
    return Data("values", Dataset({"image": samples}, samples[:, 0, 0, :3].sum(axis=1)))


def tokens() -> Data:
    samples = GENERATOR.integers(0, 9, (160, 6))
    return Data("tokens", Dataset({"tokens": samples}, np.roll(samples, -1, axis=1)))


def run_of(folder: Path, artifacts: list[Artifact], data: Data) -> tuple[Run, Report]:
    recipe = Recipe.from_document(
        {
            "name": "small",
            "data": {"source": data.source},
            "stages": [{"stage": "load"}, {"stage": "export"}],
            "gates": {"accuracy": {"max_drop": 0.01}},
        },
        (),
        where="test",
    )
    key, records = measure(artifacts, QUICK, data, progress=NoProgress())
    run = Run(recipe, artifacts, records, data, key)
    report = build_report(run, allow=(), command=("lissom",), folder=folder)
    document = json.loads(canonical_json(report.model_dump(mode="json", by_alias=True)))
    assert Report.model_validate(document) == report
    return run, report


def measured(folder: Path, data: Data, source: str, **kwargs: Any) -> tuple[Run, Report]:
    model = load(folder / "load", data, source, **kwargs)
    exported = make(folder / "export", data, "export", parents={"input": model})
    return run_of(folder, [model, exported], data)


def test_values_are_kept_with_their_scores_and_metrics(tmp_path: Path) -> None:
    data = values()
    _, report = measured(tmp_path, data, "mlp", num_classes=1, hidden=[8])
    assert (report.task, report.score_name) == ("regression", "skill")
    arm = report.arms[0]
    assert arm.accuracy is not None
    assert arm.metrics.keys() == {"mae", "rmse", "r2", "pearson"}
    wanted = data.labels("report")
    predictions = np.array(report.predictions.arms["load/torch"])
    assert report.predictions.labels == tuple(wanted.tolist())
    assert arm.metrics["mae"] == pytest.approx(np.abs(predictions - wanted).mean(), rel=1e-4)
    assert arm.accuracy.report == pytest.approx(np.mean(report.predictions.scores["load/torch"]))
    assert arm.accuracy.drop.low < arm.accuracy.drop.value == 0.0 < arm.accuracy.drop.high
    assert "skill" in html_from_report(report)
    assert "| skill |" in markdown_from_report(report)


def test_sequences_keep_a_score_and_no_tokens(tmp_path: Path) -> None:
    data = tokens()
    folder = Path(__file__).parent
    factory = f"{folder / 'tiny_models.py'}:build"
    run, report = measured(tmp_path, data, factory)
    assert (report.task, report.score_name) == ("language-modelling", "token accuracy")
    assert report.predictions.arms == {}
    assert report.predictions.labels == ()
    num_samples = len(data.labels("report"))
    assert {len(scores) for scores in report.predictions.scores.values()} == {num_samples}
    assert report.arms[0].metrics.keys() == {
        "token_accuracy",
        "cross_entropy",
        "bits_per_token",
        "perplexity",
    }
    assert len(run.figures[run.trusted]["scores"]["select"]) == len(data.labels("select"))


def test_classes_are_kept_as_before_with_right_and_wrong(
    tmp_path: Path, chain: Callable[[str], Chain]
) -> None:
    trained, exported, _ = chain("mlp")
    run, report = run_of(tmp_path, [trained, exported], DATA)
    scores = run.scores(run.trusted, "report")
    assert scores is not None
    assert scores.dtype == bool
    assert np.array_equal(scores, np.array(report.predictions.arms["train/torch"]) == DATA.labels("report"))
    assert report.predictions.scores == {}
    assert all(type(label) is int for label in report.predictions.labels)
    assert report.score_name == "accuracy"
    assert report.arms[0].accuracy is not None
    assert report.arms[0].metrics["accuracy"] == pytest.approx(report.arms[0].accuracy.report)


def test_an_arm_whose_answers_have_no_score_is_not_measured(tmp_path: Path) -> None:
    data = values()
    good = load(tmp_path / "good", data, "mlp", num_classes=1, hidden=[8])
    bad = load(tmp_path / "bad", data, f"{Path(__file__).parent / 'tiny_models.py'}:broken")
    _, records = measure([good, bad], QUICK, data, progress=NoProgress())
    found = records["bad"]["runtimes"]["torch"]
    assert "answers have no finite score" in found["error"]
    assert "rounds_ms" not in found
    assert records["good"]["runtimes"]["torch"]["rounds_ms"]


def forgotten(runtimes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """As an older lissom wrote it, without a control."""
    return {
        name: {key: value for key, value in figures.items() if key != "control_ms"}
        for name, figures in runtimes.items()
    }


def test_an_arm_is_timed_as_if_it_were_two_and_the_report_says_how_far_it_differs(tmp_path: Path) -> None:
    run, report = measured(tmp_path, DATA, "mlp", hidden=[8])
    assert report.control is not None
    assert (report.control.artifact, report.control.runtime) == ("export", report.arms[-1].runtime)
    assert 0.2 < report.control.ratio.value < 5
    assert any(remark.startswith("Control: export on ") for remark in report.remarks)
    older = {
        name: {**record, "runtimes": forgotten(record["runtimes"])} for name, record in run.records.items()
    }
    without = build_report(
        Run(run.recipe, run.artifacts, older, run.data, run.measurement),
        allow=(),
        command=(),
        folder=tmp_path,
    )
    assert without.control is None
    assert not any(remark.startswith("Control") for remark in without.remarks)


def test_every_timed_arm_has_percentiles_with_a_bound_or_the_calls_that_one_takes(tmp_path: Path) -> None:
    _, report = measured(tmp_path, DATA, "mlp", hidden=[8])
    latency = report.arms[0].latency
    assert latency is not None
    assert [found.share for found in latency.percentiles] == [0.5, 0.9, 0.95, 0.99, 0.999]
    found = latency.percentile(0.99)
    assert found is not None
    assert (found.bound_ms is None) == (latency.num_samples < found.needed)


class Broken:
    """Makes one runtime do wrong from some call on."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, name: str, after: int, act: Callable[[Any], Any]
    ) -> None:
        kind: Any = resolve(runtime_entry(name).reference, known={})
        inner, calls = kind._infer_impl, [0]

        def infer(runtime: Any, inputs: Mapping[str, np.ndarray]) -> Any:
            calls[0] += 1
            answer = inner(runtime, inputs)
            return act(answer) if calls[0] > after else answer

        monkeypatch.setattr(kind, "_infer_impl", infer)


def crash(answer: Any) -> Any:
    raise ZeroDivisionError("the engine broke")


def lost(answer: Any) -> Any:
    return {name: np.full_like(array, np.nan) for name, array in answer.items()}


def interrupt(answer: Any) -> Any:
    raise KeyboardInterrupt


UNIQUE = itertools.count(1)


def quick(**changes: Any) -> BenchmarkConfig:
    """Settings under which nothing was measured before."""
    return QUICK.model_copy(update={"round_ms": 1 + next(UNIQUE) / 1e6, **changes})


def two(chain: Callable[[str], Chain]) -> list[Artifact]:
    trained, exported, _ = chain("mlp")
    return [trained, exported]


@pytest.mark.parametrize(
    ("after", "act", "words"),
    [
        (0, crash, "ZeroDivisionError: the engine broke"),
        (0, lost, "output 'logits' is not finite: 4 of 4 values"),
        (60, crash, "the engine broke"),
    ],
    ids=["crash-at-first", "nan", "crash-in-a-round"],
)
def test_a_runtime_that_does_wrong_is_reported_beside_the_others(
    tmp_path: Path,
    chain: Callable[[str], Chain],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    act: Callable[[Any], Any],
    words: str,
) -> None:
    Broken(monkeypatch, "onnxruntime", after, act)
    config = quick(num_rounds=6, num_warmup=2)
    _, records = measure(two(chain), config, DATA, progress=NoProgress())
    figures = {name: one for record in records.values() for name, one in record["runtimes"].items()}
    assert words in figures["onnxruntime"]["error"]
    assert "rounds_ms" not in figures["onnxruntime"]
    assert figures["torch"]["error"] is None
    assert len(figures["torch"]["rounds_ms"]) >= 6
    assert all(record["complete"] for record in records.values())


def test_what_was_measured_when_it_was_interrupted_is_kept_and_not_used_again(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = two(chain)
    data = DATA
    config = quick(num_rounds=4000, num_warmup=2, runtimes=("onnxruntime",))
    with monkeypatch.context() as patch:
        Broken(patch, "onnxruntime", 4000, interrupt)
        key, records = measure(artifacts, config, data, progress=NoProgress())
    assert not any(record["complete"] for record in records.values())
    rounds = records["export"]["runtimes"]["onnxruntime"]["rounds_ms"]
    assert 4 <= len(rounds) < 4000
    kept = [record for artifact in artifacts for record in artifact.evidence()]
    assert [record["complete"] for record in kept if record["measurement"] == key] == [False, False]
    assert find_evidence(artifacts, key) is None


def test_what_an_earlier_try_left_goes_when_a_whole_one_is_there(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, config = two(chain), quick(num_rounds=4000, num_warmup=2, runtimes=("onnxruntime",))
    with monkeypatch.context() as patch:
        Broken(patch, "onnxruntime", 3000, interrupt)
        key, _ = measure(artifacts, config, DATA, progress=NoProgress())

    def kept() -> list[bool]:
        records = [record for record in artifacts[1].evidence() if record["measurement"] == key]
        return [record["complete"] for record in records]

    assert kept() == [False]
    writer = Writer(artifacts, config, key, judged_by={})
    writer._name += "-later"
    writer.write({}, [], complete=False)
    assert kept() == [False, False]
    writer.write({}, [], complete=True)
    assert kept() == [True]


def test_an_interruption_before_there_is_anything_is_passed_on(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    Broken(monkeypatch, "onnxruntime", 4, interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(two(chain), quick(), DATA, progress=NoProgress())


def test_opening_memory_warm_up_and_the_machine_are_kept(chain: Callable[[str], Chain]) -> None:
    _, records = measure(two(chain), quick(), DATA, progress=NoProgress())
    record = records["export"]
    figures = record["runtimes"]["onnxruntime"]
    assert figures["open_ms"] > 0
    assert figures["first_ms"] > 0
    assert figures["warmup"]["num_calls"] >= 1
    assert figures["memory"].keys() == {"held_bytes", "peak_bytes", "device_bytes"}
    assert len(record["readings"]) >= QUICK.num_rounds
    assert record["environment"]["host_index"] > 0


def test_an_interrupted_report_says_so(tmp_path: Path, chain: Callable[[str], Chain]) -> None:
    run, _ = run_of(tmp_path, two(chain), DATA)
    records = {name: {**record, "complete": False} for name, record in run.records.items()}
    cut = Run(run.recipe, run.artifacts, records, run.data, run.measurement)
    report = build_report(cut, allow=(), command=("lissom",), folder=tmp_path)
    assert not report.complete
    assert "INTERRUPTED" in report.verdict.sentence


def test_no_verdict_on_speed_is_given_on_an_unfit_machine(
    tmp_path: Path, chain: Callable[[str], Chain]
) -> None:
    run, _ = run_of(tmp_path, two(chain), DATA)
    hot = [{"seconds": 0.0, "throttled": 0, "gpu": None}, {"seconds": 1.0, "throttled": 5, "gpu": None}]
    records = {name: {**record, "readings": hot} for name, record in run.records.items()}
    unfit = Run(run.recipe, run.artifacts, records, run.data, run.measurement)
    report = build_report(unfit, allow=(), command=("lissom",), folder=tmp_path)
    gate = next(gate for gate in report.gates if gate.name == "not-slower")
    assert gate.state == "inconclusive"
    assert "withheld" in gate.reason
    assert any("slowed down for heat 5 times" in remark for remark in report.remarks)


def _three(chain: Callable[[str], Chain]) -> tuple[Artifact, Artifact, Artifact]:
    trained, exported, quantized = chain("resnet")
    return trained, exported, quantized


def test_work_ceilings_and_layers_come_into_the_report(tmp_path: Path, chain: Callable[[str], Chain]) -> None:
    _, report = run_of(tmp_path, [Artifact.open(one.path) for one in _three(chain)], DATA)
    assert report.ceilings is not None
    assert {row.flops for row in report.stages} == {report.stages[0].flops}
    assert report.stages[0].flops
    assert all(0 < arm.roofline.share < 20 for arm in report.arms if arm.roofline)
    assert sum(arm.roofline is not None for arm in report.arms) >= 2
    assert report.layers is not None
    assert report.layers.runtime == "onnxruntime"
    assert "Where the time goes" in html_from_report(report)


def test_an_engine_that_cannot_watch_itself_was_timed_all_the_same(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = resolve(runtime_entry("onnxruntime").reference, known={})
    monkeypatch.setattr(kind, "_layer_times_impl", lambda *_: crash(None))
    _, records = measure(two(chain), quick(), DATA, progress=NoProgress())
    figures = records["export"]["runtimes"]["onnxruntime"]
    assert figures["error"] is None
    assert figures["rounds_ms"]
    assert "layers" not in figures


def test_answers_that_are_nan_on_the_data_alone_fail_their_arm(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    Broken(monkeypatch, "onnxruntime", 1, lost)  # the first call, on the probe, is right
    _, records = measure(two(chain), quick(), DATA, progress=NoProgress())
    figures = records["export"]["runtimes"]["onnxruntime"]
    assert "are NaN or infinite" in figures["error"]
    assert records["train"]["runtimes"]["torch"]["error"] is None


def test_an_interruption_after_the_rounds_keeps_them(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = resolve(runtime_entry("torch").reference, known={})
    monkeypatch.setattr(kind, "_layer_times_impl", lambda *_: interrupt(None))
    _, records = measure(two(chain), quick(), DATA, progress=NoProgress())
    assert not any(record["complete"] for record in records.values())
    assert records["export"]["runtimes"]["onnxruntime"]["rounds_ms"]
