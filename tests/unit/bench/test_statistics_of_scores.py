"""The drop of scores that are no right or wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lissom.bench.statistics import drop_upper_bound, paired_drop, samples_to_prove

Pair = tuple[np.ndarray, np.ndarray]
EXAMPLE = (np.array([0.9, 0.8, 0.7, 0.9, 0.6]), np.array([0.85, 0.8, 0.72, 0.8, 0.5]))
paired = st.lists(
    st.tuples(st.integers(0, 1000).map(lambda k: k / 1000), st.integers(-500, 1000).map(lambda k: k / 1000)),
    min_size=2,
    max_size=40,
).map(lambda rows: (np.array([row[0] for row in rows]), np.array([row[1] for row in rows])))


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    found = paired_drop(*EXAMPLE)
    wanted = stats.ttest_rel(*EXAMPLE).confidence_interval(0.95)
    assert found.value == pytest.approx(0.046)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_the_upper_bound_is_that_of_the_one_sided_test() -> None:
    wanted = stats.ttest_rel(*EXAMPLE, alternative="less").confidence_interval(0.95)
    assert drop_upper_bound(*EXAMPLE) == pytest.approx(wanted.high)


@pytest.mark.parametrize("num", [1, 20, 1000])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_where_all_differences_are_the_same_the_rule_of_three_gives_a_width(num: int, shift: float) -> None:
    reference = np.full(num, 0.7)
    found = paired_drop(reference, reference - shift)
    missed = 1 - 0.025 ** (1 / num)
    assert found.value == pytest.approx(shift)
    assert found.low == pytest.approx((1 - missed) * shift - missed)
    assert found.high == pytest.approx((1 - missed) * shift + missed)
    upper = drop_upper_bound(reference, reference - shift)
    assert upper == pytest.approx(shift + (1 - 0.05 ** (1 / num)) * (1 - shift))
    assert upper - shift <= 3 / num + 1e-9


def test_a_larger_range_of_scores_widens_what_may_have_been_missed() -> None:
    scores = np.array([-3.0, 1.0])
    missed = 1 - math.sqrt(0.05)
    assert drop_upper_bound(scores, scores) == pytest.approx(4 * missed)


def test_differences_that_are_equal_but_for_rounding_are_equal() -> None:
    reference = np.arange(10) / 10
    found = paired_drop(reference, reference - 0.1)
    assert found.high - found.low > 0.2


@given(paired)
def test_exchanging_the_models_turns_the_interval_round(scores: Pair) -> None:
    one, other = paired_drop(*scores), paired_drop(*scores[::-1])
    assert one.value == pytest.approx(-other.value, abs=1e-12)
    assert one.low == pytest.approx(-other.high, abs=1e-9)


@given(paired)
def test_the_interval_holds_the_figure_and_the_bound_and_has_a_width(scores: Pair) -> None:
    found, bound = paired_drop(*scores), drop_upper_bound(*scores)
    assert found.low < found.value <= bound + 1e-12
    assert bound <= found.high


@given(paired, st.floats(-2, 2))
def test_what_both_models_share_does_not_matter(scores: Pair, shared: float) -> None:
    if np.ptp(scores[0] - scores[1]) > 1e-6:
        moved = paired_drop(scores[0] + shared, scores[1] + shared)
        assert moved == pytest.approx(paired_drop(*scores), abs=1e-9)


def test_right_and_wrong_as_floats_come_close_to_the_interval_for_shares() -> None:
    generator = np.random.default_rng(0)
    reference = generator.random(4000) < 0.9
    candidate = np.where(generator.random(4000) < 0.05, ~reference, reference)
    exact = paired_drop(reference, candidate)
    assert paired_drop(reference.astype(float), candidate.astype(float)) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("num", [20, 100])
def test_the_interval_covers_the_truth_as_often_as_it_says(num: int) -> None:
    generator = np.random.default_rng(num)
    inside = above = 0
    for _ in range(600):
        skill = generator.normal(0.8, 0.3, num)  # of a sample, far wider than the differences
        reference, candidate = skill, skill - 0.01 + generator.laplace(0, 0.05, num)
        found = paired_drop(reference, candidate)
        inside += found.low <= 0.01 <= found.high
        above += drop_upper_bound(reference, candidate) >= 0.01
    assert inside / 600 == pytest.approx(0.95, abs=0.03)
    assert above / 600 == pytest.approx(0.95, abs=0.03)


def test_where_no_difference_was_met_the_bound_covers_one_that_is_rare() -> None:
    generator = np.random.default_rng(1)
    share, num = 0.02, 50
    truth = share * 1.0
    covered = 0
    for _ in range(600):
        lost = generator.random(num) < share
        reference = np.ones(num)
        covered += drop_upper_bound(reference, np.where(lost, 0.0, 1.0)) >= truth
    assert covered / 600 >= 0.93


@pytest.mark.parametrize("budget", [0.05, 0.06, 0.2])
def test_the_samples_that_would_prove_a_budget_do_prove_it(budget: float) -> None:
    needed = samples_to_prove(*EXAMPLE, budget)
    differences = EXAMPLE[0] - EXAMPLE[1]
    spread, mean = differences.std(ddof=1), differences.mean()

    def bound(num: int) -> float:
        return float(mean + stats.t.ppf(0.95, num - 1) * spread / math.sqrt(num))

    assert needed is not None
    assert needed >= len(differences)
    assert bound(needed) <= budget
    assert needed == len(differences) or bound(needed - 1) > budget


def test_equal_scores_need_as_many_samples_as_the_rule_of_three_says() -> None:
    scores = np.linspace(0, 1, 10)
    needed = samples_to_prove(scores, scores, 0.01)
    assert needed == math.ceil(math.log(0.05) / math.log(0.99)) == 299


def test_a_drop_of_all_of_the_budget_can_never_be_proven() -> None:
    assert samples_to_prove(*EXAMPLE, 0.046) is None
    assert samples_to_prove(np.ones(5), np.ones(5), 0.0) is None
