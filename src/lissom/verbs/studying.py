"""What layers cost, one by one, and what goes on inside a model, without making anything of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from lissom.artifact import MANIFEST_NAME, Artifact
from lissom.errors import RequestError
from lissom.logs import NoProgress, Progress
from lissom.options import (
    DissectOptions,
    LayerNoiseOptions,
    SensitivityOptions,
)
from lissom.pipeline import check_machine, locked, make_artifacts
from lissom.pipeline import load_data as load_recipe_data
from lissom.recipe import PruneConfig, QuantizeConfig, Recipe
from lissom.registry import check_references
from lissom.verbs.making import recipe_of
from lissom.verbs.measuring import comparable
from lissom.verbs.shared import Model, data_for, with_classes

if TYPE_CHECKING:
    from lissom.compress.layer_noise import LayerNoise, NoisePlan, NoiseStudy
    from lissom.compress.sensitivity import Plan, Sensitivity, Study
    from lissom.models.data import Data
    from lissom.report.dissection import Dissection, Question


SHARES = (0.25, 0.5, 0.75)
"""That `sensitivity` removes unless others are named."""
_OF_PRUNING = ("shares", "runtime", "importance", "round_to")
"""Options of `sensitivity` that layers in int8 have no use for."""


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

    recipe = recipe_of("prune", model, data, options, asked_by="sensitivity").model_copy(
        update={"name": "sensitivity"}
    )
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

    recipe = recipe_of("quantize", model, data, options, asked_by="sensitivity").model_copy(
        update={"name": "sensitivity"}
    )
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
        return artifact, with_classes(data_for(artifact.manifest, data), artifact.manifest.labels)
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


def dissect(
    artifact: str | Path | Artifact,
    *,
    against: str | Path | Artifact | None = None,
    out: str | Path = "runs/inspect",
    progress: Progress | None = None,
    **options: Unpack[DissectOptions],
) -> Dissection:
    """Look inside a model: what its answers hang on, what its layers hold, how it was trained.

    `inspect.json` and `inspect.html` are written.

    Args:
        artifact: An artifact of any format.
        against: The artifact that it was made from, or another that takes and gives the same.
        out: Folder of the page; it is made when it is not there.
        progress: Shows how far it is.
        options: On which samples it is looked at, and what is shown of it.

    Raises:
        LissomError: an artifact is damaged, they cannot be compared, or the data or the layer do not fit.
    """
    from lissom.report.dissection import dissect as look
    from lissom.report.dissection_page import write_dissection

    found = look(_question(artifact, against, options), progress=progress)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_dissection(found, folder)
    return found


def plan_dissect(
    artifact: str | Path | Artifact,
    *,
    against: str | Path | Artifact | None = None,
    **options: Unpack[DissectOptions],
) -> float:
    """About how many seconds `dissect` would take; its arguments.

    Raises:
        LissomError: as `dissect`.
    """
    from lissom.report.dissection import estimated_seconds

    return estimated_seconds(_question(artifact, against, options))


def _question(
    artifact: str | Path | Artifact, against: str | Path | Artifact | None, options: DissectOptions
) -> Question:
    from lissom.report.dissection import Question

    given = [artifact] if against is None else [against, artifact]
    opened = comparable(given, data=options.get("data"))
    manifest = opened[-1].manifest
    samples = with_classes(data_for(manifest, options.get("data")), manifest.labels)
    runtimes = (*[None] * (len(opened) - 1), options.get("runtime"))
    return Question(tuple(opened), samples, runtimes, options.get("layer"), options.get("num_samples"))
