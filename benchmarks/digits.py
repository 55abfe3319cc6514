"""The whole chain on the digits recipe: how long it takes, and what it gains.

    python benchmarks/digits.py [--repeats 3]

Runs `lissom run recipes/digits.yaml` from nothing (no run folder, no compile cache), then again with
everything on disk, and times `lissom --help` and `lissom check`. Writes
benchmarks/results/digits_<hardware>_<date>.{json,md}; every figure there is one that was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECIPE = ROOT / "recipes" / "digits.yaml"

TARGETS = {
    "cold run": ("at most 90 s", lambda value: value <= 90),
    "cached run": ("at most 5 s", lambda value: value <= 5),
    "lissom --help": ("at most 0.3 s", lambda value: value <= 0.3),
    "lissom check": ("at most 0.6 s", lambda value: value <= 0.6),
    "fewer bytes": ("at least 4x", lambda value: value >= 4),
    "latency against torch eager fp32": ("at least 2x", lambda value: value >= 2),
    "accuracy drop": ("at most 1.0 point", lambda value: value <= 0.01),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="cold runs; the other commands run 10 times")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / f"run-{index}" for index in range(repeats)]
        cold = [timed_run(out) for out in runs]
        cached = [timed_run(runs[0]) for _ in range(5)]
        reports = [json.loads((out / "report.json").read_bytes()) for out in runs]
    seconds = {
        "cold run": cold,
        "cached run": cached,
        "lissom --help": [timed("--help") for _ in range(10)],
        "lissom check": [timed("check", str(RECIPE)) for _ in range(10)],
    }
    write(document(seconds, reports))


def timed_run(out: Path) -> float:
    """A run with a compile cache of its own, which is empty the first time."""
    return timed("run", str(RECIPE), "--out", str(out), TORCHINDUCTOR_CACHE_DIR=f"{out}-cache")


def timed(*words: str, **environment: str) -> float:
    """Wall time of one command, seconds."""
    lissom = shutil.which("lissom") or str(Path(sys.executable).parent / "lissom")
    started = time.perf_counter()
    environment = {**os.environ, **environment}
    process = subprocess.run([lissom, *words], env=environment, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{words} ended with {process.returncode}: {process.stderr[-2000:]}")
    return elapsed


def document(seconds: dict[str, list[float]], reports: list[dict[str, Any]]) -> dict[str, Any]:
    report = reports[0]
    chosen = next(arm for arm in report["arms"] if arm["chosen"])
    measured = {name: statistics.median(values) for name, values in seconds.items()}
    measured["fewer bytes"] = report["verdict"]["size_ratio"]
    measured["latency against torch eager fp32"] = report["verdict"]["speedup_eager"]["value"]
    measured["accuracy drop"] = chosen["accuracy"]["drop"]["value"]
    return {
        "schema": "lissom.benchmark/1",
        "suite": "digits",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": report["environment"],
        "figures": {
            name: {"target": target, "measured": measured[name], "met": met(measured[name])}
            for name, (target, met) in TARGETS.items()
        },
        "seconds": seconds,
        "verdicts": [report["verdict"] for report in reports],
        "gates": report["gates"],
        "waterfall": report["waterfall"],
        "arms": [
            {key: arm[key] for key in ("artifact", "runtime", "accuracy", "chosen", "precision_executed")}
            | {"median_ms": arm["latency"] and arm["latency"]["median_ms"]}
            for arm in report["arms"]
        ],
    }


def write(result: dict[str, Any]) -> None:
    machine = result["environment"]
    hardware = f"{machine['cpu']}-{machine['cores']}c".lower().replace(" ", "-")
    path = RESULTS / f"digits_{hardware}_{result['created'][:10]}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(result))
    print(f"written {path} and {path.with_suffix('.md').name}")


def markdown(result: dict[str, Any]) -> str:
    machine = result["environment"]
    lines = ["# digits: the whole chain", "", f"Measured {result['created']} on {machine['cpu']}, "]
    lines[-1] += f"{machine['cores']} cores, {', '.join(machine['isa'])}; Python {machine['python']}, "
    lines[-1] += ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + "."
    lines += ["", "| figure | asked | measured | range | met |", "|---|---|---|---|---|"]
    for name, figure in result["figures"].items():
        measured = shown(name, figure["measured"], result)
        lines.append(f"| {name} | {figure['target']} | {measured} | {spread(name, result)} | ")
        lines[-1] += f"{'yes' if figure['met'] else 'NO'} |"
    lines += ["", "| stage | runtime | size, bytes | latency, ms | accuracy |", "|---|---|---|---|---|"]
    for step in result["waterfall"]:
        lines.append(f"| {step['stage']} | {step['runtime']} | {step['size_bytes']:,} | ")
        lines[-1] += f"{step['latency_ms']:.4f} | {step['accuracy']:.2%} |"
    lines += ["", "| artifact | runtime | median ms | 95 % interval | accuracy | drop, points (95 %) |"]
    lines += ["|---|---|---|---|---|---|"]
    for arm in result["arms"]:
        latency, accuracy = arm["median_ms"], arm["accuracy"]
        drop = accuracy["drop"]
        lines.append(f"| {arm['artifact']}{' (chosen)' if arm['chosen'] else ''} | {arm['runtime']} | ")
        lines[-1] += f"{latency['value']:.4f} | {latency['low']:.4f} to {latency['high']:.4f} | "
        lines[-1] += f"{accuracy['report']:.2%} | {drop['value'] * 100:.2f} ({drop['low'] * 100:.2f} to "
        lines[-1] += f"{drop['high'] * 100:.2f}) |"
    verdicts = result["verdicts"]
    lines += ["", f"Verdicts of the {len(verdicts)} cold runs:", ""]
    lines += [f"- {verdict['sentence']}" for verdict in verdicts]
    return "\n".join(lines) + "\n"


def shown(name: str, value: float, result: dict[str, Any]) -> str:
    if name == "accuracy drop":
        return f"{value * 100:.2f} points"
    return f"{value:.2f} s" if name in result["seconds"] else f"{value:.1f}x"


def spread(name: str, result: dict[str, Any]) -> str:
    if name in result["seconds"]:
        values = result["seconds"][name]
        return f"{min(values):.2f} to {max(values):.2f} s, n = {len(values)}"
    key = {"fewer bytes": "size_ratio", "latency against torch eager fp32": "speedup_eager"}.get(name)
    if key is None:
        drop = next(arm["accuracy"]["drop"] for arm in result["arms"] if arm["chosen"])
        return f"95 %: {drop['low'] * 100:.2f} to {drop['high'] * 100:.2f} points"
    figures = [verdict[key] for verdict in result["verdicts"]]
    values = [figure if isinstance(figure, float) else figure["value"] for figure in figures]
    return f"{min(values):.1f}x to {max(values):.1f}x, n = {len(values)}"


if __name__ == "__main__":
    main()
