"""Every verb as a typer command; each hands its arguments to one function and shows the outcome."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from lissom.cli import views
from lissom.cli.options import (
    Allow,
    ArtifactPath,
    AsJson,
    Data,
    Debug,
    Device,
    DryRun,
    Kwargs,
    MaxDrop,
    Model,
    OptionalData,
    Out,
    Overrides,
    ResultOut,
    RuntimeChoice,
    Runtimes,
    Seed,
    TaskName,
    Threads,
    UnusedAllow,
    Weights,
)
from lissom.cli.output import Outcome, show
from lissom.cli.progress import TerminalProgress
from lissom.errors import Interrupted
from lissom.options import RecipeOptions

if TYPE_CHECKING:
    from lissom.export.bisection import Divergence
    from lissom.recipe import Recipe

app = typer.Typer(
    name="lissom",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Make a torch model small and fast without losing what it knows, measure it, and serve it.\n\n"
    "\b\nlissom run recipes/digits.yaml           train, compress, measure, report\n"
    "lissom serve runs/digits/artifact        answer over HTTP on 127.0.0.1:3000\n"
    "lissom quantize model.onnx --data x.npz  one step, without a recipe",
)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters by name, keyword-only, with their annotations resolved."""
    hints = get_type_hints(function, include_extras=True)
    return {
        name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
    }


def register(
    name: str, summary: str | None, call: Callable[..., Outcome], own: dict[str, inspect.Parameter]
) -> None:
    """Make a verb of `call`: its outcome is shown, as text or as JSON, and decides the exit code.

    Every verb takes --json, --debug, --out and --allow. A verb without a folder of its own writes its JSON
    document to --out as `<verb>.json`; one that judges no gate accepts --allow, which then changes nothing.
    """
    parameters = {**parameters_of(_every_verb), **own}

    def command(*, as_json: bool = False, debug: bool = False, **arguments: Any) -> int:
        from lissom.models.processes import place
        from lissom.recipe import check_allowed

        check_allowed(arguments["allow"] or ())
        try:
            outcome = call(**{key: value for key, value in arguments.items() if key in own})
        except KeyboardInterrupt as exc:  # typer would end without a word
            raise Interrupted(
                "interrupted; finished stages and epochs are kept", hint="the same command goes on from there"
            ) from exc
        if place().leads:
            show(name, outcome, as_json=as_json, folder=None if "out" in own else arguments["out"])
        return outcome.exit_code

    command.__doc__ = summary
    command.__annotations__ = {key: parameter.annotation for key, parameter in parameters.items()}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted(parameters.values(), key=lambda parameter: parameter.name in parameters_of(_every_verb))
    )
    app.command(name)(command)


def verb(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Register a function that gives an outcome."""
    register(function.__name__.strip("_"), function.__doc__, function, parameters_of(function))
    return function


def making_verb(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Register a function that gives the fields of a stage: its verb runs the recipe of that one stage."""
    own, common = parameters_of(function), parameters_of(_every_making_verb)

    def call(*, model: str, data: str, **arguments: Any) -> Outcome:
        fields = function(model, data, **{key: arguments[key] for key in own if key in arguments})
        options = {key: arguments[key] for key in common}
        return _run_single(function.__name__, model, data, fields, options)

    others = {key: parameter for key, parameter in common.items() if key not in own}
    register(function.__name__, function.__doc__, call, own | others)
    return function


def _every_verb(
    *, out: ResultOut = None, allow: UnusedAllow = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """What every verb takes; only the signature is used."""


def _every_making_verb(
    *,
    kwargs: Kwargs = None,
    weights: Weights = None,
    task: TaskName = None,
    max_drop: MaxDrop = 0.01,
    seed: Seed = 0,
    overrides: Overrides = None,
    runtimes: Runtimes = None,
    out: Out = None,
    allow: Allow = None,
    dry_run: DryRun = False,
) -> None:
    """What every verb that makes an artifact takes; only the signature is used."""


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from lissom.optional import version as installed

        print(f"lissom {installed('lissom')}")
        raise typer.Exit


@verb
def run(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as recipes/digits.yaml.")
    ],
    overrides: Overrides = None,
    out: Out = None,
    allow: Allow = None,
    dry_run: DryRun = False,
) -> Outcome:
    """Carry out a recipe: every stage, measurement, gates, report.

    A run that was stopped goes on where it was; what is on disk is used again.

    \b
    lissom run recipes/digits.yaml
    lissom run recipes/digits.yaml --set stages.prune.ratio=0.3 --out runs/mild
    lissom run recipes/digits.yaml --allow accuracy
    """
    from lissom.recipe import Recipe

    return _run(Recipe.from_file(recipe, overrides or ()), out, allow, dry_run)


@verb
def check(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")],
    overrides: Overrides = None,
) -> Outcome:
    """Validate a recipe without running it. Keys, ranges, the order of the stages, what it names.

    \b
    lissom check recipes/digits.yaml
    """
    from lissom import verbs

    return views.checked(verbs.check(recipe, overrides or ()))


@making_verb
def train(
    model: Model,
    data: Data,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the train split.")] = 20,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.")] = 0.1,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Samples in a step.")] = 64,
) -> dict[str, Any]:
    """Train a model on labelled data.

    \b
    lissom train resnet --data digits --kwarg 'widths=[32,64]' --kwarg 'blocks=[1,1]'
    lissom train my/model.py:build --data my.npz --epochs 50
    lissom train vit --data 'photos/?image_size=32' --set stages.train.optimizer=adamw --learning-rate 0.001
    lissom train my/model.py:build --data table.csv?label=price --task my/task.py:Task
    """
    return {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}


@making_verb
def prune(
    model: Model,
    data: Data,
    method: Annotated[
        str, typer.Option("--method", help="width, depth, low-rank, magnitude or 2:4.")
    ] = "width",
    ratio: Annotated[float, typer.Option("--ratio", help="Share that is removed of what --of names.")] = 0.5,
    of: Annotated[str, typer.Option("--of", help="parts, macs, parameters or latency.")] = "parts",
    latency_runtime: Annotated[
        str | None, typer.Option("--latency-runtime", help="--of latency: runtime on which it is measured.")
    ] = None,
    importance: Annotated[
        str,
        typer.Option("--importance", help="width: l1, l2, batch-norm, lamp, taylor or activation."),
    ] = "l2",
    ranking: Annotated[
        str, typer.Option("--ranking", help="width, magnitude: local, global or isomorphic.")
    ] = "local",
    round_to: Annotated[int, typer.Option("--round-to", help="Kept channels are a multiple of this.")] = 8,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Module that is kept; may be repeated.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="Prune in so many steps.")] = 1,
    tune_epochs: Annotated[
        int, typer.Option("--tune-epochs", help="Epochs of training between steps; needed for several.")
    ] = 0,
    tune_learning_rate: Annotated[
        float, typer.Option("--tune-learning-rate", help="Peak learning rate between steps.")
    ] = 0.01,
    group_norm: Annotated[
        float, typer.Option("--group-norm", help="width: push groups to zero in training before a step.")
    ] = 0.0,
    max_drop: MaxDrop = 1.0,
) -> dict[str, Any]:
    """Remove channels, blocks, ranks or weights.

    What is left is less accurate; distill or train recovers it. --dry-run shows layer by layer what would
    go, with what that saves in multiply-adds, parameters and measured latency.

    \b
    lissom prune runs/digits/01-train-* --data digits --ratio 0.5 --dry-run
    lissom prune runs/digits/01-train-* --data digits --ratio 0.5
    lissom prune resnet20 --data glyphs --weights w.safetensors --method depth --ratio 0.33
    lissom prune runs/train/artifact --data digits --of latency --latency-runtime openvino
    lissom prune runs/train/artifact --data digits --method magnitude --ratio 0.8 --steps 4 --tune-epochs 2
    """
    tune = {"epochs": tune_epochs, "learning_rate": tune_learning_rate} if tune_epochs else None
    return {
        "method": method,
        "ratio": ratio,
        "of": of,
        "runtime": latency_runtime,
        "importance": importance,
        "ranking": ranking,
        "round_to": round_to,
        "exclude": tuple(exclude or ()),
        "steps": steps,
        "tune": tune,
        "group_norm": group_norm,
    }


@making_verb
def distill(
    model: Model,
    data: Data,
    teacher: Annotated[
        list[str],
        typer.Option("--teacher", metavar="MODEL", help="Model that teaches; of several, their mean does."),
    ],
    kind: Annotated[str, typer.Option("--kind", help="kd, dkd, dist or hint.")] = "kd",
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the train split.")] = 20,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.")] = 0.05,
    temperature: Annotated[float, typer.Option("--temperature", help="Softens both answers.")] = 4.0,
    alpha: Annotated[float, typer.Option("--alpha", help="Weight of the teacher against the labels.")] = 0.7,
    student_layer: Annotated[
        str | None, typer.Option("--student-layer", metavar="MODULE", help="hint: whose output is led.")
    ] = None,
    teacher_layer: Annotated[
        str | None, typer.Option("--teacher-layer", metavar="MODULE", help="hint: whose output leads.")
    ] = None,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline/--no-baseline",
            help="Train without a teacher too, and say whether the teacher helped.",
        ),
    ] = False,
) -> dict[str, Any]:
    """Train a student to answer as its teacher does. The report compares it with the teacher.

    \b
    lissom distill runs/prune/artifact --teacher runs/train/artifact --data digits
    lissom distill resnet --teacher runs/one/artifact --teacher runs/two/artifact --data digits --baseline
    lissom distill resnet --teacher runs/train/artifact --data digits --kind dist --temperature 1
    """
    return {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "kind": kind,
        "temperature": temperature,
        "alpha": alpha,
        "student_layer": student_layer,
        "teacher_layer": teacher_layer,
        "baseline": baseline,
        "teacher": teacher,
    }


@making_verb
def export(
    model: Model,
    data: Data,
    model_format: Annotated[
        str, typer.Option("--format", help="onnx, openvino, aotinductor or tensorrt.")
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="float32, float16 or bfloat16; default: that of the model."),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="Version of the ONNX operator set, 18 to 23.")] = 20,
) -> dict[str, Any]:
    """Write a model in the format of an engine. It is checked against the original on every runtime.

    onnx runs on ONNX Runtime and OpenVINO, openvino loads faster, aotinductor is native code for this
    processor, tensorrt an engine for this GPU. bfloat16 halves the weights, and is fast where the processor
    has avx512_bf16 or AMX (`lissom doctor` says so); float16 is for GPUs and ARM.

    \b
    lissom export runs/train/artifact --data digits
    lissom export runs/train/artifact --data digits --format openvino --precision bfloat16
    lissom export model.onnx --data samples.npz --precision bfloat16
    """
    return {"format": model_format, "precision": precision, "opset": opset}


@making_verb
def quantize(
    model: Model,
    data: Data,
    mode: Annotated[str, typer.Option("--mode", help="static, dynamic, qat or weight-only.")] = "static",
    target: Annotated[
        str, typer.Option("--target", help="Machine that will run it: auto, x86, arm or tensorrt.")
    ] = "auto",
    calibration: Annotated[
        str,
        typer.Option(
            "--calibration", help="static: minmax, moving-average, percentile, entropy or mse at first."
        ),
    ] = "minmax",
    num_samples: Annotated[
        int, typer.Option("--num-samples", help="static: at most this many calibration samples.")
    ] = 256,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="ONNX node that stays float32; may be repeated.")
    ] = None,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder/--no-ladder", help="static: try better ways where the plain one loses too much."
        ),
    ] = True,
    skip_slow: Annotated[
        bool,
        typer.Option("--skip-slow/--keep-slow", help="static: leave float32 what int8 makes slower here."),
    ] = True,
    epochs: Annotated[int, typer.Option("--epochs", help="qat: passes over the train split.")] = 5,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="qat: peak learning rate.")] = 0.005,
    bits: Annotated[int, typer.Option("--bits", help="weight-only: bits of a weight, 4 or 8.")] = 4,
    group_size: Annotated[
        int, typer.Option("--group-size", help="weight-only: weights that share a scale, 16 to 256.")
    ] = 32,
) -> dict[str, Any]:
    """Give a model fewer bits. A torch model is exported first.

    static int8 is measured on the select split. Where it loses too much, other ranges, bias correction,
    SmoothQuant, mixed precision, equalisation and AdaRound are tried in turn; the report shows what each
    gave. qat trains on labelled data while the layers round, and is static then. --dry-run shows layer by
    layer what would be quantized, and why not.

    \b
    lissom quantize runs/train/artifact --data digits
    lissom quantize runs/train/artifact --data digits --target tensorrt
    lissom quantize model.onnx --data samples.npz --dry-run
    lissom quantize runs/train/artifact --data digits --mode qat --epochs 5
    lissom quantize lstm --data topics --weights w.safetensors --mode dynamic
    lissom quantize gpt --data topics-text --weights w.safetensors --mode weight-only --bits 4
    """
    return {
        "mode": mode,
        "target": target,
        "calibration": calibration,
        "num_samples": num_samples,
        "exclude": tuple(exclude or ()),
        "ladder": ladder,
        "skip_slow": skip_slow,
        "tune": {"epochs": epochs, "learning_rate": learning_rate} if mode == "qat" else None,
        "bits": bits,
        "group_size": group_size,
    }


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
    before: Annotated[Path, typer.Argument(metavar="A", help="Artifact that is trusted.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Artifact that is checked.")],
    data: OptionalData = None,
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
    parities = verbs.verify(before, after, data=data, runtimes=runtimes)
    found: Divergence | LissomError | None = None
    if not all(parity.passed for parity in parities):
        try:
            found = verbs.divergence(before, after, data=data, runtimes=runtimes)
        except LissomError as exc:  # the gate has failed, whatever keeps us from looking inside
            found = exc
    return views.verified(parities, allow or (), found)


@verb
def bench(
    artifacts: Annotated[
        list[Path], typer.Argument(metavar="ARTIFACT...", help="Artifacts with different names.")
    ],
    data: OptionalData = None,
    runtimes: Runtimes = None,
    threads: Threads = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples in a timed call.")] = 1,
    num_rounds: Annotated[int, typer.Option("--rounds", min=4, help="Interleaved rounds.")] = 24,
    device: Device = None,
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", help="SingleStream, MultiStream, Server or Offline, as MLPerf asks."),
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Server: queries a second.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of a scenario, for each arm.")] = 10.0,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Server: queries computed at once.")] = 1,
    dry_run: DryRun = False,
) -> Outcome:
    """Time artifacts against each other on every runtime. Interleaved; the figures are kept as evidence.

    With --scenario they are asked as MLPerf asks; latencies of Server count from the planned time of a query.

    \b
    lissom bench runs/digits/01-train-* runs/digits/artifact
    lissom bench runs/digits/artifact --scenario Server --rate 200 --seconds 30
    """
    from lissom import verbs
    from lissom.bench.scenarios import scenario_called
    from lissom.recipe import BenchmarkConfig
    from lissom.registry import runtime_entry

    for name in runtimes or ():
        runtime_entry(name)
    config = BenchmarkConfig.model_validate(
        {
            "runtimes": runtimes,
            "threads": threads,
            "batch_size": batch_size,
            "num_rounds": num_rounds,
            "device": device,
        }
    )
    if dry_run:
        return views.bench_planned(*verbs.plan_bench(artifacts, config))
    if scenario is not None:
        asked = verbs.ask(
            artifacts,
            scenario_called(scenario),
            seconds=seconds,
            rate=rate,
            workers=workers,
            batch_size=batch_size if batch_size > 1 else None,
            data=data,
            runtimes=runtimes,
            threads=threads,
            device=device,
            progress=TerminalProgress(),
        )
        return views.asked(asked)
    return views.benched(verbs.bench(artifacts, data=data, config=config, progress=TerminalProgress()))


@verb
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Run folder, or its report.json.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The newer one.")],
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0, max=1, help="Score that may be lost; 0.01 is one point.")
    ] = 0.01,
    margin: Annotated[
        float, typer.Option("--max-slowdown", min=0, max=1, help="How much slower it may be, relative.")
    ] = 0.02,
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
    differs from itself between two sessions by more than most changes do.

    \b
    lissom compare baselines/digits/report.json runs/digits
    lissom compare main/report.json runs/digits --max-slowdown 0.05 --out ci
    """
    from lissom import verbs

    found = verbs.compare(before, after, max_drop=max_drop, margin=margin, allow=allow or ())
    return views.compared(found, (str(before), str(after)), out)


@verb
def evaluate(
    artifact: ArtifactPath,
    data: OptionalData = None,
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
    return views.evaluated(artifact, data, split, runtime)


@verb
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, such as runs/digits.")],
) -> Outcome:
    """Draw the pages of a run again from its report.json. Says the verdict, too.

    \b
    lissom report runs/digits
    """
    from lissom import verbs

    found = verbs.report(folder, progress=TerminalProgress())
    return views.reported(found, folder if folder.is_dir() else folder.parent)


@verb
def inspect_(artifact: ArtifactPath, runtime: RuntimeChoice = None, device: Device = None) -> Outcome:
    """Show what is known about an artifact. Every hash is checked first.

    With --runtime also every operator as that engine executes it: its type, and where.

    \b
    lissom inspect runs/digits/artifact
    lissom inspect runs/digits/artifact --runtime openvino
    """
    from lissom import verbs

    found = verbs.inspect(artifact)
    if runtime is None and device is None:
        return views.inspected(found)
    return views.executed(found, verbs.layers(found, runtime=runtime, device=device), runtime)


@verb
def predict(
    artifact: ArtifactPath,
    data: OptionalData = None,
    runtime: RuntimeChoice = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Write predictions.csv there.")
    ] = None,
) -> Outcome:
    """Predict the samples of data. The report split of labelled data, every sample of unlabelled data.

    \b
    lissom predict runs/digits/artifact
    lissom predict runs/digits/artifact --data samples.npz --out predictions
    """
    return views.predicted(artifact, data, runtime, out)


@verb
def serve(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT...", help="Artifacts to serve.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 3000,
    runtime: RuntimeChoice = None,
    threads: Threads = None,
) -> Outcome:
    """Serve artifacts over HTTP. POST /predict takes raw input, /v2 is the Open Inference Protocol.

    \b
    lissom serve runs/digits/artifact
    curl -s localhost:3000/v2/models/digits
    """
    return views.served(artifacts, host=host, port=port, runtime=runtime, threads=threads)


@verb
def clean(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")],
    dry_run: DryRun = False,
) -> Outcome:
    """Remove what a run's report does not refer to. Artifacts of earlier recipes, half-written files.

    \b
    lissom clean runs/digits --dry-run
    """
    from lissom.pipeline import clean as clean_folder

    return views.cleaned(clean_folder(folder, dry_run=dry_run), folder, dry_run=dry_run)


@verb
def doctor() -> Outcome:
    """Say which runtimes work here, and what to install. Proved by running a tiny model on each.

    \b
    lissom doctor
    """
    return views.examined()


@verb
def models() -> Outcome:
    """List the built-in models and data sets.

    \b
    lissom models
    """
    return views.listed()


def _run(recipe: Recipe, out: Path | None, allow: list[str] | None, dry_run: bool) -> Outcome:
    if dry_run:
        from lissom.pipeline import estimate

        return views.estimated(recipe, estimate(recipe, out=out))
    from lissom.pipeline import run as run_recipe

    return views.finished(run_recipe(recipe, out=out, allow=allow or (), progress=TerminalProgress()))


def _run_single(kind: str, model: str, data: str, fields: dict[str, Any], options: dict[str, Any]) -> Outcome:
    """Run the recipe of one verb."""
    from lissom import verbs

    teacher = fields.pop("teacher", None)
    given = {key: options[key] for key in RecipeOptions.__annotations__ if key in options}
    given["kwargs"] = views.keyword_arguments(options["kwargs"] or ())
    recipe = verbs.recipe_of(kind, model, data, given | fields, teacher=teacher)
    if kind == "prune" and options["dry_run"]:
        return views.prune_planned(verbs.plan_prune(recipe, progress=TerminalProgress()))
    if kind == "quantize" and options["dry_run"]:
        return views.quantize_planned(verbs.plan_quantize(recipe, progress=TerminalProgress()))
    return _run(recipe, options["out"], options["allow"], options["dry_run"])
