"""What goes wrong inside a model while it trains: gradients that vanish or explode, units that are dead.

A few steps of each epoch are looked at, so that watching costs next to nothing:

    gradient norm   L2 norm of all gradients together, before clipping
    vanishing       the first weight's gradient is below 1e-4 of the last one's, each relative to its weight
    exploding       the largest norm is more than 100 times the median of the epoch, or not finite
    dead units      channels behind a ReLU that were zero for every sample seen in the epoch
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

STEPS_WATCHED = 8
"""Steps of an epoch that are looked at, evenly spaced."""
_VANISHING = 1e-4
_EXPLODING = 100.0


class Watcher:
    """Watches one model through an epoch at a time."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._rectifiers = [module for module in model.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
        self.begin()

    def begin(self) -> None:
        """Forget what was seen: an epoch begins."""
        self._norms: list[float] = []
        self._ratios: list[float] = []
        self._alive: dict[int, Tensor] = {}

    def activations(self) -> AbstractContextManager[Any]:
        """Look at the activations of the forward passes in this context."""
        stack = ExitStack()
        for index, module in enumerate(self._rectifiers):
            handle = module.register_forward_hook(partial(self._see, index))
            stack.callback(handle.remove)
        return stack

    @torch.no_grad()
    def gradients(self) -> None:
        """Look at the gradients as they are now."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if not gradients:
            return
        self._norms.append(float(nn.utils.get_total_norm(gradients)))
        shares = (
            [
                float(weight.grad.norm() / weight.norm().clamp(min=1e-12))
                for weight in (self._weights[0], self._weights[-1])
                if weight.grad is not None
            ]
            if self._weights
            else []
        )
        if len(shares) == 2:
            self._ratios.append(shares[0] / max(shares[1], 1e-30))

    def figures(self) -> dict[str, float]:
        """What the epoch showed; flags are 0 or 1, dead units a share of all that were seen."""
        found: dict[str, float] = {}
        if self._norms:
            norms = np.array(self._norms)
            largest, median = float(norms.max()), float(np.median(norms))
            found |= {"gradient_norm": median, "gradient_norm_max": largest}
            found["exploding"] = float(not math.isfinite(largest) or largest > _EXPLODING * median > 0)
        if self._ratios:
            found["vanishing"] = float(np.median(self._ratios) < _VANISHING)
        if self._alive:
            units = torch.cat([alive.flatten() for alive in self._alive.values()])
            found["dead_units"] = 1.0 - float(units.float().mean())
        return found

    @torch.no_grad()
    def _see(self, index: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Units are axis 1 of images, else the last axis."""
        axis = 1 if output.ndim in (2, 4) else output.ndim - 1
        others = [number for number in range(output.ndim) if number != axis]
        alive = output.sum(dim=others) > 0  # none is negative; amax takes ten times as long, channels last
        key = index if index not in self._alive or self._alive[index].shape == alive.shape else -1 - index
        self._alive[key] = alive | self._alive[key] if key in self._alive else alive
