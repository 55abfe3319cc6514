"""Every kind of stage that a recipe may have, and those that other packages bring."""

from __future__ import annotations

from importlib.metadata import entry_points

from lissom.recipe.distillation import DistillConfig
from lissom.recipe.exporting import ExportConfig
from lissom.recipe.pruning import PruneConfig
from lissom.recipe.quantization import QuantizeConfig
from lissom.recipe.stage import LoadConfig, StageConfig
from lissom.recipe.training import TrainConfig

_STAGE_TYPES: dict[str, type[StageConfig]] = {}


def register_stage_type(config: type[StageConfig]) -> type[StageConfig]:
    """Make a kind of stage known to recipes; its kind is the default of its field `stage`.

    Raises:
        ValueError: the kind is taken.
    """
    kind = config.model_fields["stage"].default
    if _STAGE_TYPES.get(kind, config) is not config:
        raise ValueError(f"two kinds of stage are called {kind!r}: {_STAGE_TYPES[kind]} and {config}")
    _STAGE_TYPES[kind] = config
    return config


for _config in (LoadConfig, TrainConfig, PruneConfig, DistillConfig, ExportConfig, QuantizeConfig):
    register_stage_type(_config)


def stage_types() -> dict[str, type[StageConfig]]:
    """Every known kind of stage."""
    return dict(_STAGE_TYPES)


def load_plugins() -> None:
    """Register the stage configs that other packages offer under the entry point `lissom.stage_configs`."""
    for entry in entry_points(group="lissom.stage_configs"):
        register_stage_type(entry.load())
