"""What quantizing keeps and saves: agreement, the ladder, pruned and int8 together, and what it costs to do.

    python benchmarks/quantization.py [--only trained untrained broken together cost] [--runs DIR]

    trained    ResNet-20 and ViT static; GPT dynamic and with weights of 4 and 8 bits; LSTM dynamic
    untrained  ResNet-50, ViT-B, BERT-base and GPT-2 of transformers, on noise without labels
    broken     models with outliers that change no output: what plain int8 loses, and the ladder finds
    together   ResNet-20 pruned, distilled and int8, against torch eager; needs the arms of pruning.py
    cost       wall time and peak memory on a file of 350 MB, against the library's own call

Parts are kept in --runs as they are done. Writes benchmarks/results/quantization_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from broken_models import write_broken

import lissom
from lissom.artifact import Artifact
from lissom.bench.environment import environment
from lissom.bench.statistics import median_latency, paired_drop, ratio
from lissom.recipe import BenchmarkConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "benchmarks" / "weights"
ALLOWED = ("accuracy", "not-slower", "parity", "precision")
"""A gate that fails is a result here, not the end."""

TRAINED = (
    ("resnet20 static", "glyphs-resnet20", {"mode": "static"}),
    (
        "resnet20 8-bit weights",
        "glyphs-resnet20",
        {"mode": "static", "reduce_range": False, "ladder": False, "skip_slow": False},
    ),
    ("vit static", "glyphs-vit", {"mode": "static"}),
    ("gpt dynamic", "topics-gpt", {"mode": "dynamic"}),
    ("gpt weight-int8", "topics-gpt", {"mode": "weight-only", "bits": 8}),
    ("gpt weight-int4", "topics-gpt", {"mode": "weight-only", "bits": 4}),
    ("lstm dynamic", "topics-lstm", {"mode": "dynamic"}),
)
UNTRAINED = {
    "resnet-50": ("resnet_50", "image", {"mode": "static"}),
    "vit-b": ("vit_b", "image", {"mode": "static"}),
    "bert-base": ("bert_base", "tokens", {"mode": "static"}),
    "gpt-2": ("gpt_2", "tokens", {"mode": "static"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quantization", help="where runs go")
    parser.add_argument("--pruned", type=Path, default=ROOT / "runs" / "pruning", help="arms of pruning.py")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    for name in given.only or PARTS:
        rows = PARTS[name](given)
        (given.runs / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
        print(name, json.dumps(rows)[:2000], flush=True)
    write(given.runs)


def quantized(model: Any, data: str, out: Path, **options: Any) -> dict[str, Any]:
    """Quantize a model; what the report says of the chosen arm, and of the climb."""
    result = lissom.quantize(model, data, out=out, allow=ALLOWED, **options)
    artifact = Artifact.open(next(out.glob("*-quantize-*")))
    arms = [arm for arm in result.report.arms if arm.artifact == "quantize" and arm.parity is not None]
    best = next((arm for arm in arms if arm.chosen), arms[0] if arms else None)
    notes = artifact.manifest.notes
    return {
        "size_bytes": artifact.size_bytes,
        "gates": {gate.name: gate.state for gate in result.report.gates},
        "measured": {gate.name: gate.measured for gate in result.report.gates},
        "agreement": best.parity.top1_agreement if best and best.parity else None,
        "sqnr_db": best.parity.sqnr_db if best and best.parity else None,
        "metrics": {f"{arm.artifact}/{arm.runtime}": arm.metrics for arm in result.report.arms},
        "verdict": result.report.verdict.sentence,
        "rungs": notes.get("rungs"),
        "worst_layers": notes.get("worst_layers"),
        "goal_reached": notes.get("goal_reached"),
        "layers": [
            notes["computing_int8"] + notes.get("weights_in_groups", 0),
            notes["computing"] + notes.get("weights_in_groups", 0),
        ],
    }


def trained(given: Any) -> list[dict[str, Any]]:
    rows = []
    for name, recipe_name, options in TRAINED:
        recipe = lissom.Recipe.from_file(ROOT / "recipes" / f"{recipe_name}.yaml")
        found = quantized(
            recipe.model.source,
            recipe.data.source,
            given.runs / name.replace(" ", "-"),
            kwargs=recipe.model.kwargs,
            weights=str(WEIGHTS / f"{recipe_name}.safetensors"),
            **options,
        )
        rows.append({"name": name, "options": options, **found})
        print(name, found["measured"], flush=True)
    return rows


def untrained(given: Any) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(48, 3, 224, 224)).astype(np.float32)
    tokens = generator.integers(0, 30_000, (64, 64))
    data = {"image": given.runs / "images.npz", "tokens": given.runs / "tokens.npz"}
    np.savez(data["image"], pixel_values=images)
    np.savez(data["tokens"], input_ids=tokens)
    rows = []
    for name, (factory, kind, options) in UNTRAINED.items():
        reference = f"{Path(__file__).with_name('untrained_models.py')}:{factory}"
        runtimes = ["onnxruntime", "openvino", "torch"]
        found = quantized(
            reference, str(data[kind]), given.runs / name, num_samples=16, runtimes=runtimes, **options
        )
        rows.append({"name": name, "options": options, **found})
        print(name, found["measured"], found["worst_layers"], flush=True)
    return rows


def broken(given: Any) -> list[dict[str, Any]]:
    """The score of a model that was made hard to quantize: float32, plain int8, after the ladder."""
    rows = []
    for name, exported, data, factor in (separable(given), encoder(given)):
        folder = given.runs / f"broken-{name}"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.onnx"
        write_broken(exported, factor, path)
        found = quantized(path, data, folder / "run", min_agreement=0.995)
        rows.append({"name": name, "factor": factor, "ladder": found})
        print(name, found["measured"], flush=True)
    return rows


def separable(given: Any) -> tuple[str, Artifact, str, float]:
    """Depthwise convolutions, trained here in a minute."""
    folder = given.runs / "separable"
    model = f"{Path(__file__).with_name('broken_models.py')}:separable"
    lissom.train(model, "digits", out=folder / "train", epochs=20, learning_rate=0.05, runtimes=["torch"])
    lissom.export(Artifact.open(folder / "train" / "artifact"), "digits", out=folder / "export")
    return "separable", Artifact.open(next((folder / "export").glob("*-export-*"))), "digits", 60.0


def encoder(given: Any) -> tuple[str, Artifact, str, float]:
    """The vision transformer of recipes/glyphs-vit.yaml."""
    return "encoder", Artifact.open(next((given.runs / "vit-static").glob("*-export-*"))), "glyphs", 60.0


def together(given: Any) -> list[dict[str, Any]]:
    rows = []
    for seed in (0, 1, 2):
        arms = given.pruned / f"resnet20-{seed}" / "pruned"
        original = Artifact.open(next(arms.glob("*-trained-*")))
        pruned = Artifact.open(next(arms.glob("*-pruned-*")))
        out = given.runs / f"together-{seed}"
        quantized(pruned, "glyphs", out, runtimes=["onnxruntime", "openvino"])
        small = Artifact.open(next(out.glob("*-quantize-*")))
        config = BenchmarkConfig(runtimes=("torch", "onnxruntime", "openvino"))
        records = lissom.bench([original, small], config=config)
        before, after = (records[artifact.name]["runtimes"] for artifact in (original, small))
        scores = np.asarray(before["torch"]["scores"]["report"]).astype(bool)
        row: dict[str, Any] = {
            "seed": seed,
            "size_bytes": [original.size_bytes, small.size_bytes],
            "eager_ms": median_latency(before["torch"]["rounds_ms"])._asdict(),
            "runtimes": {},
        }
        for runtime, arm in after.items():
            found = np.asarray(arm["scores"]["report"]).astype(bool)
            row["runtimes"][runtime] = {
                "speedup": ratio(before["torch"]["rounds_ms"], arm["rounds_ms"])._asdict(),
                "drop": paired_drop(scores, found)._asdict(),
            }
        rows.append(row)
        print(row, flush=True)
    return rows


def cost(given: Any) -> list[dict[str, Any]]:
    """Both in processes of their own, in turns, three times each: seconds and peak memory."""
    exported = next((given.runs / "vit-b").glob("*-export-*"))
    rows = []
    for _ in range(3):
        for kind in ("library", "lissom"):
            command = [sys.executable, __file__, "--cost-of", kind, str(exported), str(given.runs)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"kind": kind, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    return rows


def cost_of(kind: str, exported: str, runs: str) -> None:
    """Quantize one file in this process, and say what it took."""
    from lissom.compress.quantizing.scheme import scheme_of
    from lissom.compress.quantizing.static import Plan, StaticQuantizer, prepared
    from lissom.models.data_sources import load_data
    from lissom.recipe import QuantizeConfig

    artifact = Artifact.open(exported)
    path = artifact.file("model.onnx")
    data = load_data(f"{runs}/images.npz")
    samples = {name: array[:16] for name, array in data.tensors("calibrate").items()}
    scheme = scheme_of(QuantizeConfig())
    started = time.perf_counter()
    if kind == "library":
        _library_call(path, samples, Path(runs) / "library.onnx", scheme.reduce_range)
    else:
        import onnx

        made = StaticQuantizer(prepared(path), samples, scheme).build(Plan("layers"))
        onnx.save(made, Path(runs) / "lissom.onnx")
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # getrusage would count the process that started this one
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "file_bytes": path.stat().st_size}))


def _library_call(path: Path, samples: dict[str, np.ndarray], target: Path, reduce_range: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = iter({k: v[i : i + 1] for k, v in samples.items()} for i in range(16))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(feeds, None)

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


PARTS: dict[str, Callable[[Any], list[dict[str, Any]]]] = {
    "trained": trained,
    "untrained": untrained,
    "broken": broken,
    "together": together,
    "cost": cost,
}


def write(runs: Path) -> None:
    """The figures of all parts that are there as JSON, and as tables."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    parts = {
        name: json.loads(path.read_text()) for name in PARTS if (path := runs / f"{name}.json").is_file()
    }
    vnni = "vnni" if any("vnni" in flag for flag in here["isa"]) else ""
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c {vnni}".lower()).strip("-")
    name = f"quantization_{hardware}_{day}"
    document = {"schema": "lissom.benchmark/1", "suite": "quantization", "created": day, "environment": here}
    (RESULTS / f"{name}.json").write_text(json.dumps(document | {"parts": parts}, indent=1) + "\n")
    lines = [
        "# Quantization",
        "",
        f"{here['cpu']} ({', '.join(here['isa'])}), {here['cores']} cores, {day}.",
        "",
    ]
    for part, rows in parts.items():
        lines += [f"## {part.capitalize()}", "", *TABLES[part](rows), ""]
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")


def evidence_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model | layers with fewer bits | agreement | SQNR, dB | accuracy | latency | tried | goal |",
        "|---|---:|---:|---:|---|---|---:|---|",
    ]
    for row in rows:
        sqnr = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        agreement = "" if row["agreement"] is None else f"{row['agreement']:.2%}"
        goal = {True: "reached", False: "not reached", None: ""}[row["goal_reached"]]
        lines.append(
            f"| {row['name']} | {row['layers'][0]} of {row['layers'][1]} | {agreement} | {sqnr} "
            f"| {row['measured']['accuracy']} {row['gates']['accuracy']} "
            f"| {row['measured']['not-slower']} {row['gates']['not-slower']} "
            f"| {len(row['rungs'] or ())} | {goal} |"
        )
    return lines


def broken_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| model | float32 | plain int8 | ladder | brought back | by |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        climbed = row["ladder"]["rungs"]
        first, last = climbed[0]["figures"], [trial for trial in climbed if trial["kept"]][-1]["figures"]
        lost, left = first["drop"], last["drop"]
        share = f"{1 - left / lost:.0%}" if lost > 0 else "nothing was lost"
        kept = [f"{t['rung']} {t['what']}".strip() for t in climbed[1:] if t["kept"]]
        lines.append(
            f"| {row['name']} x{row['factor']:g} | {first['score'] + lost:.2%} | {first['score']:.2%} "
            f"| {last['score']:.2%} | {share} | {'; '.join(kept)} |"
        )
    return [*lines, "", "Scores are of the select split, on which the ladder climbs."]


def together_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| seed | runtime | against torch eager | smaller | drop, points |", "|---:|---|---:|---:|---:|"]
    for row in rows:
        smaller = row["size_bytes"][0] / row["size_bytes"][1]
        for runtime, arm in row["runtimes"].items():
            speedup, drop = arm["speedup"], arm["drop"]
            lines.append(
                f"| {row['seed']} | {runtime} | {speedup['value']:.2f}x ({speedup['low']:.2f} to "
                f"{speedup['high']:.2f}) | {smaller:.1f}x | {100 * drop['value']:+.2f} "
                f"({100 * drop['low']:+.2f} to {100 * drop['high']:+.2f}) |"
            )
    return lines


def cost_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| | seconds, each run | peak memory, GB, each run |", "|---|---|---|"]
    for kind in ("library", "lissom"):
        own = [row for row in rows if row["kind"] == kind]
        seconds = ", ".join(f"{row['seconds']:.1f}" for row in own)
        memory = ", ".join(f"{row['peak_bytes'] / 1e9:.2f}" for row in own)
        lines.append(f"| {kind} | {seconds} | {memory} |")
    middle = {
        key: [
            float(np.median([row[key] for row in rows if row["kind"] == kind]))
            for kind in ("library", "lissom")
        ]
        for key in ("seconds", "peak_bytes")
    }
    shares = {key: after / before for key, (before, after) in middle.items()}
    told = f"Medians: {shares['seconds']:.2f} of the time, {shares['peak_bytes']:.2f} of the memory"
    return [*lines, "", f"{told}, on a file of {rows[0]['file_bytes'] / 1e6:.0f} MB."]


TABLES: dict[str, Callable[[list[dict[str, Any]]], list[str]]] = {
    "trained": evidence_table,
    "untrained": evidence_table,
    "broken": broken_table,
    "together": together_table,
    "cost": cost_table,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cost-of"]:
        cost_of(*sys.argv[2:])
    else:
        main()
