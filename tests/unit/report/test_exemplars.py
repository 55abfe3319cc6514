"""Compression-identified exemplars over several seeds, and the classes that lost more than the average."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.report import samples
from tests.unit.report.test_comparison import written
from tests.unit.report.test_harm import BEFORE, PIXEL, report

from lissom.cli import main
from lissom.report.exemplars import Exemplars, exemplars_of, modal, population, welch
from lissom.report.exemplars_section import MOST_PICTURES, classes_told, draw_classes, section, told
from lissom.report.history import Entry, history_page
from lissom.report.schema import Flip, Report

LABELS = [0] * 6 + [1] * 6


def run(seed: int, before: Any, after: Any, *, labels: Any = LABELS, day: int = 1, **more: Any) -> Report:
    """One seed of a recipe."""
    found = report(labels, before, after, **more)
    changes = {"recipe": {**found.recipe, "seed": seed}, "created": f"2026-03-{day:02}T10:00:{seed % 60:02}Z"}
    return found.model_copy(update=changes)


def runs(num_seeds: int = 3, **more: Any) -> list[Report]:
    """The last sample of class 0 is answered 1 by every compressed model, by no reference."""
    return [run(seed, LABELS, changed({5: 1}), **more) for seed in range(num_seeds)]


def changed(answers: dict[int, int]) -> list[int]:
    return [answers.get(place, label) for place, label in enumerate(LABELS)]


def exemplars(reports: Sequence[Report]) -> Exemplars:
    found = exemplars_of(population(reports))
    assert found is not None
    return found


def test_a_sample_whose_modal_answer_changed_is_an_exemplar() -> None:
    moves = (changed({5: 1, 0: 1}), changed({5: 1}), changed({5: 1, 11: 0}))
    found = exemplars([run(seed, LABELS, after) for seed, after in enumerate(moves)])
    (one,) = found.found
    assert one == (5, "0", "0", "1", 3, 3, 3)
    assert (found.seeds, found.num_samples, found.num_tied) == ((0, 1, 2), 12, 0)
    assert found.part == (1, 1.0, 0.0)
    assert found.others is not None
    assert found.others == (11, 1.0, pytest.approx(31 / 33))
    assert "1 of 12 samples (8.3 %) is an exemplar" in told(found).replace("\u00a0", " ")


def test_an_answer_given_as_often_as_another_is_no_mode() -> None:
    found = modal(np.array([[0, 0, 2], [0, 1, 1], [1, 2, 0], [1, 1, 1]]))
    assert found.known.tolist() == [False, True, True]
    assert found.answers[1:].tolist() == [1, 1]
    assert found.counts.tolist() == [2, 2, 2]


def test_a_tie_makes_no_exemplar_and_is_told() -> None:
    three = [
        run(seed, LABELS, changed({5: answer}), names=("a", "b", "c"))
        for seed, answer in enumerate((0, 1, 2))
    ]
    found = exemplars(three)
    assert found.found == ()
    assert found.part is None
    assert found.num_tied == 1
    words = told(found).replace("\u00a0", " ")
    assert words.startswith("0 of 12 samples are exemplars")
    assert "1 sample has no such answer" in words


def test_exemplars_on_which_most_models_moved_stand_first() -> None:
    before = (changed({0: 1, 5: 1}), LABELS, changed({5: 0}))
    after = (changed({0: 1, 5: 1}), changed({0: 1, 5: 1}), changed({0: 1, 5: 1, 4: 1}))
    four = [run(seed, *pair) for seed, pair in enumerate(zip(before, after, strict=True))]
    four.append(run(3, LABELS, changed({0: 1, 5: 1})))
    five = [*four, run(4, changed({5: 1, 0: 0}), changed({0: 1, 5: 1}))]
    found = exemplars(five)
    assert [(one.place, one.num_moved) for one in found.found] == [(0, 4), (5, 3)]


def test_a_seed_counts_once_and_its_newest_run_is_taken() -> None:
    twice = [run(0, LABELS, LABELS, day=1), run(0, LABELS, changed({5: 1}), day=2), run(1, LABELS, LABELS)]
    assert [one.created[:10] for one in population(twice)] == ["2026-03-02", "2026-03-01"]
    assert exemplars_of(population(twice)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda one: {"complete": False},
        lambda one: {"task": "regression"},
        lambda one: {"labels": ("other", "names")},
        lambda one: {"recipe": {**one.recipe, "stages": []}},
        lambda one: {"predictions": one.predictions.model_copy(update={"samples": ("else",)})},
        lambda one: {"predictions": one.predictions.model_copy(update={"labels": (1,) * 12})},
        lambda one: {"predictions": one.predictions.model_copy(update={"arms": {BEFORE: LABELS}})},
    ],
    ids=[
        "interrupted",
        "no classes",
        "other classes",
        "other stages",
        "other samples",
        "relabelled",
        "unseen",
    ],
)
def test_a_run_that_answered_something_else_is_not_of_the_population(change: Any) -> None:
    *two, last = runs()
    strange = last.model_copy(update=change(last))
    assert len(population([*two, strange])) == 2
    page = history_page([Entry(Path("x"), one) for one in [*two, strange]], Path())
    assert 'id="exemplars"' not in page


def test_runs_with_another_name_and_benchmark_stand_in_one_population() -> None:
    *two, last = runs()
    recipe = {**last.recipe, "name": "else", "benchmark": {"num_rounds": 4}}
    assert len(population([*two, last.model_copy(update={"recipe": recipe})])) == 3


def test_a_class_that_lost_more_than_the_average_is_hit() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)

    def answers(shares: Sequence[float]) -> np.ndarray:
        wrong = generator.random(len(labels)) < np.asarray(shares)[labels]
        return np.where(wrong, (labels + 1) % 4, labels)

    many = [
        run(seed, answers([0.1] * 4), answers([0.15, 0.15, 0.15, 0.6]), labels=labels) for seed in range(8)
    ]
    found = exemplars(many)
    assert [one.name for one in found.classes if one.is_hit] == ["3"]
    worst = found.classes[0]
    assert worst.spread[0] <= worst.after <= worst.spread[1]
    assert worst.change == pytest.approx(worst.after - worst.before)
    assert worst.recall[1] == pytest.approx(0.4, abs=0.05)
    assert classes_told(found).replace("\u00a0", " ") == "1 class surely lost more than the average: 3."
    assert "3 " in draw_classes(found).label


def test_welch_is_that_of_scipy_and_makes_no_claim_where_no_seed_differs() -> None:
    from scipy import stats

    generator = np.random.default_rng(1)
    before, after = generator.normal(size=(5, 3)), generator.normal(1, 2, size=(4, 3))
    before[:, 1], after[:, 1] = 0.5, 0.25
    before[:, 2] = 0.0
    found = welch(before, after, np.full(3, 10_000))
    assert found[0] == pytest.approx(stats.ttest_ind(before[:, 0], after[:, 0], equal_var=False).pvalue)
    assert found[1] == 1.0
    assert 0 < found[2] < 1


def test_a_class_of_few_samples_is_not_hit_because_its_recalls_agree_by_chance() -> None:
    before = np.array([[0.0], [0.001], [0.0]])
    after = np.array([[-0.3], [-0.301], [-0.3]])
    assert welch(before, after, np.array([2]))[0] > 0.05
    assert welch(before, after, np.array([1000]))[0] < 1e-4


def test_seeds_that_all_answer_the_same_hit_no_class() -> None:
    found = exemplars(runs(5))
    assert [one.p_value for one in found.classes] == [1.0, 1.0]
    assert "None of 2 classes" in classes_told(found).replace("\u00a0", " ")


def test_the_page_has_the_section_its_link_and_its_tables() -> None:
    page = history_page([Entry(Path(f"runs/{seed}"), one) for seed, one in enumerate(runs())], Path())
    assert 'href="#exemplars"' in page
    assert "Exemplars over 3\u00a0seeds" in page
    for name in ("exemplar-parts-table", "exemplars-table", "exemplar-classes-table"):
        assert f'id="{name}"' in page
    assert 'id="plot-exemplar-classes"' in page
    assert "--set seed=" not in page
    assert "<ul" not in page


def test_pictures_and_texts_of_any_run_are_shown() -> None:
    first, second, third = runs()
    flips = tuple(Flip(place=place, picture=PIXEL, text=None) for place in (5, 0))
    seen = second.model_copy(update={"predictions": second.predictions.model_copy(update={"flips": flips})})
    found = population([first, seen, third])
    page = section(found, exemplars_of(found))
    assert page.count(f'src="{PIXEL}"') == 1
    assert "0 in 3 → 1 in 3" in page
    assert "3 of 3 moved" in page


def test_at_most_so_many_pictures_are_shown_and_every_exemplar_is_in_the_table() -> None:
    labels = [0] * 60
    flips = tuple(Flip(place=place, picture=PIXEL, text=None) for place in range(60))
    many = [run(seed, labels, [1] * 60, labels=labels, names=("a", "b"), flips=flips) for seed in range(3)]
    page = section(many, exemplars_of(population(many)))
    assert page.count("<img") == MOST_PICTURES
    assert "24 of 60" in page
    assert page.count("<small>in 3</small>") == 120


def test_markup_in_names_and_texts_is_escaped() -> None:
    flips = (Flip(place=5, picture=None, text="<b>a text</b>"),)
    hostile = [one.model_copy(update={"name": samples.HOSTILE}) for one in runs(names=(samples.HOSTILE,) * 2)]
    hostile[0] = hostile[0].model_copy(
        update={"predictions": hostile[0].predictions.model_copy(update={"flips": flips})}
    )
    page = section(hostile, exemplars_of(population(hostile)))
    assert "<img" not in page
    assert "window.hacked=1</" not in page
    assert "&lt;b&gt;a text" in page
    few = history_page([Entry(Path("x"), one) for one in hostile[:2]], Path())
    assert "<img" not in few


def test_a_thousand_classes_are_drawn_in_part_and_told_whole() -> None:
    labels = np.repeat(np.arange(1000), 2)
    generator = np.random.default_rng(0)
    many = [
        run(seed, labels, np.where(generator.random(2000) < 0.2, 999, labels), labels=labels)
        for seed in range(3)
    ]
    found = exemplars(many)
    assert len(found.classes) == 1000
    assert draw_classes(found).height < 800
    assert section(many, found).count('<th scope="row"') > 1000
    assert not any(one.is_hit for one in found.classes)


def test_fewer_seeds_are_told_what_to_type() -> None:
    page = history_page([Entry(Path(f"runs/{seed}"), one) for seed, one in enumerate(runs(2))], Path())
    assert "lissom run recipes/digits.yaml --set seed=2 --out runs/digits-2" in page
    assert 'id="exemplars"' not in page


def test_runs_without_classes_are_told_nothing() -> None:
    page = history_page([Entry(Path("x"), samples.regression())] * 2, Path())
    assert "--set seed=" not in page


def test_the_verb_says_how_many_and_its_document_has_them_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [written(tmp_path / f"{seed}", one) for seed, one in enumerate(runs())]
    assert main(["report", *places, "--out", str(tmp_path / "all"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["exemplars"]
    assert found["seeds"] == [0, 1, 2]
    assert [(one["place"], one["before"], one["after"]) for one in found["found"]] == [(5, "0", "1")]
    assert {one["name"] for one in found["classes"]} == {"0", "1"}
    assert main(["report", *places, "--out", str(tmp_path / "all")]) == 0
    assert "1 of 12 samples" in capsys.readouterr().out
    assert main(["report", *places[:2], "--out", str(tmp_path / "all"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["exemplars"] is None
