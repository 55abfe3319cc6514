"""Arms are timed in turn, and nothing of the timing is left behind."""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.bench.timing import Session, round_order, time_interleaved, time_rounds
from lissom.logs import Advance, NoProgress

INPUTS = {"x": np.zeros((1, 2), dtype=np.float32)}


class Clock:
    """A runtime whose calls take as long as they are told to."""

    def __init__(self, log: list[tuple[str, bool]], name: str, milliseconds: float) -> None:
        self.log, self.name, self.seconds = log, name, milliseconds / 1e3
        self.collecting: set[bool] = set()

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.log.append((self.name, False))
        return dict(inputs)

    def timed_infer(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        self.log.append((self.name, True))
        self.collecting.add(gc.isenabled())
        return dict(inputs), self.seconds


class Failing(Clock):
    """Breaks in the first round, after the warm-up."""

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise ZeroDivisionError


class Counting:
    """Counts the steps that it is told of."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.total = 0

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        self.total = total
        yield self.steps.append


def timed(arms: Mapping[str, Any], **settings: Any) -> dict[str, list[list[float]]]:
    defaults: dict[str, Any] = {"num_rounds": 4, "round_ms": 10.0, "num_warmup": 2, "progress": NoProgress()}
    return time_interleaved(arms, INPUTS, **(defaults | settings))


@given(st.integers(1, 9), st.integers(0, 50))
def test_every_arm_stands_at_every_place_equally_often(num_arms: int, start: int) -> None:
    arms = [f"arm {index}" for index in range(num_arms)]
    orders = [round_order(arms, index) for index in range(2 * start, 2 * start + 2 * num_arms)]
    assert all(sorted(order) == arms for order in orders)
    places = Counter((arm, place) for order in orders for place, arm in enumerate(order))
    assert set(places.values()) == {2}
    assert len(places) == num_arms**2


@given(st.integers(2, 9))
def test_every_arm_follows_a_neighbour_as_often_as_it_precedes_it(num_arms: int) -> None:
    arms = [f"arm {index}" for index in range(num_arms)]
    orders = [round_order(arms, index) for index in range(2 * num_arms)]
    pairs = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert all(pairs[one, other] == pairs[other, one] for one, other in pairs)


def test_the_arms_that_were_given_are_not_reordered() -> None:
    arms = ["a", "b", "c"]
    round_order(arms, 5)
    assert arms == ["a", "b", "c"]


def test_each_round_has_one_unrecorded_call_and_then_those_that_fill_its_time() -> None:
    log: list[tuple[str, bool]] = []
    arms = {"fast": Clock(log, "fast", 0.5), "slow": Clock(log, "slow", 2.0)}
    rounds = timed(arms, num_rounds=4, round_ms=10.0, num_warmup=3)
    assert {name: [len(samples) for samples in found] for name, found in rounds.items()} == {
        "fast": [20] * 4,
        "slow": [5] * 4,
    }
    assert rounds["fast"][0] == [pytest.approx(0.5)] * 20
    warmup, body = log[:6], log[6:]
    assert warmup == [("fast", True)] * 3 + [("slow", True)] * 3
    fast, slow = [("fast", False)] + [("fast", True)] * 20, [("slow", False)] + [("slow", True)] * 5
    assert body == fast + slow + slow + fast + slow + fast + fast + slow


@pytest.mark.parametrize(
    ("milliseconds", "calls"), [(500.0, 3), (0.0, 1000), (1e-6, 1000), (4.0, 3), (1.0, 10)]
)
def test_a_round_has_at_least_three_and_at_most_a_thousand_calls(milliseconds: float, calls: int) -> None:
    rounds = timed({"one": Clock([], "one", milliseconds)}, num_rounds=1, round_ms=10.0)
    assert [len(samples) for samples in rounds["one"]] == [calls]


def test_one_slow_call_while_warming_up_does_not_decide_how_many_there_are() -> None:
    class Compiling(Clock):
        def timed_infer(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
            self.seconds = 5.0 if not self.log else 0.001
            return super().timed_infer(inputs)

    rounds = timed({"one": Compiling([], "one", 1.0)}, num_warmup=5)
    assert len(rounds["one"][0]) == 10


@pytest.mark.parametrize("num_warmup", [1, 2, 20])
def test_any_number_of_warm_up_calls_will_do(num_warmup: int) -> None:
    log: list[tuple[str, bool]] = []
    rounds = timed({"one": Clock(log, "one", 1.0)}, num_rounds=1, num_warmup=num_warmup)
    assert len(rounds["one"][0]) == 10
    assert len(log) == num_warmup + 1 + 10


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_not_collected_while_timing_and_the_setting_comes_back(enabled: bool) -> None:
    clock = Clock([], "one", 1.0)
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        timed({"one": clock}, num_warmup=1)
        assert gc.isenabled() is enabled
        with pytest.raises(ZeroDivisionError):
            timed({"one": Failing([], "one", 1.0)})
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
    assert False in clock.collecting


def test_progress_moves_by_one_a_round() -> None:
    progress = Counting()
    timed({"one": Clock([], "one", 1.0), "other": Clock([], "other", 1.0)}, num_rounds=5, progress=progress)
    assert (progress.steps, progress.total) == ([1] * 5, 5)


def test_rounds_go_on_until_it_is_decided_or_the_most_is_reached() -> None:
    arms = {"a": Clock([], "a", 1.0)}
    asked: list[int] = []

    def decided(rounds: Mapping[str, list[list[float]]]) -> bool:
        asked.append(len(rounds["a"]))
        return len(rounds["a"]) >= 8

    assert len(timed(arms, num_rounds=4, max_rounds=20, decided=decided)["a"]) == 8
    assert asked == [4, 6, 8]
    assert len(timed(arms, num_rounds=4, max_rounds=7, decided=lambda rounds: False)["a"]) == 7
    assert len(timed(arms, num_rounds=4, decided=lambda rounds: False)["a"]) == 4
    assert len(timed(arms, num_rounds=4, max_rounds=20)["a"]) == 4


def test_an_arm_that_raises_is_timed_no_more_and_the_others_go_on() -> None:
    class Breaking(Clock):
        def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            if sum(not timed for _, timed in self.log) > 2:
                raise ZeroDivisionError("broken")
            return super().infer(inputs)

    arms: dict[str, Any] = {"good": Clock([], "good", 1.0), "bad": Breaking([], "bad", 1.0)}
    session = Session(arms, INPUTS, round_ms=5.0)
    session.warm_up(2)
    time_rounds(session, num_rounds=6, progress=NoProgress())
    assert session.rounds.keys() == {"good"}
    assert len(session.rounds["good"]) == 6
    assert isinstance(session.failed["bad"], ZeroDivisionError)


def test_when_every_arm_has_failed_no_more_rounds_are_asked_for() -> None:
    session = Session({"bad": Failing([], "bad", 1.0)}, INPUTS, round_ms=5.0)  # type: ignore[dict-item]
    session.warm_up(2)
    asked: list[int] = []

    def decided(rounds: Mapping[str, Any]) -> bool:
        asked.append(1)
        return False

    time_rounds(session, num_rounds=4, max_rounds=20, decided=decided, progress=NoProgress())
    assert session.rounds == {}
    assert asked == []


def test_an_arm_is_called_until_it_gets_no_faster() -> None:
    class Warming(Clock):
        def timed_infer(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
            self.seconds = max(0.001, 0.02 * 0.95 ** len(self.log))
            return super().timed_infer(inputs)

    arm = Warming([], "one", 1.0)
    session = Session({"one": arm}, INPUTS, round_ms=10.0)  # type: ignore[dict-item]
    session.warm_up(5)
    found = session.warmups["one"]
    assert found.stationary
    assert found.num_calls >= 59 + 20
    session.add_round(0)
    assert len(session.rounds["one"][0]) == 10


def test_an_arm_that_never_becomes_steady_is_said_to_be_so() -> None:
    class Restless(Clock):
        def timed_infer(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
            self.seconds = 0.001 * 1.02 ** len(self.log)
            return super().timed_infer(inputs)

    session = Session({"one": Restless([], "one", 1.0)}, INPUTS, round_ms=10.0)  # type: ignore[dict-item]
    session.warm_up(5)
    found = session.warmups["one"]
    assert not found.stationary
    assert found.num_calls == 300
