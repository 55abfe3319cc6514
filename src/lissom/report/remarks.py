"""What a reader of a report should know beside gates and figures, in plain sentences.

A remark is found from the figures that a stage wrote into its manifest, and from the runtime that was chosen:

    notes["gain"]      of distill: score of the taught student minus that of the same training without a
                       teacher, paired, on the report split
    notes["sparsity"]  of a stage that makes weights zero: pattern, share, raw_bytes, compressed_bytes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lissom.artifact import Artifact
from lissom.report.schema import Interval
from lissom.report.wording import between, percent, points, size

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
    return (*taught, *_sparse_remarks(lineage, runtime))


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


def _sparse_remarks(lineage: Sequence[Artifact], runtime: str | None) -> Iterator[str]:
    """On the last stage that made weights zero: what stood before it is in it."""
    sparse = [artifact for artifact in lineage if "sparsity" in artifact.manifest.notes]
    for artifact in sparse[-1:]:
        yield sparse_remark(artifact.name, artifact.manifest.notes["sparsity"], runtime)


def _signed(share: float) -> str:
    return points(share, signed=True)
