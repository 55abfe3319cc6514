"""Who is harmed: classes that were forgotten behind an equal average, confusions, flips, calibration."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.report import samples

from lissom.artifact import Artifact
from lissom.report.answers import MOST_FLIPS, predictions_of
from lissom.report.harm import Bin, harm_of, reliability
from lissom.report.harm_section import certainty_told, draw_calibration, draw_classes, told
from lissom.report.measured_run import Run
from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.schema import CertaintyFigures, Flip, Predictions, Report

BEFORE, AFTER = "train/torch", "quantize/openvino"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def report(labels: Any, before: Any, after: Any, *, names: Any = None, **more: Any) -> Report:
    count = len(labels)
    predictions = Predictions(
        samples=tuple(f"{index:016x}" for index in range(count)),
        labels=tuple(int(one) for one in labels),
        arms={BEFORE: tuple(map(int, before)), AFTER: tuple(map(int, after))},
        **{**samples.UNSEEN, **more},
    )
    classes = names or tuple(str(index) for index in range(int(max(labels)) + 1))
    return samples.typical(labels=classes, predictions=predictions)


def forgotten() -> Report:
    """Class 2 of 3 is forgotten; as many answers of the others became right."""
    labels = np.repeat([0, 1, 2], 40)
    before, after = labels.copy(), labels.copy()
    before[:15] = 1
    before[40:50] = 0
    after[80:105] = 0
    return report(labels, before, after)


def test_a_forgotten_class_is_found_where_the_average_has_not_moved() -> None:
    found = harm_of(forgotten())
    assert found is not None
    assert (found.lost, found.gained) == (25, 25)
    assert found.p_value == 1.0
    assert [one.name for one in found.classes if one.is_harmed] == ["2"]
    worst = found.classes[0]
    assert (worst.before, worst.after, worst.lost) == (1.0, 0.375, 25)
    assert worst.interval[0] < worst.after < worst.interval[1]
    sentence = told(found).replace("\u00a0", " ")
    assert "25 answers became wrong and 25 right (McNemar p = 1.00)" in sentence
    assert "1 class surely lost: 2." in sentence


def test_asking_many_classes_does_not_make_chance_a_harm() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(100), 30)
    wrong = [generator.random(len(labels)) < 0.1 for _ in range(2)]
    before, after = (np.where(one, (labels + 1) % 100, labels) for one in wrong)
    found = harm_of(report(labels, before, after))
    assert found is not None
    assert len(found.classes) == 100
    assert not any(one.is_harmed for one in found.classes)
    assert "None of 100 classes surely lost; the largest loss is" in told(found).replace("\u00a0", " ")
    assert found.confusions == ()


def test_what_is_confused_now_is_told_beyond_chance() -> None:
    found = harm_of(forgotten())
    assert found is not None
    assert [(one.truth, one.answer, one.before, one.after) for one in found.confusions] == [
        ("2", "0", 0, 25),
        ("1", "0", 10, 0),
        ("0", "1", 15, 0),
    ]


def test_groups_are_told_apart() -> None:
    labels = np.zeros(80, dtype=int)
    after = np.where(np.arange(80) < 30, 1, 0)
    groups = tuple("night" if index < 40 else "day" for index in range(80))
    found = harm_of(report(labels, labels, after, names=("a", "b"), groups=groups))
    assert found is not None
    assert [(one.name, one.is_harmed, one.after) for one in found.groups] == [
        ("night", True, 0.25),
        ("day", False, 1.0),
    ]


def test_answers_are_put_into_bins_by_how_sure_the_model_is() -> None:
    sure = np.array([0.9] * 10 + [0.6] * 10 + [1.0])
    right = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7 + [True])
    low, high, top = reliability(sure, right)
    assert low == Bin(pytest.approx(0.6), pytest.approx(0.3), 10)
    assert high == Bin(pytest.approx(0.9), pytest.approx(0.9), 10)
    assert top == Bin(1.0, 1.0, 1)


def certain() -> Report:
    labels = np.repeat([0, 1], 20)
    after = labels.copy()
    after[:4] = 1
    figures = {
        name: CertaintyFigures(confidence=(0.8,) * 40, likelihood=(0.7,) * 40, kl=(level,) * 40)
        for name, level in ((BEFORE, 0.0), (AFTER, 0.25))
    }
    flips = (Flip(place=0, picture=PIXEL, text=None), Flip(place=1, picture=None, text="<b>a text</b>"))
    found = report(labels, labels, after, certainty=figures, flips=flips)
    errors = {BEFORE: 0.2, AFTER: 0.1}
    arms = (
        arm.model_copy(update={"metrics": {"calibration_error": errors[name]}}) if name in errors else arm
        for arm in found.arms
        for name in [f"{arm.artifact}/{arm.runtime}"]
    )
    return found.model_copy(update={"arms": tuple(arms)})


def explained() -> Report:
    """The same, with what both answers hang on."""
    found = certain()
    maps = {"before_map": PIXEL, "after_map": PIXEL}
    weights = {"before_weights": (100, -50, 0) * 3, "after_weights": (0,) * 9}
    one, other = found.predictions.flips
    flips = (one.model_copy(update=maps), other.model_copy(update={"text": "<b>a text", **weights}))
    return found.model_copy(update={"predictions": found.predictions.model_copy(update={"flips": flips})})


def test_what_flipped_answers_hang_on_is_shown_and_escaped() -> None:
    page = html_from_report(explained())
    assert page.count('alt="What speaks for') == 2
    assert "Orange speaks for the answer" in page
    assert '<i style="background:rgb(224 96 0/0.4)">&lt;</i>' in page
    assert "<b>a text" not in page
    assert "Orange speaks" not in html_from_report(certain())


def test_certainty_is_told_and_drawn() -> None:
    found = harm_of(certain())
    assert found is not None
    words = certainty_told(found).replace("\u00a0", " ")
    assert "Expected calibration error 20.0 % before and 10.0 % after" in words
    assert "0.250 nats a sample" in words
    drawing = draw_calibration(found)
    assert drawing is not None
    assert "Expected calibration error" in drawing.label
    assert "0 100.0" in draw_classes(found).label


def test_flips_are_shown_with_their_answers_and_nothing_of_a_text_is_markup() -> None:
    page = html_from_report(certain())
    assert f'src="{PIXEL}"' in page
    assert "<b>a text</b>" not in page
    assert "&lt;b&gt;a text&lt;/b&gt;" in page
    assert "<strong>0</strong> became wrong" in page
    assert "2 of 4: those that became wrong first" in page


def test_page_and_markdown_have_the_section_and_its_link() -> None:
    page, text = html_from_report(forgotten()), markdown_from_report(forgotten())
    assert 'href="#harm"' in page
    assert "Who is harmed" in page
    assert "### Who is harmed" in text
    assert "| class | samples |" in text


@pytest.mark.parametrize(
    "changes",
    [{"task": "regression"}, {"arms": ()}, {"predictions": samples.typical().predictions}],
    ids=["no classes", "nothing chosen", "no answers of both"],
)
def test_without_answers_of_both_there_is_no_section(changes: dict[str, Any]) -> None:
    bare = forgotten().model_copy(update=changes)
    assert harm_of(bare) is None
    assert "Who is harmed" not in html_from_report(bare)


def test_a_thousand_classes_with_names_in_any_script_are_drawn_in_part_and_told_whole() -> None:
    labels = np.repeat(np.arange(1000), 2)
    after = labels.copy()
    after[:30] = 999
    names = tuple(f"класс {index} 漢字 <i>" for index in range(1000))
    big = report(labels, labels, after, names=names)
    page = html_from_report(big)
    assert "<i>" not in page.replace("&lt;i&gt;", "")
    assert page.count("漢字") > 1000
    found = harm_of(big)
    assert found is not None
    assert len(found.classes) == 1000
    assert draw_classes(found).height < 800


def test_ten_thousand_samples_of_a_hundred_classes_take_seconds() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 100, 10_000)
    before, after = (
        np.where(generator.random(10_000) < share, (labels + 1) % 100, labels) for share in (0.1, 0.12)
    )
    big = report(labels, before, after)
    started = time.perf_counter()
    assert harm_of(big) is not None
    assert time.perf_counter() - started < 10


def test_what_a_run_answered_is_kept_with_its_certainty_and_its_flips(tmp_path: Path, chain: Any) -> None:
    from tests.unit.report.test_measurement import run_of
    from tests.unit.small import DATA

    trained, exported, quantized = chain("resnet")
    run, made = run_of(tmp_path, [Artifact.open(one.path) for one in (trained, exported, quantized)], DATA)
    assert run.chosen is not None
    chosen = made.predictions.certainty["/".join(run.chosen)]
    assert len(chosen.confidence) == len(chosen.likelihood) == len(chosen.kl) == len(DATA.labels("report"))
    assert all(0 <= value <= 1 for value in (*chosen.confidence, *chosen.likelihood))
    assert min(chosen.kl) >= 0
    assert max(made.predictions.certainty["/".join(run.trusted)].kl) == pytest.approx(0.0, abs=1e-6)
    found = harm_of(made)
    assert found is not None
    assert found.kl is not None
    assert len(made.predictions.flips) == min(found.lost, MOST_FLIPS) + min(found.gained, MOST_FLIPS)


def test_flips_of_pictures_are_small_pngs(tmp_path: Path, chain: Any) -> None:
    from tests.unit.report.test_measurement import run_of
    from tests.unit.small import DATA

    trained, exported, _ = chain("resnet")
    run, _ = run_of(tmp_path, [trained, exported], DATA)
    assert run.chosen is not None
    records = {name: dict(record) for name, record in run.records.items()}
    own = dict(records[run.chosen.artifact]["runtimes"])
    scores = list(own[run.chosen.runtime]["scores"]["report"])
    flipped = [1 - score for score in scores]
    figures = own[run.chosen.runtime]
    own[run.chosen.runtime] = {**figures, "scores": {**figures["scores"], "report": flipped}}
    records[run.chosen.artifact]["runtimes"] = own
    told_of = predictions_of(Run(run.recipe, run.artifacts, records, run.data, run.measurement))
    assert 0 < len(told_of.flips) <= 2 * MOST_FLIPS
    assert all((flip.picture or "").startswith("data:image/png;base64,") for flip in told_of.flips)
    assert max(len(flip.picture or "") for flip in told_of.flips) < 20_000
