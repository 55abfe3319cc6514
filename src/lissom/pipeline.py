"""Run a recipe: fold its stages over artifacts, measure them, judge them, and leave the best one.

    <out>/01-train-<id16>/ ...     one artifact a stage, kept and used again
    <out>/artifact                 link to the chosen one
    <out>/report.json|html|md

An artifact's id is the hash of everything that decides its content, so what is on disk under the right
id is not made again, and a run that was killed goes on at the first stage that is missing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lissom.artifact import (
    ID_LENGTH,
    MADE_PREFIX,
    MANIFEST_NAME,
    TEACHERS_NAME,
    TEMPORARY_PREFIX,
    WORK_PREFIX,
    Artifact,
    ParentRef,
    content_id,
    sha256_file,
    sweep_temporary,
)
from lissom.errors import DataError, DiskFull, MissingExtra, RequestError, is_disk_full
from lissom.logs import NoProgress, Progress
from lissom.models import processes
from lissom.models.processes import place
from lissom.optional import is_installed, version
from lissom.recipe import LoadConfig, ModelConfig, Recipe, StageConfig, check_allowed
from lissom.registry import (
    COMPILING,
    MODELS,
    TASKS,
    check_references,
    runtime_entry,
    runtimes_for,
    source_sha256,
    stage_function,
)
from lissom.runtime.machine import machine

if TYPE_CHECKING:
    from lissom.models.data import Data
    from lissom.models.stages import Context
    from lissom.report.schema import Report

Looked = TypeVar("Looked")

LOCK_NAME = ".lock"
_MIN_FREE_BYTES = 20_000_000


@dataclass(frozen=True)
class Planned:
    """A stage with the id that its artifact will have."""

    index: int
    config: StageConfig
    id: str
    id_inputs: Mapping[str, Any]
    parents: Mapping[str, str]

    @property
    def folder_name(self) -> str:
        """`<NN>-<stage name>-<id16>`."""
        return f"{self.index:02d}-{self.config.name}-{self.id[:ID_LENGTH]}"


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
        _link(folder, chosen)
    processes.finish()
    return Result(folder, chosen, report, tuple(reused))


def _follow(recipe: Recipe, folder: Path) -> Result:
    """Take part in the trainings that the leader announces, and give what it left."""
    from lissom.report.files import read_report

    data = load_data(recipe)
    stages = plan(recipe, data)
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


def clean(folder: str | Path, *, dry_run: bool = False) -> list[Path]:
    """Remove from a run's folder what its report does not refer to; gives what was, or would be, removed.

    Raises:
        RequestError: the folder has no report, or another process works in it.
    """
    from lissom.report.files import read_report

    folder = Path(folder)
    report = read_report(folder)
    kept = {Path(row.path).name for row in report.stages}
    with locked(folder, sweep=not dry_run):
        leftovers = [
            path
            for path in sorted(folder.iterdir())
            if (
                path.is_dir()
                and not path.is_symlink()
                and (path / MANIFEST_NAME).is_file()
                and path.name not in kept
            )
            or path.name.startswith((TEMPORARY_PREFIX, WORK_PREFIX))
            or path.name == TEACHERS_NAME
        ]
        for path in leftovers if not dry_run else ():
            shutil.rmtree(path)
    return leftovers


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


def plan(recipe: Recipe, data: Data) -> list[Planned]:
    """Every stage with the id of its artifact; nothing is computed."""
    planned: list[Planned] = []
    ids: dict[str, str] = {}
    for index, config in enumerate(recipe.stages, start=1):
        parents = {role: ids[name] for role, name in config.sources.items()}
        inputs = _id_inputs(recipe, config, data, parents)
        ids[config.name] = content_id(inputs)
        planned.append(Planned(index, config, ids[config.name], inputs, parents))
    return planned


def estimate(recipe: Recipe, *, out: str | Path | None = None) -> Estimate:
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
    planned = plan(recipe, data)
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


def preview_stage(
    recipe: Recipe, name: str, look: Callable[..., Looked], *, progress: Progress | None = None
) -> Looked:
    """What `look` says of a stage, from (parents, config, context); those before it are made, and forgotten.

    Raises:
        LissomError: the recipe, the data or the machine does not allow it.
    """
    check_machine(recipe)
    progress = progress or NoProgress()
    data = load_data(recipe)
    stages = plan(recipe, data)
    stage = next(stage for stage in stages if stage.config.name == name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made: dict[str, Artifact] = {}
        for before in stages[: stage.index - 1]:
            path = folder / before.folder_name
            made[before.config.name] = _make(recipe, before, data, made, path, progress)
        parents, context = _scene(recipe, stage, data, made, folder / stage.folder_name, progress)
        return look(parents, stage.config, context)


def make_artifacts(
    recipe: Recipe, data: Data, folder: Path, *, progress: Progress
) -> tuple[list[Artifact], list[str]]:
    """The artifact of every stage, made or found; and the names of those that were found."""
    made: dict[str, Artifact] = {}
    reused: list[str] = []
    for stage in plan(recipe, data):
        path = folder / stage.folder_name
        if (found := _found(path, made)) is not None:
            made[stage.config.name] = found
            reused.append(stage.config.name)
        else:
            _check_space(folder)
            with processes.announced(stage.index) if stage.config.trains else nullcontext():
                made[stage.config.name] = _make(recipe, stage, data, made, path, progress)
    return list(made.values()), reused


@contextmanager
def locked(folder: Path, *, sweep: bool = True) -> Iterator[None]:
    """Hold the folder of a run alone, and sweep what a killed run left half-written.

    What fails before it has written anything leaves no folder that was not there.

    Raises:
        RequestError: another process holds it, or it is not a folder that can be written.
        DiskFull: no space is left for it.
    """
    try:
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("w")
    except OSError as exc:
        if is_disk_full(exc):
            raise DiskFull(f"no space left on the disk of {folder}", hint="name another with --out") from exc
        raise RequestError(
            f"{folder} cannot be used for a run: {exc.strerror}", hint="name another with --out"
        ) from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise RequestError(
                f"another lissom is working in {folder}", hint="wait, or name another with --out"
            ) from exc
        if sweep:
            sweep_temporary(folder)
            sweep_temporary(folder / TEACHERS_NAME)
        try:
            yield
        except BaseException:
            _withdraw(created)
            raise


def _withdraw(created: Sequence[Path]) -> None:
    """Remove folders that were made for a run, the innermost first, if they hold nothing but its lock."""
    if not created or any(path.name != LOCK_NAME for path in created[0].iterdir()):
        return
    (created[0] / LOCK_NAME).unlink()
    for path in created:
        with suppress(OSError):  # another run may have put something beside it
            path.rmdir()


def _id_inputs(recipe: Recipe, config: StageConfig, data: Data, parents: Mapping[str, str]) -> dict[str, Any]:
    return {
        "stage": config.stage,
        "config": config.settings,
        "seed": recipe.seed,
        "parents": dict(parents),
        "splits": data.split_hashes,
        "task": _task_identity(recipe.model_of(config).task, data),
        "tools": {"lissom": version("lissom")} | {name: version(name) for name in config.calls},
        "model": None if parents else model_identity(recipe.model_of(config)),
        # Whether 8-bit weights saturate depends on the processor.
        "isa": machine()["isa"] if config.stage == "quantize" else None,
    }


def _task_identity(asked: str | None, data: Data) -> dict[str, Any]:
    """Name of the task, and the hash of its source when it is the user's own."""
    from lissom.models.tasks import task_name

    name = task_name(asked, data)
    return {"name": name, "source": None if name in TASKS else source_sha256(name, known=TASKS)}


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """What decides a model before any stage: its artifact, its file, or its factory and weights."""
    if (Path(model.source) / MANIFEST_NAME).is_file():
        return {"artifact": Artifact.open(model.source).digest}
    if model.source.endswith(".onnx"):
        return {"onnx": _file_hash(model.source, "model"), **_weights_beside(Path(model.source))}
    return {
        "source": model.source,
        "kwargs": model.kwargs,
        "factory": source_sha256(model.source, known=MODELS),
        "weights": _file_hash(model.weights, "weights") if model.weights else None,
        **({"output": model.output} if model.output is not None else {}),
    }


def _weights_beside(path: Path) -> dict[str, Any]:
    """Hashes of the files in which an ONNX file keeps its weights; nothing where it has them itself."""
    from lissom.export.external_data import external_files

    hashes = {str(file.relative_to(path.parent)): sha256_file(file) for file in external_files(path)}
    return {"weights_beside": hashes} if hashes else {}


def _file_hash(path: str, what: str) -> str:
    if not Path(path).is_file():
        raise RequestError(f"no {what} at {path}")
    return sha256_file(Path(path))


def _found(path: Path, made: Mapping[str, Artifact]) -> Artifact | None:
    """The artifact on disk, unless a parent was made again since and came out otherwise."""
    if not path.exists():
        return None
    artifact = Artifact.open(path)
    if any(made[parent.name].digest != parent.digest for parent in artifact.manifest.parents):
        shutil.rmtree(path)
        return None
    return artifact


def _make(
    recipe: Recipe, stage: Planned, data: Data, made: Mapping[str, Artifact], path: Path, progress: Progress
) -> Artifact:
    parents, context = _scene(recipe, stage, data, made, path, progress)
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


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        raise DiskFull(
            f"the disk of {folder} has {free / 1e6:,.0f} MB; a stage needs {_MIN_FREE_BYTES / 1e6:,.0f} MB",
            hint="free some space, or name another folder with --out",
        )


def _link(folder: Path, artifact: Artifact) -> None:
    """Point `<out>/artifact` at the chosen artifact, at once."""
    link, temporary = folder / "artifact", folder / f".writing-artifact-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(artifact.path.name)
    try:
        temporary.replace(link)
    except IsADirectoryError as exc:
        temporary.unlink()
        raise RequestError(f"{link} is a folder; the link to the chosen artifact goes there") from exc
