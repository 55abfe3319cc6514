"""Whether our own measuring can be believed: false alarms, small slowdowns found, and what it costs.

    python benchmarks/measuring.py [--only aa slowdown timer samples server] [--trials N]

    aa         one model against itself: how often a difference is seen where there is none
    slowdown   a model of 1 ms against itself with 3 % of idle work added: how often it is called worse
    timer      what reading the clock adds to a call
    samples    a million samples summarised
    server     p99 of planned queries to a service that stalls, against MLPerf's LoadGen asking the same

Writes benchmarks/results/measuring_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import lissom
from lissom.artifact import Artifact
from lissom.bench.environment import environment
from lissom.bench.memory import taken
from lissom.bench.percentiles import percentiles
from lissom.bench.scenarios import answered, arrivals
from lissom.bench.statistics import Estimate, percentile, ratio, verdict, wilson
from lissom.bench.timing import time_interleaved
from lissom.logs import NoProgress
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.machine import host
from lissom.runtime.probe import load_probe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SLOWDOWN = 0.03
MARGIN = 0.02
"""Of the gate not-slower."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--trials", type=int, default=None, help="default: 300 for aa, 60 for slowdown")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in given.only:
            found[name] = PARTS[name](Path(place), given.trials)
            print(name, found[name] | {"ratios": "..."}, flush=True)
    write(found)


def model_of(folder: Path, hidden: list[int]) -> Artifact:
    out = folder / f"mlp-{'-'.join(map(str, hidden))}"
    if not (out / "artifact").exists():
        lissom.train("mlp", "digits", kwargs={"hidden": hidden}, epochs=1, out=out, runtimes=["torch"])
        lissom.export(
            Artifact.open(out / "artifact"), "digits", out=out / "export", runtimes=["onnxruntime", "torch"]
        )
    return Artifact.open(next((out / "export").glob("*-export-*")))


class Slowed:
    """A runtime whose calls take a share longer, by work that does nothing."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self.runtime, self.seconds = runtime, seconds

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.timed_infer(inputs)[0]

    def timed_infer(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        started = time.perf_counter()
        outputs = self.runtime.infer(inputs)
        until = time.perf_counter() + self.seconds
        while time.perf_counter() < until:
            pass
        return outputs, time.perf_counter() - started


def one_of(artifact: Artifact) -> dict[str, np.ndarray]:
    return {name: array[:1].copy() for name, array in load_probe(artifact)[0].items()}


def aa(folder: Path, trials: int | None) -> dict[str, Any]:
    """How often a difference is seen where there is none, in three designs.

    same       one session as both arms, interleaved and paired by round: what the statistics must stand
    reopened   the model opened anew as each arm, which puts its memory elsewhere: a difference that is real,
               and none of the model
    blocked    one session, all calls of one arm and then all of the other, each call for itself
    """
    artifact = model_of(folder, [64])
    inputs = one_of(artifact)
    ratios: dict[str, list[list[float]]] = {"same": [], "reopened": [], "blocked": []}
    with open_runtime(artifact, "onnxruntime", threads=1) as session:
        for _ in range(trials or 300):
            ratios["same"].append(interleaved_ratio(session, session, inputs))
            ratios["blocked"].append(blocked_ratio(session, inputs))
            with (
                open_runtime(artifact, "onnxruntime", threads=1) as a,
                open_runtime(artifact, "onnxruntime", threads=1) as b,
            ):
                ratios["reopened"].append(interleaved_ratio(a, b, inputs))
    return {name: told(found) for name, found in ratios.items()}


def told(ratios: list[list[float]]) -> dict[str, Any]:
    wrong = sum(low > 1 or high < 1 for _, low, high in ratios)
    sizes = [abs(np.log(value)) for value, _, _ in ratios]
    return {
        "trials": len(ratios),
        "false": wrong,
        "wilson": wilson(wrong, len(ratios)),
        "typical": float(np.median(sizes)),
        "p95": percentile(sizes, 0.95),
        "ratios": ratios,
    }


def interleaved_ratio(a: Runtime, b: Runtime, inputs: dict[str, np.ndarray]) -> list[float]:
    rounds = time_interleaved(
        {"a": a, "b": b}, inputs, num_rounds=24, round_ms=5.0, num_warmup=10, progress=NoProgress()
    )
    return list(ratio(rounds["a"], rounds["b"]))


def blocked_ratio(session: Runtime, inputs: dict[str, np.ndarray]) -> list[float]:
    """What most benchmarks do: one arm after the other, and an interval over single calls."""
    logs = [np.log([session.timed_infer(inputs)[1] for _ in range(1000)][10:]) for _ in range(2)]
    difference = logs[0].mean() - logs[1].mean()
    half = 1.96 * np.sqrt(sum(own.var(ddof=1) / len(own) for own in logs))
    return [float(np.exp(difference + sign * half)) for sign in (0, -1, 1)]


def slowdown(folder: Path, trials: int | None) -> dict[str, Any]:
    """A true slowdown of 3 % is called worse than the margin of 2 % allows."""
    artifact = model_of(folder, [2600, 2600])
    inputs, ratios, seconds = one_of(artifact), [], []
    with open_runtime(artifact, "onnxruntime", threads=1) as runtime:
        typical = float(np.median([runtime.timed_infer(inputs)[1] for _ in range(300)]))
        for _ in range(trials or 60):
            arms: dict[str, Any] = {
                "before": Slowed(runtime, 0.0),
                "after": Slowed(runtime, SLOWDOWN * typical),
            }
            started = time.perf_counter()
            rounds = time_interleaved(
                arms,
                inputs,
                num_rounds=100,
                max_rounds=1600,
                round_ms=10.0,
                num_warmup=10,
                progress=NoProgress(),
                decided=lambda found: (
                    verdict(ratio(found["before"], found["after"]), MARGIN) != "inconclusive"
                ),
            )
            seconds.append(time.perf_counter() - started)
            ratios.append(list(ratio(rounds["before"], rounds["after"])))
    verdicts = [verdict(Estimate(*found), MARGIN) for found in ratios]
    return {
        "trials": len(ratios),
        "model_ms": typical * 1e3,
        "worse": verdicts.count("worse"),
        "inconclusive": verdicts.count("inconclusive"),
        "better": verdicts.count("better"),
        "seconds": [float(np.median(seconds)), max(seconds)],
        "ratios": ratios,
    }


class Nothing:
    """A runtime that does nothing, so that what is left of a timed call is the timer."""

    _plan: tuple[()] = ()

    def _is_ready(self, inputs: Any) -> bool:
        return True

    def _infer_impl(self, inputs: Any) -> Any:
        return inputs


def timer(folder: Path, trials: int | None) -> dict[str, Any]:
    """Microseconds that a timed call takes more than one that is not timed."""
    del folder, trials
    nothing: Any = Nothing()
    differences = []
    for _ in range(200):
        times = []
        for call in (Runtime.infer, Runtime.timed_infer):
            started = time.perf_counter()
            for _ in range(2000):
                call(nothing, {})
            times.append((time.perf_counter() - started) / 2000)
        differences.append((times[1] - times[0]) * 1e6)
    return {"overhead_us": float(np.median(differences)), "most_us": max(differences)}


def samples(folder: Path, trials: int | None) -> dict[str, Any]:
    """A million samples: seconds, and memory beyond what holds them."""
    del folder, trials
    drawn = np.random.default_rng(0).lognormal(size=1_000_000)
    with taken() as memory:
        started = time.perf_counter()
        found = percentiles(drawn)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": memory.peak_bytes, "bounds": [one.bound for one in found]}


class Stalling:
    """A service of 2 ms that stands still for 400 ms of every 2 seconds."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.took: list[float] = []
        """What a client sees that counts from the sending."""

    def answer(self, batch: object = None) -> None:
        sent = time.perf_counter()
        time.sleep(max(0.0, 0.4 - (sent - self.started) % 2.0) + 0.002)
        self.took.append(time.perf_counter() - sent)


def server(folder: Path, trials: int | None) -> dict[str, Any]:
    """The p99 of our planned queries, and of LoadGen's."""
    rate, seconds = 200.0, 20.0
    ours, sent = [], []
    for seed in range(trials or 3):
        plan, service = arrivals(rate, seconds, seed), Stalling()
        ours.append(percentile(answered(plan, service.answer, itertools.repeat({})) - plan, 0.99))
        sent.append(percentile(service.took, 0.99))
    theirs = []
    for seed in range(trials or 3):
        out = folder / f"loadgen-{seed}"
        out.mkdir()
        words = [sys.executable, __file__, "--loadgen", str(out), str(rate), str(seconds), str(seed)]
        subprocess.run(words, check=True, capture_output=True)
        summary = (out / "mlperf_log_summary.txt").read_text()
        found = re.search(r"99.00 percentile latency \(ns\)\s*: (\d+)", summary)
        assert found is not None
        theirs.append(float(found[1]) / 1e9)
    return {
        "ours_s": ours,
        "loadgen_s": theirs,
        "from_send_s": sent,
        "ratio": float(np.median(ours) / np.median(theirs)),
    }


def ask_by_loadgen(out: str, rate: str, seconds: str, seed: str) -> None:
    """LoadGen's Server scenario on the same service, in this process."""
    import mlperf_loadgen as loadgen

    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    service = Stalling()

    def work() -> None:
        while True:
            sample = waiting.get()
            service.answer()
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0)])

    threading.Thread(target=work, daemon=True).start()
    system = loadgen.ConstructSUT(lambda found: [waiting.put(sample) for sample in found], lambda: None)
    library = loadgen.ConstructQSL(64, 64, lambda found: None, lambda found: None)
    settings, log = loadgen.TestSettings(), loadgen.LogSettings()
    settings.scenario, settings.mode = loadgen.TestScenario.Server, loadgen.TestMode.PerformanceOnly
    settings.server_target_qps, settings.min_duration_ms = float(rate), int(1000 * float(seconds))
    settings.server_target_latency_ns, settings.min_query_count = 10**9, 100
    settings.schedule_rng_seed = int(seed) + 1
    log.log_output.outdir = out
    service.started = time.perf_counter()
    loadgen.StartTestWithLogSettings(system, library, settings, log)
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)


PARTS: dict[str, Callable[[Path, int | None], dict[str, Any]]] = {
    "aa": aa,
    "slowdown": slowdown,
    "timer": timer,
    "samples": samples,
    "server": server,
}


def write(found: dict[str, Any]) -> None:
    state, today = environment(), datetime.now(UTC).date().isoformat()
    path = RESULTS / f"measuring_{host().lower()}_{today}"
    file = path.with_suffix(".json")
    before = json.loads(file.read_text()) if file.exists() else {}  # parts that were measured today
    found = {name: {**before, **found}[name] for name in PARTS if name in {**before, **found}}
    file.write_text(json.dumps({"environment": state, **found}, indent=1) + "\n")
    lines = [
        "# Measuring",
        "",
        f"{state['cpu']} ({', '.join(state['isa'])}), {state['cores']} cores, {today}.",
        "",
    ]
    lines += ["| what | asked | measured |", "|---|---|---|"]
    lines += [f"| {' | '.join(ROWS[name](figures))} |" for name, figures in found.items()]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def aa_row(found: Mapping[str, Any]) -> tuple[str, str, str]:
    def shown(name: str) -> str:
        one = found[name]
        low, high = one["wilson"]
        share = f"{one['false'] / one['trials']:.1%} ({low:.1%} to {high:.1%})"
        return f"{share}, differences of {one['typical']:.2%}, 95 of 100 below {one['p95']:.1%}"

    return (
        f"one model against itself, {found['same']['trials']} trials: false alarms",
        "5 % lies in the Wilson interval, or above it",
        f"{shown('same')}; one block after the other {shown('blocked')}; opened anew {shown('reopened')}",
    )


def slowdown_row(found: Mapping[str, Any]) -> tuple[str, str, str]:
    others = f"{found['inconclusive']} inconclusive, {found['better']} better"
    middle, most = found["seconds"]
    share = found["worse"] / found["trials"]
    return (
        f"a model of {found['model_ms']:.2f} ms, slower by {SLOWDOWN:.0%}, {found['trials']} trials: "
        f"called worse beyond the margin of {MARGIN:.0%}",
        "90 %, in 60 s each",
        f"{found['worse']} ({share:.0%}), {others}; {middle:.0f} s, at most {most:.0f}",
    )


def timer_row(found: Mapping[str, Any]) -> tuple[str, str, str]:
    return "reading the clock, a call", "at most 1 us", f"{found['overhead_us']:.2f} us"


def samples_row(found: Mapping[str, Any]) -> tuple[str, str, str]:
    return "a million samples", "5 s, 1 GB", f"{found['seconds']:.1f} s, {found['bytes'] / 1e6:.0f} MB"


def server_row(found: Mapping[str, Any]) -> tuple[str, str, str]:
    ours, theirs = (
        ", ".join(f"{1e3 * value:.0f}" for value in found[key]) for key in ("ours_s", "loadgen_s")
    )
    return (
        "p99 of planned queries to a service that stalls 400 ms, against LoadGen's",
        "within 5 %",
        f"{found['ratio']:.3f} of it ({ours} ms; LoadGen {theirs} ms; counted from the sending "
        f"{1e3 * float(np.median(found['from_send_s'])):.1f} ms)",
    )


ROWS: dict[str, Callable[[Mapping[str, Any]], tuple[str, str, str]]] = {
    "aa": aa_row,
    "slowdown": slowdown_row,
    "timer": timer_row,
    "samples": samples_row,
    "server": server_row,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loadgen"]:
        ask_by_loadgen(*sys.argv[2:])
    else:
        main()
