"""Verbs that compare: outputs, times, scores and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.artifact import Artifact
from lissom.errors import RequestError, near
from lissom.logs import NoProgress, Progress
from lissom.recipe import BenchmarkConfig, GatesConfig
from lissom.registry import COMPILING
from lissom.verbs.files import open_models
from lissom.verbs.shared import data_for, open_artifact, with_classes

if TYPE_CHECKING:
    from contextlib import ExitStack

    import numpy as np

    from lissom.bench.scenarios import Asked, Scenario
    from lissom.bench.selection import ArmKey
    from lissom.bench.sweeps import Point, Setting
    from lissom.export.bisection import Divergence
    from lissom.export.verification import Parity
    from lissom.models.evaluation import Evaluation
    from lissom.report.comparison import Comparison
    from lissom.report.judging import Judgement
    from lissom.runtime.base import Runtime


_DIFFERENT = {
    "signature": "they take or give different tensors",
    "task": "they were made for different tasks",
    "labels": "they know different classes",
}
"""What keeps two artifacts from being compared, by the part of the manifest."""


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

    first, second = open_models([before, after], data=data)
    samples = data_for(second.manifest, data)
    with open_runtime(first, runtimes[0]) as one, open_runtime(second, runtimes[1]) as other:
        return verify_runtimes(one, other, samples)


def random_operators(*artifacts: Artifact) -> list[str]:
    """Operators of ONNX artifacts that draw random numbers, so that `verify` finds two calls to differ.

    Each is given with its tensor. Those inside of If, Loop and functions are among them.
    """
    from lissom.export.external_data import read_graph
    from lissom.export.graphs import RANDOM, all_nodes
    from lissom.runtime.onnx_runtime import MODEL_FILE

    files = (one.file(MODEL_FILE) for one in artifacts if one.manifest.format == "onnx")
    nodes = (node for file in files for node in all_nodes(read_graph(file)) if node.op_type in RANDOM)
    return list(dict.fromkeys(f"{node.op_type} (tensor {node.output[0]})" for node in nodes))


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

    first, second = open_models([before, after], data=data)
    samples = data_for(second.manifest, data)
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
        artifacts: Artifacts with one signature, task and classes.
        data: DATA; default: what the first was made with. Its preprocessing is applied to them.
        config: Rounds, threads, runtimes.
        progress: Shows how far the measurement is.

    Returns:
        One record of evidence for each artifact, by name; those with one name are told apart by their ids.
        `lissom.report.judging.judge` holds them against one of them.

    Raises:
        LissomError: an artifact is damaged, or they cannot be compared.
    """
    from lissom.report.measurement import measure

    opened = comparable(artifacts, data=data)
    manifest = opened[0].manifest
    samples = with_classes(data_for(manifest, data), manifest.labels)
    return measure(opened, config or BenchmarkConfig(), samples, progress=progress or NoProgress())[1]


def judge(
    records: Mapping[str, Mapping[str, Any]],
    *,
    against: str | None = None,
    max_drop: float = 0.01,
    margin: float = 0.02,
    allow: Sequence[str] = (),
) -> Judgement:
    """Hold what `bench` measured against one of the artifacts.

    Args:
        records: What `bench` gave.
        against: Name of the artifact that is the base, on its fastest runtime; default: the first arm, and no
            gates are judged.
        max_drop: Score that may be lost; 0.01 is one point.
        margin: How much slower an artifact may be, relative.
        allow: Gates that may fail.
    """
    from lissom.recipe import check_allowed
    from lissom.report.judging import judge as judge_records

    check_allowed(allow)
    return judge_records(records, _limits(max_drop, margin), against=against, allow=allow)


def _limits(max_drop: float, margin: float) -> GatesConfig:
    return GatesConfig.model_validate({"accuracy": {"max_drop": max_drop}, "not-slower": {"margin": margin}})


def plan_bench(
    artifacts: Sequence[str | Path | Artifact],
    config: BenchmarkConfig,
    *,
    scenario_seconds: float | None = None,
    num_settings: int = 1,
) -> tuple[list[tuple[str, str]], float]:
    """The arms that `bench` would time, as artifact and runtime, and about how many seconds it would take.

    Args:
        artifacts: As `bench` takes them.
        config: Rounds, threads, runtimes.
        scenario_seconds: Of each arm, where `ask` would be called instead.
        num_settings: Batch sizes times numbers of threads, where `sweep` would be called instead.

    Raises:
        LissomError: an artifact is damaged, or they cannot be compared.
    """
    from lissom.report.opening import planned_arms
    from lissom.runtime.availability import usable_runtimes

    opened = comparable(artifacts)
    arms = planned_arms(opened, usable_runtimes(config.runtimes))
    compiled = sum(arm.runtime in COMPILING for arm in arms)
    rounds = (len(arms) + 1) * config.num_rounds * config.round_ms / 1e3  # one arm is timed twice
    rounds *= num_settings
    timed = rounds if scenario_seconds is None else len(arms) * scenario_seconds
    seconds = timed + 15.0 * compiled + 3.0
    return [(arm.artifact, arm.runtime) for arm in arms], seconds


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
        artifacts: Artifacts with one signature, task and classes.
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
        LissomError: an artifact is damaged, they cannot be compared, or no runtime opens one.
        RequestError: Server has no rate, or several workers are asked of a runtime that takes one call.
    """
    from contextlib import ExitStack

    from lissom.bench.scenarios import ask_in_turn
    from lissom.report.opening import open_arms, planned_arms
    from lissom.runtime.availability import usable_runtimes

    opened, told = comparable(artifacts, data=data), progress or NoProgress()
    planned = planned_arms(opened, usable_runtimes(runtimes))
    with ExitStack() as stack:
        arms = open_arms(opened, planned, stack, told, threads=threads, device=device)
        try:
            return ask_in_turn(
                arms.runtimes,
                _tensors(opened[0], data),
                scenario,
                seconds=seconds,
                rate=rate,
                workers=workers,
                samples_per_query=batch_size,
                progress=told,
            )
        except ValueError as exc:
            raise RequestError(
                str(exc), hint="lissom bench --help shows an example of each scenario"
            ) from exc


def sweep(
    artifacts: Sequence[str | Path | Artifact],
    *,
    batch_sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    threads: Sequence[int | None] = (None,),
    data: str | None = None,
    config: BenchmarkConfig | None = None,
    progress: Progress | None = None,
) -> dict[Setting, Point]:
    """Latency and throughput of artifacts by batch size and threads; nothing is added to their evidence.

    Args:
        artifacts: Artifacts with one signature, task and classes.
        batch_sizes: Samples of a call.
        threads: Threads of a call; None for all cores.
        data: DATA; default: what the first was made with.
        config: Rounds and runtimes; its own batch size and threads are not used.
        progress: Shows how far it is.

    Raises:
        LissomError: an artifact is damaged, they cannot be compared, or no runtime opens one.
    """
    from lissom.bench import sweeps
    from lissom.report.opening import open_arms, planned_arms
    from lissom.runtime.availability import usable_runtimes

    settings, told = config or BenchmarkConfig(), progress or NoProgress()
    opened = comparable(artifacts, data=data)
    planned = planned_arms(opened, usable_runtimes(settings.runtimes))

    def opens(stack: ExitStack, number: int | None) -> Mapping[ArmKey, Runtime]:
        return open_arms(opened, planned, stack, told, threads=number, device=settings.device).runtimes

    return sweeps.sweep(
        opens,
        _tensors(opened[0], data),
        batch_sizes=batch_sizes,
        threads=threads,
        num_rounds=settings.num_rounds,
        round_ms=settings.round_ms,
        num_warmup=settings.num_warmup,
        progress=told,
    )


def _tensors(artifact: Artifact, data: str | None) -> dict[str, np.ndarray]:
    """Samples for calls, from the first split that has some."""
    samples = data_for(artifact.manifest, data)
    split = next(name for name in ("report", "select", "calibrate") if len(samples.indices[name]))
    return samples.tensors(split)


def compare(
    before: str | Path,
    after: str | Path,
    *,
    max_drop: float = 0.01,
    margin: float = 0.02,
    allow: Sequence[str] = (),
    baselines: str | Path = "baselines",
    update: bool = False,
) -> Comparison:
    """Judge the chosen model of one report against that of an earlier one.

    Args:
        before: Folder of a run, its report.json, or the name of a saved baseline.
        after: Folder of the newer run, or its report.json.
        max_drop: Score that may be lost; 0.01 is one point.
        margin: How much slower it may become, relative.
        allow: Gates that may fail.
        baselines: Folder of saved baselines.
        update: Keep `after` as the baseline `before`, unless a gate failed; the first one is judged alone.

    Raises:
        RequestError: a report is not there, damaged or of a newer schema, or they cannot be compared.
    """
    from lissom.recipe import check_allowed
    from lissom.report.baselines import compare_with

    check_allowed(allow)
    limits, folder = _limits(max_drop, margin), Path(baselines)
    return compare_with(before, Path(after), limits, folder=folder, update=update, allow=allow)


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
        runtime: Runtime; default: the first that works and reproduces the stored probe. One that is named
            is measured as it is, with a warning where it gives other answers.

    Raises:
        LissomError: the artifact is damaged, or the data do not fit it or have no labels.
    """
    from lissom.models.dataset import SPLITS
    from lissom.models.evaluation import evaluate as evaluate_split
    from lissom.models.tasks import task_of
    from lissom.runtime.probe import open_checked

    if split not in SPLITS:
        raise RequestError(f"there is no split {split!r}; {near(split, SPLITS)}")
    opened = open_artifact(artifact, data=data)
    manifest = opened.manifest
    samples = data_for(manifest, data)
    samples.labels(split)  # says that there are none, before the task says that they do not fit
    task = task_of(manifest.task, samples, manifest.scores)
    samples = with_classes(samples, manifest.labels)
    task.check(manifest.signature.outputs, samples)
    with open_checked(opened, runtime, only_warn=True) as session:
        return evaluate_split(session.infer_batch, samples, split, task)


def comparable(
    artifacts: Sequence[str | Path | Artifact], *, data: str | Path | None = None
) -> list[Artifact]:
    """Opened artifacts that answer the same question; those with one name are told apart by their ids.

    Args:
        artifacts: Artifacts, their folders, or `.onnx` files.
        data: DATA with which files are loaded; default: that of the first artifact, else made inputs.

    Raises:
        RequestError: one is there twice, or they take or give different tensors, or know other classes.
    """
    opened = open_models(artifacts, data=data)
    first, seen = opened[0], set()
    for artifact in opened:
        if artifact.digest in seen:
            raise RequestError(f"{artifact.path} is named twice; a report could not tell it from itself")
        seen.add(artifact.digest)
        for what in ("signature", "task", "labels"):
            if getattr(artifact.manifest, what) != getattr(first.manifest, what):
                raise RequestError(
                    f"{artifact.name!r} and {first.name!r} cannot be compared: {_DIFFERENT[what]}",
                    hint="lissom inspect ARTIFACT shows them",
                )
    names = [artifact.name for artifact in opened]
    return [_renamed(artifact) if names.count(artifact.name) > 1 else artifact for artifact in opened]


def _renamed(artifact: Artifact) -> Artifact:
    """The same artifact under its name and the beginning of its id."""
    name = f"{artifact.name}@{artifact.id[:6]}"
    return Artifact(artifact.path, artifact.manifest.model_copy(update={"name": name}), artifact.digest)
