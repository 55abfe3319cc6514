"""What a stage would cost, for `--dry-run`: training steps are timed on this machine, the rest is typical."""

from __future__ import annotations

import time
from typing import NamedTuple, Self

import numpy as np

from lissom.models.data import Data
from lissom.models.loading import start
from lissom.recipe import DistillConfig, ModelConfig, Optimization, StageConfig
from lissom.runtime.arrays import tensor_of

_NUM_STEPS = 3
_PROBE_BATCH = 32
_TYPICAL_SECONDS = {"load": 1.0, "prune": 1.0, "export": 4.0, "quantize": 2.0}


class ModelCost(NamedTuple):
    """Size of a model, and time of training it on one sample."""

    size_bytes: int
    num_train: int
    seconds_per_sample: float

    @classmethod
    def of(cls, config: ModelConfig, data: Data) -> Self:
        """Build the model and time a few steps; a model that is no factory is not timed."""
        num_train = len(data.indices["train"])
        if config.format == "onnx" or (
            "/" in config.source and not config.source.partition(":")[0].endswith(".py")
        ):
            return cls(0, num_train, 0.0)
        model, _ = start(config, data)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        if not num_train:
            return cls(size, 0, 0.0)
        arrays = [tensor_of(array[:_PROBE_BATCH]) for array in data.tensors("train").values()]
        seconds = []
        for _ in range(_NUM_STEPS):
            started = time.perf_counter()
            model(*arrays).sum().backward()
            seconds.append(time.perf_counter() - started)
        return cls(size, num_train, float(np.median(seconds)) / len(arrays[0]))


def stage_cost(config: StageConfig, cost: ModelCost) -> tuple[float, float]:
    """Seconds and bytes of one stage; pruned models count as the whole one, so this is an upper estimate."""
    if isinstance(config, Optimization):
        # Loss, optimiser and loop cost about as much again as a quarter of the two passes.
        seconds = 3.0 + 1.25 * config.epochs * cost.num_train * cost.seconds_per_sample
        twice = isinstance(config, DistillConfig) and config.baseline
        return seconds * (2 if twice else 1), cost.size_bytes
    size = cost.size_bytes / 4 if config.stage == "quantize" else cost.size_bytes
    return _TYPICAL_SECONDS.get(config.stage, 5.0), size
