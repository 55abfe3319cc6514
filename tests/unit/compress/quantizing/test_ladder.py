"""The ladder climbs as far as it must, keeps what helps, and says so when it ends too low."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.compress.quantizing.graphs import images, normalized, separable, tokens
from tests.unit.compress.quantizing.test_static import X86

from lissom.compress.quantizing.evidence import Figures, Goal, Judge, helps
from lissom.compress.quantizing.graph import operator_counts
from lissom.compress.quantizing.ladder import RUNGS, Ladder, Trial
from lissom.compress.quantizing.observers import OBSERVERS
from lissom.compress.quantizing.static import Plan, StaticQuantizer
from lissom.export.onnx_file import caller, open_session
from lissom.logs import NoProgress
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.tasks import task_of

EASY, HARD, IMPOSSIBLE = Goal(0.01, 0.9, 15.0), Goal(0.01, 0.99, 38.0), Goal(0.0, 1.0, 190.0)


def ladder(model: Any, samples: dict[str, np.ndarray], goal: Goal, *, labelled: bool = False) -> Ladder:
    data = Data("noise", Dataset(samples))
    if labelled:
        call = caller(open_session(model.SerializeToString()), ["y"])
        answers = call(samples)["y"].argmax(axis=-1).astype(np.int64)
        names = tuple(map(str, range(int(answers.max()) + 1)))
        split = np.where(np.arange(len(answers)) % 2, "calibrate", "select")
        data = Data("noise", Dataset(samples, labels=answers, label_names=names, split=split))
    judge = Judge(model, ("y",), data, task_of("classification", data))
    quantizer = StaticQuantizer(model, samples, X86)
    return Ladder(quantizer, judge, goal, NoProgress())


def test_a_model_that_is_good_enough_at_once_is_left_as_it_is() -> None:
    climbed = ladder(separable(), images(), EASY, labelled=True)
    plan, model = climbed.climb(Plan())
    assert plan == Plan()
    assert climbed.reached
    assert [trial.rung for trial in climbed.trials] == ["plain"]
    assert operator_counts(model)["computing_int8"] == 3


def test_without_labels_every_plan_that_costs_no_time_is_tried() -> None:
    climbed = ladder(separable(), images(), EASY)
    climbed.climb(Plan())
    assert {trial.rung for trial in climbed.trials} == {"plain", "observer", "bias-correction"}
    assert len(climbed.trials) == 1 + (2 * len(OBSERVERS) - 1) + 1
    assert climbed.best.sqnr_db >= max(trial.figures.sqnr_db for trial in climbed.trials) - 0.1


@pytest.mark.parametrize(
    ("model", "samples"), [(separable(outlier=80), images()), (normalized(outlier=80), tokens())]
)
def test_outliers_are_climbed_over(model: Any, samples: dict[str, np.ndarray]) -> None:
    climbed = ladder(model, samples, HARD)
    climbed.climb(Plan("layers"))
    first, last = climbed.trials[0].figures.sqnr_db, climbed.best.sqnr_db
    assert last > first + 6
    assert all(trial.kept for trial in climbed.trials if trial.figures is climbed.best)


def test_the_end_of_the_ladder_gives_the_best_model_and_says_that_it_is_too_low() -> None:
    climbed = ladder(separable(outlier=80), images(), IMPOSSIBLE)
    plan, model = climbed.climb(Plan("layers"))
    assert not climbed.reached
    assert {trial.rung for trial in climbed.trials} == {"plain", *RUNGS}
    assert climbed.best.sqnr_db == max(trial.figures.sqnr_db for trial in climbed.trials if trial.kept)
    assert len(plan.exclude) <= 3  # of four: one is worth its noise
    assert operator_counts(model)["computing_int8"] >= 1
    assert climbed.worst[0][1] <= climbed.worst[-1][1]


@pytest.mark.parametrize("enough", [1, 2, 3, 5, 6, 7])
def test_as_few_layers_stay_float_as_it_takes(enough: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple("abcdefgh")
    climbed = ladder(separable(), images(), Goal(0.0, 1.0, 30.0))
    climbed.worst = tuple((name, 0.0) for name in names)

    def measured(rung: str, what: str, plan: Plan) -> tuple[Any, Figures]:
        reached = len(plan.exclude) >= enough
        found = Figures(40.0 + len(plan.exclude) if reached else 10.0 + 2 * len(plan.exclude), 1.0, 1.0)
        climbed.trials.append(Trial(rung, what, found, kept=rung == "plain"))
        return plan, found

    monkeypatch.setattr(climbed, "_measured", measured)
    plan, _ = climbed.climb(Plan("all"), rungs=("more-float",))
    assert plan.exclude == names[:enough]
    assert plan.operators == "layers"


def test_only_the_rungs_that_are_named_are_climbed() -> None:
    climbed = ladder(separable(), images(), IMPOSSIBLE)
    climbed.climb(Plan(), rungs=("bias-correction",))
    assert [trial.rung for trial in climbed.trials] == ["plain", "bias-correction"]


def test_a_trial_is_written_without_the_scores_of_samples() -> None:
    climbed = ladder(separable(), images(), EASY)
    climbed.climb(Plan())
    document = climbed.trials[0].document()
    assert set(document) == {"rung", "what", "figures", "kept"}
    assert "scores" not in document["figures"]


def figures(sqnr_db: float, right: int | None = None) -> Figures:
    if right is None:
        return Figures(sqnr_db, 1.0, 1.0)
    scores = np.arange(1000) < right
    return Figures(sqnr_db, 1.0, 1.0, float(scores.mean()), 0.0, scores)


def test_a_better_score_counts_where_it_is_sure_and_less_noise_elsewhere() -> None:
    assert helps(figures(30, 900), figures(20, 990))
    assert not helps(figures(20, 990), figures(30, 900))
    assert helps(figures(20, 901), figures(30, 900))
    assert not helps(figures(30), figures(30.05))
    assert helps(figures(30), figures(31))


def test_a_goal_with_labels_is_drop_and_agreement_and_without_them_noise() -> None:
    goal = Goal(0.01, 0.99, 25.0)
    assert goal.reached(Figures(5.0, 1.0, 0.995, 0.9, 0.01))
    assert not goal.reached(Figures(50.0, 1.0, 0.98, 0.9, 0.0))
    assert not goal.reached(Figures(50.0, 1.0, 1.0, 0.9, 0.02))
    assert goal.reached(Figures(26.0, 0.9, 0.1))
    assert not goal.reached(Figures(25.5, 1.0, 1.0))
