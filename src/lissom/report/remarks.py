"""What a reader of a report should know beside gates and figures, in plain sentences.

A remark is found from the figures that a stage wrote into its manifest, and from the runtime that was chosen:

    scores             of the first artifact: what its first output holds, where that is no logits
    notes["gain"]      of distill: score of the taught student minus that of the same training without a
                       teacher, paired, on the report split
    notes["sparsity"]  of a stage that makes weights zero: pattern, share, raw_bytes, compressed_bytes
    notes["validated_here"], ["goal_reached"], ["worst_layers"], ["kept_float"]
                       of quantize: the target is this machine, the goal of its ladder was reached, the layers
                       that add most noise, kinds of layers that have no int8 form
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from lissom.artifact import Artifact
from lissom.bench.watch import notices
from lissom.models.score_kinds import SAID
from lissom.report.schema import Control, Interval
from lissom.report.wording import between, listed, noisy_layers, percent, points, size

_SPARSE_KERNELS: Mapping[str, tuple[str, ...]] = {"tensorrt": ("2:4",), "torch_tensorrt": ("2:4",)}
"""Patterns of zeros that a runtime skips; the others multiply by every zero."""


def find_remarks(
    artifacts: Sequence[Artifact], lineage: Sequence[Artifact], *, runtime: str | None, score_name: str
) -> tuple[str, ...]:
    """Every remark on a run.

    Args:
        artifacts: All artifacts of the run.
        lineage: Those from the original to the chosen one.
        runtime: The chosen runtime.
        score_name: What the mean score is called.
    """
    taught = (
        taught_remark(artifact.name, artifact.manifest.notes["gain"], score_name)
        for artifact in artifacts
        if artifact.manifest.stage == "distill" and "gain" in artifact.manifest.notes
    )
    scores = artifacts[0].manifest.scores if artifacts else "logits"
    given = (f"{artifacts[0].name}: {SAID[scores]}.",) if scores != "logits" else ()
    return (*given, *taught, *_quantized_remarks(lineage), *_sparse_remarks(lineage, runtime))


def control_remark(control: Control) -> str:
    """How far an arm differs from itself, which is the floor of every other difference.

    >>> ratio = Interval(value=1.01, low=0.99, high=1.03)
    >>> control_remark(Control(artifact="a", runtime="torch", ratio=ratio, rounds=()))
    'Control: a on torch, opened and timed twice, is as fast as itself: 1.010x (95 % 0.990 to 1.030).'
    """
    ratio = control.ratio
    figures = f"{ratio.value:.3f}x (95 % {ratio.low:.3f} to {ratio.high:.3f})"
    told = f"Control: {control.artifact} on {control.runtime}, opened and timed twice,"
    if control.is_quiet:
        return f"{told} is as fast as itself: {figures}."
    return (
        f"{told} differs from itself: {figures}. That comes of the machine, as of where a model lies in its "
        "memory: smaller differences here are no evidence, and the gate not-slower allows for it."
    )


def machine_remarks(unfit: Sequence[str], readings: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the machine did while it was measured.

    >>> list(machine_remarks(["cores were slowed down for heat 5 times"], ()))
    ['Unfit to measure on: cores were slowed down for heat 5 times. No verdict on speed is given.']
    """
    if unfit:
        yield f"Unfit to measure on: {listed(unfit)}. No verdict on speed is given."
    for notice in notices(readings):
        yield f"While it was measured, {notice}. Engines whose threads wait for each other lose most by that."


def disturbed_remarks(reasons: Mapping[str, str], withheld: Collection[str]) -> Iterator[str]:
    """Which candidates were disturbed while they were timed, and what was made of it.

    Args:
        reasons: Why, by the name of the candidate.
        withheld: Names of those whose ratio is not told.

    >>> list(disturbed_remarks({"a": "other work took 0.2 cores from it"}, []))
    ['a: other work took 0.2 cores from it while it was timed; its interval is wider for it.']
    """
    for name, reason in reasons.items():
        made = (
            "how fast it is beside others is not told" if name in withheld else "its interval is wider for it"
        )
        yield f"{name}: {reason} while it was timed; {made}."


def taught_remark(name: str, gain: Mapping[str, float], score_name: str) -> str:
    """Whether the teacher of a stage helped; the 95 % interval must exclude zero to say so.

    >>> taught_remark("distill", {"value": 0.012, "low": 0.001, "high": 0.023}, "accuracy")
    'distill: the teacher helped: accuracy +1.2 points (95 % +0.1 to +2.3) over the same training without it.'
    """
    interval = Interval(**gain)
    figures = f"{score_name} {_signed(interval.value)} points (95 % {between(interval, _signed)})"
    if interval.low > 0:
        return f"{name}: the teacher helped: {figures} over the same training without it."
    if interval.high < 0:
        return f"{name}: the teacher hurt: {figures} against the same training without it."
    return f"{name}: no difference was shown to the same training without the teacher: {figures}."


def sparse_remark(name: str, sparsity: Mapping[str, Any], runtime: str | None) -> str:
    """How many weights are zero, what that saves on disk, and whether it gives speed."""
    pattern = str(sparsity["pattern"])
    raw, compressed = size(sparsity["raw_bytes"]), size(sparsity["compressed_bytes"])
    found = (
        f"{name}: {percent(sparsity['share'])} of the weights are zero ({pattern}): {raw} as stored, "
        f"{compressed} compressed."
    )
    if runtime is None or pattern in _SPARSE_KERNELS.get(runtime, ()):
        return found
    return f"{found} The zeros give no speed on {runtime}, which multiplies by them as by any number."


def unvalidated_remark(name: str, target: str, made_on: Mapping[str, Any]) -> str:
    """That a model was made for another machine than the one that measured it.

    >>> unvalidated_remark("quantize", "tensorrt", {"architecture": "x86_64", "gpus": []})
    'quantize: made for tensorrt and not validated there: this machine is x86_64 without a GPU.'
    """
    gpus = "" if made_on.get("gpus") or target != "tensorrt" else " without a GPU"
    machine = f"{made_on.get('architecture', 'another')}{gpus}"
    return f"{name}: made for {target} and not validated there: this machine is {machine}."


def missed_goal_remark(name: str, layers: Sequence[Mapping[str, Any]]) -> str:
    r"""That no rung of the ladder was good enough, and where the noise is.

    >>> missed_goal_remark("quantize", [{"name": "conv1", "sqnr_db": 12.34}, {"name": "fc", "sqnr_db": 20.0}])
    'quantize: its goal was not reached; the noisiest layers are conv1 (12.3\xa0dB) and fc (20.0\xa0dB).'
    """
    if not layers:
        return f"{name}: its goal was not reached."
    words = "layer is" if len(layers) == 1 else "layers are"
    return f"{name}: its goal was not reached; the noisiest {words} {noisy_layers(layers)}."


def kept_float_remark(name: str, kinds: Sequence[str]) -> str:
    """That layers have no int8 form.

    >>> kept_float_remark("quantize", ["GRU"])
    'quantize: GRU stays in float32: ONNX Runtime has no int8 form of it.'
    >>> kept_float_remark("quantize", ["GRU", "RNN"])
    'quantize: GRU and RNN stay in float32: ONNX Runtime has no int8 form of them.'
    """
    stays, them = ("stays", "it") if len(kinds) == 1 else ("stay", "them")
    return f"{name}: {listed(kinds)} {stays} in float32: ONNX Runtime has no int8 form of {them}."


def _quantized_remarks(lineage: Sequence[Artifact]) -> Iterator[str]:
    for artifact in lineage:
        name, manifest = artifact.name, artifact.manifest
        notes = manifest.notes
        if manifest.stage != "quantize":
            continue
        if not notes.get("validated_here", True):
            yield unvalidated_remark(name, notes["target"], manifest.made_on)
        if not notes.get("goal_reached", True):
            yield missed_goal_remark(name, notes.get("worst_layers", ()))
        if notes.get("kept_float"):
            yield kept_float_remark(name, notes["kept_float"])


def _sparse_remarks(lineage: Sequence[Artifact], runtime: str | None) -> Iterator[str]:
    """On the last stage that made weights zero: what stood before it is in it."""
    sparse = [artifact for artifact in lineage if "sparsity" in artifact.manifest.notes]
    for artifact in sparse[-1:]:
        yield sparse_remark(artifact.name, artifact.manifest.notes["sparsity"], runtime)


def _signed(share: float) -> str:
    return points(share, signed=True)
