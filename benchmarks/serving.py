"""How much of a bare server lissom reaches with a small model, and its peers beside it.

    python benchmarks/serving.py [--seconds N] [--trials N] [--connections 16 64] [--peers DIR] [--only ...]

The model is a perceptron 64-256-10 on ONNX Runtime, one row a request. Every server is started anew in every
trial and asked by wrk on the same machine, in an order that turns:

    uvicorn    a raw ASGI application on bare uvicorn, binary tensors, no checks
    lissom     `lissom serve` with API keys: binary tensors, validated, with request ids and metrics
    beside     lissom and an `@api` of BentoML in one process, which is called all the while
    triton     Triton 2.51 from PyTriton's wheel, over its Python backend, binary tensors
    bentoml    BentoML's own `@api` with an array in JSON
    litserve   LitServe with an array in JSON

Triton and LitServe are installed from PyPI into DIR (default: a folder that is removed). wrk counts from the
sending of a request, so that its percentiles say how steady a server is, not what users wait. Writes
benchmarks/results/serving_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from servers import Request, environment_of, free_port, need_wrk, running, wrk

import lissom
from lissom.bench.environment import environment
from lissom.bench.timing import round_order
from lissom.runtime.machine import host
from lissom.serve.keys import add_key

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SERVERS = ("uvicorn", "lissom", "beside", "triton", "bentoml", "litserve")
PACKAGES = {
    "triton": ("nvidia-pytriton==0.7.0", "onnxruntime"),
    "litserve": ("litserve==0.2.19", "onnxruntime", "numpy"),
}
CALLS_BESIDE = 4
"""Connections that call BentoML's `@api` while lissom is measured beside it."""


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=4, help="of one run of wrk")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--peers", type=Path, default=None, help="folder of the peers' environments")
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=list(SERVERS))
    options = parser.parse_args()
    need_wrk()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        peers = (options.peers or folder / "peers").absolute()
        pythons = {
            name: environment_of(peers, name, *PACKAGES[name]) for name in PACKAGES if name in options.only
        }
        runs = measured(folder, small(folder), pythons, options)
    write({"environment": environment(), "seconds": options.seconds, "runs": runs})


def small(folder: Path) -> Path:
    """An artifact of the perceptron; it need not know anything."""
    found = lissom.export(
        "mlp",
        "digits",
        kwargs={"hidden": [256]},
        out=folder / "model",
        allow=("accuracy", "not-slower"),
        runtimes=("torch", "onnxruntime"),
        threads=1,
        overrides=("benchmark.num_rounds=4", "benchmark.energy_seconds=0"),
    )
    return Path(found.artifact.path)


def measured(
    folder: Path, model: Path, pythons: Mapping[str, Path], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row a server, number of connections and trial."""
    keys = folder / "keys"
    key = {"Authorization": f"Bearer {add_key(keys, 'wrk')}"}
    lists = json.dumps({"x": row().tolist()}).encode()
    json_kind = {"Content-Type": "application/json"}
    requests = {
        "uvicorn": binary({}),
        "lissom": binary(key),
        "beside": binary(key),
        "triton": binary({}),
        "bentoml": Request("/predict", lists, json_kind),
        "litserve": Request("/predict", lists, json_kind),
    }
    rows = []
    for trial in range(options.trials):
        for name in round_order(list(options.only), trial):
            with served(name, folder, model, keys, pythons) as url:
                beside = Request("/stock", lists, json_kind) if name == "beside" else None
                for connections in options.connections:
                    with called(beside, url, folder, options.seconds):
                        found = wrk(
                            requests[name], url, folder, seconds=options.seconds, connections=connections
                        )
                    rows.append({"server": name, "connections": connections, "trial": trial, **found})
                    print(rows[-1], file=sys.stderr)
    return rows


@contextlib.contextmanager
def called(request: Request | None, url: str, folder: Path, seconds: int) -> Iterator[None]:
    """Another wrk asks all the while."""
    if request is None:
        yield
        return
    place = folder / "beside"
    place.mkdir(exist_ok=True)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(
            wrk, request, url, place, seconds=seconds + 2, connections=CALLS_BESIDE, warm_up=1
        )
        yield
        print({"server": "@api beside", **asking.result()}, file=sys.stderr)


def row() -> np.ndarray:
    """One sample."""
    return np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)


def binary(headers: Mapping[str, str]) -> Request:
    """A request with one tensor behind the JSON, whose length is a multiple of four."""
    entry = {
        "name": "image",
        "datatype": "FP32",
        "shape": [1, 1, 8, 8],
        "parameters": {"binary_data_size": row().nbytes},
    }
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    head += b" " * (-len(head) % 4)
    length = {"Inference-Header-Content-Length": str(len(head))}
    return Request("/v2/models/export/infer", head + row().tobytes(), {**length, **headers})


@contextlib.contextmanager
def served(name: str, folder: Path, model: Path, keys: Path, pythons: Mapping[str, Path]) -> Iterator[str]:
    """A server that answers; gives its URL."""
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    peers, python = str(HERE / "serving_peers.py"), str(pythons.get(name, sys.executable))
    lissom_serve = ["lissom", "serve", str(model), "--port", port, "--threads", "1", "--keys", str(keys)]
    commands = {
        "uvicorn": ["-m", "uvicorn", "serving_peers:app", "--port", port, "--no-access-log"],
        "bentoml": ["-m", "bentoml", "serve", "serving_peers:Stock", "--port", port],
        "beside": ["-m", "bentoml", "serve", "serving_peers:Beside", "--port", port],
        "lissom": ["-m", *lissom_serve],
        "triton": [peers, "triton", port, str(folder / "triton")],
        "litserve": [peers, "litserve", port],
    }
    variables = {
        "PEER": name,
        "PEER_MODEL": str(model / "payload" / "model.onnx"),
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    if name == "beside":
        variables |= {
            "LISSOM_ARTIFACTS": str(model),
            "LISSOM_KEYS": str(keys),
            "LISSOM_THREADS": "1",
            "OTEL_SDK_DISABLED": "true",
        }
    log, health = folder / f"{name}.log", f"{url}/v2/health/ready"
    with running([python, *commands[name]], health, log, variables=variables, folder=HERE):
        yield url


def write(found: dict[str, Any]) -> None:
    """The raw record, and a table of medians."""
    date = datetime.now(UTC).date().isoformat()
    stem = RESULTS / f"serving_{host().lower()}_{date}"
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    machine = found["environment"]
    lines = [
        "# A small model behind HTTP",
        "",
        f"{machine['cpu']} ({', '.join(machine['isa'])}), {machine['cores']} cores shared with wrk, {date}. "
        "A perceptron 64-256-10 on ONNX Runtime, one row a request; medians over the trials, then least and "
        "most. uvicorn, lissom and Triton are asked in binary, BentoML's `@api` and LitServe in JSON, as "
        "their documentation shows; Triton 2.51 runs the model in its Python backend, since its ONNX backend "
        "is not in the wheel, and uses both cores; BentoML and LitServe run with their defaults. uvicorn is "
        "a raw ASGI application without checks or batches. `beside` is lissom while an `@api` in the same "
        "process is called over four more connections.",
        "",
        "| server | connections | requests a second | of uvicorn in its trial | p50, ms | p99, ms "
        "| p99 / p50 | failed |",
        "|---|---|---|---|---|---|---|---|",
        *table(found["runs"]),
    ]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a server and number of connections."""
    bare = {(run["connections"], run["trial"]): run for run in runs if run["server"] == "uvicorn"}
    lines = []
    for connections in sorted({run["connections"] for run in runs}):
        for server in SERVERS:
            own = [run for run in runs if (run["server"], run["connections"]) == (server, connections)]
            if not own:
                continue
            rates = [run["requests_per_second"] for run in own]
            shares = [
                rate / bare[connections, run["trial"]]["requests_per_second"]
                for rate, run in zip(rates, own, strict=True)
                if bare
            ]
            steady = [run["p99_ms"] / run["p50_ms"] for run in own]
            lines.append(
                f"| {server} | {connections} | {spread(rates, '{:,.0f}')} | {spread(shares, '{:.3f}')} | "
                f"{spread([run['p50_ms'] for run in own], '{:.2f}')} | "
                f"{spread([run['p99_ms'] for run in own], '{:.2f}')} | {spread(steady, '{:.1f}')} | "
                f"{sum(run['failed'] for run in own)} |"
            )
    return lines


def spread(values: Sequence[float], form: str) -> str:
    """Median, least and most."""
    if not values:
        return "-"
    middle, least, most = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({least} to {most})"


if __name__ == "__main__":
    main()
