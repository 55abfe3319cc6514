"""Metrics and confusion matrix on the pages, and the words where a score is no accuracy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.unit.report import samples

from lissom.report.confusion import MAX_CLASSES, arm_confusion, draw_confusion
from lissom.report.metrics import change, compared_arms, figure
from lissom.report.migrations import migrated
from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.reading import accuracy_interval, chosen_arm
from lissom.report.schema import Report


def section(page: str, name: str) -> str:
    found = re.search(rf'<section aria-labelledby="{name}">.*?</section>', page, flags=re.DOTALL)
    assert found
    return found[0]


def words(html: str) -> str:
    html = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_page_shows_the_reference_beside_the_chosen_arm_and_every_arm_folded_away() -> None:
    report = samples.with_metrics()
    found = words(section(html_from_report(report), "metrics"))
    assert "Reference train · torch Chosen quantize · openvino Change" in found
    assert "accuracy 0.9719 0.9629 −0.0090" in found
    assert "top-5 accuracy 0.9981" in found
    assert "calibration error lower is better" in found
    assert "The metrics of every arm" in found
    assert found.count("inductor") == 3


def test_the_markdown_shows_the_reference_and_the_chosen_arm() -> None:
    found = markdown_from_report(samples.with_metrics())
    assert "### Metrics on the report split" in found
    assert "| metric | reference: train on torch | chosen: quantize on openvino |" in found
    assert "| accuracy | 0.9719 | 0.9629 |" in found


def test_a_chosen_arm_that_is_the_reference_is_shown_once() -> None:
    report = samples.with_metrics()
    arms = tuple(arm.model_copy(update={"chosen": index == 0}) for index, arm in enumerate(report.arms))
    report = report.model_copy(update={"arms": arms})
    assert list(compared_arms(report)) == ["chosen"]
    assert "Change" not in words(section(html_from_report(report), "metrics"))


@pytest.mark.parametrize("report", [samples.typical(), samples.empty()])
def test_a_report_without_metrics_says_so(report: Report) -> None:
    assert "No metric was measured." in words(section(html_from_report(report), "metrics"))
    assert "### Metrics on the report split\n\nNothing was measured." in markdown_from_report(report)


def test_a_metric_that_only_one_arm_has_is_absent_for_the_other() -> None:
    report = samples.with_metrics()
    arms = tuple(
        arm.model_copy(update={"metrics": {"accuracy": 0.9}}) if arm.chosen else arm for arm in report.arms
    )
    found = words(section(html_from_report(report.model_copy(update={"arms": arms})), "metrics"))
    assert "F1, macro 0.9712 – –" in found


def test_a_change_that_cannot_be_seen_is_none() -> None:
    assert (figure(0.0), figure(-0.25)) == ("0", "−0.2500")
    assert (change(0.3, 0.1 + 0.2), change(0.0, 0.0), change(0.25, 0.5)) == ("0", "0", "+0.25")


def test_the_confusion_matrix_is_that_of_the_predictions_of_the_chosen_arm() -> None:
    report = samples.with_metrics()
    matrix = arm_confusion(report, chosen_arm(report))
    assert matrix is not None
    predictions = np.array(report.predictions.arms["quantize/openvino"])
    labels = np.array(report.predictions.labels)
    assert np.array_equal(matrix.sum(axis=1), np.bincount(labels, minlength=10))
    assert matrix.trace() == (predictions == labels).sum()
    drawing = draw_confusion(report)
    assert drawing is not None
    right, wrong = json.loads(drawing.figure)["data"]
    assert [[value is None for value in row] for row in wrong["z"]] == np.eye(10, dtype=bool).tolist()
    assert [row[index] for index, row in enumerate(right["text"])] == [str(n) for n in matrix.diagonal()]
    assert f"{270 - matrix.trace()}\u00a0errors on 270\u00a0samples" in drawing.label
    before = np.array(report.predictions.arms["train/torch"])
    assert f"train · torch: {((before == 3) & (labels == 3)).sum()}, " in wrong["customdata"][3][3]


@pytest.mark.parametrize("num_classes", [2, 15, 16, MAX_CLASSES])
def test_a_cell_is_numbered_while_there_is_room(num_classes: int) -> None:
    drawing = draw_confusion(samples.with_metrics(num_classes))
    assert drawing is not None
    texts = json.loads(drawing.figure)["data"][0]["text"]
    assert any(any(row) for row in texts) == (num_classes <= 15)


@pytest.mark.parametrize(
    "report",
    [
        samples.typical(),
        samples.without_choice(),
        samples.regression(),
        samples.language(),
        samples.empty(),
        samples.with_metrics(MAX_CLASSES + 1),
    ],
)
def test_without_predictions_of_few_classes_there_is_no_matrix(report: Report) -> None:
    assert draw_confusion(report) is None
    assert "plot-confusion" not in html_from_report(report).partition("</style>")[2]


@pytest.mark.parametrize(
    ("report", "name"), [(samples.regression(), "skill"), (samples.language(), "token accuracy")]
)
def test_every_place_calls_the_score_by_its_name(report: Report, name: str) -> None:
    page = html_from_report(report)
    title = name[0].upper() + name[1:]
    assert f"{title} against latency" in words(section(page, "pareto"))
    assert f'"text":"{name}, %"' in page.replace('": "', '":"')
    assert f"{title} Drop points Changed" in words(section(page, "arms"))
    assert "fell, " in words(section(page, "arms"))
    assert f"drop in {name}" in words(page)
    assert "Tango" not in words(page)
    assert "Drop and the paired t interval" in words(page)
    assert f"| {name} | drop, points | changed |" in markdown_from_report(report)
    assert f"{name} is of the report split" in markdown_from_report(report)


def test_only_regression_explains_skill() -> None:
    assert "Skill is 1 minus" in html_from_report(samples.regression())
    assert "Skill is 1 minus" not in html_from_report(samples.language())
    assert "Skill is 1 minus" not in html_from_report(samples.typical())


def test_a_skill_below_zero_keeps_its_interval_and_an_accuracy_does_not_go_there() -> None:
    report = samples.regression()
    low = next(arm.accuracy for arm in report.arms if arm.artifact == "prune")
    assert low is not None
    assert accuracy_interval(report, low).low == pytest.approx(-0.22)
    assert accuracy_interval(samples.typical(), low).low == 0.0


def test_a_report_of_before_there_were_tasks_can_still_be_read() -> None:
    document = samples.typical().model_dump(mode="json", by_alias=True)
    for key in ("task", "score_name"):
        del document[key]
    for arm in document["arms"]:
        del arm["metrics"]
    del document["predictions"]["scores"]
    document["schema"] = "lissom.report/1"
    found = Report.model_validate(migrated(document, Path("report.json")))
    assert found == samples.typical()
    assert "Accuracy against latency" in html_from_report(found)
