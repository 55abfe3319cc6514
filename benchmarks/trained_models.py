"""Train the models that other work starts from, keep their weights, and say how good they are.

    python benchmarks/trained_models.py [--runs runs]

Runs the recipes on glyphs and topics (about an hour on two cores; what is on disk is used again), copies the
trained weights to benchmarks/weights/ and writes benchmarks/results/trained_models.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lissom
from lissom.artifact import Artifact

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "benchmarks" / "weights"


class Subject(NamedTuple):
    """A recipe, and what is changed in it."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    keeps_weights: bool = True


SUBJECTS = (
    Subject("glyphs-resnet20", "glyphs-resnet20"),
    Subject("glyphs-resnet20-quarter", "glyphs-resnet20", ("model.kwargs.width=4",), keeps_weights=False),
    Subject("glyphs-resnet56", "glyphs-resnet56"),
    Subject("glyphs-vit", "glyphs-vit"),
    Subject("topics-lstm", "topics-lstm"),
    Subject("topics-gpt", "topics-gpt"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs are, or go")
    runs = parser.parse_args().runs
    write([trained(subject, runs / subject.name) for subject in SUBJECTS])


def trained(subject: Subject, folder: Path) -> dict[str, Any]:
    """Run a recipe and read off what it reached."""
    overrides = (*subject.overrides, "benchmark.runtimes=[torch, onnxruntime]")
    recipe = lissom.Recipe.from_file(ROOT / "recipes" / f"{subject.recipe}.yaml", overrides)
    result = lissom.run(recipe, out=folder)
    artifact = Artifact.open(next(folder.glob("01-train-*")))
    if subject.keeps_weights:
        WEIGHTS.mkdir(exist_ok=True)
        shutil.copyfile(artifact.file("model.safetensors"), WEIGHTS / f"{subject.name}.safetensors")
    arm = next(arm for arm in result.report.arms if (arm.artifact, arm.runtime) == ("train", "torch"))
    assert arm.accuracy is not None
    print(f"{subject.name}: {arm.accuracy.report:.2%}", flush=True)
    return {
        "name": subject.name,
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "num_parameters": artifact.manifest.num_parameters,
        "size_bytes": artifact.file("model.safetensors").stat().st_size,
        "score_name": result.report.score_name,
        "select": arm.accuracy.select,
        "report": arm.accuracy.report,
        "metrics": arm.metrics,
        "history": artifact.manifest.notes["history"],
        "train_seconds": train_seconds(folder),
        "made_on": artifact.manifest.made_on,
        "tools": artifact.manifest.tools,
    }


def train_seconds(folder: Path) -> float:
    """Time of all epochs, with the select split, as the training logged it."""
    events = EventAccumulator(str(folder / "logs" / "train"))
    events.Reload()
    return sum(event.value for event in events.Scalars("seconds"))


def write(rows: list[dict[str, Any]]) -> None:
    """The figures as JSON, and as a table."""
    document = {"schema": "lissom.benchmark/1", "suite": "trained_models", "models": rows}
    (RESULTS / "trained_models.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "trained_models.md").write_text(markdown(rows), encoding="utf-8")


def markdown(rows: list[dict[str, Any]]) -> str:
    here = rows[0]["made_on"]
    processor = here["cpu"].replace("(R)", "")
    lines = [
        "# Trained models",
        "",
        f"Trained on {processor}, {here['cores']} cores, often two at a time, so the times are upper bounds. "
        "Scores are in per cent on the select and on the report split; weights are in `benchmarks/weights/`.",
        "",
        "| model | parameters | weights | epochs | training | score | select | report | more |",
        "|---|---:|---:|---:|---:|---|---:|---:|---|",
    ]
    for row in rows:
        more = {key: value for key, value in row["metrics"].items() if key in ("perplexity", "f1_macro")}
        told = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in more.items())
        lines.append(
            f"| {row['name']} | {row['num_parameters']:,} | {row['size_bytes'] / 1e6:.2f} MB "
            f"| {len(row['history'])} | {row['train_seconds'] / 60:.1f} min | {row['score_name']} "
            f"| {row['select'] * 100:.2f} | {row['report'] * 100:.2f} | {told} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
