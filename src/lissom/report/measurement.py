"""Measure every artifact of a run on every runtime, and keep the result as evidence beside each artifact.

All arms are timed in one interleaved session, so evidence of one measurement belongs together; its key
is a hash of the artifacts, the settings, the machine and the engines. Evidence with the right key is
used again, so that a rerun neither measures twice nor changes its choice.

Of labelled data an arm keeps the score of every sample of the select and the report split, the answers
where each is one number, and the metrics of the report split.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from lissom.artifact import Artifact, content_id
from lissom.bench.environment import environment
from lissom.bench.selection import ArmKey, is_decided
from lissom.bench.timing import time_interleaved
from lissom.errors import LissomError, RequestError
from lissom.export.verification import verify
from lissom.logs import Progress, log
from lissom.models.data import Data
from lissom.models.evaluation import answers, judge, scores_of
from lissom.optional import version
from lissom.recipe import BenchmarkConfig, default_threads
from lissom.registry import COMPILING, runtime_entry
from lissom.runtime.availability import usable_runtimes
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.machine import host, machine
from lissom.runtime.probe import load_probe, probe_error

if TYPE_CHECKING:
    from lissom.models.tasks import Task

EVIDENCE_SCHEMA = "lissom.evidence/3"
CONTROL = "(control)"
"""Stands for the artifact of the last arm, usually among the fastest, which is opened and timed once more."""
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


def measurement_key(
    artifacts: Sequence[Artifact], config: BenchmarkConfig, arms: Sequence[ArmKey], data: Data
) -> str:
    """What ties the evidence of one measurement together."""
    runtimes = sorted({arm.runtime for arm in arms})
    return content_id(
        {
            "artifacts": [artifact.digest for artifact in artifacts],
            "benchmark": config.model_dump(mode="json", exclude={"runtimes"}),
            "arms": [list(arm) for arm in arms],
            "splits": data.split_hashes,
            "evidence": EVIDENCE_SCHEMA,
            "engines": {name: version(runtime_entry(name).distribution) for name in runtimes},
            "machine": machine(),
        }
    )


def find_evidence(artifacts: Sequence[Artifact], key: str) -> dict[str, dict[str, Any]] | None:
    """The records of a measurement by artifact, or None when one is missing."""
    found: dict[str, dict[str, Any]] = {}
    for artifact in artifacts:
        records = [record for record in artifact.evidence() if record.get("measurement") == key]
        if not records:
            return None
        found[artifact.name] = records[-1]
    return found


def measure(
    artifacts: Sequence[Artifact], config: BenchmarkConfig, data: Data, *, progress: Progress
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Measure, or find what was measured before; gives the key and one record an artifact."""
    arms = planned_arms(artifacts, usable_runtimes(config.runtimes))
    key = measurement_key(artifacts, config, arms, data)
    if (found := find_evidence(artifacts, key)) is not None:
        return key, found
    started = _now()
    with ExitStack() as stack:
        figures, opened = _open_all(artifacts, arms, config, stack, progress)
        if not opened:
            raise RequestError(f"nothing can be measured: {_reasons(figures)}", hint="lissom doctor")
        task = _task(artifacts[0], data)
        _answer_all(artifacts, figures, opened, data, task, progress)
        if not opened:
            raise RequestError(f"nothing can be measured: {_reasons(figures)}", hint="lissom doctor")
        inputs = _timed_batch(data, config.batch_size)
        last, runtime = next(reversed(opened.items()))
        control = ArmKey(CONTROL, last.runtime)
        again = open_runtime(runtime.artifact, last.runtime, threads=config.threads, device=config.device)
        rounds = _timed({**opened, control: stack.enter_context(again)}, inputs, config, progress)
        figures[last]["control_ms"] = rounds.pop(control)
        for arm, own in rounds.items():
            figures[arm]["rounds_ms"] = own
    judged_by = {"task": artifacts[0].manifest.task, "score_name": task.score_name} if task else {}
    return key, _write(artifacts, config, figures, key=key, started=started, judged_by=judged_by)


def _timed(
    arms: Mapping[ArmKey, Runtime],
    inputs: Mapping[str, np.ndarray],
    config: BenchmarkConfig,
    progress: Progress,
) -> dict[ArmKey, list[list[float]]]:
    """Rounds of every arm, until it is sure which runtime of each artifact is fastest."""
    return time_interleaved(
        arms,
        inputs,
        num_rounds=config.num_rounds,
        max_rounds=config.max_rounds or 3 * config.num_rounds,
        decided=lambda rounds: is_decided(
            {arm: own for arm, own in rounds.items() if arm.artifact != CONTROL}
        ),
        round_ms=config.round_ms,
        num_warmup=config.num_warmup,
        progress=progress,
    )


def _open_all(
    artifacts: Sequence[Artifact],
    arms: Sequence[ArmKey],
    config: BenchmarkConfig,
    stack: ExitStack,
    progress: Progress,
) -> tuple[dict[ArmKey, dict[str, Any]], dict[ArmKey, Runtime]]:
    by_name = {artifact.name: artifact for artifact in artifacts}
    figures: dict[ArmKey, dict[str, Any]] = {}
    opened: dict[ArmKey, Runtime] = {}
    with progress.task("open runtimes", len(arms)) as advance:
        for arm in arms:
            entry = runtime_entry(arm.runtime)
            figures[arm] = {
                "version": version(entry.distribution),
                "error": None,
                "threads": config.threads or default_threads(),
            }
            try:
                opened[arm] = stack.enter_context(
                    open_runtime(
                        by_name[arm.artifact], arm.runtime, threads=config.threads, device=config.device
                    )
                )
                figures[arm]["open_ms"] = opened[arm].open_seconds * 1e3
                figures[arm]["executed"] = opened[arm].executed()
                figures[arm]["elsewhere"] = opened[arm].elsewhere()
            except LissomError as exc:
                log.warning("%s on %s cannot be measured: %s", arm.artifact, arm.runtime, exc)
                figures[arm]["error"] = exc.message
            advance(1)
    return figures, opened


def _answer_all(
    artifacts: Sequence[Artifact],
    figures: dict[ArmKey, dict[str, Any]],
    opened: dict[ArmKey, Runtime],
    data: Data,
    task: Task | None,
    progress: Progress,
) -> None:
    """First inference, answers, parity with the parent, and the probe, for every open arm.

    An arm whose answers cannot be scored is no longer open afterwards.
    """
    unusable: list[ArmKey] = []
    by_name = {artifact.name: artifact for artifact in artifacts}
    with progress.task("evaluate", len(opened)) as advance:
        for arm, runtime in opened.items():
            artifact = by_name[arm.artifact]
            record = figures[arm]
            inputs, _ = load_probe(artifact)
            one = {name: array[:1] for name, array in inputs.items()}
            record["first_ms"] = runtime.timed_infer(one)[1] * 1e3
            try:
                record |= _answers(runtime, data, task) if task else {}
            except LissomError as exc:
                log.warning("%s on %s cannot be judged: %s", arm.artifact, arm.runtime, exc)
                record["error"] = exc.message
                unusable.append(arm)
            else:
                record |= _compared(runtime, _parity_parent(arm, artifact, opened), data)
            advance(1)
    for arm in unusable:
        del opened[arm]


def _compared(runtime: Runtime, parent: Runtime | None, data: Data) -> dict[str, Any]:
    """How far an arm is from its stored probe, and from the arm that it was converted from."""
    found: dict[str, Any] = {"probe": probe_error(runtime)._asdict()}
    if parent:
        outputs = [parity._asdict() for parity in verify(parent, runtime, data)]
        found["parity"] = {"against": f"{parent.artifact.name} on {parent.name}", "outputs": outputs}
    return found


def _reasons(figures: Mapping[ArmKey, Mapping[str, Any]]) -> str:
    reasons = [f"{arm.artifact} on {arm.runtime}: {record['error']}" for arm, record in figures.items()]
    return "; ".join(reasons) or "no runtime that was asked for executes these artifacts"


def _timed_batch(data: Data, batch_size: int) -> dict[str, np.ndarray]:
    """The tensors of a timed call; samples repeat where the split is smaller than the batch."""
    split = next(name for name in ("select", "calibrate", "report", "train") if len(data.indices[name]))
    tensors = data.tensors(split)
    index = np.arange(batch_size) % len(next(iter(tensors.values())))
    return {name: array[index] for name, array in tensors.items()}


def _task(artifact: Artifact, data: Data) -> Task | None:
    """What the answers are judged by; None without labels."""
    if data.dataset.labels is None:
        return None
    from lissom.models.tasks import task_of

    return task_of(artifact.manifest.task, data)


def _answers(runtime: Runtime, data: Data, task: Task) -> dict[str, Any]:
    """Scores and answers of every sample of the select and the report split, metrics of the report split."""
    report = judge(runtime.infer_batch, data, "report", task)
    selected = answers(runtime.infer_batch, data, "select", task)
    scores = {"select": scores_of(task, selected, data.labels("select")), "report": report.scores}
    found = {"select": selected, "report": report.answers}
    return {
        "metrics": report.metrics,
        "scores": {split: _numbers(values) for split, values in scores.items()},
        "predictions": {split: _numbers(values) for split, values in found.items() if values.ndim == 1},
    }


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
    return next(
        (
            opened[ArmKey(parent.name, name)]
            for name in NATIVE.values()
            if ArmKey(parent.name, name) in opened
        ),
        None,
    )


def _write(
    artifacts: Sequence[Artifact],
    config: BenchmarkConfig,
    figures: Mapping[ArmKey, dict[str, Any]],
    *,
    key: str,
    started: str,
    judged_by: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    state = environment()
    finished = _now()
    records: dict[str, dict[str, Any]] = {}
    for artifact in artifacts:
        record = {
            "schema": EVIDENCE_SCHEMA,
            "measurement": key,
            "artifact": {"id": artifact.id, "digest": artifact.digest, "name": artifact.name},
            "started": started,
            "finished": finished,
            "benchmark": config.model_dump(mode="json"),
            "environment": state,
            **judged_by,
            "runtimes": {arm.runtime: figures[arm] for arm in figures if arm.artifact == artifact.name},
        }
        artifact.forget_evidence(key)  # of a measurement that was killed while it was written
        artifact.add_evidence(
            record, name=f"{host()}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{key[:8]}"
        )
        records[artifact.name] = record
    return records


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
