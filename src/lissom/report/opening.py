"""Every artifact on every runtime that executes it: opened, asked once, and its answers judged.

Of labelled data an arm keeps the score of every sample of the select and the report split, the answers
where each is one number, and the metrics of the report split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lissom.artifact import Artifact
from lissom.bench.memory import taken
from lissom.bench.selection import ArmKey
from lissom.errors import LissomError, RequestError
from lissom.export.verification import verify
from lissom.logs import Progress, log
from lissom.models.data import Data
from lissom.models.evaluation import judge, score_split
from lissom.optional import version
from lissom.recipe import default_threads
from lissom.registry import COMPILING, runtime_entry
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.differences import unlike
from lissom.runtime.probe import load_probe, probe_error
from lissom.runtime.sampled import take_samples

if TYPE_CHECKING:
    from lissom.models.tasks import Task

Figures = dict[str, Any]
"""What is known of an arm; see `docs/measuring.md`."""

NATIVE = {
    "torch": "torch",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "aotinductor": "aotinductor",
    "tensorrt": "tensorrt",
}
"""The runtime against which a format's conversions are compared."""


def planned_arms(artifacts: Sequence[Artifact], runtimes: Sequence[str]) -> list[ArmKey]:
    """Every artifact on every runtime that executes its format.

    Compiling takes many seconds, so inductor is given the first artifact and those that no later torch
    stage goes on from; what lies between has the same structure or is not finished.
    """
    continued = {
        parent.name
        for artifact in artifacts
        if artifact.manifest.format == "torch"
        for parent in artifact.manifest.parents
        if parent.role == "input"
    }
    return [
        ArmKey(artifact.name, runtime)
        for artifact in artifacts
        for runtime in runtimes
        if artifact.manifest.format in runtime_entry(runtime).formats
        and (runtime not in COMPILING or artifact is artifacts[0] or artifact.name not in continued)
    ]


class Arms:
    """Arms that are open, and what is known of every arm.

    Attributes:
        figures: By arm, of those that failed too.
        runtimes: Of those that can be timed.
    """

    def __init__(self) -> None:
        self.figures: dict[ArmKey, Figures] = {}
        self.runtimes: dict[ArmKey, Runtime] = {}
        self._hints: list[str] = []

    @contextmanager
    def at(self, arm: ArmKey, what: str) -> Iterator[Figures]:
        """The figures of an arm; when the block raises, the arm has failed and the others go on."""
        try:
            yield self.figures[arm]
        except LissomError as exc:
            self._hints += [exc.hint] if exc.hint else []
            self.drop(arm, what, exc.message)
        except Exception as exc:
            log.debug("%s on %s", arm.artifact, arm.runtime, exc_info=True)
            self.drop(arm, what, f"{type(exc).__name__}: {exc}")

    def drop(self, arm: ArmKey, what: str, reason: str) -> None:
        """An arm that is not open any more, and why."""
        log.warning("%s on %s cannot be %s: %s", arm.artifact, arm.runtime, what, reason)
        self.figures[arm]["error"] = reason
        self.figures[arm].pop("rounds_ms", None)
        self.runtimes.pop(arm, None)

    def check(self) -> None:
        """Go on only while an arm is open.

        Raises:
            RequestError: saying why none is.
        """
        if not self.runtimes:
            hint = next(iter(self._hints), "lissom doctor")
            raise RequestError(f"nothing can be measured: {self._reasons()}", hint=hint)

    def _reasons(self) -> str:
        reasons = [
            f"{arm.artifact} on {arm.runtime}: {record['error']}" for arm, record in self.figures.items()
        ]
        return "; ".join(reasons) or "no runtime that was asked for executes these artifacts"


def open_arms(
    artifacts: Sequence[Artifact],
    planned: Sequence[ArmKey],
    stack: ExitStack,
    progress: Progress,
    *,
    threads: int | None,
    device: str | None,
) -> Arms:
    """Open every arm and call it once, as cold as it is then: the time and the memory that this takes.

    Raises:
        RequestError: no arm could be opened.
    """
    by_name = {artifact.name: artifact for artifact in artifacts}
    arms = Arms()
    with progress.task("open runtimes", len(planned)) as advance:
        for arm in planned:
            arms.figures[arm] = {
                "version": version(runtime_entry(arm.runtime).distribution),
                "error": None,
                "threads": threads or default_threads(),
            }
            with arms.at(arm, "measured") as figures:
                inputs, wanted = load_probe(by_name[arm.artifact])
                with taken() as memory:
                    runtime = arms.runtimes[arm] = stack.enter_context(
                        open_runtime(by_name[arm.artifact], arm.runtime, threads=threads, device=device)
                    )
                    one = {name: array[:1] for name, array in inputs.items()}
                    answer, seconds = take_samples(runtime).timed_infer(one)
                figures |= {
                    "open_ms": runtime.open_seconds * 1e3,
                    "first_ms": seconds * 1e3,
                    "memory": memory.as_dict(),
                    "executed": runtime.executed(),
                    "elsewhere": runtime.elsewhere(),
                }
                _check_finite(answer, wanted)
            advance(1)
    arms.check()
    return arms


def _check_finite(answer: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Numbers where the model gave numbers when it was made.

    Raises:
        RequestError: naming the output.
    """
    for name, array in answer.items():
        known = wanted[name]
        known = known[: len(array)] if array.ndim and known.ndim else known
        if known.shape == array.shape:
            lost = unlike(known, array) & ~np.isfinite(array)
        else:  # an output without an axis of samples, such as one number, asked for other samples
            lost = ~np.isfinite(array) & np.isfinite(known).all()
        if np.any(lost):
            raise RequestError(
                f"output {name!r} is not finite: {int(lost.sum())} of {array.size} values are NaN or "
                "infinite, where the model gave numbers when it was made"
            )


def answer_all(
    artifacts: Sequence[Artifact], arms: Arms, data: Data, task: Task | None, progress: Progress
) -> None:
    """Answers, parity with the parent, and the probe, for every open arm; what cannot be scored is dropped.

    Raises:
        RequestError: no arm is left.
    """
    by_name = {artifact.name: artifact for artifact in artifacts}
    reference, trusted = reference_of(artifacts).name, None
    with progress.task("evaluate", len(arms.runtimes)) as advance:
        for arm, runtime in list(arms.runtimes.items()):
            with arms.at(arm, "judged") as figures:
                if task:
                    found, certain = _answers(runtime, data, task)
                    if trusted is None and arm.artifact == reference:
                        trusted = certain
                    figures |= found | certainty(certain, trusted, data)
                figures |= _compared(runtime, _parity_parent(arm, by_name[arm.artifact], arms.runtimes), data)
            advance(1)
    arms.check()


def _compared(runtime: Runtime, parent: Runtime | None, data: Data) -> dict[str, Any]:
    """How far an arm is from its stored probe, and from the arm that it was converted from."""
    found: dict[str, Any] = {"probe": probe_error(runtime)._asdict()}
    if parent:
        outputs = [parity._asdict() for parity in verify(parent, runtime, data)]
        found["parity"] = {"against": f"{parent.artifact.name} on {parent.name}", "outputs": outputs}
    return found


def task_for(artifact: Artifact, data: Data) -> Task | None:
    """What the answers are judged by; None without labels."""
    if data.dataset.labels is None:
        return None
    from lissom.models.tasks import task_of

    return task_of(artifact.manifest.task, data, artifact.manifest.scores)


def reference_of(artifacts: Sequence[Artifact]) -> Artifact:
    """The original: the first artifact, or the last that training it further gave."""
    found = artifacts[0]
    for artifact in artifacts[1:]:
        parents = [parent.name for parent in artifact.manifest.parents]
        if artifact.manifest.stage == "train" and parents == [found.name]:
            found = artifact
    return found


def certainty(found: np.ndarray | None, trusted: np.ndarray | None, data: Data) -> dict[str, Any]:
    """How sure an arm is of its answers to the report split, and how far it is from the reference.

    Args:
        found: Log-probabilities, shape [samples, classes]; None where answers are no classes.
        trusted: Those of the reference; None until it has answered.
        data: Gives the labels.

    Raises:
        RequestError: an answer is NaN.
    """
    if found is None:
        return {}
    if lost := int(np.isnan(found).any(axis=1).sum()):
        raise RequestError(f"the outputs of {lost} of {len(found)} samples are NaN or infinite")
    rows = np.arange(len(found))
    told = {
        "confidence": _numbers(np.exp(found.max(axis=1))),
        "likelihood": _numbers(np.exp(found[rows, data.labels("report")])),
    }
    if trusted is not None:
        divergence = (np.exp(trusted) * (trusted - found)).sum(axis=1)
        told["kl"] = _numbers(np.maximum(divergence, 0.0))
    return {"certainty": told}


def _answers(runtime: Runtime, data: Data, task: Task) -> tuple[dict[str, Any], np.ndarray | None]:
    """Scores and answers of every sample of the select and the report split, metrics of the report split.

    Log-probabilities of the report split come second, where answers are classes.
    """
    report = judge(runtime.infer_batch, data, "report", task)
    selected, select_scores = score_split(runtime.infer_batch, data, "select", task)
    scores = {"select": select_scores, "report": report.scores}
    found = {"select": selected, "report": report.answers}
    told = {
        "metrics": report.metrics,
        "scores": {split: _numbers(values) for split, values in scores.items()},
        "predictions": {split: _numbers(values) for split, values in found.items() if values.ndim == 1},
    }
    return told, report.log_probabilities


def _numbers(values: np.ndarray) -> list[int] | list[float]:
    """As they are kept: whole numbers and 0 or 1 as integers, others to six digits."""
    if values.dtype.kind == "f":
        return [float(f"{value:.6g}") for value in values.tolist()]
    return [int(value) for value in values.tolist()]


def _parity_parent(arm: ArmKey, artifact: Artifact, opened: Mapping[ArmKey, Runtime]) -> Runtime | None:
    """What an arm is compared with: the parent of a conversion, or eager torch for a compiled model."""
    if arm.runtime in COMPILING:
        return opened.get(ArmKey(arm.artifact, "torch"))
    if artifact.manifest.format == "torch" or artifact.manifest.config.get("mode") == "qat":
        return None  # trained, not converted
    parent = next((parent for parent in artifact.manifest.parents if parent.role == "input"), None)
    if parent is None:
        return None
    native = (
        runtime
        for name in NATIVE.values()
        for runtime in opened.values()
        if runtime.name == name and runtime.artifact.digest == parent.digest
    )
    return next(native, None)
