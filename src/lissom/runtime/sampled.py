"""A runtime asked with samples: what measures calls need not know where a model has its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lissom.runtime.base import Runtime


class SampledCalls:
    """`infer` and `timed_infer` of a runtime for arrays of shape [samples, ...].

    What is timed are the calls: samples are laid out before them.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def infer(self, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answers of shape [samples, ...]."""
        return self._runtime.infer_batch(samples)

    def timed_infer(self, samples: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        """The tensors of the last call, and the seconds of all."""
        outputs: dict[str, np.ndarray] = {}
        seconds = 0.0
        for group in list(self._runtime.layout.groups(samples, self._runtime.max_batch)):
            outputs, spent = self._runtime.timed_infer(group.tensors)
            seconds += spent
        return outputs, seconds


def take_samples(runtime: Any) -> Any:
    """The runtime itself where its tensors are samples already, else one that lays them out."""
    layout = getattr(runtime, "layout", None)
    return runtime if layout is None or layout.is_plain else SampledCalls(runtime)
