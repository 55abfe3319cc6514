"""The verbs that measure and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lissom.cli import views
from lissom.cli.options import (
    Allow,
    ArtifactPath,
    Data,
    Device,
    DryRun,
    FileName,
    FileNames,
    Kwargs,
    MaxDrop,
    Model,
    OptionalData,
    Out,
    RuntimeChoice,
    Runtimes,
    Seed,
    TaskName,
    Weights,
)
from lissom.cli.output import Outcome
from lissom.cli.progress import TerminalProgress
from lissom.cli.registration import verb

if TYPE_CHECKING:
    from lissom.export.bisection import Divergence


@verb
def sensitivity(
    model: Model,
    data: Data,
    runtime: RuntimeChoice = None,
    shares: Annotated[
        list[float] | None,
        typer.Option("--share", help="Share that a group loses, 0 to 1; may be repeated. [0.25 0.5 0.75]"),
    ] = None,
    importance: Annotated[
        str | None, typer.Option("--importance", help="l1, l2, batch-norm, lamp, taylor or activation. [l2]")
    ] = None,
    round_to: Annotated[
        int | None, typer.Option("--round-to", help="Kept channels are a multiple of this. [8]")
    ] = None,
    quantization: Annotated[
        bool, typer.Option("--quantization", help="Measure each layer in int8 instead, the others float32.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", help="Module that is kept, or ONNX node with --quantization; may be repeated."
        ),
    ] = None,
    kwargs: Kwargs = None,
    weights: Weights = None,
    task: TaskName = None,
    seed: Seed = 0,
    out: Out = None,
    dry_run: DryRun = False,
) -> Outcome:
    """Measure what each group of layers costs and saves. Each alone loses a share of its units.

    Score on the select split, without training, and latency on one runtime, against the whole model. With
    --quantization each layer alone computes in int8: its noise on the outputs, answers that change, score.
    Every measurement is kept: a run that was stopped goes on where it was.

    \b
    lissom sensitivity runs/digits/01-train-* --data digits --dry-run
    lissom sensitivity runs/digits/01-train-* --data digits --runtime openvino --share 0.25 --share 0.5
    lissom sensitivity runs/digits/01-train-* --data digits --quantization
    """
    from lissom import verbs

    ranking = {"importance": importance, "round_to": round_to}
    request: dict[str, Any] = {
        **{name: value for name, value in ranking.items() if value is not None},
        "quantization": quantization,
        "shares": shares,
        "runtime": runtime,
        "exclude": tuple(exclude or ()),
        "kwargs": views.keyword_arguments(kwargs or ()),
        "weights": weights,
        "task": task,
        "seed": seed,
        "out": out,
    }
    if dry_run:
        planned = verbs.plan_sensitivity(model, data, **request)
        return views.noise_planned(planned) if quantization else views.sensitivity_planned(planned)
    found = verbs.sensitivity(model, data, progress=TerminalProgress(), **request)
    folder = verbs.sensitivity_folder(out, quantization=quantization)
    if not quantization:
        return views.sensitivity_measured(found, folder)
    built = [("--kwarg", kwargs), ("--weights", weights and [weights]), ("--task", task and [task])]
    built.append(("--exclude", exclude))
    given = [word for option, values in built for value in values or () for word in (option, value)]
    return views.noise_measured(found, folder, [model, "--data", data, *given])


@verb
def verify(
    before: Annotated[Path, typer.Argument(metavar="A", help="Artifact, or .onnx file, that is trusted.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Artifact, or .onnx file, that is checked.")],
    data: OptionalData = None,
    names: FileNames = None,
    runtime_a: Annotated[str | None, typer.Option("--runtime-a", help="Runtime of A.")] = None,
    runtime_b: Annotated[str | None, typer.Option("--runtime-b", help="Runtime of B.")] = None,
    allow: Allow = None,
) -> Outcome:
    """Compare what two artifacts compute, output by output. Ends with 1 when they differ too much.

    \b
    lissom verify runs/digits/05-export-* runs/digits/artifact --runtime-b openvino
    """
    from lissom import verbs
    from lissom.errors import LissomError

    runtimes = (runtime_a, runtime_b)
    one, other = verbs.open_models([before, after], data=data, names=names, progress=TerminalProgress())
    parities = verbs.verify(one, other, data=data, runtimes=runtimes)
    found: Divergence | LissomError | None = None
    if not all(parity.passed for parity in parities):
        try:
            found = verbs.divergence(one, other, data=data, runtimes=runtimes)
        except LissomError as exc:  # the gate has failed, whatever keeps us from looking inside
            found = exc
    return views.verified(parities, allow or (), found, verbs.random_operators(one, other))


@verb
def bench(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT...", help="Artifacts or .onnx files.")],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="BASE", help="Artifact that the others are held against, with verdicts."
        ),
    ] = None,
    data: OptionalData = None,
    names: FileNames = None,
    runtimes: Runtimes = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, help="Threads of a call; several sweep. [all cores]"),
    ] = None,
    batch_sizes: Annotated[
        list[int] | None,
        typer.Option("--batch-size", min=1, help="Samples of a call; several sweep. [1]"),
    ] = None,
    num_rounds: Annotated[int, typer.Option("--rounds", min=4, help="Interleaved rounds.")] = 24,
    device: Device = None,
    energy_seconds: Annotated[
        float,
        typer.Option(
            "--energy-seconds", min=0, help="Count energy for so long, where a counter can be read."
        ),
    ] = 5.0,
    max_drop: MaxDrop = 0.01,
    margin: Annotated[
        float,
        typer.Option("--max-slowdown", min=0, max=1, help="How much slower than BASE it may be, relative."),
    ] = 0.02,
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", help="SingleStream, MultiStream, Server or Offline, as MLPerf asks."),
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Server: queries a second.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of a scenario, for each arm.")] = 10.0,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Server: queries computed at once.")] = 1,
    dry_run: DryRun = False,
    allow: Allow = None,
) -> Outcome:
    """Time artifacts against each other on every runtime. Interleaved; the figures are kept as evidence.

    With --against it ends with 1 when one is surely slower or less accurate than BASE. Several batch sizes
    or numbers of threads are swept: latency and throughput of each. With --scenario they are asked as MLPerf
    asks; latencies of Server count from the planned time of a query. Ctrl-C keeps what was measured.

    \b
    lissom bench runs/digits/artifact --against runs/digits/01-train-*
    lissom bench runs/digits/artifact --batch-size 1 --batch-size 8 --batch-size 32 --threads 1 --threads 2
    lissom bench runs/digits/artifact --scenario Server --rate 200 --seconds 30
    lissom bench model.onnx
    """
    from lissom import verbs
    from lissom.bench.scenarios import scenario_called
    from lissom.recipe import BenchmarkConfig
    from lissom.registry import runtime_entry

    for name in runtimes or ():
        runtime_entry(name)
    asked_as = scenario_called(scenario) if scenario is not None else None
    sizes, numbers = batch_sizes or [1], [*(threads or (None,))]
    sweeps = len(sizes) * len(numbers) > 1
    _check_together(sweeps=sweeps, scenario=asked_as is not None, against=against is not None)
    config = BenchmarkConfig.model_validate(
        {
            "runtimes": runtimes,
            "threads": numbers[0],
            "batch_size": sizes[0],
            "num_rounds": num_rounds,
            "device": device,
            "energy_seconds": energy_seconds,
        }
    )
    timed = verbs.open_models(
        [*([against] if against else []), *artifacts], data=data, names=names, progress=TerminalProgress()
    )
    if dry_run:
        of_scenario = seconds if asked_as else None
        count = len(sizes) * len(numbers)
        planned = verbs.plan_bench(timed, config, scenario_seconds=of_scenario, num_settings=count)
        return views.bench_planned(*planned)
    if asked_as is not None:
        asked = verbs.ask(
            timed,
            asked_as,
            seconds=seconds,
            rate=rate,
            workers=workers,
            batch_size=sizes[0] if sizes[0] > 1 else None,
            data=data,
            runtimes=runtimes,
            threads=numbers[0],
            device=device,
            progress=TerminalProgress(),
        )
        return views.asked(asked)
    if sweeps:
        swept = verbs.sweep(
            timed, batch_sizes=sizes, threads=numbers, data=data, config=config, progress=TerminalProgress()
        )
        return views.swept(swept)
    records = verbs.bench(timed, data=data, config=config, progress=TerminalProgress())
    base = next(iter(records)) if against else None
    return views.benched(
        verbs.judge(records, against=base, max_drop=max_drop, margin=margin, allow=allow or ())
    )


def _check_together(*, sweeps: bool, scenario: bool, against: bool) -> None:
    """Refuse options that ask for two things at once."""
    from lissom.errors import RequestError

    if sweeps and (scenario or against):
        other = "--scenario" if scenario else "--against"
        raise RequestError(
            f"several --batch-size or --threads sweep, which {other} does not take",
            hint=f"name one batch size and one number of threads with {other}",
        )
    if scenario and against:
        raise RequestError(
            "--scenario gives no verdict, which --against asks for", hint="leave one of them out"
        )


@verb
def compare(
    before: Annotated[
        str, typer.Argument(metavar="BEFORE", help="Run folder, its report.json, or a saved baseline.")
    ],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Run folder, or its report.json.")],
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0, max=1, help="Score that may be lost; 0.01 is one point.")
    ] = 0.01,
    margin: Annotated[
        float, typer.Option("--max-slowdown", min=0, max=1, help="How much slower it may be, relative.")
    ] = 0.02,
    update: Annotated[
        bool,
        typer.Option("--update", help="Keep AFTER as the baseline BEFORE, unless a gate failed."),
    ] = False,
    baselines: Annotated[
        Path, typer.Option("--baselines", metavar="DIR", help="Folder of saved baselines.")
    ] = Path("baselines"),
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Write compare.json, compare.md and junit.xml there."
        ),
    ] = None,
    allow: Allow = None,
) -> Outcome:
    """Judge a run by an earlier one. Ends with 1 when its model is slower or less accurate.

    Accuracy is paired by sample. Latency is held against an original that both runs timed, because a machine
    differs from itself between two sessions by more than most changes do. A baseline is a report that is kept
    under a name, to be committed; --update makes it, and replaces it by a run that no gate speaks against.

    \b
    lissom compare main runs/digits --update
    lissom compare main runs/digits --max-slowdown 0.05 --out ci
    lissom compare runs/before/report.json runs/digits
    """
    from lissom import verbs

    found = verbs.compare(
        before,
        after,
        max_drop=max_drop,
        margin=margin,
        allow=allow or (),
        baselines=baselines,
        update=update,
    )
    return views.compared(found, (before, str(after)), out)


@verb
def evaluate(
    artifact: ArtifactPath,
    data: OptionalData = None,
    name: FileName = None,
    split: Annotated[
        str, typer.Option("--split", metavar="SPLIT", help="train, calibrate, select or report.")
    ] = "report",
    runtime: RuntimeChoice = None,
) -> Outcome:
    """Measure how well an artifact does on labelled data. Its score, every metric, what it confuses.

    Any format on any runtime is measured by the same code, so an int8 ONNX model can be compared with the
    torch model that it was made from.

    \b
    lissom evaluate runs/digits/artifact
    lissom evaluate runs/digits/artifact --runtime onnxruntime --split select
    lissom evaluate runs/digits/artifact --data fresh.npz --json
    """
    from lissom import verbs

    opened = verbs.open_model(artifact, data=data, name=name, progress=TerminalProgress())
    return views.evaluated(opened, data, split, runtime)
