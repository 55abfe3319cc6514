"""Intervals hold what they promise: against other computations, by symmetry, and by simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from lissom.bench.statistics import (
    Estimate,
    change,
    change_of_ratio,
    drop_upper_bound,
    flips,
    median_latency,
    paired_drop,
    percentile,
    ratio,
    round_medians,
    samples_to_prove,
    verdict,
    widened,
)


def answers(lost: int, gained: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of `num` samples the reference and the candidate have right."""
    reference, candidate = np.ones(num, dtype=bool), np.ones(num, dtype=bool)
    candidate[:lost] = False
    reference[lost : lost + gained] = False
    return reference, candidate


def drop(lost: int, gained: int, num: int) -> Estimate:
    return paired_drop(*answers(lost, gained, num))


@st.composite
def counts(draw: st.DrawFn, max_num: int = 400) -> tuple[int, int, int]:
    num = draw(st.integers(1, max_num))
    lost = draw(st.integers(0, num))
    return lost, draw(st.integers(0, num - lost)), num


def tango_by_likelihood(lost: int, gained: int, num: int, z: float) -> tuple[float, float]:
    """Tango's interval without his closed form: the restricted likelihood is maximised numerically."""

    def nuisance(delta: float) -> float:
        """The share of gained samples that fits best when the drop is `delta`."""
        low, high = max(0.0, -delta), min(1.0, (1 - delta) / 2)

        def minus_log_likelihood(share: float) -> float:
            terms = ((lost, share + delta), (gained, share), (num - lost - gained, 1 - 2 * share - delta))
            return -sum(count * math.log(max(probability, 1e-300)) for count, probability in terms if count)

        options = {"xatol": 1e-13}
        found = optimize.minimize_scalar(
            minus_log_likelihood, bounds=(low, high), method="bounded", options=options
        )
        return float(min((found.x, low, high), key=minus_log_likelihood))

    def score(delta: float) -> float:
        variance = num * (2 * nuisance(delta) + delta * (1 - delta))
        return (lost - gained - num * delta) / math.sqrt(max(variance, 1e-12))

    observed = (lost - gained) / num
    edge = 1 - 1e-7
    low = optimize.brentq(lambda delta: score(delta) - z, -edge, observed) if score(-edge) > z else -1.0
    high = optimize.brentq(lambda delta: score(delta) + z, observed, edge) if score(edge) < -z else 1.0
    return low, high


def test_the_interval_of_a_drop_is_that_of_the_literature() -> None:
    # Airway hyper-responsiveness, table of Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014.
    found = drop(1, 7, 21)
    assert found.value == pytest.approx(-6 / 21)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize("num", [5, 40, 270, 5000])
@pytest.mark.parametrize(("lost_share", "gained_share"), [(0, 0), (0.2, 0), (0, 0.2), (0.1, 0.1), (0.6, 0.2)])
def test_the_interval_inverts_the_score_test(num: int, lost_share: float, gained_share: float) -> None:
    lost, gained = round(lost_share * num), round(gained_share * num)
    found = drop(lost, gained, num)
    assert (found.low, found.high) == pytest.approx(
        tango_by_likelihood(lost, gained, num, stats.norm.ppf(0.975)), abs=2e-5
    )
    upper = drop_upper_bound(*answers(lost, gained, num))
    assert upper == pytest.approx(tango_by_likelihood(lost, gained, num, stats.norm.ppf(0.95))[1], abs=2e-5)


@pytest.mark.parametrize("num", [1, 10, 270, 100_000])
def test_without_a_disagreement_the_interval_still_has_a_width(num: int) -> None:
    # With b = c = 0 the score equation has the solution z^2 / (n + z^2).
    found = drop(0, 0, num)
    z = stats.norm.ppf(0.975)
    assert found.value == 0
    assert (-found.low, found.high) == pytest.approx((z**2 / (num + z**2),) * 2, rel=1e-6)
    one_sided = stats.norm.ppf(0.95)
    assert drop_upper_bound(*answers(0, 0, num)) == pytest.approx(
        one_sided**2 / (num + one_sided**2), rel=1e-6
    )


@given(counts())
def test_the_interval_holds_the_figure_and_stays_between_minus_one_and_one(
    found: tuple[int, int, int],
) -> None:
    estimate = drop(*found)
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low < estimate.high
    assert estimate.value - 1e-12 <= drop_upper_bound(*answers(*found)) <= estimate.high + 1e-12


@given(counts())
def test_exchanging_the_models_turns_the_interval_round(found: tuple[int, int, int]) -> None:
    lost, gained, num = found
    one, other = drop(lost, gained, num), drop(gained, lost, num)
    assert other.value == -one.value
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-9)


@given(counts())
def test_one_more_lost_sample_moves_the_interval_up(found: tuple[int, int, int]) -> None:
    lost, gained, num = found
    assume(lost + gained < num)
    one, other = drop(lost, gained, num), drop(lost + 1, gained, num)
    assert other.value > one.value
    assert other.low >= one.low - 1e-12
    assert other.high >= one.high - 1e-12
    assert (
        drop_upper_bound(*answers(lost + 1, gained, num))
        >= drop_upper_bound(*answers(lost, gained, num)) - 1e-12
    )


@given(counts(), st.integers(2, 6))
def test_more_samples_of_the_same_kind_narrow_the_interval(found: tuple[int, int, int], times: int) -> None:
    lost, gained, num = found
    one, other = drop(lost, gained, num), drop(times * lost, times * gained, times * num)
    assert other.value == pytest.approx(one.value)
    assert other.high - other.low <= one.high - one.low + 1e-12


@given(counts(), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_and_those_that_agree_in_error_do_not_matter(
    found: tuple[int, int, int], random: object
) -> None:
    reference, candidate = answers(*found)
    order = np.random.default_rng(found[0]).permutation(len(reference))
    assert paired_drop(reference[order], candidate[order]) == paired_drop(reference, candidate)
    agreed = np.flatnonzero(reference & candidate)
    reference[agreed], candidate[agreed] = False, False
    assert paired_drop(reference, candidate) == drop(*found)


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.01), (0.05, 0.05), (0.005, 0.0), (0.15, 0.05)])
def test_the_interval_of_a_drop_covers_the_truth_as_often_as_it_says(lost: float, gained: float) -> None:
    generator = np.random.default_rng(2024)
    num, num_trials = 270, 2000
    drawn = generator.multinomial(num, [lost, gained, 1 - lost - gained], size=num_trials)
    kinds, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    truth, covered, above = lost - gained, 0, 0
    for (b, c), count in zip(kinds.tolist(), times.tolist(), strict=True):
        estimate = drop(b, c, num)
        covered += count * (estimate.low <= truth <= estimate.high)
        above += count * (drop_upper_bound(*answers(b, c, num)) >= truth)
    # Four standard errors of the simulation around 95 %; above it an interval may be, as counts are whole.
    assert covered / num_trials > 0.95 - 0.02
    assert above / num_trials > 0.95 - 0.02


@pytest.mark.parametrize("speedup", [1.0, 1.3])
def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says(speedup: float) -> None:
    generator = np.random.default_rng(7)
    num_trials, num_rounds, covered, narrower = 1000, 16, 0, 0
    for _ in range(num_trials):
        drift = np.exp(np.cumsum(generator.normal(0, 0.1, num_rounds)))
        before = drift * speedup * np.exp(generator.normal(0, 0.05, num_rounds))
        after = drift * np.exp(generator.normal(0, 0.05, num_rounds))
        found = ratio(before[:, None].tolist(), after[:, None].tolist())
        covered += found.low <= speedup <= found.high
        alone = median_latency(before[:, None].tolist())
        narrower += found.high / found.low < alone.high / alone.low
    assert covered / num_trials == pytest.approx(0.95, abs=0.025)
    assert narrower / num_trials > 0.9


def test_the_interval_of_a_ratio_is_the_t_interval_of_the_logarithms() -> None:
    before, after = [[3.0, 4.0, 90.0], [5.0], [4.4, 4.6]], [[2.0], [2.0, 2.2], [2.5]]
    logs = np.log([4.0 / 2.0, 5.0 / 2.1, 4.5 / 2.5])
    low, high = stats.t.interval(0.95, 2, loc=logs.mean(), scale=stats.sem(logs))
    assert ratio(before, after) == pytest.approx(np.exp([logs.mean(), low, high]))


rounds = st.lists(st.lists(st.floats(0.01, 100), min_size=1, max_size=4), min_size=2, max_size=6)


@given(rounds, st.floats(0.1, 10))
def test_a_ratio_turns_round_with_its_arms_and_scales_with_its_unit(
    found: list[list[float]], factor: float
) -> None:
    other = [[factor * sample for sample in samples[::-1]] for samples in found]
    assert ratio(other, found) == pytest.approx((factor, factor, factor), rel=1e-6)
    slow = [[sample + 1 for sample in samples] for samples in found]
    one, back = ratio(slow, found), ratio(found, slow)
    assert back == pytest.approx((1 / one.value, 1 / one.high, 1 / one.low))
    assert one.value > 1


def test_one_round_says_nothing_about_its_spread() -> None:
    found = ratio([[2.0, 2.0]], [[1.0]])
    assert (found.value, found.low, found.high) == (pytest.approx(2.0), 0.0, math.inf)
    assert verdict(found, 0.02) == "inconclusive"


def test_the_median_latency_is_that_of_the_rounds() -> None:
    found = [[1.0, 1.0, 50.0], [4.0, 4.0, 4.0, 0.1]]
    assert round_medians(found).tolist() == [1.0, 4.0]
    estimate = median_latency(found)
    assert estimate.value == pytest.approx(2.0)
    assert estimate.low < 1 < 4 < estimate.high


shares = st.integers(1, 100).map(lambda hundredths: Fraction(hundredths, 100))


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=200), shares)
@settings(max_examples=300)
def test_a_percentile_is_the_smallest_sample_that_enough_lie_at_or_below(
    samples: list[int], share: Fraction
) -> None:
    found = percentile(samples, float(share))
    assert found in samples
    assert Fraction(sum(sample <= found for sample in samples), len(samples)) >= share
    assert Fraction(sum(sample < found for sample in samples), len(samples)) < share


def test_a_percentile_of_a_hundred_samples_is_the_sample_of_that_rank() -> None:
    found = {rank: percentile(list(range(1, 101)), rank / 100) for rank in range(1, 101)}
    assert {rank: value for rank, value in found.items() if value != rank} == {}


def test_the_lowest_percentile_is_the_smallest_sample() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0


@given(counts(300), st.floats(0.001, 0.5))
def test_the_samples_that_would_prove_a_budget_do_prove_it(
    found: tuple[int, int, int], budget: float
) -> None:
    lost, gained, num = found
    needed = samples_to_prove(*answers(lost, gained, num), budget)
    proven = drop_upper_bound(*answers(lost, gained, num)) <= budget
    if Fraction(lost - gained, num) >= Fraction(budget):
        assert needed is None
        return
    assume(Fraction(budget) - Fraction(lost - gained, num) > Fraction(1, 1000))
    assert needed is not None
    assert (needed == num) == proven
    assert needed >= num
    times = math.ceil(needed / num)
    assert drop_upper_bound(*answers(times * lost, times * gained, times * num)) <= budget + 1e-9
    if needed > 1.2 * num and needed > 20 * num:
        fewer = int(needed / num / 1.2)
        assert drop_upper_bound(*answers(fewer * lost, fewer * gained, fewer * num)) > budget


@pytest.mark.parametrize(("lost", "gained", "num"), [(7, 0, 100), (3, 0, 300), (10, 3, 100), (57, 0, 100)])
def test_a_drop_that_is_all_of_the_budget_can_never_be_proven(lost: int, gained: int, num: int) -> None:
    budget = (lost - gained) / num
    assert samples_to_prove(*answers(lost, gained, num), budget) is None


def test_a_budget_of_nothing_needs_a_gain() -> None:
    assert samples_to_prove(*answers(0, 0, 100), 0.0) is None
    needed = samples_to_prove(*answers(0, 2, 100), 0.0)
    assert needed is not None
    assert needed > 100


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.03, 1.5, "better"),
        (1.02, 1.5, "inconclusive"),
        (0.5, 0.97, "worse"),
        (0.5, 0.99, "inconclusive"),
        (0.5, 1.5, "inconclusive"),
    ],
)
def test_a_verdict_needs_the_whole_interval_beyond_the_margin(low: float, high: float, said: str) -> None:
    assert verdict(Estimate((low * high) ** 0.5, low, high), 0.02) == said


@given(st.floats(0.1, 10), st.floats(1.0, 3.0), st.floats(0, 0.5))
def test_a_verdict_turns_round_with_the_arms(value: float, spread: float, margin: float) -> None:
    one = verdict(Estimate(value, value / spread, value * spread), margin)
    back = verdict(Estimate(1 / value, 1 / (value * spread), spread / value), margin)
    assume(abs(value / spread - (1 + margin)) > 1e-9 and abs(value * spread - 1 / (1 + margin)) > 1e-9)
    assert back == {"better": "worse", "worse": "better", "inconclusive": "inconclusive"}[one]


def test_a_machine_that_differs_from_itself_makes_the_interval_wider() -> None:
    found = widened(Estimate(1.1, 1.05, 1.15), Estimate(1.08, 1.05, 1.11))
    assert found.value == 1.1
    assert found.low == pytest.approx(1.05 / 1.08)
    assert found.high == pytest.approx(1.15 * 1.08)
    assert widened(Estimate(1.1, 1.05, 1.15), Estimate(0.9, 0.85, 0.95)).low == pytest.approx(1.05 * 0.9)


def _session(milliseconds: float, seed: int, noise: float = 0.01) -> list[list[float]]:
    return (milliseconds * np.random.default_rng(seed).lognormal(0, noise, (24, 5))).tolist()


def test_a_change_between_sessions_is_held_against_the_control() -> None:
    before, after = (_session(2.0, 1), _session(1.0, 2)), (_session(3.0, 3), _session(1.5, 4))
    same = change_of_ratio(before, after)
    assert same.low < 1 < same.high
    assert same.value == pytest.approx(1, abs=0.01)
    raw = change(before[1], after[1])
    assert raw.value == pytest.approx(1 / 1.5, rel=0.02)
    slower = change_of_ratio(before, (_session(3.0, 3), _session(1.65, 4)))
    assert slower.high < 0.93
    assert change([[1.0]], [[2.0]]).low == 0
    assert change([[1.0]] * 3, [[2.0]] * 3) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("lost", "gained", "p_value"), [(0, 0, 1.0), (5, 5, 1.0), (8, 0, 0.0078125), (1, 9, 0.021484375)]
)
def test_flips_are_judged_by_the_exact_test(lost: int, gained: int, p_value: float) -> None:
    before = np.array([True] * lost + [False] * gained + [True] * 10)
    after = np.array([False] * lost + [True] * gained + [True] * 10)
    assert flips(before, after) == (lost, gained, pytest.approx(p_value))
