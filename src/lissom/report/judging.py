"""Records of one measurement, judged: every arm against one of them, which is the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lissom.bench.percentiles import Percentile, percentiles
from lissom.bench.selection import ArmKey, fastest
from lissom.bench.statistics import (
    Estimate,
    Flips,
    Verdict,
    flips,
    median_latency,
    paired_drop,
    ratio,
    verdict,
    widened,
)
from lissom.bench.watch import unfit
from lissom.recipe import GatesConfig
from lissom.report.gates import accuracy_gate, not_slower_gate
from lissom.report.measured_run import control_of
from lissom.report.remarks import control_remark, machine_remarks
from lissom.report.schema import Gate

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
        verdict: better, worse or inconclusive, beyond the margin; None where it is withheld.
        drop: Score that it loses; None without labels.
        flips: Answers that became wrong and right; None where answers are not right or wrong.
    """

    arm: ArmKey
    figures: Mapping[str, Any]
    latency: Estimate | None
    p99: Percentile | None
    speedup: Estimate | None
    verdict: Verdict | None
    drop: Estimate | None
    flips: Flips | None


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
    readings = next(iter(records.values())).get("readings", ())
    control = control_of(figures)
    against_it = unfit(readings)
    noise = Estimate(control.ratio.value, control.ratio.low, control.ratio.high) if control else None
    base = fastest({arm: own for arm, own in timed.items() if against in (None, arm.artifact)})
    if against is None:
        base = next(iter(timed), None)
    arms = [
        _judged(arm, figures, base, None if against_it else limits.not_slower.margin, noise)
        for arm in figures
    ]
    gates = _gates(arms, figures, base, limits, against_it, noise) if against is not None else ()
    return Judgement(
        base,
        tuple(arms),
        tuple(gate.model_copy(update={"allowed": gate.name in allow}) for gate in gates),
        (*((control_remark(control),) if control else ()), *machine_remarks(against_it, readings)),
        all(record["complete"] for record in records.values()),
    )


def _judged(
    arm: ArmKey,
    figures: Mapping[ArmKey, Mapping[str, Any]],
    base: ArmKey | None,
    margin: float | None,
    noise: Estimate | None,
) -> JudgedArm:
    found = figures[arm]
    rounds = found.get("rounds_ms")
    if not rounds or base is None:
        return JudgedArm(arm, found, None, None, None, None, None, None)
    samples = np.concatenate([np.asarray(own) for own in rounds])
    (p99,) = percentiles(samples, (0.99,))
    if arm == base:
        return JudgedArm(arm, found, median_latency(rounds), p99, None, None, None, None)
    speedup = ratio(figures[base]["rounds_ms"], rounds)
    beyond = widened(speedup, noise) if noise else speedup
    scores = (_scores(figures[base]), _scores(found))
    paired = scores if scores[0] is not None and scores[1] is not None else None
    return JudgedArm(
        arm,
        found,
        median_latency(rounds),
        p99,
        speedup,
        verdict(beyond, margin) if margin is not None else None,
        paired_drop(*paired) if paired else None,  # type: ignore[arg-type]
        flips(*paired) if paired and scores[0].dtype == bool else None,  # type: ignore[arg-type, union-attr]
    )


def _gates(
    arms: Sequence[JudgedArm],
    figures: Mapping[ArmKey, Mapping[str, Any]],
    base: ArmKey | None,
    limits: GatesConfig,
    against_it: Sequence[str],
    noise: Estimate | None,
) -> list[Gate]:
    """Of every other artifact, on its fastest runtime; one that was not timed at all fails."""
    gates: list[Gate] = []
    for name in dict.fromkeys(judged.arm.artifact for judged in arms):
        if base is not None and name == base.artifact:
            continue
        rounds = {
            judged.arm: judged.figures["rounds_ms"]
            for judged in arms
            if judged.arm.artifact == name and judged.latency is not None
        }
        best = fastest(rounds)
        if best is None or base is None:
            reason = f"{name} was not timed on any runtime" if best is None else "the base was not timed"
            untimed = not_slower_gate(None, limits, ("", name))
            gates.append(untimed.model_copy(update={"state": "fail", "reason": reason}))
            continue
        speedup = ratio(figures[base]["rounds_ms"], rounds[best])
        accuracy = accuracy_gate(_scores(figures[base]), _scores(figures[best]), limits)
        told = accuracy.model_copy(update={"reason": f"{name} on {best.runtime}: {accuracy.reason}"})
        names = (f"{base.artifact} on {base.runtime}", f"{name} on {best.runtime}")
        beyond = widened(speedup, noise) if noise else speedup
        gates += [told, not_slower_gate(beyond, limits, names, unfit=against_it)]
    return gates


def _scores(figures: Mapping[str, Any]) -> np.ndarray | None:
    """Score of every sample of the report split; None without labels."""
    found = figures.get("scores", {}).get("report")
    if found is None:
        return None
    scores = np.asarray(found)
    return scores.astype(bool) if scores.dtype.kind == "i" else scores
