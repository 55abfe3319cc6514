"""Records of one measurement, judged: every arm against one of them, which is the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lissom.bench.disturbance import honest_ratio
from lissom.bench.percentiles import Percentile, percentiles
from lissom.bench.selection import ArmKey, fastest
from lissom.bench.statistics import (
    Estimate,
    Flips,
    Verdict,
    flips,
    median_latency,
    paired_drop,
    verdict,
)
from lissom.bench.watch import unfit
from lissom.recipe import GatesConfig
from lissom.report.gates import accuracy_gate, not_slower_gate
from lissom.report.measured_run import beyond_noise, control_of, scores_in
from lissom.report.remarks import control_remark, disturbed_remarks, machine_remarks
from lissom.report.schema import Control, Gate

Records = Mapping[str, Mapping[str, Any]]
"""Evidence of one measurement, by artifact."""


class JudgedArm(NamedTuple):
    """One artifact on one runtime.

    Attributes:
        arm: Its names.
        figures: What was measured.
        latency: Median, milliseconds.
        p99: The 99th percentile, milliseconds.
        speedup: How many times as fast as the base it is; None for the base.
        surely: The same, less sure by what the control differs from itself.
        verdict: better, worse or inconclusive, beyond the margin; None where it is withheld.
        drop: Score that it loses; None without labels.
        flips: Answers that became wrong and right; None where answers are not right or wrong.
        disturbed: What other work took from it or from the base, so that the speedup is less sure, or not
            told; empty where nothing did.
    """

    arm: ArmKey
    figures: Mapping[str, Any]
    latency: Estimate | None = None
    p99: Percentile | None = None
    speedup: Estimate | None = None
    surely: Estimate | None = None
    verdict: Verdict | None = None
    drop: Estimate | None = None
    flips: Flips | None = None
    disturbed: str = ""


class Judgement(NamedTuple):
    """All arms.

    Attributes:
        base: What the others are held against; None where nothing was timed.
        arms: In the order in which they were measured.
        gates: accuracy and not-slower of every artifact but the base, on its fastest runtime.
        remarks: The control, and what the machine did.
        complete: False when the measurement was interrupted.
    """

    base: ArmKey | None
    arms: tuple[JudgedArm, ...]
    gates: tuple[Gate, ...]
    remarks: tuple[str, ...]
    complete: bool


def judge(
    records: Records, limits: GatesConfig, *, against: str | None = None, allow: Sequence[str] = ()
) -> Judgement:
    """Hold every arm against a base.

    Args:
        records: Of one measurement.
        limits: Of the gates.
        against: Artifact that is the base, on its fastest runtime, and gates are judged; default: the first
            arm, and none are.
        allow: Gates that may fail.
    """
    figures = {
        ArmKey(name, runtime): found
        for name, record in records.items()
        for runtime, found in record["runtimes"].items()
    }
    timed = {arm: found["rounds_ms"] for arm, found in figures.items() if found.get("rounds_ms")}
    base = next(iter(timed), None)
    if against is not None:
        base = fastest({arm: own for arm, own in timed.items() if arm.artifact == against})
    first = next(iter(records.values()))
    readings, control = first.get("readings", ()), control_of(figures)
    why_unfit = unfit(readings)
    margin = None if why_unfit else limits.not_slower.margin
    arms = [_judged(arm, figures, base, margin, control, readings) for arm in figures]
    reasons = {
        f"{judged.arm.artifact} on {judged.arm.runtime}": judged for judged in arms if judged.disturbed
    }
    score_name = first.get("score_name", "accuracy")
    gates = () if against is None else _gates(arms, base, limits, why_unfit, score_name)
    return Judgement(
        base,
        tuple(arms),
        tuple(gate.model_copy(update={"allowed": gate.name in allow}) for gate in gates),
        (
            *((control_remark(control),) if control else ()),
            *machine_remarks(why_unfit, readings),
            *disturbed_remarks(
                {name: judged.disturbed for name, judged in reasons.items()},
                [name for name, judged in reasons.items() if judged.speedup is None],
            ),
        ),
        all(record["complete"] for record in records.values()),
    )


def _judged(
    arm: ArmKey,
    figures: Mapping[ArmKey, Mapping[str, Any]],
    base: ArmKey | None,
    margin: float | None,
    control: Control | None,
    readings: Sequence[Mapping[str, Any]],
) -> JudgedArm:
    found = figures[arm]
    rounds = found.get("rounds_ms")
    if not rounds or base is None:
        return JudgedArm(arm, found)
    (p99,) = percentiles(np.concatenate([np.asarray(own) for own in rounds]), (0.99,))
    timed = JudgedArm(arm, found, median_latency(rounds), p99)
    if arm == base:
        return timed
    honest = honest_ratio(figures[base], found, readings, list(figures.values()))
    speedup, surely = honest.estimate, None
    if speedup is not None:
        surely = beyond_noise(speedup, control)
    before, after = scores_in(figures[base], "report"), scores_in(found, "report")
    timed = timed._replace(
        speedup=speedup,
        surely=surely,
        verdict=None if margin is None or surely is None else verdict(surely, margin),
        disturbed=honest.reason,
    )
    if before is None or after is None:
        return timed
    changed = flips(before, after) if before.dtype == bool else None
    return timed._replace(drop=paired_drop(before, after), flips=changed)


def _unfit(judged: JudgedArm, why_unfit: Sequence[str]) -> list[str]:
    """Why no verdict is given on an arm; a wider interval alone is judged as it is."""
    return [*why_unfit, *([judged.disturbed] if judged.disturbed and judged.surely is None else ())]


def _gates(
    arms: Sequence[JudgedArm],
    base: ArmKey | None,
    limits: GatesConfig,
    why_unfit: Sequence[str],
    score_name: str,
) -> list[Gate]:
    """Of every other artifact, on its fastest runtime; one that was not timed at all fails."""
    by_arm = {judged.arm: judged for judged in arms}
    gates: list[Gate] = []
    for name in dict.fromkeys(arm.artifact for arm in by_arm):
        if base is not None and name == base.artifact:
            continue
        best = fastest(
            {
                arm: judged.figures["rounds_ms"]
                for arm, judged in by_arm.items()
                if arm.artifact == name and judged.latency is not None
            }
        )
        if best is None or base is None:
            reason = f"{name} was not timed on any runtime" if best is None else "the base was not timed"
            untimed = not_slower_gate(None, limits, ("", name))
            gates.append(untimed.model_copy(update={"state": "fail", "reason": reason}))
            continue
        before, after = (scores_in(by_arm[arm].figures, "report") for arm in (base, best))
        accuracy = accuracy_gate(before, after, limits, score_name=score_name)
        told = accuracy.model_copy(update={"reason": f"{name} on {best.runtime}: {accuracy.reason}"})
        names = (f"{base.artifact} on {base.runtime}", f"{name} on {best.runtime}")
        gates += [
            told,
            not_slower_gate(by_arm[best].surely, limits, names, unfit=_unfit(by_arm[best], why_unfit)),
        ]
    return gates
