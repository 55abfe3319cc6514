"""What lissom's door to the engines costs, and whether it picks the fastest engine.

    python benchmarks/runtimes.py [--only door opening selection] [--models NAME...] [--runs DIR]

    door       a call through `Runtime.infer` against the bare session with the same options, call by call
    opening    `Artifact.open` and `open_runtime` against the engine's own load and one sha256 pass
    selection  the runtime that `lissom bench` would ship, ten times, against a long measurement

Models are made once and kept in --runs. Writes benchmarks/results/runtimes_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import lissom
from lissom.artifact import Artifact, sha256_file
from lissom.bench.environment import environment
from lissom.bench.selection import ArmKey, choose
from lissom.bench.statistics import median_latency
from lissom.bench.timing import time_interleaved
from lissom.logs import NoProgress
from lissom.recipe import default_threads
from lissom.registry import runtimes_for
from lissom.runtime.availability import usable_runtimes
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.machine import has_vnni, host
from lissom.runtime.probe import load_probe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ALLOWED = ("accuracy", "not-slower", "parity", "precision")
"""A gate that fails is a result here, not the end."""

NUM_SELECTIONS = 10
TIED = 1.05
MODELS: dict[str, tuple[str, str, str]] = {
    "resnet-50": ("untrained_models.py:resnet_50", "image", "static"),
    "mobilenet-v2": ("untrained_models.py:mobilenet_v2", "image", "static"),
    "vit-tiny": ("untrained_models.py:vit_tiny", "image", "static"),
    "bert-tiny": ("untrained_models.py:bert_tiny", "tokens", "static"),
    "lstm": ("lstm", "topics", "dynamic"),
}
"""Factory, data and mode of quantizing."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "runtimes", help="where models are kept")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    for part in given.only:
        for name in given.models:
            path = given.runs / f"{part}-{name}.json"
            path.write_text(json.dumps(PARTS[part](artifacts_of(name, given.runs)), indent=1) + "\n")
            print(part, name, path.read_text()[:600], flush=True)
            write(given.runs)


def artifacts_of(name: str, runs: Path) -> dict[str, Artifact]:
    """The model in torch, in ONNX and with 8 bits."""
    folder = runs / name
    if not (folder / "report.json").exists():
        factory, data, mode = MODELS[name]
        reference = str(Path(__file__).with_name(factory)) if ".py" in factory else factory
        source = str(samples(data, runs)) if data in ("image", "tokens") else data
        lissom.quantize(
            reference,
            source,
            out=folder,
            mode=mode,
            **({"skip_slow": False, "ladder": False} if mode == "static" else {}),
            runtimes=["torch", "onnxruntime", "openvino"],
            allow=ALLOWED,
        )
    stages = {"torch": "load", "onnx": "export", "int8": "quantize"}
    return {form: Artifact.open(next(folder.glob(f"*-{stage}-*"))) for form, stage in stages.items()}


def samples(kind: str, runs: Path) -> Path:
    path = runs / f"{kind}.npz"
    generator = np.random.default_rng(0)
    if kind == "image":
        np.savez(path, pixel_values=generator.normal(size=(32, 3, 224, 224)).astype(np.float32))
    else:
        np.savez(path, input_ids=generator.integers(0, 30_000, (64, 64)))
    return path


def one_sample(artifact: Artifact) -> dict[str, np.ndarray]:
    return {name: array[:1].copy() for name, array in load_probe(artifact)[0].items()}


def door(forms: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Seconds of a call with and without us, alternating; the difference of the medians, and its interval."""
    rows = []
    for form in ("onnx", "int8"):
        inputs = one_sample(forms[form])
        for name in ("onnxruntime", "openvino"):
            with open_runtime(forms[form], name) as runtime:
                bare = _BARE[name](runtime, inputs)
                pairs = np.array(list(_alternating(bare, lambda: runtime.infer(inputs))))  # noqa: B023
            rows.append({"form": form, "runtime": name, **_overhead(pairs * 1e6)})
    return rows


def _alternating(bare: Callable[[], Any], ours: Callable[[], Any]) -> Any:
    """Pairs of seconds, about two seconds of calls, at least 100 and at most 20 000."""
    for _ in range(20):
        bare()
        started = time.perf_counter()
        ours()
        seconds = time.perf_counter() - started
    for index in range(int(np.clip(1.0 / seconds, 100, 20_000))):
        first, second = (bare, ours) if index % 2 else (ours, bare)
        times = []
        for call in (first, second):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        yield times if index % 2 else times[::-1]


def _overhead(pairs: np.ndarray) -> dict[str, Any]:
    """The median difference of neighbours: what the machine does to one call, it does to the next."""
    differences = np.sort(pairs[:, 1] - pairs[:, 0])
    half = 1.96 * np.sqrt(len(differences)) / 2
    middle = len(differences) / 2
    return {
        "num_calls": len(pairs),
        "bare_us": float(np.median(pairs[:, 0])),
        "ours_us": float(np.median(pairs[:, 1])),
        "overhead_us": float(np.median(differences)),
        "interval_us": [
            float(differences[int(max(0, middle - half))]),
            float(differences[int(min(len(differences) - 1, middle + half))]),
        ],
    }


def _bare_onnxruntime(runtime: Any, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    return lambda: runtime.session.run(None, inputs)


def _bare_openvino(runtime: Any, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    request = runtime.compiled.create_infer_request()

    def call() -> Any:
        request.infer(inputs, share_inputs=True)
        return request.get_output_tensor(0).data.copy()

    return call


_BARE: dict[str, Callable[..., Callable[[], Any]]] = {
    "onnxruntime": _bare_onnxruntime,
    "openvino": _bare_openvino,
}


def opening(forms: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Seconds to open an artifact, and of what cannot be saved: the engine's own load and one hash pass."""
    rows = []
    for form in ("onnx", "int8"):
        artifact = forms[form]
        for name in ("onnxruntime", "openvino"):
            ours, load, hashing = [], [], []
            for _ in range(12):
                ours.append(_seconds(lambda: open_runtime(Artifact.open(artifact.path), name).close()))  # noqa: B023
                load.append(_seconds(lambda: _LOADS[name](artifact)))  # noqa: B023
                hashing.append(_seconds(lambda: _hash_all(artifact)))  # noqa: B023
            middle = [statistics.median(values) * 1e3 for values in (ours, load, hashing)]
            figures = dict(zip(("ours_ms", "load_ms", "sha256_ms"), middle, strict=True))
            over = [1e3 * (a - b - c) for a, b, c in zip(ours, load, hashing, strict=True)]
            rows.append({"form": form, "runtime": name, **figures, "over_ms": statistics.median(over)})
    return rows


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _hash_all(artifact: Artifact) -> None:
    for entry in artifact.manifest.files:
        sha256_file(artifact.path / entry.path)


def _load_onnxruntime(artifact: Artifact) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = default_threads()
    path = str(artifact.file("model.onnx"))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _load_openvino(artifact: Artifact) -> Any:
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    model = str(artifact.file("model.onnx"))
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


_LOADS: dict[str, Callable[[Artifact], Any]] = {
    "onnxruntime": _load_onnxruntime,
    "openvino": _load_openvino,
}


def selection(forms: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """For float32 and for 8 bits: what ten selections pick, and how far it is from the truly fastest."""
    wanted = {"float32": [forms["torch"], forms["onnx"]], "int8": [forms["int8"]]}
    truth = _long_rounds(forms)
    picks: dict[str, list[str]] = {precision: [] for precision in wanted}
    seconds = []
    for _ in range(NUM_SELECTIONS):
        for artifact in forms.values():
            _forget(artifact)
        started = time.perf_counter()
        records = lissom.bench(list(forms.values()))
        seconds.append(time.perf_counter() - started)
        for precision, artifacts in wanted.items():
            picks[precision].append("/".join(_picked(artifacts, records)))
    for arm, rounds in _long_rounds(forms).items():
        truth[arm] += rounds
    found = []
    for precision, artifacts in wanted.items():
        judged = _judged(picks[precision], truth, [artifact.name for artifact in artifacts])
        found.append({"precision": precision, "seconds": seconds, **judged})
    return found


def _forget(artifact: Artifact) -> None:
    """Evidence that is there would be found instead of measured."""
    for path in (artifact.path / "evidence").glob("*.json"):
        path.unlink()


def _picked(artifacts: list[Artifact], records: Mapping[str, Any]) -> ArmKey:
    rounds = {
        ArmKey(artifact.name, runtime): figures["rounds_ms"]
        for artifact in artifacts
        for runtime, figures in records[artifact.name]["runtimes"].items()
        if figures.get("rounds_ms")
    }
    found = choose(rounds, {artifact.name: artifact.size_bytes for artifact in artifacts})
    assert found is not None
    return found


def _long_rounds(forms: Mapping[str, Artifact]) -> dict[str, list[list[float]]]:
    """Every arm for 40 rounds of 40 ms."""
    with ExitStack() as stack:
        arms: dict[str, Runtime] = {
            f"{artifact.name}/{name}": stack.enter_context(open_runtime(artifact, name))
            for artifact in forms.values()
            for name in runtimes_for(artifact.manifest.format)
            if name in usable_runtimes(None)
        }
        inputs = one_sample(forms["onnx"])
        return time_interleaved(
            arms, inputs, num_rounds=40, round_ms=40.0, num_warmup=20, progress=NoProgress()
        )


def _judged(picks: list[str], truth: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    own = {arm: median_latency(rounds).value for arm, rounds in truth.items() if arm.split("/")[0] in names}
    best = min(own, key=lambda arm: own[arm])
    behind = [own[pick] / own[best] for pick in picks]
    return {
        "latency_ms": own,
        "fastest": best,
        "picks": picks,
        "behind": behind,
        "within": sum(value <= TIED for value in behind),
    }


PARTS: dict[str, Callable[[Mapping[str, Artifact]], list[dict[str, Any]]]] = {
    "door": door,
    "opening": opening,
    "selection": selection,
}


def write(runs: Path) -> None:
    """The result as JSON and as Markdown."""
    rows = {
        part: {
            name: json.loads(path.read_text())
            for name in MODELS
            if (path := runs / f"{part}-{name}.json").exists()
        }
        for part in PARTS
    }
    state = environment()
    today = datetime.now(UTC).date().isoformat()
    kind = "-vnni" if has_vnni() else ""
    path = RESULTS / f"runtimes_{host().lower()}{kind}_{today}"
    path.with_suffix(".json").write_text(json.dumps({"environment": state, **rows}, indent=1) + "\n")
    lines = [
        "# Runtimes",
        "",
        f"{state['cpu']} ({', '.join(state['isa'])}), {state['cores']} cores, {today}.",
    ]
    for part, found in rows.items():
        if found:
            lines += ["", f"## {part.capitalize()}", "", *TABLES[part](found)]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def door_table(rows: Mapping[str, Any]) -> list[str]:
    return [
        "Microseconds of one call, batch 1, alternating with the bare session; median of the differences.",
        "",
        "| model | form | runtime | bare | through lissom | added (95 %) |",
        "|---|---|---|---:|---:|---:|",
        *_lines(
            rows,
            lambda row: (
                f"{row['bare_us']:.0f}",
                f"{row['ours_us']:.0f}",
                f"{row['overhead_us']:.1f} ({row['interval_us'][0]:.1f} to {row['interval_us'][1]:.1f})",
            ),
        ),
    ]


def opening_table(rows: Mapping[str, Any]) -> list[str]:
    return [
        "Milliseconds, medians of twelve in turn; `over` is what is left of ours without load and hash.",
        "",
        "| model | form | runtime | lissom | engine's load | sha256 | over |",
        "|---|---|---|---:|---:|---:|---:|",
        *_lines(
            rows,
            lambda row: (
                *(f"{row[name]:.0f}" for name in ("ours_ms", "load_ms", "sha256_ms")),
                f"{row['over_ms']:+.0f}",
            ),
        ),
    ]


def _lines(rows: Mapping[str, Any], figures: Callable[[Mapping[str, Any]], tuple[str, ...]]) -> list[str]:
    return [
        f"| {' | '.join((name, row['form'], row['runtime'], *figures(row)))} |"
        for name, found in rows.items()
        for row in found
    ]


def selection_table(rows: Mapping[str, Any]) -> list[str]:
    lines = [
        "Ten selections of `lissom bench` with its defaults; `within` counts picks that are the truly",
        "fastest or at most 5 % behind it. Times are of one selection of all arms of the model.",
        "",
        "| model | precision | truly fastest | picks | within 5 % | worst | seconds, median (most) |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for name, found in rows.items():
        for row in found:
            picks = ", ".join(f"{row['picks'].count(p)}x {p}" for p in dict.fromkeys(row["picks"]))
            fastest = f"{row['fastest']} {row['latency_ms'][row['fastest']]:.2f} ms"
            took = f"{statistics.median(row['seconds']):.0f} ({max(row['seconds']):.0f})"
            lines.append(
                f"| {name} | {row['precision']} | {fastest} | {picks} "
                f"| {row['within']} of {len(row['picks'])} | {max(row['behind']):.3f} | {took} |"
            )
    return lines


TABLES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "door": door_table,
    "opening": opening_table,
    "selection": selection_table,
}


if __name__ == "__main__":
    main()
