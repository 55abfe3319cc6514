"""A ratio that load has made is never published: the quiet ratio lies in what is told, or nothing is told.

Measurements are made: rounds of calls around a known median, slowed down as other work would do it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.report.samples import typical

from lissom.bench import disturbance
from lissom.bench.disturbance import Measured, honest_change, honest_ratio
from lissom.bench.timing import Session
from lissom.recipe import GatesConfig
from lissom.report.comparison import compare, markdown_of
from lissom.report.judging import judge
from lissom.report.schema import Report
from lissom.runtime.base import open_runtime

ROUNDS, CALLS = 20, 15
BASE_MS, CANDIDATE_MS = 10.0, 1.0
QUIET = BASE_MS / CANDIDATE_MS
Slowing = Callable[[np.random.Generator], np.ndarray]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of these measurements."""
    monkeypatch.setattr(disturbance, "default_threads", lambda: 2)


def rounds(median: float, slowing: Slowing, seed: int) -> list[list[float]]:
    """Calls of a candidate, milliseconds, each slowed down by a factor of at least one."""
    generator = np.random.default_rng(seed)
    calls = median * np.exp(generator.normal(scale=0.03, size=(ROUNDS, CALLS)))
    found: list[list[float]] = (calls * slowing(generator)).tolist()
    return found


def quiet(generator: np.random.Generator) -> np.ndarray:
    return np.ones((ROUNDS, CALLS))


def some_rounds(factor: float, share: float) -> Slowing:
    """Other work comes and goes, for whole rounds."""
    return lambda generator: (
        np.where(generator.uniform(size=(ROUNDS, 1)) < share, factor, 1.0) * np.ones(CALLS)
    )


def some_calls(factor: float, share: float) -> Slowing:
    """Short bursts, which meet a part of the calls."""
    return lambda generator: np.where(generator.uniform(size=(ROUNDS, CALLS)) < share, factor, 1.0)


def always(factor: float) -> Slowing:
    """Steady work, which nothing in the times tells of."""
    return lambda generator: np.full((ROUNDS, CALLS), factor)


def figures(own: list[list[float]], *, others: float | None = 0.0, threads: int = 2) -> dict[str, Any]:
    load = None if others is None else {"others": others, "stolen": 0.0}
    return {"rounds_ms": own, "threads": threads, "load": load}


LOADS: dict[str, tuple[Slowing, float, Slowing, float]] = {
    # of the base and its load in cores, of the candidate and its load
    "quiet": (quiet, 0.02, quiet, 0.02),
    "a burst on the candidate": (quiet, 0.02, some_rounds(20, 0.3), 0.2),
    "a burst on the base": (some_rounds(20, 0.3), 0.2, quiet, 0.02),
    "short bursts on both": (some_calls(3, 0.2), 0.15, some_calls(3, 0.2), 0.15),
    "short bursts on one": (some_calls(1.3, 0.7), 0.15, quiet, 0.02),
    "a busy neighbour that a thread pool suffers from": (always(50), 0.9, always(1.1), 0.9),
    "a busy neighbour beside the candidate alone": (quiet, 0.0, always(8), 0.6),
    "bursts that no counter has seen": (some_rounds(60, 0.4), 0.0, quiet, 0.0),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", LOADS)
def test_the_quiet_ratio_is_in_what_is_told_or_nothing_is(case: str, seed: int) -> None:
    slow_base, base_load, slow_candidate, candidate_load = LOADS[case]
    before = figures(rounds(BASE_MS, slow_base, seed), others=base_load)
    after = figures(rounds(CANDIDATE_MS, slow_candidate, seed + 100), others=candidate_load)
    found = honest_ratio(before, after)
    if found.estimate is not None:
        assert found.estimate.low <= 1.02 * QUIET
        assert found.estimate.high >= QUIET / 1.02
    if case == "quiet":
        assert found.estimate is not None
        assert found.estimate.high / found.estimate.low < 1.05
        assert not found.reason
    if "neighbour" in case:
        assert found.estimate is None
        assert "cores from it" in found.reason


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_older_evidence_is_judged_by_the_readings_of_the_whole(share: float) -> None:
    before, after = figures(rounds(10, quiet, 0), others=None), figures(rounds(1, quiet, 1), others=None)
    readings = [{"seconds": float(second), "others": share, "stolen": 0.0} for second in range(5)]
    assert honest_ratio(before, after, readings).estimate is None
    assert honest_ratio(before, after, []).estimate is not None


def test_a_core_that_a_candidate_leaves_free_is_no_loss() -> None:
    before = figures(rounds(10, quiet, 0), others=0.95, threads=1)
    after = figures(rounds(1, quiet, 1), others=0.95, threads=1)
    assert honest_ratio(before, after).estimate is not None
    assert honest_ratio(before, after | {"threads": 2}).estimate is None


def test_what_the_control_differs_by_is_no_sign_of_load() -> None:
    before, after = (
        figures(rounds(10, some_rounds(1.7, 0.5), 0)),
        figures(rounds(1, some_rounds(1.7, 0.5), 1)),
    )
    control = [after | {"control_ms": rounds(1, some_rounds(1.7, 0.5), 2)}]
    assert honest_ratio(before, after).reason
    assert not honest_ratio(before, after, (), control).reason


def record(own: dict[str, Any]) -> dict[str, Any]:
    return {"runtimes": {"onnxruntime": own | {"error": None}}, "complete": True, "readings": []}


def test_no_verdict_is_given_where_the_ratio_is_not_known() -> None:
    busy = {"base": record(figures(rounds(675, always(1), 0), others=0.9))}
    busy["small"] = record(figures(rounds(1, always(1), 1), others=0.9))
    found = judge(busy, GatesConfig(), against="base")
    small = found.arms[1]
    assert (small.speedup, small.verdict) == (None, None)
    gate = next(gate for gate in found.gates if gate.name == "not-slower")
    assert gate.state == "inconclusive"
    assert "other work took 0.9 cores" in gate.reason
    assert "675" not in f"{gate.measured} {found.remarks}"
    assert any("how fast it is beside others is not told" in remark for remark in found.remarks)
    calm = {name: record(one["runtimes"]["onnxruntime"] | {"load": None}) for name, one in busy.items()}
    told = judge(calm, GatesConfig(), against="base").arms[1]
    assert told.speedup is not None
    assert told.verdict == "better"


def test_a_busy_neighbour_is_counted_in_the_rounds_of_each_candidate(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    inputs = {"image": np.zeros((1, 1, 2, 2), np.float32)}
    spin = "import time\nend = time.time() + 20\nwhile time.time() < end: pass"
    with open_runtime(artifact, "onnxruntime", threads=1) as one, open_runtime(artifact, "openvino") as two:
        session = Session({"one": one, "two": two}, inputs, round_ms=40)
        session.warm_up(3, until_stationary=False)
        neighbours = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
        try:
            for index in range(10):
                session.add_round(index)
        finally:
            for neighbour in neighbours:
                neighbour.kill()
                neighbour.wait()
    for name, own in session.rounds.items():
        cores = session.counters[name].cores()
        if cores is not None:  # a small model's round may be shorter than what the system counts in
            assert cores["others"] > disturbance.WITHHELD_CORES
            measured = {"rounds_ms": own, "threads": 2, "load": cores}
            assert honest_ratio(measured, measured).estimate is None


CHANGE = 1.25
"""How much faster the candidate of the later session truly is."""


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("case", LOADS)
def test_a_change_between_two_sessions_holds_the_quiet_one_or_is_not_told(
    case: str, swapped: bool, beside: bool
) -> None:
    """One session met other work, as the rows say, and the other did not."""
    slow_base, base_load, slow_candidate, candidate_load = LOADS[case]
    speed = (CHANGE, 1.0) if swapped else (1.0, CHANGE)
    busy = Measured(
        figures(rounds(CANDIDATE_MS / speed[0], slow_candidate, 1), others=candidate_load),
        figures(rounds(BASE_MS, slow_base, 2), others=base_load) if beside else None,
    )
    calm = Measured(
        figures(rounds(CANDIDATE_MS / speed[1], quiet, 3)),
        figures(rounds(BASE_MS, quiet, 4)) if beside else None,
    )
    found = honest_change(*((calm, busy) if swapped else (busy, calm)))
    if found.estimate is not None:
        assert found.estimate.low <= 1.02 * CHANGE
        assert found.estimate.high >= CHANGE / 1.02
    if case == "quiet":
        assert found.estimate is not None
        assert found.estimate.high / found.estimate.low < 1.1
    if "neighbour" in case:
        assert found.estimate is None


def session(slowing: Slowing, *, others: float | None, seed: int, speed: float = 1.0) -> Report:
    """A report whose arms met other work; without a count of their own the readings tell of it."""
    found = typical()
    arms = []
    for place, arm in enumerate(found.arms):
        assert arm.latency is not None
        # What other work does to an engine depends on the engine: here the chosen arm alone suffers.
        own = rounds(arm.latency.median_ms.value, slowing if arm.chosen else quiet, seed + place)
        faster = [[call / (speed if arm.chosen else 1.0) for call in calls] for calls in own]
        told = {"rounds_ms": faster, "threads": 2, "load": None}
        if others is not None:
            told["load"] = {"others": others, "stolen": 0.0}
        arms.append(arm.model_copy(update={"latency": arm.latency.model_copy(update=told)}))
    return found.model_copy(update={"arms": tuple(arms), "control": None})


@pytest.mark.parametrize("others", [0.5, 0.9])
@pytest.mark.parametrize("busy_first", [True, False])
def test_a_busy_session_beside_a_quiet_one_carries_no_verdict(busy_first: bool, others: float) -> None:
    busy = session(always(3), others=others, seed=1)
    calm = session(quiet, others=0.0, seed=50)
    found = compare(*((busy, calm) if busy_first else (calm, busy)), GatesConfig())
    assert found.verdict == "inconclusive"
    assert found.speedup is None
    gate = next(gate for gate in found.gates if gate.name == "not-slower")
    assert gate.state == "inconclusive"
    assert "cores from it" in gate.reason
    page = markdown_of(found, ("before", "after"))
    assert "speed not told" in page
    assert "3.0" not in gate.measured


def test_two_quiet_sessions_are_told_apart_and_two_of_an_older_lissom_by_their_readings() -> None:
    calm, faster = session(quiet, others=0.0, seed=1), session(quiet, others=0.0, seed=50, speed=CHANGE)
    assert compare(calm, faster, GatesConfig()).verdict == "better"
    assert compare(faster, calm, GatesConfig()).verdict == "worse"
    readings = tuple({"seconds": float(second), "others": 0.4, "stolen": 0.0} for second in range(5))
    older = session(quiet, others=None, seed=50, speed=CHANGE)
    assert compare(calm, older, GatesConfig()).verdict == "better"
    assert compare(calm, older.model_copy(update={"readings": readings}), GatesConfig()).speedup is None
    hot = faster.model_copy(update={"unfit": ("cores were slowed down for heat 5 times",)})
    told = compare(calm, hot, GatesConfig())
    assert told.verdict == "inconclusive"
    assert "in the later session" in told.gates[1].reason
