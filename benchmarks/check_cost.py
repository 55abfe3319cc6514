"""What the checks of pruning and of quantization take of the verb, from its start to its report.

    python benchmarks/check_cost.py [--rounds 3] [--case NAME]

The verbs run as they do by default: they change an artifact, prove what they made, score it, and measure its
latency on every runtime. The pictures are few, so that little is scored and the share is that of a bad case.
Clocks stand around what was added so that nothing wrong goes out:

    prune       the proof, with the search for groups that have to stay whole, and the choice between ways of
                grouping
    quantize    the comparison with float32 on every engine, the proof of where samples lie, and the opening
                of every graph in another process first, which models from elsewhere get

Wall time and processor time of this process are taken; the latter is much the same on a busy machine. The
first call, which imports libraries, is not counted. Writes
benchmarks/results/check_cost_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import lissom
from lissom.bench.environment import environment
from lissom.compress import width
from lissom.compress.quantizing.engines import Prover
from lissom.export import onnx_file
from lissom.runtime import isolation

RESULTS = Path(__file__).parent / "results"
TARGET = 0.05
CHECKS: dict[str, tuple[tuple[Any, str], ...]] = {
    "prune": ((width, "prove"), (width, "settle")),
    "quantize": ((Prover, "__call__"), (onnx_file, "prove_signature"), (isolation, "prove_file")),
}
"""Functions by verb, each with what it is an attribute of."""


class Case(NamedTuple):
    """A verb, a model, its data, and how the model is built."""

    name: str
    verb: str
    model: str
    data: str
    kwargs: dict[str, Any]
    is_foreign: bool = False
    """The model is an ONNX file, and the data have no labels."""


PICTURES = "pictures.npz"
CNN = {"widths": [64, 128, 256], "blocks": [1, 1, 1]}
VIT = {"num_classes": 10, "depth": 4}
CASES = (
    Case("prune: CNN of 3 blocks, digits", "prune", "resnet", "digits", CNN),
    Case("prune: ResNet-20, pictures of 32x32", "prune", "resnet20", PICTURES, {"num_classes": 10}),
    Case("prune: transformer of 4 layers", "prune", "vit", PICTURES, VIT),
    Case("quantize: CNN of 3 blocks, digits", "quantize", "resnet", "digits", CNN),
    Case("quantize: ResNet-20 as a file", "quantize", "resnet20", PICTURES, {"num_classes": 10}, True),
    Case(
        "quantize: transformer as a file", "quantize", "vit", PICTURES, {"num_classes": 10, "depth": 4}, True
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=[case.name for case in CASES], nargs="+")
    given = parser.parse_args()
    chosen = [case for case in CASES if not given.case or case.name in given.case]
    with tempfile.TemporaryDirectory() as folder:
        write([measured(case, given.rounds, Path(folder)) for case in chosen])


def measured(case: Case, num_rounds: int, folder: Path) -> dict[str, Any]:
    """Every call of the verb but the first."""
    data = case.data if case.data != PICTURES else str(pictures(folder / PICTURES))
    whole = folder / f"{case.model}-{case.verb}"
    lissom.train(case.model, data, kwargs=case.kwargs, epochs=1, runtimes=["torch"], out=whole)
    source = str(whole / "artifact")
    if case.is_foreign:
        source, data = as_file(source, folder / f"{case.model}.onnx"), str(folder / "bare.npz")
        np.savez(data, x=np.load(folder / PICTURES)["x"])
    rounds = [timed(case.verb, source, data) for _ in range(num_rounds + 1)][1:]
    print(case.name, rounds, flush=True)
    return {"case": case.name, "rounds": rounds}


def pictures(path: Path) -> Path:
    """A file of random pictures of ten classes."""
    generator = np.random.default_rng(0)
    np.savez(path, x=generator.random((600, 3, 32, 32), dtype=np.float32), y=np.arange(600) % 10)
    return path


def as_file(artifact: str, path: Path) -> str:
    """A torch artifact as an ONNX file."""
    lissom.export(artifact, out=path.parent / f"{path.stem}-export", allow=["not-slower"])
    (made,) = (path.parent / f"{path.stem}-export").glob("*-export-*/payload/model.onnx")
    path.write_bytes(made.read_bytes())
    return str(path)


def timed(verb: str, source: str, data: str) -> dict[str, dict[str, float]]:
    """Seconds of one call of the verb, and of the checks in it."""
    allow = ["accuracy", "parity", "not-slower", "precision"]
    with tempfile.TemporaryDirectory() as folder, clocks(CHECKS[verb]) as spent:
        start = Lap()
        getattr(lissom, verb)(source, data, out=Path(folder) / "run", allow=allow)
        taken = start.seconds()
    return {"verb": taken, "checks": added(spent)}


class Lap:
    """Wall time and processor time since it was made."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def seconds(self) -> dict[str, float]:
        """Seconds of both."""
        return {
            "wall": time.perf_counter() - self._wall,
            "processor": time.process_time() - self._processor,
        }


def added(laps: list[dict[str, float]]) -> dict[str, float]:
    """Sums of both."""
    return {key: sum(lap[key] for lap in laps) for key in ("wall", "processor")}


@contextmanager
def clocks(watched: tuple[tuple[Any, str], ...]) -> Iterator[list[dict[str, float]]]:
    """Seconds of each call of some functions."""
    spent: list[dict[str, float]] = []
    before: list[Callable[..., Any]] = [getattr(owner, name) for owner, name in watched]

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            lap = Lap()
            try:
                return function(*args, **options)
            finally:
                spent.append(lap.seconds())

        return call

    for (owner, name), function in zip(watched, before, strict=True):
        setattr(owner, name, clocked(function))
    try:
        yield spent
    finally:
        for (owner, name), function in zip(watched, before, strict=True):
            setattr(owner, name, function)


def share(case: dict[str, Any], clock: str) -> float:
    """Median share of the checks."""
    return statistics.median(one["checks"][clock] / one["verb"][clock] for one in case["rounds"])


def seconds(case: dict[str, Any], what: str) -> float:
    """Median wall time."""
    return statistics.median(one[what]["wall"] for one in case["rounds"])


def write(cases: list[dict[str, Any]]) -> None:
    """The figures as JSON with every round, and as a table."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    document = {"schema": "lissom.benchmark/1", "suite": "check-cost", "created": day}
    document |= {"environment": here, "target": TARGET, "cases": cases}
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c".lower()).strip("-")
    name = f"check_cost_{hardware}_{day}"
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# What the checks of pruning and of quantization take of the verb",
        "",
        f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__}, {day}. Medians of calls of the "
        f"verb with its defaults; target: at most {TARGET:.0%} of its wall time.",
        "",
        "| verb and model | calls | verb, s | checks, s | of wall time | of processor time |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {case['case']} | {len(case['rounds'])} | {seconds(case, 'verb'):.1f} "
            f"| {seconds(case, 'checks'):.2f} | {share(case, 'wall'):.1%} | {share(case, 'processor'):.1%} |"
            for case in cases
        ),
        "",
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
