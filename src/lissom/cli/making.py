"""The verbs that make something: a recipe, or one stage of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lissom.cli import views
from lissom.cli.options import (
    Allow,
    Data,
    DryRun,
    MakingData,
    MaxDrop,
    Model,
    Out,
    Overrides,
)
from lissom.cli.output import Outcome
from lissom.cli.registration import making_verb, run_recipe, verb

if TYPE_CHECKING:
    pass


@verb
def run(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as recipes/digits.yaml.")
    ],
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the run. [that of the recipe]")
    ] = None,
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

    changes = [*(overrides or ()), *([f"name={name}"] if name is not None else [])]
    return run_recipe(Recipe.from_file(recipe, changes), out, allow, dry_run)


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
    data: MakingData = None,
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
    lissom export model.onnx --format openvino
    lissom export model.onnx --data samples.npz --precision bfloat16
    """
    return {"format": model_format, "precision": precision, "opset": opset}


@making_verb
def quantize(
    model: Model,
    data: MakingData = None,
    mode: Annotated[str, typer.Option("--mode", help="static, dynamic, qat or weight-only.")] = "static",
    target: Annotated[
        str, typer.Option("--target", help="Machine that will run it: auto, x86, arm or tensorrt.")
    ] = "auto",
    calibration: Annotated[
        str,
        typer.Option(
            "--calibration",
            help="static: minmax, moving-average, sample-mean, percentile, entropy or mse at first.",
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
    lissom quantize runs/train/artifact
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
