"""Whether every caller of a random model gets what the model says to that caller alone.

    python benchmarks/serving_compositions.py [--number 2000] [--first 0]

Models are composed at random of what a forward can do with the samples of a batch
(tests/foreign/random_batches.py): half of them mix samples somewhere. Each is proven as at the start of a
server, then asked by 2 to 13 callers at once through the scheduler that a server has; the right answer is the
model, which is numpy, called with the tensors of that caller alone.
Writes benchmarks/results/serving_compositions_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.foreign.random_batches import MAX_BATCH, drawn, served  # noqa: E402

from lissom.bench.environment import environment  # noqa: E402

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    start = time.perf_counter()
    models = [asked(seed) for seed in range(given.first, given.first + given.number)]
    write(models, time.perf_counter() - start)


def asked(seed: int) -> dict[str, Any]:
    """One model: what it is made of, whether its samples share a call, and which callers were told wrong."""
    model, counts = drawn(seed)
    batching, faults = served(model, counts, seed)
    outcome = "wrong" if faults else "needless" if model.is_by_row and not batching.joins else "right"
    found = {"seed": seed, "steps": list(model.steps), "outputs": list(model.ends), "axis": model.axis}
    found |= {"callers": len(counts), "samples": sum(counts), "is_by_row": model.is_by_row}
    return found | {
        "joins": batching.joins,
        "reason": batching.reason,
        "outcome": outcome,
        "wrong_callers": len(faults),
    }


def write(models: list[dict[str, Any]], seconds: float) -> None:
    """Every model as JSON, and what came of them as tables."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    document = {"schema": "lissom.benchmark/1", "suite": "serving-compositions", "created": day}
    document |= {"environment": here, "max_batch": MAX_BATCH, "seconds": round(seconds, 1), "models": models}
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c".lower()).strip("-")
    name = f"serving_compositions_{hardware}_{day}"
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text("\n".join(lines_of(models, here, day)), encoding="utf-8")


def lines_of(models: list[dict[str, Any]], here: dict[str, Any], day: str) -> list[str]:
    """The page."""
    outcomes = Counter(one["outcome"] for one in models)
    callers, wrong = (sum(one[key] for one in models) for key in ("callers", "wrong_callers"))
    joined = sum(one["joins"] for one in models)
    made_of = Counter(word for one in models for word in set(one["steps"] + one["outputs"]))
    together = Counter(word for one in models if one["joins"] for word in set(one["steps"] + one["outputs"]))
    return [
        "# Random models, served, against what each says to one caller alone",
        "",
        f"{here['cpu']}, {here['cores']} cores, numpy {np.__version__}, {day}. {len(models)} models, "
        f"{callers} callers, up to {MAX_BATCH} samples a call; right is the model, called directly.",
        "",
        f"Callers with a wrong answer: {wrong}. Models that gave one: {outcomes['wrong']}. Models whose "
        f"samples share a call: {joined}; that could share one and do not: {outcomes['needless']}.",
        "",
        "| made of | models | of which share a call |",
        "|---|---:|---:|",
        *(f"| {word} | {number} | {together[word]} |" for word, number in sorted(made_of.items())),
        "",
    ]


if __name__ == "__main__":
    main()
