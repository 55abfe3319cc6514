"""Medians, ratios and parity, by lissom's statistics where they can be imported."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Rounds = Sequence[Sequence[float]]
Figure = dict[str, float]
"""A value, and the ends of its 95 % interval as `low` and `high`."""


def latency(rounds: Rounds) -> Figure:
    """Milliseconds of a call."""
    try:
        from lissom.bench.statistics import median_latency

        return median_latency(rounds)._asdict()
    except ImportError:
        return _percentiles([statistics.median(samples) for samples in rounds])


def speedup(before: Rounds, after: Rounds) -> Figure:
    """Latency before over latency after, paired by round; above 1 is faster."""
    try:
        from lissom.bench.statistics import ratio

        return ratio(before, after)._asdict()
    except ImportError:
        pairs = zip(before, after, strict=True)
        return _percentiles([statistics.median(old) / statistics.median(new) for old, new in pairs])


def _percentiles(values: list[float]) -> Figure:
    """The median with the range of the middle 95 %, which for few rounds is all of them."""
    ordered = sorted(values)
    skipped = int(0.025 * len(ordered))
    return {
        "value": statistics.median(ordered),
        "low": ordered[skipped],
        "high": ordered[len(ordered) - 1 - skipped],
    }


def parity(trusted: Any, found: Any) -> dict[str, float | None]:
    """How far the answers `found` are from those of eager float32, both tensors with classes last.

    Raises:
        ValueError: an answer is infinite or not a number, or has another shape.
    """
    import torch

    if found.shape != trusted.shape:
        raise ValueError(f"the answer has the shape {list(found.shape)}, eager gives {list(trusted.shape)}")
    if not torch.isfinite(found).all():
        raise ValueError("an answer is infinite or not a number")
    noise = (found - trusted).double()
    signal, power = trusted.double().square().sum(), noise.square().sum()
    cosine = torch.nn.functional.cosine_similarity(found.double().flatten(), trusted.double().flatten(), 0)
    return {
        "max_error": float(noise.abs().max()),
        "cosine": float(cosine),
        "sqnr_db": float(10 * torch.log10(signal / power)) if power else None,
        "agreement": float((found.argmax(-1) == trusted.argmax(-1)).double().mean()),
    }


def against_ceilings(row: dict[str, Any], ceilings: dict[str, Any], multiplies: str) -> dict[str, float]:
    """FLOP/s and bytes/s of a row, and their shares of what the card was measured to do at most."""
    seconds = row["latency_ms"]["value"] / 1e3
    flops, moved = row["flops"] / seconds, row["bytes"] / seconds
    found = {"flops_per_s": flops, "bytes_per_s": moved, "of_copy_ceiling": moved / ceilings["bytes_per_s"]}
    if ceiling := ceilings["flops"].get(multiplies):
        found["of_flop_ceiling"] = flops / ceiling
    return found
