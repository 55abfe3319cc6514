"""What lissom adds to the libraries underneath, from a whole model to a pruned, retrained and exported one.

    python benchmarks/pruning_overhead.py [--rounds 5]

In every round the same model is pruned to half of its channels, saved, loaded, trained for 48 steps and
exported to ONNX twice, the order changing from round to round: by the stages of lissom, and by torch-pruning,
safetensors, a bare torch loop and torch.onnx called by hand. By hand nothing is checked, and the model is not
rebuilt but loaded into a copy, since no library rebuilds it. Both train and export the model that lissom
pruned, so that both train one of the same size. Recurrent models are left out: torch-pruning cannot prune
them. Writes benchmarks/results/pruning_overhead_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import re
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import safetensors.torch
import torch
import torch_pruning
from torch import nn
from training_throughput import CASES, STEPS, Case, bare_loop, build, samples

from lissom.artifact import Artifact, content_id
from lissom.bench.environment import environment
from lissom.bench.statistics import ratio
from lissom.logs import NoProgress
from lissom.models.attention import MultiHeadAttention
from lissom.models.data import Data
from lissom.models.stages import Context
from lissom.recipe import ModelConfig, stage_types
from lissom.registry import stage_function
from lissom.structure import load_model

RESULTS = Path(__file__).parent / "results"
PHASES = ("prune and save", "load", "train", "export")
TARGET = 0.1
SUBJECTS = tuple(case for case in CASES if case.model in ("resnet20", "vit", "gpt") and case.batch_size != 16)

Seconds = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    write([measured(case, rounds) for case in SUBJECTS])


def measured(case: Case, num_rounds: int) -> dict[str, Any]:
    """Seconds of every phase of both arms, interleaved; the first round is not counted."""
    data = samples(case)
    with tempfile.TemporaryDirectory() as folder:
        whole = staged("load", case, data, Path(folder))
        small = load_model(staged("prune", case, data, Path(folder), whole, ratio=0.5))
    arms: dict[str, Callable[[], Seconds]] = {
        "library": lambda: by_hand(case, data, copy.deepcopy(small)),
        "lissom": lambda: by_stages(case, data),
    }
    found: dict[str, list[Seconds]] = {name: [] for name in arms}
    for index in range(num_rounds + 1):
        for name in sorted(arms, reverse=index % 2 == 1):
            gc.collect()  # what one arm left is not charged to the next
            seconds = arms[name]()
            if index:
                found[name].append(seconds)
    totals = {name: [[sum(seconds.values())] for seconds in times] for name, times in found.items()}
    share = ratio(totals["lissom"], totals["library"])
    print(f"{case.name}: {share.value - 1:+.1%} ({share.low - 1:+.1%} to {share.high - 1:+.1%})", flush=True)
    return {"case": case.name, "share": share._asdict(), "seconds": found}


def by_stages(case: Case, data: Data) -> Seconds:
    """The stages, as a run calls them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole = staged("load", case, data, folder)
        clock = Clock()
        pruned = staged("prune", case, data, folder, whole, ratio=0.5)
        clock.lap("prune and save")
        load_model(pruned)
        clock.lap("load")
        trained = staged("train", case, data, folder, pruned, **training(case))
        clock.lap("train")
        staged("export", case, data, folder, trained)
        clock.lap("export")
        return clock.seconds


def by_hand(case: Case, data: Data, small: nn.Module) -> Seconds:
    """The calls of the libraries, and nothing else; `small` is trained."""
    (array,) = data.tensors("select").values()
    example = torch.from_numpy(array)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = build(case).eval()
        clock = Clock()
        prune(model, example)
        safetensors.torch.save_model(model, str(folder / "model.safetensors"))
        clock.lap("prune and save")
        model = copy.deepcopy(model)
        safetensors.torch.load_model(model, str(folder / "model.safetensors"))
        clock.lap("load")
        bare_loop(small, data, case)
        safetensors.torch.save_model(small, str(folder / "trained.safetensors"))
        clock.lap("train")
        export(small.eval(), example, folder / "model.onnx")
        clock.lap("export")
        return clock.seconds


def prune(model: nn.Module, example: torch.Tensor) -> None:
    """Half of the channels, by torch-pruning; an attention keeps its heads."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    kept = [
        layer
        for module in model.modules()
        if isinstance(module, MultiHeadAttention)
        for layer in module.children()
    ]
    torch_pruning.pruner.BasePruner(
        model,
        example,
        torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        round_to=8,
        ignored_layers=[last, *kept],
    ).step()


def export(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """To ONNX with a batch that varies, checked by onnx."""
    shapes = ({0: torch.export.Dim.AUTO},)
    program = torch.onnx.export(model, (example,), dynamic_shapes=shapes, dynamo=True, verbose=False)
    assert program is not None
    onnx.checker.check_model(program.model_proto, full_check=True)
    path.write_bytes(program.model_proto.SerializeToString())


def training(case: Case) -> dict[str, Any]:
    """Options of the training that the bare loop has."""
    return {
        "epochs": 1,
        "batch_size": case.batch_size,
        "learning_rate": 0.01,
        "channels_last": case.channels_last,
    }


def staged(
    kind: str, case: Case, data: Data, folder: Path, parent: Artifact | None = None, **options: Any
) -> Artifact:
    """The artifact of one stage."""
    config = stage_types()[kind].model_validate({"name": kind, **options})
    fields: dict[str, Any] = {
        "id": content_id({"stage": kind}),
        "id_inputs": {"stage": kind},
        "recipe": "overhead",
        "name": kind,
        "stage": kind,
        "task": "language-modelling" if case.model == "gpt" else "classification",
        "labels": data.dataset.label_names,
        "preprocessing": (),
        "parents": (),
        "config": config.settings,
        "seed": 0,
        "data": data.source,
        "splits": data.split_hashes,
        "tools": {},
        "made_on": {},
    }
    model = ModelConfig(source=case.model, kwargs=case.kwargs)
    context = Context(folder / kind, fields, model, data, 0, NoProgress())
    artifact: Artifact = stage_function(config)({} if parent is None else {"input": parent}, config, context)
    return artifact


class Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Give the time since the last lap a name."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def write(cases: list[dict[str, Any]]) -> None:
    """The figures as JSON with every round, and as a table."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    document = {"schema": "lissom.benchmark/1", "suite": "pruning-overhead", "created": day}
    document |= {"environment": here, "target": TARGET, "steps": STEPS, "cases": cases}
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c".lower()).strip("-")
    name = f"pruning_overhead_{hardware}_{day}"
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# What lissom adds to the libraries underneath when a model is pruned",
        "",
        f"{here['cpu']}, {here['cores']} cores, torch {torch.__version__}, torch-pruning "
        f"{torch_pruning.__version__}, {day}; medians in seconds, lissom / by hand; target: at most "
        f"{TARGET:.0%} more.",
        "",
        f"| model | {' | '.join(PHASES)} | together | 95 % interval |",
        f"|---|{'---:|' * len(PHASES)}---:|---|",
        *(line(case) for case in cases),
        "",
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")


def line(case: dict[str, Any]) -> str:
    """One row of the table."""
    cells = [
        " / ".join(f"{median(case['seconds'][arm], phase):.2f}" for arm in ("lissom", "library"))
        for phase in PHASES
    ]
    value, low, high = (case["share"][key] - 1 for key in ("value", "low", "high"))
    return f"| {case['case']} | {' | '.join(cells)} | {value:+.1%} | {low:+.1%} to {high:+.1%} |"


def median(rounds: list[Seconds], phase: str) -> float:
    """Middle of the rounds of one phase."""
    return sorted(seconds[phase] for seconds in rounds)[len(rounds) // 2]


if __name__ == "__main__":
    main()
