"""What the proofs of a server cost at its start, and its checks in a small request.

    python benchmarks/serving_checks.py [--rounds 15]

    start      a model opened as `lissom serve` opens it, with and without the proof that samples may share a
               call and the figures for the checks; wanted: at most 0.2 s and ten calls of the model more
    request    one sample, to /v2/models/M/infer in binary and to /predict, through the application without a
               socket, in seconds of the processor; with all checks, without `--range-check`, with
               `--allow-nonfinite`, and without both

Three models on one thread: an MLP of a table with 13 columns, the residual network of recipes/digits.yaml,
and MobileNetV2 on pictures of 224 x 224. The arms take turns in every round, the order changing from round to
round; differences are paired by round. Writes benchmarks/results/serving_checks_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.unit.serve.asgi import send_request  # noqa: E402

from lissom.artifact import Artifact  # noqa: E402
from lissom.bench.environment import environment  # noqa: E402
from lissom.bench.timing import round_order  # noqa: E402
from lissom.logs import NoProgress  # noqa: E402
from lissom.pipeline import load_data, make_artifacts  # noqa: E402
from lissom.recipe import Recipe  # noqa: E402
from lissom.runtime.layout import assume_batching  # noqa: E402
from lissom.serve import repository  # noqa: E402
from lissom.serve.app import Application  # noqa: E402
from lissom.serve.repository import Repository, ServedModel  # noqa: E402

RESULTS = Path(__file__).parent / "results"
ENGINES = ("onnxruntime", "openvino")
TARGET_SECONDS, TARGET_CALLS = 0.2, 10
BLOCK_SECONDS = 0.1
ARMS: dict[str, dict[str, Any]] = {
    "all checks": {},
    "without range": {"range_check": "off"},
    "without finite": {"allow_nonfinite": True},
    "without both": {"range_check": "off", "allow_nonfinite": True},
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "table MLP": ("mlp", {"in_features": 13, "hidden": [64, 64], "num_classes": 3}),
    "digits CNN": ("resnet", {"widths": [64, 128, 256], "blocks": [1, 1, 1]}),
    "MobileNetV2": (f"{Path(__file__).parent / 'untrained_models.py'}:mobilenet_v2", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    found: dict[str, Any] = {}
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch:
        for name in MODELS:
            artifact = made(name, Path(scratch, name.replace(" ", "-")))
            found[name] = {
                "start": {engine: starts(artifact, engine, rounds) for engine in ENGINES},
                "request": asyncio.run(requests(artifact, rounds)),
            }
            print(name, json.dumps(found[name])[:1000], file=sys.stderr, flush=True)
    write(found, [load, os.getloadavg()])


def made(name: str, folder: Path) -> Artifact:
    """A model with random weights as an ONNX artifact, calibrated with the data."""
    folder.mkdir()
    random, data = np.random.default_rng(0), "digits"
    shape = {"table MLP": (200, 13), "MobileNetV2": (24, 3, 224, 224)}.get(name)
    if shape is not None:
        np.savez(folder / "data.npz", samples=random.normal(size=shape).astype(np.float32))
        data = str(folder / "data.npz")
    source, kwargs = MODELS[name]
    recipe = Recipe.from_document(
        {
            "name": "model",
            "data": {"source": data},
            "model": {"source": source, "kwargs": kwargs},
            "stages": [{"stage": "load"}, {"stage": "export"}],
        }
    )
    artifacts, _ = make_artifacts(recipe, load_data(recipe), folder, progress=NoProgress())
    return artifacts[-1]


def starts(artifact: Artifact, engine: str, rounds: int) -> dict[str, Any]:
    """Seconds to open a model with and without what is proven, and of one call; the first is not counted."""
    arms: dict[str, Callable[[], ServedModel]] = {
        "proven": lambda: ServedModel(artifact, runtime=engine, threads=1),
        "bare": lambda: bare(artifact, engine),
    }
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    calls: list[float] = []
    for index in range(rounds + 1):
        for arm in round_order(list(arms), index):
            gc.collect()
            start = time.perf_counter()
            model = arms[arm]()
            spent = time.perf_counter() - start
            if index:
                seconds[arm].append(spent)
                calls.append(repository._seconds_of_call(model.runtime))
            model.close()
    return {"seconds": seconds, "call": calls}


def bare(artifact: Artifact, engine: str) -> ServedModel:
    """A model opened without the proof, and without a look at ranges and at which inputs must be finite."""
    unproven: dict[str, Any] = {
        "prove_on": lambda runtime, most: assume_batching(runtime.signature),
        "InputCheck": lambda artifact: SimpleNamespace(warnings=lambda raw: []),
        "checked_inputs": lambda manifest, allow_nonfinite: (),
    }
    before = {name: getattr(repository, name) for name in unproven}
    try:
        for name, function in unproven.items():
            setattr(repository, name, function)
        return ServedModel(artifact, runtime=engine, threads=1)
    finally:
        for name, function in before.items():
            setattr(repository, name, function)


async def requests(artifact: Artifact, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Processor seconds of a request by route and arm, one figure a round; the first round is left out."""
    opened = {
        arm: Repository.open([artifact.path], runtime="onnxruntime", threads=1, **options)
        for arm, options in ARMS.items()
    }
    sample, kinds = sample_of(artifact), {"infer": infer_body, "predict": predict_body}
    found: dict[str, dict[str, list[float]]] = {}
    for kind, body_of in kinds.items():
        path, body, headers = body_of(artifact, sample)
        apps = {arm: Application(models) for arm, models in opened.items()}

        async def block(app: Application, number: int, path=path, body=body, headers=headers) -> float:
            start = time.process_time()
            for _ in range(number):
                response = await send_request(app, "POST", path, body, headers=headers)
            assert response.status == 200, response.body
            return (time.process_time() - start) / number

        number = max(5, int(BLOCK_SECONDS / await block(apps["all checks"], 10)))
        times: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for index in range(rounds + 1):
            for arm in round_order(list(ARMS), index):
                spent = await block(apps[arm], number)
                if index:
                    times[arm].append(spent)
        found[kind] = times
    for models in opened.values():
        models.close()
    return found


def sample_of(artifact: Artifact) -> np.ndarray:
    """One sample like those of the calibration."""
    (spec,) = artifact.manifest.signature.inputs
    (known,) = artifact.manifest.input_ranges
    shape = (1, *spec.shape[1:])
    sample = np.random.default_rng(1).uniform(known.mean, known.mean + known.std, shape)
    return sample.astype(spec.dtype)


def infer_body(artifact: Artifact, sample: np.ndarray) -> tuple[str, bytes, dict[str, str]]:
    (spec,) = artifact.manifest.signature.inputs
    entry = {"name": spec.name, "datatype": "FP32", "shape": list(sample.shape)}
    head = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": sample.nbytes}}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    return f"/v2/models/{artifact.manifest.recipe}/infer", head + sample.tobytes(), headers


def predict_body(artifact: Artifact, sample: np.ndarray) -> tuple[str, bytes, dict[str, str]]:
    (spec,) = artifact.manifest.signature.inputs
    return "/predict", json.dumps({"inputs": {spec.name: sample.tolist()}}).encode(), {}


def write(found: dict[str, Any], loads: list[tuple[float, ...]]) -> None:
    """Every figure as JSON, and what came of them as tables."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    document = {"schema": "lissom.benchmark/1", "suite": "serving-checks", "created": day}
    document |= {"environment": here, "loads": loads, "models": found}
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c".lower()).strip("-")
    name = f"serving_checks_{hardware}_{day}"
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text("\n".join(lines_of(found, here, loads, day)), encoding="utf-8")


def lines_of(
    found: dict[str, Any], here: dict[str, Any], loads: list[tuple[float, ...]], day: str
) -> list[str]:
    """The page."""
    return [
        "# What the proofs and checks of a server cost",
        "",
        f"{here['cpu']}, {here['cores']} cores, one thread a model, {day}; load of the machine "
        f"{loads[0][0]:.1f} before and {loads[1][0]:.1f} after. Medians of the rounds, then the middle half.",
        "",
        f"Start: a model opened with its proofs against without, paired. Wanted: at most {TARGET_SECONDS} s "
        f"and {TARGET_CALLS} calls of one sample more.",
        "",
        "| model | engine | a call, ms | start without, ms | added, ms | allowed, ms | |",
        "|---|---|---:|---:|---:|---:|---|",
        *(
            start_line(name, engine, one)
            for name, parts in found.items()
            for engine, one in parts["start"].items()
        ),
        "",
        "Requests of one sample on ONNX Runtime, through the application without a socket, in time of the "
        "processor. Added against none of the checks, paired:",
        "",
        "| model | route | without checks, us | finite, us | range, us | both, us | both |",
        "|---|---|---:|---:|---:|---:|---:|",
        *(
            request_line(name, route, times)
            for name, parts in found.items()
            for route, times in parts["request"].items()
        ),
        "",
    ]


def start_line(name: str, engine: str, one: dict[str, Any]) -> str:
    bare, proven = (np.array(one["seconds"][arm]) for arm in ("bare", "proven"))
    call = float(np.median(one["call"]))
    allowed = TARGET_SECONDS + TARGET_CALLS * call
    kept = "within" if np.median(proven - bare) <= allowed else "**over**"
    added = spread((proven - bare) * 1e3, 0)
    return (
        f"| {name} | {engine} | {call * 1e3:.2f} | {spread(bare * 1e3, 0)} | {added} "
        f"| {allowed * 1e3:.0f} | {kept} |"
    )


def request_line(name: str, route: str, times: dict[str, list[float]]) -> str:
    arms = {arm: np.array(values) * 1e6 for arm, values in times.items()}
    none = arms["without both"]
    share = np.median(arms["all checks"] - none) / np.median(none)
    added = (arms[arm] - none for arm in ("without range", "without finite", "all checks"))
    figures = " | ".join([spread(none, 0), *(spread(one, 1) for one in added)])
    return f"| {name} | {route} | {figures} | {share:+.1%} |"


def spread(values: np.ndarray, digits: int) -> str:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
