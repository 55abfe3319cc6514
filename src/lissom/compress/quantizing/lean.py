"""Leave float32 what int8 makes slower, by measurement on this machine.

Rounding what goes into a layer, and taking it back behind it, costs time of its own; where the layer is
small, or its neighbours compute in float32, that can be more than the integers save. A few variants of the
model are timed in turns with it on every runtime that executes ONNX, each on its fastest:

    all operators instead of layers alone, or the other way round
    first or last layer in float32
    products with fewer than 16 inputs or outputs in float32

A variant takes the model's place where it is surely faster, by more than 2 %, and just as good.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Artifact, Draft, Signature
from lissom.bench.selection import ArmKey, fastest
from lissom.bench.statistics import Estimate, ratio, verdict
from lissom.bench.timing import time_interleaved
from lissom.compress.quantizing.graph import Graph
from lissom.compress.quantizing.ladder import Ladder
from lissom.compress.quantizing.static import Plan
from lissom.logs import NoProgress
from lissom.models.stages import INT8_TOLERANCE, Context
from lissom.registry import runtime_entry
from lissom.runtime.availability import usable_runtimes
from lissom.runtime.base import open_runtime
from lissom.runtime.onnx_runtime import MODEL_FILE

_MARGIN = 0.02
_TINY = 16
_NUM_ROUNDS, _ROUND_MS, _NUM_WARMUP = 12, 8.0, 8


class Variant(NamedTuple):
    """A model that was timed against the best before it.

    Attributes:
        what: What stays float32, or is quantized too.
        speedup: Latency of the best before over its own.
        kept: True when it took that one's place.
    """

    what: str
    speedup: Estimate
    kept: bool

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"what": self.what, "speedup": self.speedup._asdict(), "kept": self.kept}


def leaner(ladder: Ladder, race: Callable[[Any, Any], Estimate]) -> list[Variant]:
    """Go on from the best model of a ladder that was climbed; gives what each variant came to."""
    variants = []
    candidates = list(_candidates(ladder, ladder.plan))
    with ladder.progress.task("quantize: what is slower", len(candidates)) as advance:
        for what, change in candidates:
            plan = change(ladder.plan)
            if not _leaves_any(ladder, plan):
                advance(1)
                continue
            model = ladder.quantizer.build(plan)
            speedup = race(ladder.model, model)
            kept = verdict(speedup, _MARGIN) == "better" and ladder.replace(plan, model)
            variants.append(Variant(what, speedup, kept))
            advance(1)
    return variants


def _leaves_any(ladder: Ladder, plan: Plan) -> bool:
    """True when a layer is still quantized: a model that is faster in float has that for an answer."""
    kept = {*plan.exclude, *ladder.quantizer.float_nodes(plan)}
    return any(layer.name not in kept for layer in Graph(ladder.quantizer.model).layers)


Change = Callable[[Plan], Plan]


def _candidates(ladder: Ladder, plan: Plan) -> Iterator[tuple[str, Change]]:
    graph = Graph(ladder.quantizer.model)
    names = [layer.name for layer in graph.layers if layer.name not in plan.exclude]
    other = "layers" if plan.operators == "all" else "all"
    yield f"operators: {other}", lambda now: now._replace(operators=other)
    if len(names) > 1:
        yield "first layer in float32", _excluding(names[:1])
        yield "last layer in float32", _excluding(names[-1:])
    tiny = [
        layer.name
        for layer in graph.layers
        if layer.op_type in ("Gemm", "MatMul")
        and min(graph.array(layer.weight).shape[-2:]) < _TINY
        and layer.name in names[1:-1]
    ]
    if tiny:
        yield f"{len(tiny)} small products in float32", _excluding(tiny)


def _excluding(names: list[str]) -> Change:
    return lambda now: now._replace(exclude=tuple(dict.fromkeys((*now.exclude, *names))))


@dataclass(frozen=True)
class Race:
    """Times two ONNX models in turns, each on the runtime that is fastest for it.

    Attributes:
        context: Of the stage.
        signature: Of the models.
    """

    context: Context
    signature: Signature

    def __call__(self, before: Any, after: Any) -> Estimate:
        """Latency of one sample in `before` over that in `after`."""
        inputs = {name: array[:1] for name, array in self.context.probe_inputs().items()}
        with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
            artifacts = {
                name: self._written(model, Path(place) / name)
                for name, model in (("before", before), ("after", after))
            }
            arms = {
                ArmKey(name, runtime): stack.enter_context(open_runtime(artifact, runtime))
                for name, artifact in artifacts.items()
                for runtime in _runtimes()
            }
            rounds = self._timed(arms, inputs)
        best = {
            name: fastest({arm: found for arm, found in rounds.items() if arm.artifact == name})
            for name in artifacts
        }
        one, two = best["before"], best["after"]
        assert one is not None
        assert two is not None
        return ratio(rounds[one], rounds[two])

    def _timed(
        self, arms: Mapping[ArmKey, Any], inputs: Mapping[str, np.ndarray]
    ) -> dict[ArmKey, list[list[float]]]:
        return time_interleaved(
            arms,
            inputs,
            num_rounds=_NUM_ROUNDS,
            round_ms=_ROUND_MS,
            num_warmup=_NUM_WARMUP,
            progress=NoProgress(),
        )

    def _written(self, model: Any, folder: Path) -> Artifact:
        with Draft(folder) as draft:
            draft.add(MODEL_FILE, model.SerializeToString())
            return draft.commit(
                **self.context.fields,
                format="onnx",
                precision="int8",
                signature=self.signature,
                factory=None,
                num_parameters=None,
                notes={},
                tolerance=INT8_TOLERANCE,
            )


def _runtimes() -> list[str]:
    return [name for name in usable_runtimes(None) if "onnx" in runtime_entry(name).formats]
