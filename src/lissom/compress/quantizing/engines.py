"""Proof on every engine: an int8 file is compared with its float32 parent wherever it may be executed here.

Engines read the same Q and DQ nodes in different ways: one drops pairs of 16 bits, another fuses what the
first leaves alone, and without VNNI products saturate. So what holds on the engine by which the model was
made says little of the others. Each is compared with float32 *on itself*, by a few samples, in the way in
which it will be served.

Where the target is another machine, ONNX Runtime with exact integer arithmetic decides in its place, and the
engines of this machine are proven too, but decide nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Artifact, Draft, Signature
from lissom.compress.quantizing.evidence import Figures, Goal, Judge
from lissom.compress.quantizing.graph import with_fixed_noise
from lissom.errors import LissomError
from lissom.models.stages import FLOAT32_TOLERANCE, INT8_TOLERANCE, Context
from lissom.registry import COMPILING, runtime_entry
from lissom.runtime.availability import usable_runtimes
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.machine import has_vnni
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.open_vino import reason_of

JUDGING = "onnxruntime"
"""The engine by which models are judged while they are made."""
_NUM_SAMPLES, _AT_ONCE = 32, 8
_WORSE_DB = 6.0
"""Twice the noise of the engine by which the model was made."""


class Proof(NamedTuple):
    """How near an int8 model is to float32 on one engine.

    Attributes:
        runtime: The engine.
        arithmetic: native, or exact where integer products are added up exactly whatever the CPU does.
        figures: Against float32 on the same engine; None where it cannot execute the model.
        num_samples: On which it was compared.
        decides: False for an engine of this machine where the target is another one.
        fault: Why the model is not offered on it; empty where it is.
    """

    runtime: str
    arithmetic: str
    figures: Figures | None
    num_samples: int
    decides: bool
    fault: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        figures = {} if self.figures is None else self.figures._asdict()
        found = {key: figures.get(key) for key in ("sqnr_db", "cosine", "agreement")}
        return {
            "runtime": self.runtime,
            "arithmetic": self.arithmetic,
            **found,
            "num_samples": self.num_samples,
            "decides": self.decides,
            "offered": not self.fault,
            "fault": self.fault,
        }


@dataclass
class Prover:
    """Compares models with their parent on every engine that executes ONNX here.

    Attributes:
        judge: Of the models; it gives the samples.
        goal: What is good enough.
        context: Of the stage.
        signature: Of the models.
    """

    judge: Judge
    goal: Goal
    context: Context
    signature: Signature
    _parents: dict[str, list[Mapping[str, np.ndarray]]] = field(default_factory=dict)

    def __call__(self, model: Any, judged: Figures) -> tuple[Proof, ...]:
        """A proof an engine, that by which the model was judged first.

        Args:
            model: The int8 model.
            judged: Its figures on the whole split, by the engine by which it was made.
        """
        exact = self.judge.exact
        first = Proof(JUDGING, "exact" if exact else "native", judged, self.judge.number, decides=True)
        others = [name for name in onnx_runtimes() if name != JUDGING or (exact and not has_vnni())]
        with tempfile.TemporaryDirectory() as place:
            found = [self._proof(name, model, Path(place), decides=not exact) for name in others]
        return (first, *(self._judged(proof, judged) for proof in found))

    def _proof(self, name: str, model: Any, folder: Path, *, decides: bool) -> Proof:
        batches = list(self.judge.batches(_AT_ONCE, min(_NUM_SAMPLES, self.judge.number)))
        number = sum(len(next(iter(batch.values()))) for batch in batches)
        proof = Proof(name, "native", None, number, decides)
        try:
            if name not in self._parents:
                self._parents[name] = self._answers(name, self.judge.parent, "float32", batches, folder)
            found = self._answers(name, model, "int8", batches, folder)
        except LissomError as exc:
            return proof._replace(fault=f"it does not execute the model: {exc.message}")
        figures = self.judge.compare(zip(self._parents[name], found, strict=True))
        return proof._replace(figures=figures)

    def _judged(self, proof: Proof, judged: Figures) -> Proof:
        """With the reason why the model is not offered on the engine, where there is one."""
        figures = proof.figures
        if figures is None:
            return proof
        fault = ""
        if figures.sqnr_db <= -200.0:
            fault = "its answers are not finite"
        elif figures.sqnr_db < min(judged.sqnr_db - _WORSE_DB, self._enough):
            told = "with exact arithmetic" if self.judge.exact else f"on {JUDGING}"
            fault = f"{figures.sqnr_db:.1f} dB against float32 there, and {judged.sqnr_db:.1f} dB {told}"
        elif judged.drop is None and judged.sqnr_db >= self.goal.min_sqnr_db > figures.sqnr_db:
            fault = f"{figures.sqnr_db:.1f} dB against float32 there, below {self.goal.min_sqnr_db:g} dB"
        return proof._replace(fault=fault)

    @property
    def _enough(self) -> float:
        """Signal-to-noise ratio from which on a difference between engines does not matter."""
        return self.goal.min_sqnr_db + 2 * _WORSE_DB

    def _answers(
        self, name: str, model: Any, precision: str, batches: Sequence[Mapping[str, np.ndarray]], folder: Path
    ) -> list[Mapping[str, np.ndarray]]:
        artifact = self._written(model, folder / f"{precision}-{name}", precision)
        with closing(open_runtime(artifact, name)) as runtime:
            return [runtime.infer_batch(batch) for batch in batches]

    def _written(self, model: Any, folder: Path, precision: str) -> Artifact:
        return write_onnx(with_fixed_noise(model), folder, self.context, self.signature, precision=precision)


@contextmanager
def closing(runtime: Runtime) -> Iterator[Runtime]:
    """An open runtime, whose faults are the model's: what is raised by an engine is an error of ours."""
    try:
        yield runtime
    except RuntimeError as exc:
        raise LissomError(reason_of(exc)) from exc
    finally:
        runtime.close()


def onnx_runtimes() -> list[str]:
    """The runtimes of this machine that execute ONNX files."""
    names = usable_runtimes(None)
    return [name for name in names if "onnx" in runtime_entry(name).formats and name not in COMPILING]


def write_onnx(
    model: Any, folder: Path, context: Context, signature: Signature, *, precision: str
) -> Artifact:
    """An artifact that is opened once and thrown away."""
    with Draft(folder) as draft:
        draft.add(MODEL_FILE, model.SerializeToString())
        return draft.commit(
            **context.fields,
            format="onnx",
            precision=precision,
            signature=signature,
            factory=None,
            num_parameters=None,
            notes={},
            tolerance=INT8_TOLERANCE if precision == "int8" else FLOAT32_TOLERANCE,
        )


def worst_db(proofs: Sequence[Proof]) -> float:
    """Signal-to-noise ratio on the worst of the engines that decide."""
    deciding = [proof for proof in proofs if proof.decides]
    return min(-200.0 if proof.figures is None else proof.figures.sqnr_db for proof in deciding)


def all_hold(proofs: Sequence[Proof]) -> bool:
    """True when the model is offered on every engine that decides."""
    return not any(proof.fault for proof in proofs if proof.decides)
