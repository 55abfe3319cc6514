"""Leave float32 what int8 makes slower, by measurement on this machine.

Rounding what goes into a layer, and taking it back behind it, costs time of its own; where the layer is
small, or its neighbours compute in float32, that can be more than the integers save. A few variants of the
model are timed in turns with it on every runtime that executes ONNX, each on its fastest:

    all operators instead of layers alone, or the other way round
    first or last layer in float32
    products with fewer than 16 inputs or outputs in float32

    one scale for all channels of a weight

A variant takes the model's place where it is surely faster, by more than 2 %, and just as good; or where it
is not surely slower, leaves no layer in float32, and has less noise by 1 dB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Artifact, Signature
from lissom.bench.selection import ArmKey, fastest
from lissom.bench.statistics import Estimate, ratio, verdict
from lissom.bench.timing import time_interleaved
from lissom.compress.quantizing.engines import onnx_runtimes, write_onnx
from lissom.compress.quantizing.graph import Graph
from lissom.compress.quantizing.ladder import Ladder
from lissom.compress.quantizing.static import Plan
from lissom.errors import LissomError
from lissom.logs import NoProgress, log
from lissom.models.stages import Context
from lissom.runtime.base import Runtime, open_runtime

_MARGIN = 0.02
_TINY = 16
_NUM_ROUNDS, _ROUND_MS, _NUM_WARMUP = 12, 8.0, 8


class Variant(NamedTuple):
    """A model that was timed against the best before it.

    Attributes:
        what: What stays float32, or is quantized too.
        speedup: Latency of the best before over its own.
        kept: True when it took that one's place.
        gain_db: How much nearer to float32 it is, where it was taken for that; None else.
    """

    what: str
    speedup: Estimate
    kept: bool
    gain_db: float | None = None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"what": self.what, "speedup": self.speedup._asdict(), "kept": self.kept} | (
            {} if self.gain_db is None else {"gain_db": self.gain_db}
        )


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
            outcome, before = verdict(speedup, _MARGIN), ladder.best.sqnr_db
            may = outcome == "better" or (outcome != "worse" and plan.exclude == ladder.plan.exclude)
            kept = may and ladder.replace(plan, model, faster=outcome == "better")
            gain = ladder.best.sqnr_db - before if kept and outcome != "better" else None
            variants.append(Variant(what, speedup, kept, gain))
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
    if ladder.quantizer.scheme.per_channel:
        yield "one scale a weight", lambda now: now._replace(per_tensor=True)
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
        runtimes: Those that count; by default every one that executes ONNX here.
    """

    context: Context
    signature: Signature
    runtimes: tuple[str, ...] = ()

    def __call__(self, before: Any, after: Any) -> Estimate:
        """Latency of one sample in `before` over that in `after`."""
        inputs = {name: array[:1] for name, array in self.context.probe_inputs().items()}
        with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
            artifacts = {
                name: self._written(model, Path(place) / name)
                for name, model in (("before", before), ("after", after))
            }
            arms = {
                ArmKey(name, runtime): opened
                for name, artifact in artifacts.items()
                for runtime in self.runtimes or onnx_runtimes()
                if (opened := _open(artifact, runtime, stack)) is not None
            }
            rounds = self._timed(arms, inputs)
        best = {
            name: fastest({arm: found for arm, found in rounds.items() if arm.artifact == name})
            for name in artifacts
        }
        one, two = best["before"], best["after"]
        assert one is not None
        if two is None:  # no engine executes it
            return Estimate(0.0, 0.0, 0.0)
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
        return write_onnx(model, folder, self.context, self.signature, precision="int8")


def _open(artifact: Artifact, runtime: str, stack: ExitStack) -> Runtime | None:
    """The model on an engine, until the stack is left; None where the engine does not take it."""
    try:
        return stack.enter_context(open_runtime(artifact, runtime))
    except LissomError as exc:
        log.debug("%s does not execute a variant: %s", runtime, exc)
        return None
