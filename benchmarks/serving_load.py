"""What `lissom serve` does under load: a large model, overload, the time to be ready, and hours of it.

    python benchmarks/serving_load.py [--only ready resnet overload soak] [--seconds N]

    ready      from the start of `lissom serve` to its first answer, ten times, for the artifact of the digits
    resnet     ResNet-50, int8: requests a second behind HTTP, with and without batches, against the bare
               session in a process of its own, alone, and while the same client sends as much to a server
               that computes nothing; then the 99th percentile at shares of saturation
    overload   a model of about 5 ms, asked three times as often as it can: what is answered, how soon the
               rest is refused, and memory
    soak       ten minutes of mixed requests, good and bad: memory, threads and open files

Requests come from wrk, or at planned times from `lissom load`, on the same cores as the server. Writes
benchmarks/results/serving_load_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from servers import Request, family_of, free_port, need_wrk, running, wrk

import lissom
from lissom.artifact import Artifact
from lissom.bench.environment import environment
from lissom.bench.timing import round_order
from lissom.errors import ServerError
from lissom.runtime.base import open_runtime
from lissom.runtime.machine import host
from lissom.runtime.probe import load_probe
from lissom.serve.load import LoadRequest, figures_document, measure, prepare

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WORKER = "_bentoml_impl.worker.service"
TRIALS = 3
READY_TRIALS = 10
SHARES = (0.2, 0.4, 0.6, 0.8)
SLO_MS = 250.0
"""Of ResNet-50: about ten times its latency."""
SHORT = ("benchmark.num_rounds=4", "benchmark.energy_seconds=0")
OVERLOAD_SLO_MS = 1000.0
"""Of answers that count; what comes later is of no use to anybody."""
Document = dict[str, Any]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=int, default=None, help="of overload and soak; default: 60 and 600")
    parser.add_argument("--digits", type=Path, default=None, help="artifact of recipes/digits.yaml")
    options = parser.parse_args()
    need_wrk()
    found: Document = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only:
            found[name] = {**PARTS[name](Path(scratch), options), "environment": environment()}
            print(name, json.dumps(found[name])[:2000], file=sys.stderr)
    write(found)


def ready(folder: Path, options: argparse.Namespace) -> Document:
    """Seconds from the start of the command to the first answer that says ready."""
    artifact = options.digits
    if artifact is None:
        lissom.run(HERE.parent / "recipes" / "digits.yaml", out=folder / "digits")
        artifact = folder / "digits" / "artifact"
    seconds = []
    for _ in range(READY_TRIALS):
        started = time.perf_counter()
        with serving(artifact, folder):
            seconds.append(time.perf_counter() - started)
    manifest = Artifact.open(artifact).manifest
    return {"seconds": seconds, "format": manifest.format, "precision": manifest.precision}


def resnet(folder: Path, options: argparse.Namespace) -> Document:
    """Behind HTTP against the bare session, in turns; then by rate."""
    artifact = int8_resnet(folder)
    request, name = request_of(artifact), Artifact.open(artifact).manifest.recipe
    rounds, rate = [], looped(artifact)
    for trial in range(TRIALS):
        found: dict[str, Any] = {}
        for arm in round_order(["batched", "single", "bare", "alone"], trial):
            if arm == "alone":
                found[arm] = {"requests_per_second": looped(artifact)}
            elif arm == "bare":
                found[arm] = bare_session(artifact, folder, request, rate, connections=8)
            else:
                words = ("--max-batch", "1") if arm == "single" else ()
                with serving(artifact, folder, *words) as (url, _):
                    found[arm] = wrk(request, url, folder, seconds=15, connections=8, warm_up=3)
                rate = found[arm]["requests_per_second"]
        rounds.append(found)
        print("resnet", trial, found, file=sys.stderr)
    saturation = statistics.median(one["batched"]["requests_per_second"] for one in rounds)
    with serving(artifact, folder) as (url, _):
        load = LoadRequest(
            url, name, rates=tuple(share * saturation for share in SHARES), slo_ms=SLO_MS, seconds=20.0
        )
        rates = [trimmed(one) for one in measured(load)]
    return {"rounds": rounds, "saturation": saturation, "slo_ms": SLO_MS, "rates": rates}


def int8_resnet(folder: Path) -> Path:
    """ResNet-50 of transformers with random weights and pictures; its answers mean nothing."""
    data = folder / "pictures.npz"
    random = np.random.default_rng(0)
    np.savez(data, samples=random.normal(size=(40, 3, 224, 224)).astype(np.float32))
    factory = f"{HERE / 'untrained_models.py'}:resnet_50"
    made = lissom.quantize(
        factory,
        str(data),
        out=folder / "resnet",
        allow=("parity", "accuracy", "not-slower", "precision"),
        runtimes=("torch", "onnxruntime"),
        overrides=SHORT,
    )
    return Path(made.artifact.path)


def bare_session(
    artifact: Path, folder: Path, request: Request, rate: float, *, connections: int
) -> Document:
    """Calls a second of the model in a loop, while wrk sends as much to a server that computes nothing."""
    port = free_port()
    command = [sys.executable, __file__, "--sink", str(port), str(connections / rate)]
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/", folder / "sink.log"):
        asking = threading.Thread(
            target=wrk, args=(request, url, folder), kwargs={"seconds": 15, "connections": connections}
        )
        asking.start()
        time.sleep(3)
        found = looped(artifact)
        asking.join()
    return {"requests_per_second": found}


def looped(artifact: Path) -> float:
    """Calls a second in a process of its own."""
    command = [sys.executable, __file__, "--loop", str(artifact), "10"]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(told.stdout.split()[-1])


def loop(artifact: Path, seconds: float) -> None:
    """Print the calls a second of one sample, one after the other, on the server's own runtime."""
    opened = Artifact.open(artifact)
    with open_runtime(opened, "onnxruntime") as runtime:
        inputs, _ = load_probe(opened)
        one = {name: array[:1] for name, array in inputs.items()}
        for _ in range(5):
            runtime.infer_batch(one)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            runtime.infer_batch(one)
            count += 1
        print(count / (time.perf_counter() - started))


def sink(port: int, delay: float) -> None:
    """A server that reads bodies and answers after a while."""
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(delay)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    uvicorn.run(app, port=port, log_level="error", lifespan="off")


def overload(folder: Path, options: argparse.Namespace) -> Document:
    """Three times as many queries as can be answered, for a minute: client and server on cores of their own,
    and on the same cores, where each query that is refused takes time from those that are computed.
    """
    artifact = residual(folder)
    cores = sorted(os.sched_getaffinity(0))
    apart = overloaded(artifact, folder, options, server=cores[::2], client=cores[1::2] or cores)
    shared = overloaded(artifact, folder, options, server=cores, client=cores)
    return {"apart": apart, "shared": shared, "call_ms": call_ms(artifact)}


def overloaded(
    artifact: Path, folder: Path, options: argparse.Namespace, *, server: list[int], client: list[int]
) -> Document:
    """A server with a queue of 64 rows on these cores, asked from those."""
    name, everywhere = Artifact.open(artifact).manifest.recipe, os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, server)  # which a child inherits
        with serving(artifact, folder, "--threads", "1", "--max-waiting", "64") as (url, worker):
            os.sched_setaffinity(0, client)
            first = LoadRequest(url, name, slo_ms=OVERLOAD_SLO_MS, seconds=5.0)
            capacity = measure(prepare(first, None, "random numbers"))
            peak = max(one.goodput for one in capacity.figures)
            with watched(worker, seconds=1.0) as usage:
                load = LoadRequest(
                    url,
                    name,
                    rates=(3 * peak,),
                    slo_ms=OVERLOAD_SLO_MS,
                    seconds=float(options.seconds or 60),
                    connections=512,
                    timeout_ms=20_000,
                )
                (one,) = measured(load)
            alive = urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5).status
    finally:
        os.sched_setaffinity(0, everywhere)
    return {
        "cores": [len(server), len(client)],
        "closed_loop": capacity.capacity,
        "peak_goodput": peak,
        "at_three_times": trimmed(one),
        "usage": usage,
        "alive": alive,
    }


def residual(folder: Path) -> Path:
    """A ResNet-20 of three times its width, untrained: about 5 ms on one core, in batches as much each."""
    made = lissom.export(
        "resnet20",
        "glyphs?samples=600",
        kwargs={"width": 48},
        out=folder / "residual",
        allow=("accuracy", "not-slower", "parity"),
        runtimes=("torch", "onnxruntime"),
        threads=1,
        overrides=SHORT,
    )
    return Path(made.artifact.path)


def call_ms(artifact: Path) -> float:
    """Median of a call with one sample on one thread, milliseconds."""
    opened = Artifact.open(artifact)
    with open_runtime(opened, "onnxruntime", threads=1) as runtime:
        one = {name: array[:1] for name, array in load_probe(opened)[0].items()}
        return 1e3 * statistics.median(runtime.timed_infer(one)[1] for _ in range(30))


def soak(folder: Path, options: argparse.Namespace) -> Document:
    """Good requests at a steady rate and bad ones beside them."""
    artifact = residual(folder)
    name = Artifact.open(artifact).manifest.recipe
    seconds = options.seconds or 600
    with serving(artifact, folder) as (url, worker):
        stop = threading.Event()
        statuses: Counter[int] = Counter()
        bad = threading.Thread(target=ask_badly, args=(url, name, stop, statuses))
        bad.start()
        with watched(worker, seconds=5.0) as usage:
            load = LoadRequest(url, name, rates=(50.0,), seconds=float(seconds))
            (one,) = measured(load)
        stop.set()
        bad.join()
    return {"seconds": seconds, "good": trimmed(one), "bad": dict(statuses), "usage": usage}


def ask_badly(url: str, name: str, stop: threading.Event, statuses: Counter[int]) -> None:
    """Requests that are refused, one after the other; their statuses, 0 for a broken connection."""
    bodies = (b"", b"{", b'{"inputs": 1}', b"[" * 10_000, b'{"inputs": [{"name": "image"}]}', b"\xff" * 1000)
    place = 0
    while not stop.wait(0.02):
        body = bodies[place % len(bodies)]
        path = (f"/v2/models/{name}/infer", f"/predict/{name}", "/v2/models/nothing", "/nothing")[place % 4]
        place += 1
        try:
            urllib.request.urlopen(urllib.request.Request(f"{url}{path}", data=body), timeout=10).close()
            statuses[200] += 1
        except urllib.error.HTTPError as exc:
            statuses[exc.code] += 1
        except OSError:
            statuses[0] += 1


@contextmanager
def serving(
    artifact: Path, folder: Path, *words: str, variables: Mapping[str, str] | None = None
) -> Iterator[tuple[str, psutil.Process]]:
    """`lissom serve` that is ready; gives its URL and its worker."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "lissom", "serve", str(artifact), "--port", str(port), *words]
    with running(command, f"{url}/v2/health/ready", folder / "lissom.log", variables=variables) as process:
        worker = next(one for one in family_of(process.pid) if WORKER in one.cmdline())
        yield url, worker


@contextmanager
def watched(process: psutil.Process, seconds: float) -> Iterator[list[Document]]:
    """Memory (MiB), threads and open files of a process, every so many seconds."""
    found: list[Document] = []
    stop, started = threading.Event(), time.monotonic()

    def look() -> None:
        while True:
            found.append(
                {
                    "seconds": round(time.monotonic() - started, 1),
                    "rss_mib": round(process.memory_info().rss / 2**20, 1),
                    "threads": process.num_threads(),
                    "files": process.num_fds(),
                }
            )
            if stop.wait(seconds):
                return

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield found
    finally:
        stop.set()
        watching.join()


def measured(load: LoadRequest) -> list[Document]:
    """What each rate gave."""
    try:
        found = measure(prepare(load, None, "random numbers"))
    except ServerError as exc:
        sys.exit(str(exc))
    return [figures_document(one) for one in found.figures]


def trimmed(one: Document) -> Document:
    """Figures without every latency."""
    return {name: value for name, value in one.items() if name not in ("latencies_ms", "refusals_ms")}


def request_of(artifact: Path) -> Request:
    """One sample in binary."""
    inputs, _ = load_probe(Artifact.open(artifact))
    ((name, array),) = inputs.items()
    one = np.ascontiguousarray(array[:1])
    entry = {
        "name": name,
        "datatype": "FP32",
        "shape": list(one.shape),
        "parameters": {"binary_data_size": one.nbytes},
    }
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    path = f"/v2/models/{Artifact.open(artifact).manifest.recipe}/infer"
    return Request(path, head + one.tobytes(), {"Inference-Header-Content-Length": str(len(head))})


def slope(usage: Sequence[Mapping[str, Any]]) -> float:
    """MiB a minute of the second half, by least squares."""
    half = usage[len(usage) // 2 :]
    if len(half) < 2:
        return 0.0
    times = np.array([one["seconds"] for one in half]) / 60
    return float(np.polyfit(times, [one["rss_mib"] for one in half], 1)[0])


def write(found: Document) -> None:
    """The raw record, and what it says."""
    date = datetime.now(UTC).date().isoformat()
    stem = RESULTS / f"serving_load_{host().lower()}_{date}"
    if stem.with_suffix(".json").exists():
        found = {**json.loads(stem.with_suffix(".json").read_text()), **found}
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    lines = ["# lissom serve under load", ""]
    for name, told in TOLD.items():
        if name in found:
            lines += [*told(found[name]), "", where(found[name]["environment"]), ""]
    stem.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))


def where(machine: Document) -> str:
    """On what a part was measured, and at which commit."""
    return (
        f"Measured at {machine['git']} on {machine['cores']} cores of {machine['cpu']} "
        f"({', '.join(machine['isa'])}), shared with the client where nothing else is said."
    )


def told_ready(found: Document) -> list[str]:
    seconds = found["seconds"]
    return [
        "## Ready",
        "",
        f"The artifact of `recipes/digits.yaml` ({found['format']}, {found['precision']}), from the command "
        f"to the first answer: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to "
        f"{max(seconds):.2f}), {len(seconds)} starts.",
    ]


def told_resnet(found: Document) -> list[str]:
    def spread(values: list[float], form: str) -> str:
        middle, least, most = (form.format(f(values)) for f in (statistics.median, min, max))
        return f"{middle} ({least} to {most})"

    def rates(arm: str) -> list[float]:
        return [one[arm]["requests_per_second"] for one in found["rounds"]]

    def shares(arm: str, of: str) -> list[float]:
        return [one / other for one, other in zip(rates(arm), rates(of), strict=True)]

    lines = [
        "## ResNet-50, int8, one picture a request",
        "",
        "Medians over the trials, then least and most; 8 connections. The bare session is called in a loop, "
        "one picture after the other, in a process of its own: alone, and beside wrk and a server that reads "
        "as many of the same requests and computes nothing.",
        "",
        "| | requests a second | of the bare session | p50, ms | p99, ms |",
        "|---|---|---|---|---|",
        f"| bare session, alone | {spread(rates('alone'), '{:.1f}')} "
        f"| {spread(shares('alone', 'bare'), '{:.3f}')} | | |",
        f"| bare session, the same client load beside it | {spread(rates('bare'), '{:.1f}')} | 1 | | |",
    ]
    for arm, name in (("batched", "lissom serve"), ("single", "lissom serve, batches of one")):
        p50, p99 = ([one[arm][key] for one in found["rounds"]] for key in ("p50_ms", "p99_ms"))
        lines.append(
            f"| {name} | {spread(rates(arm), '{:.1f}')} | {spread(shares(arm, 'bare'), '{:.3f}')} "
            f"| {spread(p50, '{:.0f}')} | {spread(p99, '{:.0f}')} |"
        )
    lines += [
        "",
        f"Batches against none: {spread(shares('batched', 'single'), '{:.3f}')}.",
        "",
        f"At planned times, latency from the plan; wanted: p99 within {found['slo_ms']:g} ms.",
        "",
        "| share of saturation | queries a second | p50, ms | p99, ms | answered in time |",
        "|---|---|---|---|---|",
    ]
    for one in found["rates"]:
        shown = {round(p["share"], 2): p["value"] for p in one["percentiles_ms"]}
        lines.append(
            f"| {one['rate'] / found['saturation']:.0%} | {one['rate']:.1f} | {shown[0.5]:.0f} "
            f"| {shown[0.99]:.0f} | {one['share_in_time']:.1%} |"
        )
    return lines


def told_overload(found: Document) -> list[str]:
    return [
        "## Overload",
        "",
        f"A ResNet of {found['call_ms']:.1f} ms a call on one thread, with a queue of 64 rows, asked three "
        "times as often as it can answer for a minute. Goodput: answers within "
        f"{OVERLOAD_SLO_MS:g} ms. Of the peak: of the most goodput at rates up to capacity. Refusals from "
        "the plan, with what the generator itself was late.",
        "",
        "| cores | peak, a second | asked a second | goodput | of the peak | p99 of refusals, ms | "
        "generator late, p99, ms | memory, MiB | growth, MiB a minute |",
        "|---|---|---|---|---|---|---|---|---|",
        overload_row("one for the server, one for the client", found["apart"]),
        overload_row("two for both", found["shared"]),
    ]


def overload_row(label: str, found: Document) -> str:
    one, usage = found["at_three_times"], found["usage"]
    return (
        f"| {label} | {found['peak_goodput']:.0f} | {one['rate']:.0f} | {one['goodput']:.0f} | "
        f"{one['goodput'] / found['peak_goodput']:.1%} | {one['refusals_p99_ms']:.1f} | "
        f"{one['lateness_p99_ms']:.1f} | {usage[0]['rss_mib']:.0f}, then {usage[-1]['rss_mib']:.0f} | "
        f"{slope(usage):+.2f} |"
    )


def told_soak(found: Document) -> list[str]:
    usage, one = found["usage"], found["good"]
    return [
        "## Soak",
        "",
        f"{found['seconds']} s of {one['rate']:.0f} good requests a second, and bad ones one after the other "
        f"(statuses {found['bad']}): "
        f"{one['num_ok']} of {one['num_planned']} answered; memory {usage[0]['rss_mib']:.0f} MiB at first, "
        f"{usage[-1]['rss_mib']:.0f} MiB at the end, {slope(usage):+.3f} MiB a minute in the second half; "
        f"threads {usage[0]['threads']} and {usage[-1]['threads']}, open files {usage[0]['files']} and "
        f"{usage[-1]['files']}.",
    ]


PARTS = {"ready": ready, "resnet": resnet, "overload": overload, "soak": soak}
TOLD = {"ready": told_ready, "resnet": told_resnet, "overload": told_overload, "soak": told_soak}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--sink"]:
        sink(int(sys.argv[2]), float(sys.argv[3]))
    elif sys.argv[1:2] == ["--loop"]:
        loop(Path(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
