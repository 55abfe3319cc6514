"""What int8 makes slower stays float32, where that is sure and costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.unit.compress.quantizing.graphs import images, separable
from tests.unit.compress.quantizing.test_ladder import EASY, IMPOSSIBLE, ladder
from tests.unit.small import DATA, Chain, context, make

from lissom.bench.statistics import Estimate
from lissom.compress.quantizing.graph import operator_counts
from lissom.compress.quantizing.lean import Race, leaner
from lissom.compress.quantizing.static import Plan
from lissom.recipe import QuantizeConfig

SURE, UNSURE, SLOW = Estimate(1.3, 1.2, 1.4), Estimate(1.3, 0.9, 1.7), Estimate(0.7, 0.6, 0.8)


def raced(goal: Any, *speedups: Estimate, behind: float = 0.0) -> tuple[Plan, Any, list[Any]]:
    climbed = ladder(separable(), images(), goal)
    climbed.climb(Plan("layers"), rungs=())
    climbed.best = climbed.best._replace(sqnr_db=climbed.best.sqnr_db - behind)
    answers = iter(speedups)

    def race(before: Any, after: Any) -> Estimate:
        del before, after
        return next(answers)

    variants = leaner(climbed, race)
    return climbed.plan, climbed.model, variants


def test_a_variant_that_is_surely_faster_takes_the_models_place() -> None:
    plan, model, variants = raced(EASY, SLOW, SLOW, SURE, UNSURE)
    assert [variant.kept for variant in variants] == [False, False, True, False]
    assert plan.exclude == ("first",)
    assert operator_counts(model)["computing_int8"] == 2


def test_one_that_may_be_faster_does_not() -> None:
    plan, model, variants = raced(EASY, SLOW, SLOW, UNSURE, UNSURE)
    assert plan == Plan("layers")
    assert operator_counts(model)["computing_int8"] == 3
    assert not any(variant.kept for variant in variants)


def test_one_that_is_nearer_and_no_slower_is_taken_for_that() -> None:
    plan, _, variants = raced(EASY, UNSURE, SLOW, UNSURE, UNSURE, behind=2.0)
    assert plan == Plan("all")
    assert variants[0].kept
    assert variants[0].document()["gain_db"] > 1


@pytest.mark.parametrize(
    ("goal", "labelled", "is_taken"), [(EASY, True, True), (EASY, False, False), (IMPOSSIBLE, False, False)]
)
def test_one_that_is_faster_and_worse_must_reach_the_goal_by_its_scores(
    goal: Any, labelled: bool, is_taken: bool
) -> None:
    climbed = ladder(separable(), images(), goal, labelled=labelled)
    plan, model = climbed.climb(Plan("layers"), rungs=())
    climbed.best = climbed.best._replace(sqnr_db=150.0)  # better than the model that is offered
    assert climbed.replace(plan, model) is is_taken


def test_without_labels_speed_is_worth_half_a_decibel() -> None:
    climbed = ladder(separable(), images(), EASY)
    plan, model = climbed.climb(Plan("layers"), rungs=())
    own = climbed.best.sqnr_db
    climbed.best = climbed.best._replace(sqnr_db=own + 0.6)
    assert not climbed.replace(plan, model)
    climbed.best = climbed.best._replace(sqnr_db=own + 0.4)
    assert climbed.replace(plan, model)


def test_gains_add_up_and_are_written_down() -> None:
    plan, _, variants = raced(EASY, SLOW, SLOW, SURE, SURE)
    assert plan.exclude == ("first", "pointwise")
    document = variants[2].document()
    assert document["what"] == "first layer in float32"
    assert document["speedup"] == {"value": 1.3, "low": 1.2, "high": 1.4}


def test_a_race_times_both_on_the_runtimes_that_are_here(
    tmp_path: Path, chain: Callable[[str], Chain]
) -> None:
    exported = chain("mlp").exported
    config = QuantizeConfig(name="quantize")

    model = onnx.load(exported.file("model.onnx"))
    found = Race(context(tmp_path / "q", DATA, config), exported.manifest.signature)(model, model)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(1.0, abs=0.6)
    assert not list(tmp_path.iterdir())


def test_the_stage_notes_what_was_timed(tmp_path: Path, chain: Callable[[str], Chain]) -> None:
    parents = {"input": chain("mlp").exported}
    artifact = make(tmp_path / "quantize", DATA, "quantize", parents=parents, skip_slow=True)
    told = [variant["what"] for variant in artifact.manifest.notes["timed"]]
    assert "first layer in float32" in told
    assert "last layer in float32" in told


def test_for_another_machine_nothing_is_timed(tmp_path: Path, chain: Callable[[str], Chain]) -> None:
    parents = {"input": chain("mlp").exported}
    fields = {"skip_slow": True, "target": "tensorrt"}
    artifact = make(tmp_path / "quantize", DATA, "quantize", parents=parents, **fields)
    assert artifact.manifest.notes["timed"] == []
