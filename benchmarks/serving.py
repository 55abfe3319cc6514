"""How much of a bare server lissom reaches with a small model, and stock BentoML beside it.

    python benchmarks/serving.py [--seconds N] [--trials N] [--connections 16 64]

The model is a perceptron 64-256-10 on ONNX Runtime, one row a request. Every server is started anew in every
trial and asked by wrk on the same machine, in an order that turns:

    uvicorn   a raw ASGI application on bare uvicorn, binary tensors, no checks
    lissom    `lissom serve` with API keys: binary tensors, validated, with request ids
    bentoml   BentoML's own `@api` with an array in JSON

wrk counts from the sending of a request, so that its percentiles say how steady a server is, not what users
wait. Writes benchmarks/results/serving_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lissom
from lissom.bench.environment import environment
from lissom.bench.timing import round_order
from lissom.recipe import BenchmarkConfig
from lissom.runtime.machine import host
from lissom.serve.keys import add_key

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PORT = 8123
SERVERS = ("uvicorn", "lissom", "bentoml")
_LATENCY = re.compile(r"^\s+(50|75|90|99)%\s+([\d.]+)(us|ms|s)", re.MULTILINE)
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Request(NamedTuple):
    """What wrk sends."""

    path: str
    body: bytes
    headers: Mapping[str, str]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=4, help="of one run of wrk")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = small(folder)
        runs = measured(folder, model, options)
    write({"environment": environment(), "seconds": options.seconds, "runs": runs})


def small(folder: Path) -> Path:
    """An artifact of the perceptron; it need not know anything."""
    benchmark = BenchmarkConfig(runtimes=("torch", "onnxruntime"), num_rounds=4, energy_seconds=0, threads=1)
    found = lissom.export(
        "mlp",
        "digits",
        kwargs={"hidden": [256]},
        out=folder / "model",
        allow=("accuracy", "not-slower"),
        benchmark=benchmark,
    )
    return Path(found.artifact.path)


def measured(folder: Path, model: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a server, number of connections and trial."""
    keys = folder / "keys"
    requests = {
        "uvicorn": binary({}),
        "lissom": binary({"Authorization": f"Bearer {add_key(keys, 'wrk')}"}),
        "bentoml": Request(
            "/predict", json.dumps({"x": row().tolist()}).encode(), {"Content-Type": "application/json"}
        ),
    }
    rows = []
    for trial in range(options.trials):
        for name in round_order(list(SERVERS), trial):
            with running(name, folder, model, keys):
                for connections in options.connections:
                    found = asked(requests[name], folder, options.seconds, connections)
                    rows.append({"server": name, "connections": connections, "trial": trial, **found})
                    print(rows[-1], file=sys.stderr)
    return rows


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
def running(name: str, folder: Path, model: Path, keys: Path) -> Iterator[None]:
    """A server that answers."""
    onnx = model / "payload" / "model.onnx"
    commands = {
        "uvicorn": [*("uvicorn", "serving_peers:app"), *("--port", str(PORT), "--no-access-log")],
        "bentoml": ["bentoml", "serve", "serving_peers:Stock", "--port", str(PORT)],
        "lissom": ["lissom", "serve", str(model), "--port", str(PORT), "--threads", "1", "--keys", str(keys)],
    }
    variables = {
        **os.environ,
        "PEER_MODEL": str(onnx),
        "PYTHONPATH": str(HERE),
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    log = (folder / f"{name}.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", *commands[name]], env=variables, cwd=HERE, stdout=log, stderr=log
    )
    try:
        until_it_answers(process, folder / f"{name}.log")
        yield
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def until_it_answers(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until anything is answered at the port."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v2/health/ready", timeout=1).close()
        except urllib.error.HTTPError as exc:
            if exc.code != 503:
                return
        except OSError:
            pass
        else:
            return
        time.sleep(0.2)
    sys.exit(f"the server does not answer:\n{log.read_text()[-2000:]}")


def asked(request: Request, folder: Path, seconds: int, connections: int) -> dict[str, Any]:
    """What wrk says after a short run that warms up."""
    script = folder / "request.lua"
    body = "".join(f"\\{byte:03d}" for byte in request.body)
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in request.headers.items())
    script.write_text(f'wrk.method = "POST"\nwrk.body = "{body}"\n{headers}')
    command = ["wrk", "-t1", f"-c{connections}", "--latency", "-s", str(script)]
    address = f"http://127.0.0.1:{PORT}{request.path}"
    subprocess.run([*command, "-d1s", address], check=True, capture_output=True)
    told = subprocess.run([*command, f"-d{seconds}s", address], check=True, capture_output=True, text=True)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told.stdout)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", told.stdout)
    latency = {share: float(value) * _UNITS[unit] for share, value, unit in _LATENCY.findall(told.stdout)}
    assert rate is not None
    return {
        "requests_per_second": float(rate[1]),
        "failed": int(failed[1]) if failed else 0,
        "p50_ms": latency["50"],
        "p99_ms": latency["99"],
    }


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
        "most.",
        "",
        "| server | connections | requests a second | of uvicorn in its trial | p50, ms | p99, ms | failed |",
        "|---|---|---|---|---|---|---|",
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
            shares = [
                run["requests_per_second"] / bare[connections, run["trial"]]["requests_per_second"]
                for run in own
            ]
            rates = [run["requests_per_second"] for run in own]
            lines.append(
                f"| {server} | {connections} | {spread(rates, '{:,.0f}')} | {spread(shares, '{:.2f}')} | "
                f"{spread([run['p50_ms'] for run in own], '{:.2f}')} | "
                f"{spread([run['p99_ms'] for run in own], '{:.2f}')} | {sum(run['failed'] for run in own)} |"
            )
    return lines


def spread(values: Sequence[float], form: str) -> str:
    """Median, least and most."""
    middle, least, most = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({least} to {most})"


if __name__ == "__main__":
    main()
