"""The verbs, for Python and for the command line: each is a recipe of one or a few stages.

MODEL is a built-in name, a factory (`package.module:function`, `path/file.py:function`, or the function
itself), an artifact, or an `.onnx` file. DATA is a built-in name, a file (.npz, .csv, .parquet), a
folder, or a factory that gives a `Dataset`; options go behind `?`. What a verb leaves is what a recipe
leaves: artifacts, a report, the link `artifact`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from lissom.artifact import MANIFEST_NAME, Artifact, Manifest
from lissom.errors import DataError, RequestError, near
from lissom.logs import NoProgress, Progress
from lissom.options import (
    DistillOptions,
    ExportOptions,
    LayerNoiseOptions,
    Options,
    PruneOptions,
    QuantizeOptions,
    RunOptions,
    SensitivityOptions,
    TrainOptions,
)
from lissom.pipeline import Result, check_machine, locked, make_artifacts, run
from lissom.pipeline import load_data as load_recipe_data
from lissom.recipe import BenchmarkConfig, ModelConfig, PruneConfig, QuantizeConfig, Recipe
from lissom.registry import COMPILING, RUNTIMES, check_references
from lissom.report.wording import shortened

if TYPE_CHECKING:
    import numpy as np

    from lissom.bench.scenarios import Asked, Scenario
    from lissom.bench.selection import ArmKey
    from lissom.compress.layer_noise import LayerNoise, NoisePlan, NoiseStudy
    from lissom.compress.pruning import Preview
    from lissom.compress.quantizing.preview import QuantizePreview
    from lissom.compress.sensitivity import Plan, Sensitivity, Study
    from lissom.export.bisection import Divergence
    from lissom.export.verification import Parity
    from lissom.models.catalogue import Entry
    from lissom.models.data import Data
    from lissom.models.evaluation import Evaluation
    from lissom.report.comparison import Comparison
    from lissom.report.schema import Report
    from lissom.runtime.base import Layer
    from lissom.runtime.doctor import Examined

Model = str | Path | Artifact | Callable[..., Any]

SHARES = (0.25, 0.5, 0.75)
"""That `sensitivity` removes unless others are named."""
_OF_PRUNING = ("shares", "runtime", "importance", "round_to")
"""Options of `sensitivity` that layers in int8 have no use for."""


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


def export(model: Model, data: str | Path, **options: Unpack[ExportOptions]) -> Result:
    """Write a torch model as ONNX; samples of the data trace it and check the result.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    return _run("export", model, data, options)


def quantize(model: Model, data: str | Path, **options: Unpack[QuantizeOptions]) -> Result:
    """Give a model fewer bits: int8, or weights of 4 or 8 bits; a torch model is exported first.

    Ranges come from the calibrate split; where the data have no labels, every sample calibrates, and what is
    lost is read off the outputs instead of the score.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    return _run("quantize", model, data, options)


@overload
def sensitivity(
    model: Model,
    data: str | Path,
    *,
    quantization: Literal[False] = False,
    shares: Sequence[float] | None = None,
    runtime: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Unpack[SensitivityOptions],
) -> Sensitivity: ...
@overload
def sensitivity(
    model: Model,
    data: str | Path,
    *,
    quantization: Literal[True],
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Unpack[LayerNoiseOptions],
) -> LayerNoise: ...
def sensitivity(
    model: Model,
    data: str | Path,
    *,
    quantization: bool = False,
    shares: Sequence[float] | None = None,
    runtime: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Unpack[SensitivityOptions],
) -> Sensitivity | LayerNoise:
    """Measure what each group of layers costs, and saves, when it alone loses a share of its units.

    With `quantization`, what each layer costs when it alone computes in int8; a torch model is exported
    first. Every measurement is kept in the folder of the run, so that a run that was killed goes on from
    there; `sensitivity.json` and `sensitivity.html` are written when all is measured.

    Args:
        model: MODEL, a torch model; with `quantization` also an ONNX model.
        data: DATA with labels; with `quantization` they may have none.
        quantization: Measure layers in int8 instead of groups that are pruned.
        shares: Shares that a group loses, between 0 and 1; default: 0.25, 0.5 and 0.75.
        runtime: Where latency is measured; default: the first that works.
        out: Folder of the run; default: `runs/sensitivity`, with `quantization` `runs/layer-noise`.
        progress: Shows how far the run is.
        options: How units are ranked and rounded, what is excluded, how the model is built.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    folder, progress = sensitivity_folder(out, quantization=quantization), progress or NoProgress()
    if quantization:
        from lissom.compress.layer_noise import measure as measure_layers
        from lissom.report.layer_noise_page import write_layer_noise

        _check_of_quantization({"shares": shares, "runtime": runtime, **options})
        with locked(folder):
            noisy = _noise_study(model, data, options, folder=folder, built_in=folder, progress=progress)
            layers = measure_layers(noisy, progress=progress)
            write_layer_noise(layers, folder)
        return layers
    from lissom.compress.sensitivity import check_shares, measure
    from lissom.report.sensitivity_page import write_sensitivity

    wanted = check_shares(SHARES if shares is None else shares)
    with locked(folder):
        study = _study(model, data, options, runtime=runtime, folder=folder, built_in=folder)
        found = measure(study, wanted, progress=progress)
        write_sensitivity(found, folder)
    return found


@overload
def plan_sensitivity(
    model: Model,
    data: str | Path,
    *,
    quantization: Literal[False] = False,
    shares: Sequence[float] | None = None,
    runtime: str | None = None,
    out: str | Path | None = None,
    **options: Unpack[SensitivityOptions],
) -> Plan: ...
@overload
def plan_sensitivity(
    model: Model,
    data: str | Path,
    *,
    quantization: Literal[True],
    out: str | Path | None = None,
    **options: Unpack[LayerNoiseOptions],
) -> NoisePlan: ...
def plan_sensitivity(
    model: Model,
    data: str | Path,
    *,
    quantization: bool = False,
    shares: Sequence[float] | None = None,
    runtime: str | None = None,
    out: str | Path | None = None,
    **options: Unpack[SensitivityOptions],
) -> Plan | NoisePlan:
    """The groups or layers that `sensitivity` would measure, and about how many seconds it would take.

    Raises:
        LissomError: the model, the data or an option does not fit.
    """
    folder = sensitivity_folder(out, quantization=quantization)
    with tempfile.TemporaryDirectory() as scratch:
        if quantization:
            from lissom.compress.layer_noise import plan as plan_layers

            _check_of_quantization({"shares": shares, "runtime": runtime, **options})
            return plan_layers(
                _noise_study(
                    model, data, options, folder=folder, built_in=Path(scratch), progress=NoProgress()
                )
            )
        from lissom.compress.sensitivity import check_shares, plan

        wanted = check_shares(SHARES if shares is None else shares)
        study = _study(model, data, options, runtime=runtime, folder=folder, built_in=Path(scratch))
        return plan(study, wanted)


def sensitivity_folder(out: str | Path | None, *, quantization: bool) -> Path:
    """Where `sensitivity` writes; the two kinds of study never share a folder unasked."""
    return Path(out or ("runs/layer-noise" if quantization else "runs/sensitivity"))


def recipe_of(
    verb: str,
    model: Model,
    data: str | Path,
    options: Mapping[str, Any],
    *,
    teacher: Model | Sequence[Model] | None = None,
) -> Recipe:
    """The recipe of a verb: the stages it needs first, then its own with every option of the stage.

    Args:
        verb: train, prune, distill, export or quantize.
        model: MODEL.
        data: DATA.
        options: `RecipeOptions`, and fields of the verb's stage.
        teacher: MODEL that teaches, for distill, or several.

    Raises:
        RecipeError: an option is unknown or out of range.
    """
    fields = {key: value for key, value in options.items() if key not in Options.__annotations__}
    teachers = _named_teachers(teacher)
    if teachers:
        names = list(teachers)
        fields = {"baseline": False, **fields, "teacher": names if len(names) > 1 else names[0]}
    document = {
        "name": verb,
        "seed": options.get("seed", 0),
        "data": {"source": str(data)},
        "model": {
            "source": _source(model),
            "kwargs": dict(options.get("kwargs") or {}),
            "weights": options.get("weights"),
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
    return Recipe.from_document(document, options.get("overrides") or (), where=f"lissom {verb}")


def verify(
    before: str | Path | Artifact,
    after: str | Path | Artifact,
    *,
    data: str | None = None,
    runtimes: tuple[str | None, str | None] = (None, None),
) -> list[Parity]:
    """Compare what two artifacts compute, output by output.

    Args:
        before: The artifact that is trusted.
        after: The artifact that is checked; its precision decides the limits.
        data: DATA; default: what `after` was made with. Its preprocessing is applied to them.
        runtimes: Runtime of each; default: the first that works.

    Raises:
        LissomError: an artifact is damaged, the data do not fit it, or their signatures differ.
    """
    from lissom.export.verification import verify as verify_runtimes
    from lissom.runtime.base import open_runtime

    first, second = _opened(before), _opened(after)
    samples = _data_for(second.manifest, data)
    with open_runtime(first, runtimes[0]) as one, open_runtime(second, runtimes[1]) as other:
        return verify_runtimes(one, other, samples)


def divergence(
    before: str | Path | Artifact,
    after: str | Path | Artifact,
    *,
    data: str | None = None,
    runtimes: tuple[str | None, str | None] = (None, None),
) -> Divergence | None:
    """Where two artifacts that `verify` found to differ part; its arguments.

    Returns:
        The first tensor that differs and its layer; None where nothing can be compared inside.

    Raises:
        LissomError: as `verify`; or a model cannot be captured, or cut behind a tensor.
    """
    from lissom.export.bisection import first_divergence
    from lissom.export.verification import failing_batch, limit_of
    from lissom.runtime.base import open_runtime

    first, second = _opened(before), _opened(after)
    samples = _data_for(second.manifest, data)
    limit = limit_of(second.manifest.precision, samples)
    with open_runtime(first, runtimes[0]) as one, open_runtime(second, runtimes[1]) as other:
        return first_divergence(one, other, failing_batch(one, other, samples), limit)


def bench(
    artifacts: Sequence[str | Path | Artifact],
    *,
    data: str | None = None,
    config: BenchmarkConfig | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Time artifacts against each other on every runtime, interleaved; adds evidence to each of them.

    Args:
        artifacts: Artifacts with one signature and different names.
        data: DATA; default: what the first was made with. Its preprocessing is applied to them.
        config: Rounds, threads, runtimes.
        progress: Shows how far the measurement is.

    Returns:
        One record of evidence for each artifact, by name.

    Raises:
        LissomError: an artifact is damaged, or they cannot be compared.
    """
    from lissom.report.measurement import measure

    opened = [_opened(artifact) for artifact in artifacts]
    _check_comparable(opened)
    manifest = opened[0].manifest
    samples = _with_classes(_data_for(manifest, data), manifest.labels)
    return measure(opened, config or BenchmarkConfig(), samples, progress=progress or NoProgress())[1]


def ask(
    artifacts: Sequence[str | Path | Artifact],
    scenario: Scenario,
    *,
    seconds: float = 10.0,
    rate: float | None = None,
    workers: int = 1,
    batch_size: int | None = None,
    data: str | None = None,
    runtimes: Sequence[str] | None = None,
    threads: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[ArmKey, Asked]:
    """Ask artifacts as a scenario of MLPerf does, in turns; nothing is added to their evidence.

    Args:
        artifacts: Artifacts with one signature and different names.
        scenario: SingleStream, MultiStream, Server or Offline; see `lissom.bench.scenarios`.
        seconds: For each artifact on each runtime.
        rate: Server: queries a second, at times that are planned before.
        workers: Server: queries that are computed at once.
        batch_size: Samples of a query; default: 1, and 8 in MultiStream, 32 in Offline.
        data: DATA; default: what the first was made with.
        runtimes: Where they are asked; default: every one that is installed.
        threads: Threads of one call; default: all cores.
        device: cpu or cuda; default: the usual one of each runtime.
        progress: Shows how far it is.

    Raises:
        LissomError: an artifact is damaged, they cannot be compared, or a runtime does not open one.
        RequestError: Server has no rate, or several workers are asked of a runtime that takes one call.
    """
    from contextlib import ExitStack

    from lissom.bench.scenarios import ask_in_turn
    from lissom.report.measurement import planned_arms
    from lissom.runtime.availability import usable_runtimes
    from lissom.runtime.base import open_runtime

    opened = [_opened(artifact) for artifact in artifacts]
    _check_comparable(opened)
    by_name = {artifact.name: artifact for artifact in opened}
    samples = _data_for(opened[0].manifest, data)
    split = next(name for name in ("report", "select", "calibrate") if len(samples.indices[name]))
    with ExitStack() as stack:
        arms = {
            arm: stack.enter_context(
                open_runtime(by_name[arm.artifact], arm.runtime, threads=threads, device=device)
            )
            for arm in planned_arms(opened, usable_runtimes(runtimes))
        }
        try:
            return ask_in_turn(
                arms,
                samples.tensors(split),
                scenario,
                seconds=seconds,
                rate=rate,
                workers=workers,
                samples_per_query=batch_size,
                progress=progress or NoProgress(),
            )
        except ValueError as exc:
            raise RequestError(
                str(exc), hint="lissom bench --help shows an example of each scenario"
            ) from exc


def compare(
    before: str | Path,
    after: str | Path,
    *,
    max_drop: float = 0.01,
    margin: float = 0.02,
    allow: Sequence[str] = (),
) -> Comparison:
    """Judge the chosen model of one report against that of an earlier one.

    Args:
        before: Folder of a run, or its report.json.
        after: The newer one.
        max_drop: Score that may be lost; 0.01 is one point.
        margin: How much slower it may become, relative.
        allow: Gates that may fail.

    Raises:
        RequestError: a report is not there, damaged or of a newer schema, or they cannot be compared.
    """
    from lissom.recipe import GatesConfig, check_allowed
    from lissom.report.comparison import compare as compare_reports
    from lissom.report.files import read_report

    check_allowed(allow)
    limits = GatesConfig.model_validate(
        {"accuracy": {"max_drop": max_drop}, "not-slower": {"margin": margin}}
    )
    found = [read_report(Path(place)) for place in (before, after)]
    return compare_reports(found[0], found[1], limits, allow=allow)


def evaluate(
    artifact: str | Path | Artifact,
    *,
    data: str | Path | None = None,
    split: str = "report",
    runtime: str | None = None,
) -> Evaluation:
    """Score, metrics and confusion matrix of an artifact on a split of labelled data.

    The artifact's preprocessing is applied. Classes are told apart by name: the data may have fewer of
    them than the model, or another order.

    Args:
        artifact: An artifact of any format.
        data: DATA; default: what the artifact was made with.
        split: train, calibrate, select or report.
        runtime: Runtime; default: the first that works.

    Raises:
        LissomError: the artifact is damaged, or the data do not fit it or have no labels.
    """
    from lissom.models.data import SPLITS
    from lissom.models.evaluation import evaluate as evaluate_split
    from lissom.models.tasks import task_of
    from lissom.runtime.base import open_runtime

    if split not in SPLITS:
        raise RequestError(f"there is no split {split!r}; {near(split, SPLITS)}")
    opened = _opened(artifact)
    manifest = opened.manifest
    samples = _data_for(manifest, data)
    samples.labels(split)  # says that there are none, before the task says that they do not fit
    task = task_of(manifest.task, samples)
    samples = _with_classes(samples, manifest.labels)
    task.check(manifest.signature.outputs, samples)
    with open_runtime(opened, runtime) as session:
        return evaluate_split(session.infer_batch, samples, split, task)


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


def plan_bench(
    artifacts: Sequence[str | Path | Artifact], config: BenchmarkConfig
) -> tuple[list[tuple[str, str]], float]:
    """The arms that `bench` would time, as artifact and runtime, and about how many seconds it would take.

    Raises:
        LissomError: an artifact is damaged, or they cannot be compared.
    """
    from lissom.report.measurement import planned_arms
    from lissom.runtime.availability import usable_runtimes

    opened = [_opened(artifact) for artifact in artifacts]
    _check_comparable(opened)
    arms = planned_arms(opened, usable_runtimes(config.runtimes))
    compiled = sum(arm.runtime in COMPILING for arm in arms)
    seconds = len(arms) * config.num_rounds * config.round_ms / 1e3 + 15.0 * compiled + 3.0
    return [(arm.artifact, arm.runtime) for arm in arms], seconds


def predict(
    artifact: str | Path | Artifact, inputs: Mapping[str, np.ndarray], *, runtime: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Label and scores of raw samples.

    Args:
        artifact: An artifact.
        inputs: Raw arrays of shape [samples, ...] by input name; the artifact's preprocessing is applied.
        runtime: Runtime; default: the first that works.

    Returns:
        The label of each sample, and the scores of shape [samples, classes]; where the model does not
        classify each sample, no labels, and its first output.

    Raises:
        LissomError: the artifact is damaged, or the inputs do not fit.
    """
    from lissom.models.evaluation import predict as predict_batches
    from lissom.runtime.base import open_runtime
    from lissom.runtime.preprocess import preprocess, softmax

    opened = _opened(artifact)
    manifest = opened.manifest
    dtypes = {spec.name: spec.dtype for spec in manifest.signature.inputs}
    if inputs.keys() != dtypes.keys():
        raise RequestError(f"the model takes {', '.join(dtypes)}; found {', '.join(inputs) or 'nothing'}")
    with open_runtime(opened, runtime) as session:
        outputs = predict_batches(session.infer_batch, preprocess(inputs, manifest.preprocessing, dtypes))
    if manifest.task != "classification" or outputs.ndim != 2:
        return [], outputs
    names = manifest.labels or [str(index) for index in range(outputs.shape[-1])]
    return [names[index] for index in outputs.argmax(axis=-1)], softmax(outputs)


def load_data(source: str | Path) -> Data:
    """DATA with its four splits.

    Raises:
        DataError: nothing is there, or it does not hold together.
    """
    from lissom.models.data import load_data as load

    return load(str(source))


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


def inspect(artifact: str | Path) -> Artifact:
    """An artifact after every file was compared with its hash; its `manifest` holds what is known about it.

    Raises:
        ArtifactError: nothing is there, or it is damaged.
    """
    return Artifact.open(artifact)


def layers(
    artifact: str | Path | Artifact, *, runtime: str | None = None, device: str | None = None
) -> list[Layer] | None:
    """Every operator of an artifact as a runtime executes it; None when the engine cannot tell.

    Args:
        artifact: An artifact.
        runtime: Where it is opened; default: the first that works.
        device: cpu or cuda; default: the usual one of the runtime.

    Raises:
        LissomError: the artifact is damaged, or the runtime does not open it.
    """
    from lissom.runtime.base import open_runtime

    with open_runtime(_opened(artifact), runtime, device=device) as engine:
        return engine.layers()


def report(folder: str | Path, *, progress: Progress | None = None) -> Report:
    """Draw the pages of a run again from its report.json, and give that report.

    Args:
        folder: Folder of a run, or its report.json.
        progress: Shows how far the drawing is.

    Raises:
        RequestError: no report is there, or it is damaged.
    """
    from lissom.report.files import draw_pages, read_report

    place = Path(folder)
    found = read_report(place)
    draw_pages(found, place if place.is_dir() else place.parent, progress=progress or NoProgress())
    return found


def serve(
    artifacts: Sequence[str | Path | Artifact],
    *,
    host: str = "127.0.0.1",
    port: int = 3000,
    runtime: str | None = None,
    threads: int | None = None,
    on_ready: Callable[[str], None] | None = None,
    on_log: Callable[[str], None] | None = None,
) -> int:
    """Serve artifacts over HTTP until a signal ends it; gives the exit code.

    Args:
        artifacts: Artifacts with different names of their recipes.
        host: Name or address to listen on.
        port: Port to listen on; 0 takes a free one.
        runtime: Runtime of every model; default: the fastest by measurement.
        threads: Threads of one call; default: all cores.
        on_ready: Called once with the URL, when every model is warm.
        on_log: Called, from a thread, with every line that the server writes.

    Raises:
        LissomError: an artifact, the runtime, the host or the port cannot be used, or the server ended.
    """
    from lissom.serve.launch import serve as serve_folders

    folders = [artifact.path if isinstance(artifact, Artifact) else Path(artifact) for artifact in artifacts]
    return serve_folders(
        folders, host=host, port=port, runtime=runtime, threads=threads, on_ready=on_ready, on_log=on_log
    )


def doctor(*, progress: Progress | None = None) -> list[Examined]:
    """Every runtime: whether it works here, proved by running a tiny model, and what to install if not."""
    from lissom.runtime.doctor import examine

    return examine(progress=progress)


def models() -> list[Entry]:
    """Every built-in model: its size and work, its arguments, and the size of its paper."""
    from lissom.models.catalogue import catalogue

    return catalogue()


def _run(
    verb: str,
    model: Model,
    data: str | Path,
    options: Mapping[str, Any],
    *,
    teacher: Model | Sequence[Model] | None = None,
) -> Result:
    recipe = recipe_of(verb, model, data, options, teacher=teacher)
    given = {key: options[key] for key in RunOptions.__annotations__ if key in options}
    return run(recipe, **given)


def _study(
    model: Model,
    data: str | Path,
    options: Mapping[str, Any],
    *,
    runtime: str | None,
    folder: Path,
    built_in: Path,
) -> Study:
    """The groups of MODEL, which is built in a folder where it is no artifact yet."""
    from lissom.compress.sensitivity import check_labelled, study_of

    recipe = recipe_of("prune", model, data, options).model_copy(update={"name": "sensitivity"})
    check_references(recipe)
    config = recipe.stages[-1]
    assert isinstance(config, PruneConfig)
    artifact, samples = _subject(recipe, data, built_in, check=check_labelled)
    return study_of(artifact, samples, config, runtime=runtime, folder=folder)


def _noise_study(
    model: Model,
    data: str | Path,
    options: Mapping[str, Any],
    *,
    folder: Path,
    built_in: Path,
    progress: Progress,
) -> NoiseStudy:
    """The layers of MODEL, which is built and exported in a folder where it is no ONNX artifact yet."""
    from lissom.compress.layer_noise import study_of

    recipe = recipe_of("quantize", model, data, options).model_copy(update={"name": "sensitivity"})
    check_references(recipe)
    check_machine(recipe)
    config = recipe.stages[-1]
    assert isinstance(config, QuantizeConfig)
    artifact, samples = _subject(recipe, data, built_in, progress=progress)
    return study_of(artifact, samples, config, name=Path(recipe.model.source).name, folder=folder)


def _subject(
    recipe: Recipe,
    data: str | Path,
    built_in: Path,
    *,
    check: Callable[[Data], None] | None = None,
    progress: Progress | None = None,
) -> tuple[Artifact, Data]:
    """What the last stage of a recipe starts from, and the data as it takes them.

    An artifact that is only loaded is opened where it lies; all else is made in a folder, after `check`.
    """
    source, before = Path(recipe.model.source), recipe.stages[:-1]
    if len(before) == 1 and (source / MANIFEST_NAME).is_file():
        artifact = Artifact.open(source)
        return artifact, _with_classes(_data_for(artifact.manifest, data), artifact.manifest.labels)
    samples = load_recipe_data(recipe)
    if check is not None:
        check(samples)
    first = recipe.model_copy(update={"stages": before})
    return make_artifacts(first, samples, built_in, progress=progress or NoProgress())[0][-1], samples


def _check_of_quantization(options: Mapping[str, Any]) -> None:
    """Refuse what concerns pruning alone.

    Raises:
        RequestError: naming it.
    """
    given = [f"--{name.replace('_', '-')}" for name in _OF_PRUNING if options.get(name) is not None]
    if given:
        named = ", ".join(given).replace("--shares", "--share")
        raise RequestError(
            f"{named} concerns pruning; with --quantization nothing is removed",
            hint=f"leave out {named}, or --quantization",
        )


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


def _opened(artifact: str | Path | Artifact) -> Artifact:
    return artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)


def _data_for(manifest: Manifest, source: str | Path | None) -> Data:
    """DATA, or what a model was made with, as the model takes them."""
    from lissom.models.evaluation import fitted
    from lissom.models.tasks import fitting

    samples = fitting(load_data(source or manifest.data), manifest.task)
    return fitted(samples, manifest.signature, manifest.preprocessing)


def _with_classes(samples: Data, names: Sequence[str]) -> Data:
    """The data with the classes of a model, which are told apart by name; a model may have none.

    Raises:
        DataError: the model does not know one of theirs.
    """
    import numpy as np

    from lissom.models.data import Data

    theirs, labels = samples.dataset.label_names, samples.dataset.labels
    if labels is None or samples.kind != "classes" or not names or theirs == tuple(names):
        return samples
    if not {*theirs} <= {*names}:
        raise DataError(
            f"{samples.source} has the classes {shortened(', '.join(theirs), 300)}; "
            f"the model knows {shortened(', '.join(names), 300)}",
            hint="classes are told apart by name: name them as the model does",
        )
    places = [names.index(name) for name in theirs]
    dataset = replace(samples.dataset, labels=np.asarray(places)[labels], label_names=tuple(names))
    return Data(samples.source, dataset)


def _check_comparable(artifacts: Sequence[Artifact]) -> None:
    names = [artifact.name for artifact in artifacts]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"two artifacts are called {name!r}; a report could not tell them apart")
    for artifact in artifacts[1:]:
        if artifact.manifest.signature != artifacts[0].manifest.signature:
            raise RequestError(f"{artifact.name!r} and {artifacts[0].name!r} take or give different tensors")
