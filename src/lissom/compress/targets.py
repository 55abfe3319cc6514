"""What pruning is to save, and the share of the parts that saves it.

Removing half of the channels removes about three quarters of the multiply-adds, and less of the time. So
where a recipe asks for multiply-adds, parameters or latency, shares of the parts are tried on copies of the
model, by bisection, and the smallest is taken whose cost is not above what was asked for. Latency is that of
the exported model on a named runtime, timed in turns with the model as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from lissom.compress.samples import Samples
from lissom.errors import ModelError
from lissom.logs import Advance
from lissom.models.catalogue import flops_of
from lissom.models.processes import agree
from lissom.recipe import PruneConfig

_NUM_TRIALS = 8
_HIGHEST = 0.98

Cost = Callable[[nn.Module], float]


class Reduction(Protocol):
    """Parts of a model, ranked."""

    def apply(self, model: nn.Module, share: float) -> dict[str, Any]:
        """Remove a share of the parts, from the model that was ranked or from a copy of it.

        Args:
            model: Changed in place.
            share: Share of the parts of the model as it was before the first step, 0 to below 1.

        Returns:
            What was removed, for the notes of the manifest.

        Raises:
            ModelError: nothing can be removed, or the model does not run afterwards.
        """


@dataclass(frozen=True)
class Target:
    """What is to be saved.

    Attributes:
        of: parts, macs, parameters or latency.
        cost: Of a model, in the unit of `of`; None for parts, and for what is not counted.
        whole: Cost of the model before anything was removed.
    """

    of: str
    cost: Cost | None
    whole: float

    @property
    def num_trials(self) -> int:
        """Copies that `part_for` tries."""
        return 0 if self.cost is None else _NUM_TRIALS

    def part_for(
        self, saved: float, model: nn.Module, reduction: Reduction, *, advance: Advance = lambda steps: None
    ) -> float:
        """The share of parts whose removal saves the share `saved` of the cost.

        Args:
            saved: Share of the cost of the model before the first step.
            model: The model that was ranked; it is not changed.
            reduction: Its parts.
            advance: Called with 1 after every trial.

        Raises:
            ModelError: removing all that can be removed does not save as much.
        """
        if self.cost is None or saved == 0:
            return saved
        limit = self.whole * (1 - saved)
        low, high, least, found = 0.0, _HIGHEST, self.whole, None
        for _ in range(_NUM_TRIALS):
            part = (low + high) / 2
            spent = self._tried(part, model, reduction)
            advance(1)
            least = min(least, spent)
            if spent <= limit:
                high = found = part
            else:
                low = part
        if found is None:
            raise ModelError(
                f"{saved:.0%} of the {self.of} was to be saved; removing {low:.0%} of the parts saves "
                f"{1 - least / self.whole:.0%}",
                hint="ask for less, exclude fewer layers, or prune in another way as well, such as by depth",
            )
        return found

    def notes(self, model: nn.Module) -> dict[str, Any]:
        """Cost before and after."""
        return {} if self.cost is None else {self.of: [self.whole, self.cost(model)]}

    def _tried(self, part: float, model: nn.Module, reduction: Reduction) -> float:
        assert self.cost is not None
        trial = copy.deepcopy(model)
        try:
            reduction.apply(trial, part)
        except ModelError:  # so small a share removes nothing
            return self.whole
        return self.cost(trial)


def target_for(
    model: nn.Module, config: PruneConfig, samples: Samples, latency: Callable[[], Cost]
) -> Target:
    """That of a stage.

    Args:
        model: Before anything is removed.
        config: Names what is to be saved.
        samples: A sample is what multiply-adds are counted on.
        latency: Gives what measures a model, as a share of the time of `model`.
    """
    if config.of == "parts":
        return Target(config.of, None, 0.0)
    costs: dict[str, Callable[[], Cost]] = {
        "macs": lambda: lambda pruned: macs(pruned, samples.example),
        "parameters": lambda: num_parameters,
        "latency": lambda: agreed(latency()),
    }
    cost = costs[config.of]()
    return Target(config.of, cost, cost(model))


def macs(model: nn.Module, example: list[Tensor]) -> float:
    """Multiply-adds of one sample."""
    return flops_of(model, [tensor[:1] for tensor in example]) / 2


def num_parameters(model: nn.Module) -> float:
    """Parameters of a model."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


def agreed(measure: Cost) -> Cost:
    """A measurement that the leader makes for all processes, so that they go the same way."""
    return lambda model: agree(lambda: measure(model))
