"""Whether pruned random networks are the original with those channels at zero, and what the proof costs.

    python benchmarks/pruning_compositions.py [--number 2000] [--first 0] [--rounds 3]

Networks are composed at random of what a forward can do with channels (tests/foreign/compositions.py),
pruned at one of several ratios and roundings, and compared in float64 with the original in which a hook
silences what was removed; the answer is plain torch (tests/foreign/zeroing.py). Then three models of the
catalogue are pruned as a stage, and the seconds of the proof are set against those of the whole stage.
Writes benchmarks/results/pruning_compositions_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pruning_overhead import SUBJECTS, staged  # noqa: E402
from tests.foreign.compositions import Composition  # noqa: E402
from tests.foreign.test_pruning import prune  # noqa: E402
from tests.foreign.zeroing import kept_channels, with_own_numbers, zeroed  # noqa: E402
from training_throughput import samples  # noqa: E402

from lissom.bench.environment import environment  # noqa: E402
from lissom.compress import width  # noqa: E402
from lissom.errors import ModelError  # noqa: E402

RESULTS = Path(__file__).parent / "results"
RATIOS, ROUNDINGS = (0.25, 0.5, 0.75), (1, 2, 4)
TOLERANCE, TARGET = 1e-8, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    networks = [compared(seed) for seed in range(given.first, given.first + given.number)]
    write(networks, [costed(case, given.rounds) for case in SUBJECTS])


def compared(seed: int) -> dict[str, Any]:
    """One network: what it is made of, what was removed, and how far it is from the right answer."""
    whole = with_own_numbers(Composition(seed), seed)
    small, x = copy.deepcopy(whole), torch.randn(Composition(seed).shape, dtype=torch.float64)
    ratio, round_to = RATIOS[seed % 3], ROUNDINGS[seed // 3 % 3]
    found: dict[str, Any] = {"seed": seed, "made_of": whole.words, "ratio": ratio, "round_to": round_to}
    layers = sum(hasattr(layer, "out_channels") or hasattr(layer, "out_features") for layer in whole.layers)
    found["layers"] = layers - 1  # the last gives the outputs
    try:
        notes = prune(small, x, ratio=ratio, round_to=round_to)
    except ModelError as exc:
        return found | {"outcome": "refused", "reason": exc.message, "narrower": 0}
    with torch.no_grad():
        right = zeroed(whole, kept_channels(whole, small))(x)
        error = float((small(x) - right).abs().max() / right.abs().max().clamp(min=1e-30))
    outcome = "right" if error <= TOLERANCE else "wrong"
    left = notes["proof"]["left"]
    return found | {"outcome": outcome, "error": error, "narrower": len(notes["channels"]), "left": left}


def costed(case: Any, rounds: int) -> dict[str, Any]:
    """Seconds of a pruning stage, and of the proof in it; the first round is not counted."""
    data = samples(case)
    found = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder, proof_clock() as spent:
            whole = staged("load", case, data, Path(folder))
            start = time.perf_counter()
            staged("prune", case, data, Path(folder), whole, ratio=0.5)
            found.append({"stage": time.perf_counter() - start, "proof": sum(spent)})
    shares = sorted(one["proof"] / one["stage"] for one in found[1:])
    return {"model": case.model, "rounds": found[1:], "share": shares[len(shares) // 2]}


@contextmanager
def proof_clock() -> Iterator[list[float]]:
    """Seconds that each call of the proof takes."""
    spent: list[float] = []
    before = {name: getattr(width, name) for name in ("prove", "settle")}

    def clocked(function: Any) -> Any:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    for name, function in before.items():
        setattr(width, name, clocked(function))
    try:
        yield spent
    finally:
        for name, function in before.items():
            setattr(width, name, function)


def write(networks: list[dict[str, Any]], costs: list[dict[str, Any]]) -> None:
    """Every network as JSON, and what came of them as tables."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    document = {"schema": "lissom.benchmark/1", "suite": "pruning-compositions", "created": day}
    document |= {"environment": here, "tolerance": TOLERANCE, "target": TARGET}
    document |= {"networks": networks, "costs": costs}
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c".lower()).strip("-")
    name = f"pruning_compositions_{hardware}_{day}"
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text("\n".join(lines_of(networks, costs, here, day)), encoding="utf-8")


def lines_of(
    networks: list[dict[str, Any]], costs: list[dict[str, Any]], here: dict[str, Any], day: str
) -> list[str]:
    """The page."""
    outcomes = Counter(net["outcome"] for net in networks)
    worst = max((net["error"] for net in networks if "error" in net), default=0.0)
    narrower, layers = sum(net["narrower"] for net in networks), sum(net["layers"] for net in networks)
    whole = sum(bool(net.get("left")) for net in networks)
    made_of = Counter(word for net in networks for word in set(net["made_of"]))
    refused = Counter(word for net in networks if net.get("left") for word in set(net["made_of"]))
    return [
        "# Random networks, pruned, against the original with those channels at zero",
        "",
        f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__}, {day}. {len(networks)} networks "
        f"in float64, ratios {RATIOS}, `round_to` {ROUNDINGS}; the right answer is plain torch with hooks.",
        "",
        f"Right: {outcomes['right']}. Wrong: {outcomes['wrong']}. Refused with the reason: "
        f"{outcomes['refused']}. Largest difference {worst:.1e} of the largest output. {narrower} of "
        f"{layers} layers became narrower; in {whole} networks some layers stayed whole and were named.",
        "",
        "| made of | networks | some layers stayed whole |",
        "|---|---:|---:|",
        *(f"| {word} | {number} | {refused[word]} |" for word, number in sorted(made_of.items())),
        "",
        f"What the proof takes of a pruning stage (median of {len(costs[0]['rounds'])}; target: at most "
        f"{TARGET:.0%}):",
        "",
        "| model | stage, s | proof, s | share |",
        "|---|---:|---:|---:|",
        *(
            f"| {case['model']} | {middle(case, 'stage'):.2f} | {middle(case, 'proof'):.2f} "
            f"| {case['share']:.1%} |"
            for case in costs
        ),
        "",
    ]


def middle(case: dict[str, Any], phase: str) -> float:
    """Median of the rounds."""
    return sorted(one[phase] for one in case["rounds"])[len(case["rounds"]) // 2]


if __name__ == "__main__":
    main()
