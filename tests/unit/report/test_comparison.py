"""Two reports against each other: slower models are found, and slower machines are not blamed on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from tests.unit.report.samples import NUM_SAMPLES, UNSEEN, typical, without_choice

from lissom.artifact import canonical_json
from lissom.cli import main
from lissom.errors import RequestError
from lissom.recipe import GatesConfig
from lissom.report.comparison import compare, markdown_of
from lissom.report.exports import junit_of
from lissom.report.schema import Predictions, Report

LIMITS = GatesConfig()
CHOSEN = "quantize/openvino"


def report(
    *,
    wrong: int = 6,
    slower: float = 1.0,
    machine: float = 1.0,
    noise: float = 0.01,
    seed: int = 0,
    **changes: Any,
) -> Report:
    """A run whose chosen arm has so many wrong answers, on a machine that is slower by a factor."""
    found = typical(**changes)
    generator = np.random.default_rng(seed)
    labels = np.arange(NUM_SAMPLES) % 10
    answers = np.where(np.arange(NUM_SAMPLES) < wrong, (labels + 1) % 10, labels)
    arms = []
    for arm in found.arms:
        assert arm.latency is not None
        factor = machine * (slower if arm.chosen else 1.0)
        drawn = arm.latency.median_ms.value * factor * generator.lognormal(0, noise, (24, 5))
        rounds = tuple(tuple(row) for row in drawn.tolist())
        latency = arm.latency.model_copy(update={"rounds_ms": rounds})
        arms.append(arm.model_copy(update={"latency": latency}))
    predictions = Predictions(
        samples=tuple(f"{index:016x}" for index in range(NUM_SAMPLES)),
        labels=tuple(labels.tolist()),
        arms={CHOSEN: tuple(answers.tolist())},
        **UNSEEN,
    )
    return found.model_copy(update={"arms": tuple(arms), "predictions": predictions})


def states(before: Report, after: Report, **options: Any) -> dict[str, str]:
    return {gate.name: gate.state for gate in compare(before, after, LIMITS, **options).gates}


def test_the_same_model_again_is_neither_slower_nor_less_accurate() -> None:
    found = compare(report(seed=1), report(seed=2), LIMITS)
    assert {gate.name: gate.state for gate in found.gates} == {"accuracy": "pass", "not-slower": "pass"}
    assert found.ok
    assert found.verdict == "inconclusive"
    assert found.flips == (0, 0, 1.0)
    assert not found.notes


def test_a_slower_model_fails_and_a_faster_one_is_better() -> None:
    slower = compare(report(), report(slower=1.1, seed=1), LIMITS)
    assert slower.verdict == "worse"
    assert not slower.ok
    assert slower.speedup is not None
    assert slower.speedup.value == pytest.approx(1 / 1.1, rel=0.01)
    assert compare(report(), report(slower=0.8, seed=1), LIMITS).verdict == "better"
    allowed = compare(report(), report(slower=1.1, seed=1), LIMITS, allow=["not-slower"])
    assert allowed.ok


def test_a_slower_machine_is_not_blamed_on_the_model() -> None:
    assert states(report(), report(machine=1.5, seed=1))["not-slower"] == "pass"
    assert states(report(), report(machine=1.5, slower=1.1, seed=1))["not-slower"] == "fail"


def test_without_a_common_original_a_pass_is_not_claimed() -> None:
    other = report(seed=1)
    stages = tuple(row.model_copy(update={"digest": f"other-{row.name}"}) for row in other.stages)
    found = compare(report(), other.model_copy(update={"stages": stages}), LIMITS)
    assert {gate.name: gate.state for gate in found.gates}["not-slower"] == "inconclusive"
    assert "no model in common" in found.notes[0]


def test_another_machine_is_no_control() -> None:
    other = report(seed=1)
    environment = {**other.environment, "cpu": "another processor"}
    found = compare(report(), other.model_copy(update={"environment": environment}), LIMITS)
    assert {gate.name: gate.state for gate in found.gates}["not-slower"] == "inconclusive"
    assert any("cpu was" in note for note in found.notes)


def test_lost_answers_are_counted_by_sample() -> None:
    found = compare(report(wrong=6), report(wrong=20, seed=1), LIMITS)
    assert found.flips is not None
    assert (found.flips.lost, found.flips.gained) == (14, 0)
    assert found.flips.p_value < 0.001
    assert {gate.name: gate.state for gate in found.gates}["accuracy"] == "fail"
    assert any("14 lost, 0 gained" in line.change for line in found.lines)


def test_reports_without_common_samples_are_refused_unless_accuracy_may_fail() -> None:
    other = report(seed=1)
    renamed = tuple(f"f{name[1:]}" for name in other.predictions.samples)
    predictions = other.predictions.model_copy(update={"samples": renamed})
    other = other.model_copy(update={"predictions": predictions})
    with pytest.raises(RequestError, match="no sample in common") as caught:
        compare(report(), other, LIMITS)
    assert "--allow accuracy" in caught.value.hint
    found = compare(report(), other, LIMITS, allow=["accuracy"])
    assert {gate.name: gate.state for gate in found.gates}["accuracy"] == "skipped"
    assert "no sample with a label" in found.notes[-1]


def test_reports_without_labels_skip_accuracy() -> None:
    predictions = Predictions(samples=("0123456789abcdef",), labels=(), arms={}, **UNSEEN)
    unlabelled = report().model_copy(update={"predictions": predictions})
    found = compare(unlabelled, unlabelled, LIMITS)
    assert {gate.name: gate.state for gate in found.gates}["accuracy"] == "skipped"


def test_what_failed_in_the_newer_report_fails_here_too() -> None:
    other = report(seed=1)
    gates = tuple(
        gate.model_copy(update={"state": "fail"}) if gate.name == "precision" else gate
        for gate in other.gates
    )
    found = compare(report(), other.model_copy(update={"gates": gates}), LIMITS)
    assert not found.ok
    assert [gate.name for gate in found.gates] == ["accuracy", "not-slower", "precision"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"task": "regression"}, "task was 'classification'"), ({"labels": ("a", "b")}, "labels was")],
)
def test_reports_of_other_data_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        compare(report(), report().model_copy(update=changes), LIMITS)


def test_a_report_without_a_choice_is_refused() -> None:
    with pytest.raises(RequestError, match="has no chosen model"):
        compare(report(), without_choice(), LIMITS)


def test_the_markdown_and_the_junit_say_the_same() -> None:
    found = compare(report(), report(slower=1.2, seed=1), LIMITS)
    page = markdown_of(found, ("main", "branch | with a pipe"))
    assert page.startswith("### Worse: branch")
    assert "| not-slower | **fail** |" in page
    suite = ElementTree.fromstring(junit_of(found.gates, suite="lissom compare", name="lissom.compare"))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    (failure,) = suite.iter("failure")
    assert "not slower by more than 2%" in str(failure.get("message"))


def written(folder: Path, found: Report) -> str:
    folder.mkdir()
    (folder / "report.json").write_bytes(canonical_json(found.model_dump(mode="json", by_alias=True)))
    return str(folder)


def test_the_verb_ends_with_the_exit_code_of_the_gates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, same = written(tmp_path / "a", report()), written(tmp_path / "b", report(seed=1))
    slow, out = written(tmp_path / "c", report(slower=1.2, seed=2)), tmp_path / "out"
    assert main(["compare", before, same]) == 0
    assert main(["compare", before, slow, "--json", "--out", str(out)]) == 1
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["verdict"] == "worse"
    assert {path.name for path in out.iterdir()} == {"compare.json", "compare.md", "junit.xml"}
    assert main(["compare", before, slow, "--max-slowdown", "0.5"]) == 0
    assert main(["compare", before, slow, "--allow", "not-slower"]) == 0
    assert main(["compare", before, slow, "--allow", "nothing"]) == 2
    assert main(["compare", before, str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged, or only a part of it is there"),
        (b'{"schema": "lissom.report/1"', "is damaged, or only a part of it is there"),
        (b"[]", "is not a report"),
        (b'{"schema": "lissom.plan/1"}', "its schema is 'lissom.plan/1'"),
        (b'{"schema": "lissom.report/99", "lissom": "9.9"}', "written by lissom 9.9 in the schema"),
    ],
)
def test_a_damaged_or_newer_report_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    before = written(tmp_path / "a", report())
    (tmp_path / "b.json").write_bytes(content)
    assert main(["compare", before, str(tmp_path / "b.json")]) == 2
    assert message in capsys.readouterr().err
