"""The gates: what must hold before a model is shipped.

Each gate is pass, fail, inconclusive or skipped, with the reason; only a failure that is not allowed
ends a run with exit code 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lissom.artifact import Artifact
from lissom.bench.statistics import Estimate, drop_upper_bound, paired_drop, samples_to_prove, verdict
from lissom.export.verification import WEIGHT_ONLY
from lissom.recipe import GatesConfig
from lissom.report.opening import NATIVE
from lissom.report.schema import Gate
from lissom.report.wording import listed, noisy_layers

_COMPUTED_IN = {"float32", "float16", "bfloat16", "int8", "uint8"}


def reload_gate(lineage: Sequence[Artifact], records: Mapping[str, Mapping[str, Any]]) -> Gate:
    """Every artifact on the way to the chosen one, opened from disk, reproduces its probe."""
    probes = {
        f"{artifact.name} on {runtime}": figures["probe"]
        for artifact in lineage
        for runtime, figures in records[artifact.name]["runtimes"].items()
        if "probe" in figures and runtime == NATIVE[artifact.manifest.format]
    }
    failed = [name for name, probe in probes.items() if not probe["passed"]]
    worst = max((probe["max_abs_error"] for probe in probes.values()), default=0.0)
    lost = sum(probe.get("nonfinite", 0) for probe in probes.values())
    measured = f"max error {worst:.2g}" + (f", {lost} values not finite" if lost else "")
    if not probes:
        return _gate("reload", "skipped", "", "", "no artifact could be opened")
    reason = (
        f"{failed[0]} does not reproduce the outputs stored when it was made{_random(lineage)}"
        if failed
        else f"{len(probes)} reloaded models reproduce the outputs stored when they were made"
    )
    return _gate("reload", "fail" if failed else "pass", measured, "tolerance of each manifest", reason)


def parity_gate(lineage: Sequence[Artifact], records: Mapping[str, Mapping[str, Any]], runtime: str) -> Gate:
    """Every conversion on the way to the chosen arm computes what it was made from."""
    outputs = [
        (artifact.name, name, figures["parity"], output)
        for artifact in lineage
        for name, figures in records[artifact.name]["runtimes"].items()
        if "parity" in figures and name == runtime
        for output in figures["parity"]["outputs"]
    ]
    if not outputs:
        return _gate("parity", "skipped", "", "", "nothing was converted on the way to the chosen model")
    failed = [item for item in outputs if not item[3]["passed"]]
    name, where, parity, output = failed[0] if failed else outputs[-1]
    measured = _parity_figures(output)
    relation = "differs from" if failed else "agrees with"
    reason = f"output {output['output']!r} of {name} on {where} {relation} {parity['against']}"
    if failed:
        reason += _random(lineage) or _noisiest(next(one for one in lineage if one.name == name))
    return _gate("parity", "fail" if failed else "pass", measured, output["limit"], reason)


def accuracy_gate(
    reference: np.ndarray | None,
    candidate: np.ndarray | None,
    config: GatesConfig,
    *,
    score_name: str = "accuracy",
) -> Gate:
    """The observed drop on the report split is within the budget; says whether that is proven.

    Args:
        reference: True where the reference is right, or its scores, shape [samples]; None without labels.
        candidate: The same for the chosen arm.
        config: Limits.
        score_name: What the mean of the scores is called.
    """
    budget = config.accuracy.max_drop
    limit = f"drop of at most {_points(budget)}"
    if reference is None or candidate is None:
        return _gate("accuracy", "skipped", "", limit, "the data have no labels")
    drop = paired_drop(reference, candidate)
    bound = drop_upper_bound(reference, candidate)
    within = drop.value <= budget + 1e-12  # absorbs the rounding of a division, far below one sample
    proof = "proven" if bound <= budget else _not_proven(reference, candidate, budget)
    proof = proof if within else "over the budget"
    change, low, high = (0.0 - share * 100 for share in (drop.value, drop.high, drop.low))
    measured = f"{change:+.2f} points (95 % {low:+.2f} to {high:+.2f})"
    lost, gained = int(np.sum(candidate < reference)), int(np.sum(candidate > reference))
    moved = (
        f"{lost} right answers lost and {gained} gained on {len(reference)} samples"
        if reference.dtype == bool
        else f"{score_name} fell on {lost} and rose on {gained} of {len(reference)} samples"
    )
    reason = f"{proof}: {moved}; 95 % upper bound {_points(bound)}"
    return _gate("accuracy", "pass" if within else "fail", measured, limit, reason)


def not_slower_gate(
    speedup: Estimate | None, config: GatesConfig, arms: tuple[str, str], *, unfit: Sequence[str] = ()
) -> Gate:
    """The chosen arm is not surely slower than the reference on its fastest runtime.

    Args:
        speedup: How many times as fast it is; None where one was not timed.
        config: Limits.
        arms: Names of the reference and the chosen arm.
        unfit: Why the machine was unfit; the verdict is withheld then.
    """
    margin = config.not_slower.margin
    limit = f"not slower by more than {margin:.0%}"
    if speedup is None and unfit:
        reason = f"withheld: {listed(unfit)}; measure again when the machine is quiet"
        return _gate("not-slower", "inconclusive", "", limit, reason)
    if speedup is None:
        return _gate("not-slower", "skipped", "", limit, "the reference or the chosen model was not timed")
    found = verdict(speedup, margin)
    state = {
        "better": "pass",
        "worse": "fail",
        "inconclusive": "pass" if speedup.low >= 1 / (1 + margin) else "inconclusive",
    }
    measured = f"{speedup.value:.2f}x ({speedup.low:.2f} to {speedup.high:.2f})"
    if unfit:
        reason = f"withheld: {listed(unfit)}; measure again when the machine is quiet"
        return _gate("not-slower", "inconclusive", measured, limit, reason)
    return _gate(
        "not-slower", state[found], measured, limit, f"{arms[1]} against {arms[0]}, interleaved: {found}"
    )


def precision_gate(
    artifact: Artifact, executed: Mapping[str, int] | None, elsewhere: Sequence[str] = ()
) -> Gate:
    """The engine executed the precision that was asked for, in the place that was asked for.

    Args:
        artifact: What was executed.
        executed: Convolutions and products by the type they computed in; None when the engine cannot tell.
        elsewhere: Names of those that fell back to another place.
    """
    asked = artifact.manifest.precision
    if elsewhere:
        count = f"{len(elsewhere)} operator{'s' * (len(elsewhere) > 1)}"
        shown = ", ".join(elsewhere[:3]) + ", ..." * (len(elsewhere) > 3)
        return _gate("precision", "fail", f"{count} elsewhere", asked, f"{shown} fell back to the CPU")
    if executed is None:
        return _gate("precision", "skipped", "unknown", asked, "the engine does not say what it executes")
    measured = ", ".join(f"{count} {name}" for name, count in sorted(executed.items())) or "none"
    if asked == "int8":
        wanted = int(artifact.manifest.notes.get("computing_int8", 1))
        found = executed.get("int8", 0) + executed.get("uint8", 0)
        state = "pass" if found >= wanted else "fail"
        reason = f"{found} of {wanted} quantized convolutions and products run in int8"
        return _gate("precision", state, measured, f"{wanted} int8", reason)
    if asked in WEIGHT_ONLY:
        # A file from elsewhere does not say how many there are.
        wanted, found = int(artifact.manifest.notes.get("weights_in_groups", 1)), executed.get(asked, 0)
        if not found:
            return _gate(
                "precision", "skipped", measured, asked, "the engine does not say how it keeps weights"
            )
        state = "pass" if found >= wanted else "fail"
        return _gate(
            "precision",
            state,
            measured,
            f"{wanted} {asked}",
            f"{found} of {wanted} products read their weights so",
        )
    other = sorted(name for name in executed if name != asked and name in _COMPUTED_IN)
    reason = (
        f"the engine computes in {' and '.join(other)}, unasked" if other else f"everything runs in {asked}"
    )
    return _gate("precision", "fail" if other else "pass", measured, asked, reason)


def splits_gate(overlap: Mapping[str, int]) -> Gate:
    """No sample stands in two splits."""
    limit = "no sample in two splits"
    if overlap:
        pairs = ", ".join(f"{count} in {pair}" for pair, count in overlap.items())
        return _gate(
            "splits",
            "fail",
            pairs,
            limit,
            "the same sample is used to make or choose the model and to judge it",
        )
    return _gate("splits", "pass", "0 shared", limit, "train, calibrate, select and report share no sample")


def uncompared_gate(name: str) -> Gate:
    """What is said where the chosen model is the reference itself."""
    return _gate(name, "skipped", "", "", "the model is the one that others are compared with")


def none_chosen_gates(reason: str) -> list[Gate]:
    """What is said of the gates that need a chosen model, when there is none."""
    return [
        _gate(name, "skipped", "", "", reason) for name in ("reload", "parity", "not-slower", "precision")
    ]


def _gate(name: str, state: Any, measured: str, limit: str, reason: str) -> Gate:
    return Gate(name=name, state=state, measured=measured, limit=limit, reason=reason, allowed=False)


def _noisiest(artifact: Artifact) -> str:
    layers = noisy_layers(artifact.manifest.notes.get("worst_layers", ()))
    return f"; its noisiest layers: {layers}" if layers else ""


def _not_proven(reference: np.ndarray, candidate: np.ndarray, budget: float) -> str:
    needed = samples_to_prove(reference, candidate, budget)
    return f"not proven, needs {needed:,} samples" if needed else "not proven"


def _random(lineage: Sequence[Artifact]) -> str:
    """What draws random numbers in a model whose answers are never the same; empty where nothing does."""
    names = {name: None for artifact in lineage for name in artifact.manifest.notes.get("random_nodes", ())}
    return f"; random numbers are drawn by {listed([*names][:3])}" if names else ""


def _parity_figures(output: Mapping[str, Any]) -> str:
    if output["max_abs_error"] is None:
        lost = output.get("nonfinite")
        return f"not finite: {lost} values on one side alone" if lost else "other shapes, or not finite"
    sqnr = "no noise" if output["sqnr_db"] is None else f"SQNR {output['sqnr_db']:.1f} dB"
    return f"max error {output['max_abs_error']:.2g}, {sqnr}, top-1 {output['top1_agreement']:.1%}"


def _points(share: float) -> str:
    return f"{share * 100:.2f} points"
