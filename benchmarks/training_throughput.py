"""How much of a bare torch loop's speed training keeps, for models whose step takes 10 ms or more.

    python benchmarks/training_throughput.py [--rounds 10]

In every round the bare loop and `lissom.models.training.fit` train the same model on the same batches, one
after the other, the order changing from round to round. Both are timed from the end of the first step of an
epoch to the end of its last one, so start-up and the select split are left out of both. The ratio is paired
by round. Writes benchmarks/results/training_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lissom.bench.environment import environment
from lissom.bench.statistics import ratio
from lissom.logs import Advance
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.stages import Context
from lissom.models.training import fit
from lissom.recipe import ModelConfig, TrainConfig
from lissom.registry import MODELS, resolve

RESULTS = Path(__file__).parent / "results"
STEPS = 48
TARGET = 0.95


class Case(NamedTuple):
    """One model with its batches."""

    name: str
    model: str
    kwargs: dict[str, Any]
    batch_size: int
    tokens: bool = False
    channels_last: bool = False


CASES = (
    Case("ResNet-20, batch 64", "resnet20", {"num_classes": 36}, 64, channels_last=True),
    Case("ResNet-20, batch 16", "resnet20", {"num_classes": 36}, 16, channels_last=True),
    Case("ViT 96x6, batch 32", "vit", {"num_classes": 36}, 32),
    Case("LSTM, batch 32", "lstm", {"vocab_size": 128, "num_classes": 13}, 32, tokens=True),
    Case("GPT, batch 8", "gpt", {"vocab_size": 128, "max_length": 128}, 8, tokens=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    write([measured(case, rounds) for case in CASES])


def measured(case: Case, num_rounds: int) -> dict[str, Any]:
    """Step times of both loops, interleaved."""
    data = samples(case)
    arms: dict[str, Callable[[], list[float]]] = {
        "bare": lambda: bare_loop(build(case), data, case),
        "lissom": lambda: lissom_loop(build(case), data, case),
    }
    for arm in arms.values():
        arm()
    found: dict[str, list[list[float]]] = {name: [] for name in arms}
    for index in range(num_rounds):
        for name in sorted(arms, reverse=index % 2 == 1):
            found[name].append(arms[name]())
    share = ratio(found["bare"], found["lissom"])
    step_ms = 1e3 * float(np.median(np.concatenate([np.asarray(times) for times in found["bare"]])))
    print(f"{case.name}: {share.value:.1%} ({share.low:.1%} to {share.high:.1%}), step {step_ms:.1f} ms")
    return {"case": case.name, "share": share._asdict(), "bare_step_ms": step_ms, "step_seconds": found}


def samples(case: Case) -> Data:
    """Random samples: the time of a step does not depend on what they show."""
    generator = np.random.default_rng(0)
    number = case.batch_size * STEPS
    split = np.array(["train"] * number + ["select"] * 2)
    shape = (number + 2, 128) if case.tokens else (number + 2, 3, 32, 32)
    inputs = generator.integers(1, 128, shape) if case.tokens else generator.random(shape, dtype=np.float32)
    if case.model == "gpt":
        return Data("random", Dataset({"tokens": inputs}, np.roll(inputs, -1, axis=1), split=split))
    num_classes = case.kwargs["num_classes"]
    labels = np.arange(len(inputs)) % num_classes
    names = tuple(str(index) for index in range(num_classes))
    return Data("random", Dataset({"sample": inputs}, labels, names, split=split))


def build(case: Case) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = resolve(case.model, known=MODELS)(**case.kwargs)
    return model


def bare_loop(model: nn.Module, data: Data, case: Case) -> list[float]:
    """What one would write by hand: the same loss, optimiser and schedule, nothing else."""
    (array,), labels = data.tensors("train").values(), torch.from_numpy(data.labels("train"))
    inputs = torch.from_numpy(array)
    model.train()
    if case.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=STEPS + 1)
    ends = []
    for batch in torch.randperm(len(labels)).split(case.batch_size):
        samples_ = inputs[batch]
        if case.channels_last:
            samples_ = samples_.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        outputs = model(samples_)
        targets = labels[batch]
        loss = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        loss.backward()
        optimizer.step()
        schedule.step()
        ends.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(ends)]


def lissom_loop(model: nn.Module, data: Data, case: Case) -> list[float]:
    """The same training by `fit`, with its checks, its diagnostics and its progress."""
    config = TrainConfig(
        name="train",
        epochs=1,
        batch_size=case.batch_size,
        learning_rate=0.01,
        channels_last=case.channels_last,
    )
    fields = {"name": "train", "stage": "train", "recipe": "throughput"}
    fields["task"] = "language-modelling" if case.model == "gpt" else "classification"
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder) / "train", fields, ModelConfig(), data, 0, clock)
        fit(model, context, config)
    return [after - before for before, after in itertools.pairwise(clock.ends)]


class Clock:
    """A progress display that notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Note the time of every step."""

        def advance(steps: int) -> None:
            if steps:
                self.ends.append(time.perf_counter())

        yield advance


def write(cases: list[dict[str, Any]]) -> None:
    """The figures as JSON with every step, and as a table."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    document = {"schema": "lissom.benchmark/1", "suite": "training", "created": day, "environment": here}
    document |= {"target": TARGET, "cases": cases}
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c".lower()).strip("-")
    name = f"training_{hardware}_{day}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    rows = [
        f"| {case['case']} | {case['bare_step_ms']:.1f} ms | {case['share']['value']:.1%} "
        f"| {case['share']['low']:.1%} to {case['share']['high']:.1%} |"
        for case in cases
    ]
    text = [
        "# Training throughput against a bare torch loop",
        "",
        f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__}, {day}; target: at least "
        f"{TARGET:.0%} where a step takes 10 ms or more.",
        "",
        "| model | step of the bare loop | share of its speed | 95 % interval |",
        "|---|---:|---:|---|",
        *rows,
        "",
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
