"""Fold the stages of a recipe over artifacts, measure them, judge them, and leave the best one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lissom.artifact import MADE_PREFIX, Artifact, ParentRef
from lissom.logs import NoProgress, Progress
from lissom.models import processes
from lissom.models.processes import place
from lissom.pipeline.plan import Planned, plan_stages
from lissom.pipeline.preconditions import check_machine, check_splits, load_data
from lissom.pipeline.workspace import check_space, find_artifact, link_artifact, locked
from lissom.recipe import Recipe, check_allowed
from lissom.registry import check_references, stage_function
from lissom.runtime.machine import machine

if TYPE_CHECKING:
    from lissom.models.data import Data
    from lissom.models.stages import Context
    from lissom.report.schema import Report

Looked = TypeVar("Looked")


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        out: Folder of the run.
        artifact: The chosen artifact.
        report: The report, as in report.json.
        reused: Names of the stages that were found on disk.
    """

    out: Path
    artifact: Artifact
    report: Report
    reused: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when no gate failed, or every failure was allowed."""
        return self.report.verdict.ok


def run(
    recipe: Recipe | str | Path,
    *,
    out: str | Path | None = None,
    allow: Iterable[str] = (),
    progress: Progress | None = None,
    command: Sequence[str] | None = None,
) -> Result:
    """Carry out a recipe, or go on where an earlier run stopped.

    Args:
        recipe: A recipe, or the path of one.
        out: Folder of the run; default: `runs/<name of the recipe>`.
        allow: Gates whose failure does not make the run fail.
        progress: Shows how far the run is.
        command: The command to put into the report; default: that of this process.

    Raises:
        LissomError: the recipe, the data, a file or the machine does not allow it.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_file(recipe)
    check_allowed(allow)
    check_references(recipe)
    folder = Path(out) if out is not None else Path("runs") / recipe.name
    if not place().leads:
        return _follow(recipe, folder)
    progress = progress or NoProgress()
    with locked(folder):
        check_machine(recipe)
        with progress.task("load data", 1) as advance:
            data = load_data(recipe)
            advance(1)
        check_splits(recipe, data)
        artifacts, reused = make_artifacts(recipe, data, folder, progress=progress)
        report = _report(
            recipe,
            artifacts,
            data,
            folder,
            allow,
            command or [Path(sys.argv[0]).name, *sys.argv[1:]],
            progress,
        )
        chosen = next(artifact for artifact in artifacts if artifact.name == report.verdict.artifact)
        link_artifact(folder, chosen)
    processes.finish()
    return Result(folder, chosen, report, tuple(reused))


def _follow(recipe: Recipe, folder: Path) -> Result:
    """Take part in the trainings that the leader announces, and give what it left."""
    from lissom.report.files import read_report

    data = load_data(recipe)
    stages = plan_stages(recipe, data)
    while (index := processes.next_stage()) is not None:
        stage = stages[index - 1]
        names = stage.config.sources.values()
        made = {
            other.config.name: Artifact.open(folder / other.folder_name)
            for other in stages
            if other.config.name in names
        }
        with processes.taking_part():
            _make(recipe, stage, data, made, folder / stage.folder_name, NoProgress())
    return Result(folder, Artifact.open(folder / "artifact"), read_report(folder), ())


def preview_stage(
    recipe: Recipe, name: str, look: Callable[..., Looked], *, progress: Progress | None = None
) -> Looked:
    """What `look` says of a stage, from (parents, config, context); those before it are made, and forgotten.

    Raises:
        LissomError: the recipe, the data or the machine does not allow it.
    """
    from lissom.runtime.isolation import guard_sessions

    check_machine(recipe)
    progress = progress or NoProgress()
    data = load_data(recipe)
    stages = plan_stages(recipe, data)
    stage = next(stage for stage in stages if stage.config.name == name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made: dict[str, Artifact] = {}
        for before in stages[: stage.index - 1]:
            path = folder / before.folder_name
            made[before.config.name] = _make(recipe, before, data, made, path, progress)
        parents, context = _scene(recipe, stage, data, made, folder / stage.folder_name, progress)
        with guard_sessions(bool(context.fields["foreign"])):
            return look(parents, stage.config, context)


def make_artifacts(
    recipe: Recipe, data: Data, folder: Path, *, progress: Progress
) -> tuple[list[Artifact], list[str]]:
    """The artifact of every stage, made or found; and the names of those that were found."""
    made: dict[str, Artifact] = {}
    reused: list[str] = []
    for stage in plan_stages(recipe, data):
        path = folder / stage.folder_name
        if (found := find_artifact(path, made)) is not None:
            made[stage.config.name] = found
            reused.append(stage.config.name)
        else:
            check_space(folder)
            with processes.announced(stage.index) if stage.config.trains else nullcontext():
                made[stage.config.name] = _make(recipe, stage, data, made, path, progress)
    return list(made.values()), reused


def _make(
    recipe: Recipe, stage: Planned, data: Data, made: Mapping[str, Artifact], path: Path, progress: Progress
) -> Artifact:
    from lissom.runtime.isolation import guard_sessions

    parents, context = _scene(recipe, stage, data, made, path, progress)
    with guard_sessions(bool(context.fields["foreign"])):
        artifact: Artifact = stage_function(stage.config)(parents, stage.config, context)
    return artifact


def _scene(
    recipe: Recipe, stage: Planned, data: Data, made: Mapping[str, Artifact], path: Path, progress: Progress
) -> tuple[dict[str, Artifact], Context]:
    """The parents of a stage by role, and its context."""
    from lissom.models.input_ranges import input_ranges
    from lissom.models.stages import Context

    parents = {role: made[name] for role, name in stage.config.sources.items()}
    fields = {
        "id": stage.id,
        "id_inputs": dict(stage.id_inputs),
        "recipe": recipe.name,
        "name": stage.config.name,
        "stage": stage.config.stage,
        "task": stage.id_inputs["task"]["name"],
        "labels": data.dataset.label_names,
        "preprocessing": data.dataset.preprocessing,
        # Made inputs say nothing of those that a model is meant for.
        "input_ranges": () if MADE_PREFIX in data.source else input_ranges(data),
        # What is made of a model gives the scores that it gives; those of a new one are found by trial.
        **({"scores": parents["input"].manifest.scores} if "input" in parents else {}),
        "parents": tuple(
            ParentRef(role=role, name=parent.name, id=parent.id, digest=parent.digest)
            for role, parent in parents.items()
        ),
        "config": stage.config.settings,
        "seed": recipe.seed,
        "data": data.source,
        "splits": data.split_hashes,
        "tools": stage.id_inputs["tools"],
        "made_on": machine(),
        "foreign": any(parent.manifest.foreign for parent in parents.values())
        or (not parents and recipe.model_of(stage.config).source.endswith(".onnx")),
    }
    return parents, Context(path, fields, recipe.model_of(stage.config), data, recipe.seed, progress)


def _report(
    recipe: Recipe,
    artifacts: Sequence[Artifact],
    data: Data,
    folder: Path,
    allow: Iterable[str],
    command: Sequence[str],
    progress: Progress,
) -> Report:
    """Measure and judge; pages are drawn again only when the report changed."""
    from lissom.report.measurement import measure

    key, records = measure(artifacts, recipe.benchmark, data, progress=progress)
    from lissom.report.building import build_report
    from lissom.report.files import write_report
    from lissom.report.measured_run import Run
    from lissom.report.pair import look_at_pair

    run = Run(recipe, artifacts, records, data, key)
    pair = look_at_pair(run, progress=progress)
    report = build_report(run, allow=allow, command=command, folder=folder, pair=pair)
    write_report(report, folder, progress=progress)
    if not report.complete:
        raise KeyboardInterrupt
    return report
