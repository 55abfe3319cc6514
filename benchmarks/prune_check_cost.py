"""What the checks of pruning take of `lissom prune`, from its start to its report.

    python benchmarks/prune_check_cost.py [--rounds 3] [--case NAME]

The verb runs as it does by default: it prunes an artifact to half of its channels, proves that, scores the
original and what is left of it, and measures their latency on every runtime. The pictures are few, so that
little is scored and the share is that of a bad case. Clocks stand around what was added so that no wrong
channel goes: the proof (`prove`, with the search for groups that have to stay whole) and the choice between
ways of grouping (`settle`). The trace that finds the groups is needed anyhow, and is shown beside. Wall time
and processor time are taken; the latter is much the same on a busy machine. The first call, which imports
libraries, is not counted. Writes benchmarks/results/prune_check_cost_<hardware>_<date>.{json,md}.
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

RESULTS = Path(__file__).parent / "results"
TARGET = 0.05
CHECKS, TRACE = ("prove", "settle"), "find_groups"


class Case(NamedTuple):
    """A model, its data, and what the verb is asked for."""

    name: str
    model: str
    data: str
    kwargs: dict[str, Any]


PICTURES = "pictures.npz"
CASES = (
    Case("CNN of 3 blocks, digits", "resnet", "digits", {"widths": [64, 128, 256], "blocks": [1, 1, 1]}),
    Case("ResNet-20, pictures of 32x32", "resnet20", PICTURES, {"num_classes": 10}),
    Case("transformer of 4 layers, pictures of 32x32", "vit", PICTURES, {"num_classes": 10, "depth": 4}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=[case.name for case in CASES])
    given = parser.parse_args()
    chosen = [case for case in CASES if given.case in (None, case.name)]
    with tempfile.TemporaryDirectory() as folder:
        write([measured(case, given.rounds, Path(folder)) for case in chosen])


def measured(case: Case, num_rounds: int, folder: Path) -> dict[str, Any]:
    """Every call of the verb but the first."""
    data = case.data if case.data != PICTURES else str(pictures(folder / PICTURES))
    whole = folder / case.model
    lissom.train(case.model, data, kwargs=case.kwargs, epochs=1, runtimes=["torch"], out=whole)
    rounds = [timed(whole / "artifact", data) for _ in range(num_rounds + 1)][1:]
    print(case.name, rounds, flush=True)
    return {"case": case.name, "rounds": rounds}


def pictures(path: Path) -> Path:
    """A file of random pictures of ten classes."""
    generator = np.random.default_rng(0)
    np.savez(path, x=generator.random((600, 3, 32, 32), dtype=np.float32), y=np.arange(600) % 10)
    return path


def timed(whole: Path, data: str) -> dict[str, dict[str, float]]:
    """Seconds of one call of the verb, of the checks in it, and of the trace."""
    with tempfile.TemporaryDirectory() as folder, clocks() as spent:
        start = Lap()
        lissom.prune(str(whole), data, out=Path(folder) / "run", allow=["accuracy"])
        verb = start.seconds()
    checks = added([seconds for name in CHECKS for seconds in spent[name]])
    return {"verb": verb, "checks": checks, "trace": added(spent[TRACE])}


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
def clocks() -> Iterator[dict[str, list[dict[str, float]]]]:
    """Seconds of each call of the checks and of the trace."""
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in (*CHECKS, TRACE)}
    before: dict[str, Callable[..., Any]] = {name: getattr(width, name) for name in spent}

    def clocked(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            lap = Lap()
            try:
                return before[name](*args)
            finally:
                spent[name].append(lap.seconds())

        return call

    for name in before:
        setattr(width, name, clocked(name))
    try:
        yield spent
    finally:
        for name, function in before.items():
            setattr(width, name, function)


def share(case: dict[str, Any], what: str, clock: str) -> float:
    """Median share of the verb."""
    return statistics.median(one[what][clock] / one["verb"][clock] for one in case["rounds"])


def seconds(case: dict[str, Any], what: str) -> float:
    """Median wall time."""
    return statistics.median(one[what]["wall"] for one in case["rounds"])


def write(cases: list[dict[str, Any]]) -> None:
    """The figures as JSON with every round, and as a table."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    document = {"schema": "lissom.benchmark/1", "suite": "prune-check-cost", "created": day}
    document |= {"environment": here, "target": TARGET, "cases": cases}
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c".lower()).strip("-")
    name = f"prune_check_cost_{hardware}_{day}"
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# What the checks of pruning take of `lissom prune`",
        "",
        f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__}, {day}. Medians of "
        f"calls of the verb with its defaults; target: at most {TARGET:.0%} of its "
        "wall time.",
        "",
        "| model | calls | verb, s | checks, s | of wall time | of processor time | trace, s |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {case['case']} | {len(case['rounds'])} | {seconds(case, 'verb'):.1f} "
            f"| {seconds(case, 'checks'):.2f} "
            f"| {share(case, 'checks', 'wall'):.1%} | {share(case, 'checks', 'processor'):.1%} "
            f"| {seconds(case, 'trace'):.2f} |"
            for case in cases
        ),
        "",
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
