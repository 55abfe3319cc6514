"""What must hold before a recipe runs: its data as its model takes them, their splits, and the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lissom.artifact import MANIFEST_NAME, Artifact
from lissom.errors import DataError, MissingExtra, RequestError
from lissom.optional import is_installed
from lissom.recipe import LoadConfig, Recipe
from lissom.registry import runtime_entry, runtimes_for

if TYPE_CHECKING:
    from lissom.models.data import Data


def load_data(recipe: Recipe) -> Data:
    """The data of a recipe, with labels as its task reads them and inputs as its model takes them."""
    from lissom.export.loading import data_for_model
    from lissom.models.tasks import fitting

    data = fitting(data_for_model(recipe.data.source, recipe.model), recipe.model.task)
    return _prepared(recipe, data)


def _prepared(recipe: Recipe, data: Data) -> Data:
    """The data with the preprocessing of a model that comes as an artifact, or that of a new model.

    Raises:
        RequestError: two artifacts of the recipe were made with different preprocessing.
    """
    from lissom.models.preparation import with_standardization

    models = [recipe.model_of(stage) for stage in recipe.stages] or [recipe.model]
    sources = dict.fromkeys(model.source for model in models)
    made = [Artifact.open(source) for source in sources if (Path(source) / MANIFEST_NAME).is_file()]
    if made:
        first = made[0].manifest
        for other in made[1:]:
            if other.manifest.preprocessing != first.preprocessing:
                raise RequestError(
                    f"{made[0].path} and {other.path} were made with different preprocessing, so that they "
                    "would not see the same samples",
                    hint="train both on the same data, or with the same --data option standardize",
                )
        known = {step.input for step in first.preprocessing} <= {*data.dataset.inputs}
        return data.with_preprocessing(first.preprocessing) if known else data
    new = all(model.weights is None and model.format == "torch" for model in models)
    trained = any(stage.trains for stage in recipe.stages)
    return with_standardization(data) if new and trained else data


def check_machine(recipe: Recipe) -> None:
    """Refuse a recipe that needs what is not installed, before any work is done.

    Raises:
        MissingExtra: a library of a stage or runtime is not installed.
    """
    from lissom.runtime.availability import usable_runtimes

    for stage in recipe.stages:
        if stage.needs and not is_installed(stage.needs[0]):
            module, extra = stage.needs
            raise MissingExtra(
                f"stage {stage.name!r} needs {module}, which is not installed",
                hint=f"pip install 'lissom[{extra}]'",
            )
    runtimes = usable_runtimes(recipe.benchmark.runtimes)
    first = recipe.stages[0]
    made = recipe.model_of(first).format if isinstance(first, LoadConfig) else first.makes
    if not any(made in runtime_entry(name).formats for name in runtimes):
        raise RequestError(
            f"the original is {made}, which {', '.join(runtimes) or 'no runtime here'} cannot execute",
            hint=f"add one of {', '.join(runtimes_for(made))} to benchmark.runtimes",
        )


def check_splits(recipe: Recipe, data: Data) -> None:
    """Refuse data that a stage or the report of the recipe cannot use, before any work is done.

    A class that is missing on select or report is warned of: what is chosen and reported leaves it out.

    Raises:
        DataError: a split that is needed is empty; labelled data are chosen on select, judged on report.
    """
    needed = ["select", "report"] if data.dataset.labels is not None else []
    needed += ["train"] if any(stage.trains for stage in recipe.stages) else []
    needed += ["calibrate"] if any(stage.stage == "quantize" for stage in recipe.stages) else []
    for split in needed:
        if not len(data.indices[split]):
            raise DataError(
                f"{data.source}: the {split} split is empty, but the recipe needs it",
                hint=_split_hint(data),
            )
    data.warn_of_missing_classes(("select", "report"))


def _split_hint(data: Data) -> str:
    if data.dataset.labels is None:
        return "labels go under y; without them only load, export and quantize can run"
    if data.dataset.split is None:
        return "give more samples: each is put into a split by its hash"
    return f"name every split: {', '.join(data.indices)}"
