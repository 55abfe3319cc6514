"""What pruning and distilling save, beside the original and a dense network of the same cost.

    python benchmarks/pruning.py [--only resnet20 lstm] [--seeds 0 1 2] [--runs runs/pruning]

For each subject the trained weights of benchmarks/weights are pruned by depth and width, by shares that were
tried until the latency on both runtimes was about what was asked for, and distilled by the original. The
control is a smaller dense network of the same cost, trained from nothing for as long as original and
distillation together. Every arm is a run of its own, so that a benchmark that was stopped goes on arm by arm.
At the end original, pruned and control of every seed are timed in turns on OpenVINO and ONNX Runtime, and
judged on the report split. Writes benchmarks/results/pruning_<hardware>_<date>.{json,md} with the arms that
are there.
"""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lissom
from lissom.artifact import Artifact
from lissom.bench.environment import environment
from lissom.bench.statistics import median_latency, paired_drop, ratio
from lissom.recipe import BenchmarkConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RUNTIMES = ("openvino", "onnxruntime")


class Subject(NamedTuple):
    """One model with what is done to it.

    Attributes:
        name: Of the subject.
        recipe: That trained it; its weights lie in benchmarks/weights.
        speedup: Latency that is asked for, as a factor.
        max_drop: Accuracy that may be lost.
        prune: Stages between the original and the distillation.
        distill: Options of the distillation.
        control: Keyword arguments of the dense network of the same cost.
    """

    name: str
    recipe: str
    speedup: float
    max_drop: float
    prune: tuple[dict[str, Any], ...]
    distill: dict[str, Any]
    control: dict[str, Any]


SUBJECTS = (
    Subject(
        "resnet20",
        "glyphs-resnet20",
        2.0,
        0.005,
        (
            {"stage": "prune", "name": "shallow", "method": "depth", "ratio": 0.34},
            {"stage": "prune", "name": "narrow", "ratio": 0.42},
        ),
        {
            "epochs": 20,
            "batch_size": 128,
            "learning_rate": 0.2,
            "channels_last": True,
            "augment": {"crop": 2},
        },
        {"width": 8},
    ),
    Subject(
        "lstm",
        "topics-lstm",
        1.7,
        0.01,
        ({"stage": "prune", "name": "narrow", "ratio": 0.45, "ranking": "global"},),
        {
            "epochs": 40,
            "batch_size": 32,
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "keep": "best",
            "alpha": 0.9,
            "temperature": 2.0,
        },
        {"embedding": 32, "hidden": 64},
    ),
    Subject(
        "vit",
        "glyphs-vit",
        1.7,
        0.01,
        (
            {"stage": "prune", "name": "shallow", "method": "depth", "ratio": 0.34},
            {"stage": "prune", "name": "narrow", "ratio": 0.25},
        ),
        {
            "epochs": 10,
            "batch_size": 32,
            "optimizer": "adamw",
            "learning_rate": 0.001,
            "schedule": "cosine",
            "warmup_epochs": 1,
            "clip_norm": 1.0,
            "alpha": 0.9,
        },
        {"depth": 4, "width": 72},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[subject.name for subject in SUBJECTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "pruning", help="where the arms go")
    given = parser.parse_args()
    chosen = [subject for subject in SUBJECTS if subject.name in (given.only or [subject.name])]
    rows = [
        measured(subject, seed, given.runs / f"{subject.name}-{seed}")
        for subject in chosen
        for seed in given.seeds
    ]
    write(rows)


def measured(subject: Subject, seed: int, folder: Path) -> dict[str, Any]:
    """The arms of one subject and seed, made or found, timed in turns and judged."""
    base = lissom.Recipe.from_file(ROOT / "recipes" / f"{subject.recipe}.yaml")
    original, pruned = pruned_arm(subject, base, seed, folder / "pruned")
    control = control_arm(subject, base, seed, folder / "control")
    records = lissom.bench([original, pruned, control], config=BenchmarkConfig(runtimes=RUNTIMES))
    named = dict(zip(("original", "pruned", "control"), records.values(), strict=True))
    row = {"subject": subject._asdict(), "seed": seed, "arms": {}}
    for name, record in named.items():
        row["arms"][name] = {
            runtime: compared(named["original"]["runtimes"][runtime], record["runtimes"][runtime])
            for runtime in RUNTIMES
        }
    print(summary(row), flush=True)
    return row


def pruned_arm(subject: Subject, base: lissom.Recipe, seed: int, folder: Path) -> tuple[Artifact, Artifact]:
    """The original and the pruned model, both exported."""
    stages = [
        {"stage": "load", "name": "trained"},
        {"stage": "export", "name": "original"},
        *({**stage, "from": "trained"} if not index else stage for index, stage in enumerate(subject.prune)),
        {"stage": "distill", "teacher": "trained", "baseline": False, **subject.distill},
        {"stage": "export", "name": "pruned"},
    ]
    weights = ROOT / "benchmarks" / "weights" / f"{subject.recipe}.safetensors"
    run(subject, base, seed, folder, stages, weights=str(weights))
    return artifact(folder, "original"), artifact(folder, "pruned")


def control_arm(subject: Subject, base: lissom.Recipe, seed: int, folder: Path) -> Artifact:
    """A dense network of the same cost, trained as long as original and distillation together.

    It sees the images as the distillation varies them.
    """
    training = base.stages[0].model_dump(mode="json", by_alias=True, exclude={"from_"})
    epochs = training["epochs"] + subject.distill["epochs"]
    if "augment" in subject.distill:
        training["augment"] = subject.distill["augment"]
    stages = [{**training, "name": "small", "epochs": epochs}, {"stage": "export", "name": "control"}]
    run(subject, base, seed, folder, stages, kwargs=subject.control)
    return artifact(folder, "control")


def run(
    subject: Subject,
    base: lissom.Recipe,
    seed: int,
    folder: Path,
    stages: list[dict[str, Any]],
    *,
    weights: str | None = None,
    kwargs: dict[str, Any] | None = None,
) -> None:
    """Make an arm, or what is missing of it."""
    model = base.model.model_dump(mode="json")
    recipe = lissom.Recipe.from_document(
        {
            "name": f"{subject.name}-{seed}",
            "seed": seed,
            "data": base.data.model_dump(mode="json"),
            "model": {**model, "weights": weights, "kwargs": {**model["kwargs"], **(kwargs or {})}},
            "stages": stages,
            "gates": {"accuracy": {"max_drop": 1.0}, "not-slower": {"margin": 1.0}},
            "benchmark": {"runtimes": ["torch", "onnxruntime"], "num_rounds": 4},
        }
    )
    print(f"{folder.parent.name}: {folder.name}", flush=True)
    lissom.run(recipe, out=folder)


def artifact(folder: Path, name: str) -> Artifact:
    """The artifact of a stage."""
    return Artifact.open(next(folder.glob(f"*-{name}-*")))


def compared(original: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Latency and score of an arm on one runtime, and what they are against the original's."""
    before, after = (np.asarray(arm["scores"]["report"], dtype=float) for arm in (original, other))
    drop = paired_drop(before.astype(bool), after.astype(bool))
    return {
        "median_ms": median_latency(other["rounds_ms"])._asdict(),
        "speedup": ratio(original["rounds_ms"], other["rounds_ms"])._asdict(),
        "score": float(after.mean()),
        "drop": drop._asdict(),
    }


def summary(row: dict[str, Any]) -> str:
    arms = row["arms"]
    told = [
        f"{name} {figures['onnxruntime']['score']:.2%}, "
        + ", ".join(f"{runtime} {figures[runtime]['speedup']['value']:.2f}x" for runtime in RUNTIMES)
        for name, figures in arms.items()
    ]
    return f"{row['subject']['name']} seed {row['seed']}: {'; '.join(told)}"


def write(rows: list[dict[str, Any]]) -> None:
    """The figures as JSON, and as a table."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    document = {"schema": "lissom.benchmark/1", "suite": "pruning", "created": day, "environment": here}
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c".lower()).strip("-")
    name = f"pruning_{hardware}_{day}"
    (RESULTS / f"{name}.json").write_text(json.dumps(document | {"rows": rows}, indent=1) + "\n")
    lines = [
        "# Pruned and distilled, against the original and a dense network of the same cost",
        "",
        f"{here['cpu']}, {here['cores']} cores, {day}. Speed-up and drop are against the original, "
        "interleaved in one measurement; 95 % intervals in brackets. Batch 1, float32.",
        "",
        "| model | seed | arm | OpenVINO | ONNX Runtime | score | drop, points | asked |",
        "|---|---:|---|---:|---:|---:|---:|---|",
        *(line for row in rows for line in table_lines(row)),
        "",
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")


def table_lines(row: dict[str, Any]) -> list[str]:
    subject = row["subject"]
    asked = f"{subject['speedup']:g}x, {100 * subject['max_drop']:g} points"
    return [
        f"| {subject['name']} | {row['seed']} | {name} "
        + "".join(f"| {spread(figures[runtime]['speedup'], 'x')} " for runtime in RUNTIMES)
        + f"| {figures['onnxruntime']['score']:.2%} | {spread(figures['onnxruntime']['drop'], '', 100)} "
        + f"| {asked if name == 'pruned' else ''} |"
        for name, figures in row["arms"].items()
    ]


def spread(figure: dict[str, float], unit: str, scale: float = 1.0) -> str:
    value, low, high = (scale * figure[key] for key in ("value", "low", "high"))
    return f"{value:.2f}{unit} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
