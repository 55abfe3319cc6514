"""What pruning is to save, and the share of the parts that saves it.

Removing half of the channels removes about three quarters of the multiply-adds, and less of the time. So
where a recipe asks for multiply-adds, parameters or latency, shares of the parts are tried on copies of the
model, by bisection, and the smallest is taken whose cost is not above what was asked for. Latency is that of
the exported model on a named runtime, timed in turns with the model as it was. It takes seconds to measure,
so a table of layers predicts which share is worth it; each measurement scales the predictions after it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from lissom.compress.samples import Samples
from lissom.errors import ModelError
from lissom.logs import Advance
from lissom.models.catalogue import flops_of
from lissom.models.processes import agree
from lissom.recipe import PruneConfig

if TYPE_CHECKING:
    from lissom.compress.latency import Stopwatch

_NUM_TRIALS = 8
_NUM_GUESSES = 4
_HIGHEST, _STEPS = 0.98, 256
"""Shares that are tried: multiples of the first over the second."""

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
        guess: About the same as `cost` in far less time, where there is such a thing.
    """

    of: str
    cost: Cost | None
    whole: float
    guess: Cost | None = None

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
        measured = self._on_copies(self.cost, model, reduction)
        guessed = None if self.guess is None else self._on_copies(self.guess, model, reduction)
        low, high, least, likely = 0, _STEPS, self.whole, limit  # high is the least that fits, once one does
        for trial in range(_NUM_TRIALS):
            step = _proposal(low, high, None if guessed is None else _within(guessed, likely), trial)
            if step is None:
                advance(_NUM_TRIALS - trial)
                break
            spent = measured(step)
            advance(1)
            least = min(least, spent)
            low, high = (low, step) if spent <= limit else (step, high)
            if guessed is not None:
                likely = limit * guessed(step) / max(spent, 1e-9)
        if high == _STEPS:
            raise ModelError(
                f"{saved:.0%} of the {self.of} was to be saved; removing {_part(low):.0%} of the parts saves "
                f"{1 - least / self.whole:.0%}",
                hint="ask for less, exclude fewer layers, or prune in another way as well, such as by depth",
            )
        return _part(high)

    def notes(self, model: nn.Module) -> dict[str, Any]:
        """Cost before and after."""
        return {} if self.cost is None else {self.of: [self.whole, self.cost(model)]}

    def _on_copies(self, cost: Cost, model: nn.Module, reduction: Reduction) -> Callable[[int], float]:
        """Cost of a copy that lost a share of the parts, by the number of the share."""

        @cache
        def tried(step: int) -> float:
            trial = copy.deepcopy(model)
            try:
                reduction.apply(trial, _part(step))
            except ModelError:  # so small a share removes nothing
                return self.whole
            return cost(trial)

        return tried


def _proposal(low: int, high: int, fits: Callable[[int], bool] | None, trial: int) -> int | None:
    """The share to be measured next, by its number; None when the least that fits is known.

    Args:
        low: The largest share that is known not to fit.
        high: The smallest that is known to fit, `_STEPS` if none is.
        fits: A guess, where there is one; the first trials go by it.
        trial: Trials that were made.
    """
    if fits is None or (trial >= _NUM_GUESSES and high == _STEPS):
        return (low + high) // 2
    step = high if trial >= _NUM_GUESSES else _first(low, high, fits)
    return None if step == high < _STEPS else min(step, _STEPS - 1)


def _within(cost: Callable[[int], float], limit: float) -> Callable[[int], bool]:
    return lambda step: cost(step) <= limit


def _part(step: int) -> float:
    return _HIGHEST * step / _STEPS


def _first(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The first number above `low` that fits, by bisection; `high` where none below it does."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def target_for(
    model: nn.Module, config: PruneConfig, samples: Samples, latency: Callable[[], Stopwatch]
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
    if config.of == "latency":
        stopwatch = latency()
        cost, guess = agreed(stopwatch), agreed(stopwatch.predicted) if stopwatch.predicts else None
        return Target(config.of, cost, cost(model), guess)
    cost = num_parameters if config.of == "parameters" else lambda pruned: macs(pruned, samples.example)
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
