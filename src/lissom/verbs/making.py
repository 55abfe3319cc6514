"""Verbs that make an artifact: each is a recipe of one or a few stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lissom.artifact import MADE_PREFIX, MANIFEST_NAME, Artifact
from lissom.errors import RequestError
from lissom.logs import Progress
from lissom.options import (
    DistillOptions,
    ExportOptions,
    Options,
    PruneOptions,
    QuantizeOptions,
    RunOptions,
    TrainOptions,
)
from lissom.pipeline import Result, locked, run
from lissom.recipe import ModelConfig, Recipe
from lissom.registry import COMPILING, RUNTIMES, check_references
from lissom.verbs.files import is_onnx_file, make_data, name_of_file
from lissom.verbs.shared import Model

if TYPE_CHECKING:
    from lissom.compress.pruning import Preview
    from lissom.compress.quantizing.preview import QuantizePreview


def train(model: Model, data: str | Path, **options: Unpack[TrainOptions]) -> Result:
    """Train a model on the train split of labelled data.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    return _run("train", model, data, options)


def prune(model: Model, data: str | Path, **options: Unpack[PruneOptions]) -> Result:
    """Remove channels, blocks, ranks or weights of a torch model; `distill` or `train` recovers its accuracy.

    The budget is therefore 100 points unless `max_drop` says otherwise.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    return _run("prune", model, data, options)


def distill(
    model: Model, data: str | Path, *, teacher: Model | Sequence[Model], **options: Unpack[DistillOptions]
) -> Result:
    """Train a torch student to answer as its torch teacher does, or as the mean of several.

    The report compares it with the (first) teacher; with `baseline` also with the same training without one.

    Raises:
        LissomError: a model, the data or an option does not fit.
    """
    return _run("distill", model, data, options, teacher=teacher)


def export(model: Model, data: str | Path | None = None, **options: Unpack[ExportOptions]) -> Result:
    """Write a torch model as ONNX; samples of the data trace it and check the result.

    Without data an artifact is checked on what it was made with, and a `.onnx` file on made inputs.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    return _run("export", model, data, options)


def quantize(model: Model, data: str | Path | None = None, **options: Unpack[QuantizeOptions]) -> Result:
    """Give a model fewer bits: int8, or weights of 4 or 8 bits; a torch model is exported first.

    Ranges come from the calibrate split; where the data have no labels, every sample calibrates, and what is
    lost is read off the outputs instead of the score. Without data an artifact is quantized with what it was
    made with.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    return _run("quantize", model, data, options)


def recipe_of(
    verb: str,
    model: Model,
    data: str | Path,
    options: Mapping[str, Any],
    *,
    teacher: Model | Sequence[Model] | None = None,
    asked_by: str = "",
) -> Recipe:
    """The recipe of a verb: the stages it needs first, then its own with every option of the stage.

    Args:
        verb: train, prune, distill, export or quantize.
        model: MODEL.
        data: DATA.
        options: `RecipeOptions`, and fields of the verb's stage.
        teacher: MODEL that teaches, for distill, or several.
        asked_by: The verb that errors name, where it is another one.

    Raises:
        RecipeError: an option is unknown or out of range.
    """
    fields = {key: value for key, value in options.items() if key not in Options.__annotations__}
    teachers = _named_teachers(teacher)
    if teachers:
        names = list(teachers)
        fields = {"baseline": False, **fields, "teacher": names if len(names) > 1 else names[0]}
    document = {
        "name": options.get("name") or default_name(verb, model),
        "seed": options.get("seed", 0),
        "data": {"source": str(data)},
        "model": {
            "source": _source(model),
            "kwargs": dict(options.get("kwargs") or {}),
            "weights": options.get("weights"),
            "output": options.get("output"),
            "task": options.get("task"),
        },
        "stages": [*_stages_before(verb, model, teachers, fields.get("mode")), {"stage": verb, **fields}],
        "gates": {"accuracy": {"max_drop": options.get("max_drop", 1.0 if verb == "prune" else 0.01)}},
        "benchmark": {
            "runtimes": list(options.get("runtimes") or _quick_runtimes()),
            "threads": options.get("threads"),
        },
        "ship": "last",
    }
    return Recipe.from_document(document, options.get("overrides") or (), where=f"lissom {asked_by or verb}")


def check(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and refuse what cannot run: keys, ranges, the order of stages, names that are not known.

    Args:
        recipe: Path of a YAML recipe.
        overrides: Changes of it, `a.b=value` each.

    Raises:
        RequestError: it does not hold together, or names what is not there.
    """
    found = Recipe.from_file(recipe, overrides)
    check_references(found)
    return found


def plan_prune(recipe: Recipe, *, progress: Progress | None = None) -> Preview:
    """What the prune stage of a recipe that loads and prunes would remove, and what that would save.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    from lissom.compress.pruning import preview
    from lissom.pipeline import preview_stage

    return preview_stage(recipe, "prune", preview, progress=progress)


def plan_quantize(recipe: Recipe, *, progress: Progress | None = None) -> QuantizePreview:
    """What the quantize stage of a recipe would change, layer by layer, and why not.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    from lissom.compress.quantization import preview
    from lissom.pipeline import preview_stage

    return preview_stage(recipe, "quantize", preview, progress=progress)


def _run(
    verb: str,
    model: Model,
    data: str | Path | None,
    options: Mapping[str, Any],
    *,
    teacher: Model | Sequence[Model] | None = None,
) -> Result:
    given = {key: options[key] for key in RunOptions.__annotations__ if key in options}
    given["out"] = folder_of(verb, given.get("out"), options.get("name"))
    samples = data_of(verb, model, data, given["out"])
    recipe = recipe_of(verb, model, samples, options, teacher=teacher)
    return run(recipe, **given)


def data_of(verb: str, model: Model, data: str | Path | None, folder: Path) -> str | Path:
    """The data that were named, else those of an artifact, else, for `export`, made inputs of a file.

    Args:
        verb: export or quantize, or any other where data are named.
        model: MODEL.
        data: DATA, or None.
        folder: Of the run, in which inputs are made.

    Raises:
        RequestError: the verb needs samples, and none were named.
    """
    if data is not None:
        return data
    path = Path(_source(model))
    if is_onnx_file(path) and verb == "export":
        with locked(folder):
            return make_data(path, folder)
    if is_onnx_file(path):
        from lissom.export.external_data import read_graph
        from lissom.export.normalisation import input_specs

        specs = input_specs(read_graph(path))
        takes = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in specs)
        raise RequestError(
            f"{verb} needs samples of what {path} takes, {takes}: ranges and losses are measured on them",
            hint=f"lissom {verb} {path} --data samples.npz, with an array of [samples, ...] for each input",
        )
    if not (path / MANIFEST_NAME).is_file():
        raise RequestError(
            f"{verb} of {path} needs samples",
            hint="--data NAME (lissom models lists them), an .npz or .csv file, a folder or a factory",
        )
    known = Artifact.open(path).manifest.data
    if verb == "quantize" and MADE_PREFIX in known:
        raise RequestError(f"{verb} needs samples, and {path} was made with noise", hint="--data samples.npz")
    return known


def default_name(verb: str, model: Model) -> str:
    """Of the recipe of a verb, and so of the served model: that of a `.onnx` file, else that of the verb."""
    return name_of_file(model) if isinstance(model, str | Path) and is_onnx_file(model) else verb


def folder_of(verb: str, out: str | Path | None, name: str | None) -> Path:
    """The folder of a verb's run: the one that was asked for, else `runs/NAME`, else `runs/VERB`."""
    return Path(out) if out is not None else Path("runs") / (name or verb)


def _named_teachers(teacher: Model | Sequence[Model] | None) -> dict[str, Model]:
    """Every teacher by the name of the stage that loads it."""
    if teacher is None:
        return {}
    several = [teacher] if isinstance(teacher, str | Path | Artifact) or callable(teacher) else list(teacher)
    if len(several) == 1:
        return {"teacher": several[0]}
    return {f"teacher-{place}": each for place, each in enumerate(several, start=1)}


def _stages_before(
    verb: str, model: Model, teachers: Mapping[str, Model], mode: str | None
) -> list[dict[str, Any]]:
    load: dict[str, Any] = {"stage": "load"}
    if verb == "train":
        return []
    if teachers:
        loads = [
            {**load, "name": name, "model": {"source": _source(teacher)}}
            for name, teacher in teachers.items()
        ]
        return [*loads, {**load, "name": "student"}]
    trains = mode == "qat"
    if verb == "quantize" and not trains and ModelConfig(source=_source(model)).format == "torch":
        return [load, {"stage": "export"}]
    return [load]


def _quick_runtimes() -> list[str]:
    from lissom.runtime.availability import absence

    return [name for name in RUNTIMES if name not in COMPILING and absence(name) is None]


def _source(model: Model) -> str:
    if isinstance(model, Artifact):
        return str(model.path)
    return _reference(model) if callable(model) else str(model)


def _reference(factory: Callable[..., Any]) -> str:
    """`module:function` of a factory that was handed over as a function.

    Raises:
        RequestError: it cannot be found again by name, as a lambda or a live model cannot.
    """
    name, module = getattr(factory, "__qualname__", ""), getattr(factory, "__module__", "")
    if not name or "<" in name or "." in name or module == "__main__":
        raise RequestError(
            f"{factory!r} cannot be found again by name, so the model could not be rebuilt after a restart",
            hint="pass a module-level function that builds the model, or its name package.module:function",
        )
    return f"{module}:{name}"
