"""Records of one measurement against a base: verdicts, gates, and what they are withheld for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lissom.bench.selection import ArmKey
from lissom.cli.views.benchmarks import benched
from lissom.recipe import GatesConfig
from lissom.report.judging import Judgement, judge

LIMITS = GatesConfig()
NUM_SAMPLES = 400


def rounds(milliseconds: float, *, seed: int = 0, noise: float = 0.005) -> list[list[float]]:
    generator = np.random.default_rng(seed)
    found: list[list[float]] = (milliseconds * generator.lognormal(0, noise, (24, 40))).tolist()
    return found


def arm(milliseconds: float | None, *, wrong: int = 0, **changes: Any) -> dict[str, Any]:
    """Figures of one arm, of which so many answers are wrong."""
    figures = {
        "version": "1",
        "error": None,
        "open_ms": 12.0,
        "first_ms": 3.0,
        "memory": {"held_bytes": 1, "peak_bytes": 2_000_000, "device_bytes": None},
        "warmup": {"num_calls": 40, "seconds": 0.1, "stationary": True},
        "scores": {"report": [0] * wrong + [1] * (NUM_SAMPLES - wrong)},
        **changes,
    }
    return figures if milliseconds is None else figures | {"rounds_ms": rounds(milliseconds)}


def records(**artifacts: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"runtimes": runtimes, "complete": True, "readings": []} for name, runtimes in artifacts.items()
    }


def states(found: Judgement) -> list[tuple[str, str]]:
    return [(gate.name, gate.state) for gate in found.gates]


def test_every_arm_is_held_against_the_fastest_of_the_base() -> None:
    found = judge(
        records(
            base={"torch": arm(4.0), "openvino": arm(2.0)}, small={"openvino": arm(1.0), "torch": arm(3.0)}
        ),
        LIMITS,
        against="base",
    )
    assert found.base == ArmKey("base", "openvino")
    told = {judged.arm: (judged.verdict, judged.speedup) for judged in found.arms}
    assert told[ArmKey("base", "openvino")] == (None, None)
    verdict, speedup = told[ArmKey("small", "openvino")]
    assert verdict == "better"
    assert speedup is not None
    assert speedup.value == pytest.approx(2.0, rel=0.01)
    assert told[ArmKey("small", "torch")][0] == "worse"
    assert states(found) == [("accuracy", "pass"), ("not-slower", "pass")]


def test_a_slower_and_a_less_accurate_artifact_fail_their_gates() -> None:
    found = judge(
        records(base={"torch": arm(1.0)}, slow={"torch": arm(1.3)}, dull={"torch": arm(0.5, wrong=40)}),
        LIMITS,
        against="base",
        allow=("accuracy",),
    )
    assert states(found) == [
        ("accuracy", "pass"),
        ("not-slower", "fail"),
        ("accuracy", "fail"),
        ("not-slower", "pass"),
    ]
    assert [gate.allowed for gate in found.gates] == [True, False, True, False]
    outcome = benched(found)
    assert (outcome.ok, outcome.exit_code) == (False, 1)
    dull = next(judged for judged in found.arms if judged.arm.artifact == "dull")
    assert dull.flips is not None
    assert (dull.flips.lost, dull.flips.gained) == (40, 0)


def test_without_a_base_the_first_arm_is_it_and_nothing_is_gated() -> None:
    found = judge(records(a={"torch": arm(2.0), "openvino": arm(1.0)}), LIMITS)
    assert found.base == ArmKey("a", "torch")
    assert found.gates == ()
    assert benched(found).exit_code == 0


def test_an_arm_that_failed_is_shown_with_its_error_beside_the_others() -> None:
    broken = arm(None, error="the engine broke")
    found = judge(records(a={"torch": arm(2.0), "openvino": broken}), LIMITS, against="a")
    text = "\n".join(benched(found).lines)
    assert "the engine broke" in text
    assert "2.0" in text


def test_an_artifact_that_was_not_timed_at_all_fails() -> None:
    found = judge(records(a={"torch": arm(2.0)}, b={"torch": arm(None, error="no")}), LIMITS, against="a")
    assert states(found) == [("not-slower", "fail")]
    assert "b was not timed on any runtime" in found.gates[0].reason


def test_the_control_takes_away_what_it_differs_by() -> None:
    noisy = arm(0.97) | {"control_ms": rounds(1.02, seed=1)}
    found = judge(records(base={"torch": arm(1.0)}, same={"torch": noisy}), LIMITS, against="base")
    (judged,) = (judged for judged in found.arms if judged.arm.artifact == "same")
    assert judged.verdict == "inconclusive"
    assert any("differs from itself" in remark for remark in found.remarks)


def test_an_unfit_machine_gets_no_verdict() -> None:
    measured = records(base={"torch": arm(1.0)}, slow={"torch": arm(2.0)})
    for record in measured.values():
        record["readings"] = [
            {"seconds": float(at), "throttled": at, "gpu": None, "stolen": 0.0, "others": 0.0}
            for at in range(3)
        ]
    found = judge(measured, LIMITS, against="base")
    assert states(found)[1] == ("not-slower", "inconclusive")
    assert found.arms[1].verdict is None
    text = "\n".join(benched(found).lines)
    assert "withheld" in text
    assert "slowed down for heat 2 times" in text


def test_an_interrupted_measurement_ends_with_130() -> None:
    measured = records(a={"torch": arm(1.0)})
    measured["a"]["complete"] = False
    outcome = benched(judge(measured, LIMITS))
    assert outcome.exit_code == 130
    assert outcome.extra["complete"] is False
    assert any("interrupted" in line for line in outcome.lines)


def test_columns_of_the_card_and_of_energy_are_there_where_they_were_measured() -> None:
    plain = "\n".join(benched(judge(records(a={"torch": arm(1.0)}), LIMITS)).lines)
    assert "card MB" not in plain
    assert "mJ" not in plain
    counted = arm(
        1.0,
        memory={"held_bytes": 1, "peak_bytes": 1, "device_bytes": 5_000_000},
        energy={"num_calls": 100, "seconds": 5.0, "joules": {"NVML": 20.0}, "idle_watts": {"NVML": 1.0}},
    )
    found = benched(judge(records(a={"torch": counted}), LIMITS))
    text = "\n".join(found.lines)
    assert "card MB" in text
    assert "200" in text
    assert found.extra["arms"][0]["energy"]["joules"] == {"NVML": 20.0}


def test_data_without_labels_have_no_accuracy() -> None:
    without = {key: value for key, value in arm(1.0).items() if key != "scores"}
    found = judge(records(base={"torch": without}, other={"torch": without}), LIMITS, against="base")
    assert states(found) == [("accuracy", "skipped"), ("not-slower", "pass")]
    assert found.arms[1].drop is None
