"""Time of every layer of every arm, where the engine tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import median
from typing import Any

import numpy as np

from lissom.artifact import Artifact
from lissom.bench.layers import grouped
from lissom.bench.selection import ArmKey
from lissom.logs import Progress, tried
from lissom.optional import require
from lissom.report.opening import Arms
from lissom.runtime.base import Runtime
from lissom.runtime.onnx_runtime import MODEL_FILE

_SECONDS = 0.3
_MOST_CALLS, _FEWEST_CALLS = 50, 5


def look_inside(
    artifacts: Sequence[Artifact], arms: Arms, inputs: Mapping[str, np.ndarray], progress: Progress
) -> None:
    """Add `layers` to the figures of every arm whose engine tells them; one that fails keeps its times."""
    by_name = {artifact.name: artifact for artifact in artifacts}

    @cache
    def graph(name: str) -> Any | None:
        if by_name[name].manifest.format != "onnx":
            return None
        path = by_name[name].file(MODEL_FILE)
        return require("onnx", extra="cpu").load(path, load_external_data=False).graph

    with progress.task("time layers", len(arms.runtimes)) as advance:
        for arm, runtime in arms.runtimes.items():
            figures = arms.figures[arm]
            typical = median(sample for own in figures["rounds_ms"] for sample in own) / 1e3
            num_calls = int(np.clip(_SECONDS / max(typical, 1e-6), _FEWEST_CALLS, _MOST_CALLS))

            def groups(arm: ArmKey = arm, runtime: Runtime = runtime, calls: int = num_calls) -> list[Any]:
                times = runtime.layer_times(next(runtime.layout.groups(inputs)).tensors, calls)
                return [group._asdict() for group in grouped(times, graph(arm.artifact))] if times else []

            found: list[Any] = tried(f"the layers of {arm.artifact} on {arm.runtime}", groups, [])
            if found:
                figures["layers"] = found
            advance(1)
