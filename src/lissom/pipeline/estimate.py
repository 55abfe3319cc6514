"""What a run would cost: seconds and disk of every stage, and of measuring them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lissom.pipeline.plan import plan_stages
from lissom.pipeline.preconditions import check_machine, check_splits, load_data
from lissom.recipe import Recipe
from lissom.registry import COMPILING, check_references


@dataclass(frozen=True)
class StageEstimate:
    """What one stage would cost; None where nothing can be said."""

    name: str
    kind: str
    reused: bool
    seconds: float | None
    size_bytes: float


@dataclass(frozen=True)
class Estimate:
    """What a run would cost, from a few training steps that were timed and typical figures for the rest."""

    stages: tuple[StageEstimate, ...]
    measure_seconds: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(stage.seconds or 0.0 for stage in self.stages) + self.measure_seconds

    @property
    def size_bytes(self) -> float:
        """Disk that the stages to be made take."""
        return sum(stage.size_bytes for stage in self.stages if not stage.reused)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "seconds": self.seconds, "size_bytes": self.size_bytes}


def estimate_run(recipe: Recipe, *, out: str | Path | None = None) -> Estimate:
    """What a run would do and cost; nothing is written.

    Raises:
        LissomError: the recipe, the data or the machine does not allow it.
    """
    from lissom.models.estimation import ModelCost, stage_cost
    from lissom.report.pair import estimated_seconds
    from lissom.runtime.availability import usable_runtimes

    folder = Path(out) if out is not None else Path("runs") / recipe.name
    check_references(recipe)
    check_machine(recipe)
    data = load_data(recipe)
    check_splits(recipe, data)
    planned = plan_stages(recipe, data)
    cost = ModelCost.of(recipe.model, data)
    stages = []
    for stage in planned:
        reused = (folder / stage.folder_name).exists()
        seconds, size_bytes = stage_cost(stage.config, cost)
        stages.append(
            StageEstimate(
                stage.config.name, stage.config.stage, reused, 0.0 if reused else seconds, size_bytes
            )
        )
    runtimes = usable_runtimes(recipe.benchmark.runtimes)
    arms = len(stages) * 2
    rounds = arms * recipe.benchmark.num_rounds * recipe.benchmark.round_ms / 1e3
    pair = estimated_seconds(recipe.benchmark)
    compiling = 30.0 * len({*runtimes} & {*COMPILING})
    measured = all(stage.reused for stage in stages)
    return Estimate(tuple(stages), 0.0 if measured else 5.0 + rounds + compiling + pair)
