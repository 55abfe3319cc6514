"""Scenarios count what a user waits, also while the model stalls."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from tests.unit.small import DATA, Chain

from lissom.bench.scenarios import (
    SAMPLES_PER_QUERY,
    SCENARIOS,
    Asked,
    answered,
    arrivals,
    ask,
    ask_in_turn,
    joined,
)
from lissom.bench.selection import ArmKey
from lissom.cli.views.benchmarks import asked
from lissom.logs import NoProgress
from lissom.runtime.base import open_runtime

SAMPLES = {"x": np.arange(40, dtype=np.float32).reshape(20, 2)}


class Stub:
    """A runtime that takes a while, and once a long while."""

    name, thread_safe = "stub", False

    def __init__(self, seconds: float = 0.0, stall: tuple[int, float] | None = None) -> None:
        self.seconds, self.stall, self.sizes = seconds, stall, []  # type: ignore[var-annotated]
        self.seen: list[float] = []

    def infer_batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.sizes.append(len(inputs["x"]))
        self.seen.append(float(inputs["x"][0, 0]))
        time.sleep(self.stall[1] if self.stall and len(self.sizes) == self.stall[0] else self.seconds)
        return dict(inputs)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_asks_in_its_own_way(scenario: Any) -> None:
    stub: Any = Stub(0.001)
    found = ask(stub, SAMPLES, scenario, seconds=0.1, rate=200.0)
    assert set(stub.sizes) == {SAMPLES_PER_QUERY[scenario]}
    assert len(found.latencies) >= 3
    assert len(stub.sizes) == len(found.latencies) + 1  # one before anything is counted
    assert (found.latencies >= 0.001).all()
    assert found.samples_per_second == pytest.approx(
        len(found.latencies) * SAMPLES_PER_QUERY[scenario] / found.seconds
    )
    assert found.kept_up


def test_samples_are_asked_in_turn() -> None:
    stub: Any = Stub()
    ask(stub, SAMPLES, "SingleStream", seconds=0.01)
    assert stub.seen[:21] == [*range(0, 40, 2), 0]


def test_a_stall_is_waited_by_all_that_were_planned_behind_it() -> None:
    """400 queries a second for a second, and one of them takes 300 ms: some 100 others wait behind it."""
    stub: Any = Stub(0.0005, stall=(100, 0.3))
    found = ask(stub, SAMPLES, "Server", seconds=1.0, rate=400.0)
    late = int((found.latencies > 0.02).sum())
    assert late > 60
    (high,) = found.percentiles((0.9,))
    assert high.value > 0.1
    closed: Any = Stub(0.0005, stall=(100, 0.3))
    alone = ask(closed, SAMPLES, "SingleStream", seconds=0.5)
    assert int((alone.latencies > 0.02).sum()) < 10  # one that waits for the last answer sees one slow query


def test_more_than_can_be_answered_is_overload() -> None:
    stub: Any = Stub(0.005)
    found = ask(stub, SAMPLES, "Server", seconds=0.4, rate=1000.0)
    assert not found.kept_up
    assert found.latencies[-1] > found.latencies[0]


@pytest.mark.parametrize(("seconds", "kept_up"), [(1.075, True), (1.2, False)])
def test_the_last_query_may_take_its_time(seconds: float, kept_up: bool) -> None:
    one = Asked("Server", 1, np.array([0.08, 0.07, 0.075]), seconds, rate=3.0, planned=1.0)
    assert one.kept_up == kept_up
    whole = joined([one] * 4)
    assert (whole.turns, whole.planned, whole.seconds) == (4, 4.0, pytest.approx(4 * seconds))
    assert whole.kept_up == kept_up


def test_gaps_are_exponential_and_the_same_for_a_seed() -> None:
    plan = arrivals(100.0, 100.0, seed=1)
    gaps = np.diff(plan)
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() == pytest.approx(0.01, rel=0.06)
    assert np.array_equal(plan, arrivals(100.0, 100.0, seed=1))
    assert not np.array_equal(plan, arrivals(100.0, 100.0, seed=2))


def test_several_workers_answer_at_once() -> None:
    plan = np.zeros(8)
    started = time.perf_counter()
    done = answered(plan, lambda batch: time.sleep(0.2), iter([{}] * 100), workers=4)
    assert time.perf_counter() - started < 1.4  # one after the other takes 1.6
    assert (done > 0.19).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_query_raises_is_raised(workers: int) -> None:
    def fail(batch: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answered(np.zeros(5), fail, iter([{}] * 100), workers=workers)


def test_what_cannot_be_asked_is_refused() -> None:
    stub: Any = Stub()
    with pytest.raises(ValueError, match="needs a rate"):
        ask(stub, SAMPLES, "Server", seconds=0.1)
    with pytest.raises(ValueError, match="takes one call at a time"):
        ask(stub, SAMPLES, "Server", seconds=0.1, rate=10.0, workers=2)


def test_a_real_runtime_is_asked(chain: Callable[[str], Chain]) -> None:
    samples = {"image": DATA.tensors("report")["image"]}
    with open_runtime(chain("mlp").exported, "onnxruntime", threads=1) as runtime:
        found = ask(runtime, samples, "Server", seconds=0.3, rate=300.0, workers=2)
        many = ask(runtime, samples, "Offline", seconds=0.1)
    assert found.kept_up
    assert many.samples_per_second > 32


class Breaks:
    """Answers at once, and raises from some query on."""

    name, thread_safe, max_batch = "breaks", True, None

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error = after, error

    def infer_batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.left -= 1
        if self.left < 0:
            raise self.error
        time.sleep(0.001)
        return dict(inputs)


def in_turn(arms: Mapping[str, Any], scenario: Any = "SingleStream", **given: Any) -> dict[str, Asked]:
    return ask_in_turn(arms, SAMPLES, scenario, seconds=0.08, progress=NoProgress(), **given)


@pytest.mark.parametrize("scenario", ["SingleStream", "Server"])
def test_an_arm_that_breaks_keeps_its_turns_and_the_others_go_on(scenario: str) -> None:
    rate = {"rate": 200.0} if scenario == "Server" else {}
    good = Breaks(10**6, ValueError())
    found = in_turn({"good": good, "bad": Breaks(12, ZeroDivisionError("gone"))}, scenario, **rate)
    assert found["good"].error is None
    assert len(found["good"].latencies) >= 12
    assert found["bad"].error == "ZeroDivisionError: gone"
    assert len(found["bad"].latencies) < len(found["good"].latencies)
    text = "\n".join(asked({ArmKey(name, "torch"): one for name, one in found.items()}).lines)
    assert "ZeroDivisionError: gone" in text


def test_an_arm_that_never_answered_is_told_with_its_error() -> None:
    found = in_turn({"good": Breaks(10**6, ValueError()), "bad": Breaks(0, OSError("no"))})
    assert len(found["bad"].latencies) == 0
    outcome = asked({ArmKey(name, "torch"): one for name, one in found.items()})
    assert "OSError: no" in "\n".join(outcome.lines)
    assert outcome.extra["arms"][1]["percentiles"] == []


def test_an_interruption_keeps_the_turns_that_every_arm_has_come_to() -> None:
    found = in_turn({"one": Breaks(10**6, ValueError()), "other": Breaks(30, KeyboardInterrupt())})
    assert not any(one.complete for one in found.values())
    assert asked({ArmKey(name, "torch"): one for name, one in found.items()}).exit_code == 130


def test_an_interruption_before_the_first_turn_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        in_turn({"one": Breaks(2, KeyboardInterrupt())})


def test_a_plan_that_is_not_kept_up_with_is_given_up() -> None:
    plan = arrivals(1000.0, 1.0)
    started = time.perf_counter()
    found = answered(plan, lambda batch: time.sleep(0.02), itertools.repeat({}), until=0.2)
    assert time.perf_counter() - started < 10  # the whole plan takes 20
    assert np.isfinite(found[:5]).all()
    assert np.isnan(found[-1])


def test_the_first_query_is_asked_however_late_it_is() -> None:
    found = answered(np.array([0.0, 0.0]), lambda batch: None, itertools.repeat({}), until=-1.0)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
