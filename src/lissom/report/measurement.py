"""Measure every artifact of a run on every runtime, in one interleaved session, and keep it as evidence.

Opening, answering and timing come in this order; whatever an arm raises makes that arm fail, and the others
go on. What was measured is written every few seconds, so that a killed process loses little.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from lissom.artifact import Artifact
from lissom.bench import energy
from lissom.bench.roofline import ceilings
from lissom.bench.selection import ArmKey, is_decided
from lissom.bench.timing import Session, time_rounds
from lissom.bench.watch import Watch
from lissom.bench.work import Work, works_of
from lissom.logs import Progress, tried
from lissom.models.data import Data
from lissom.recipe import BenchmarkConfig, default_threads
from lissom.report.evidence import Record, Writer, find_evidence, measurement_key
from lissom.report.inside import look_inside
from lissom.report.opening import Arms, answer_all, open_arms, planned_arms, task_for
from lissom.runtime.availability import usable_runtimes
from lissom.runtime.base import open_runtime
from lissom.runtime.sampled import take_samples

CONTROL = "(control)"
"""Stands for the artifact of the last arm, usually among the fastest, which is opened and timed once more."""
_MIN_ROUNDS = 4
_WRITE_SECONDS = 10.0


def measure(
    artifacts: Sequence[Artifact], config: BenchmarkConfig, data: Data, *, progress: Progress
) -> tuple[str, dict[str, Record]]:
    """Measure, or find what was measured before; gives the key and one record an artifact.

    When it is interrupted after some rounds the records say `complete: false`.

    Raises:
        RequestError: no arm can be measured.
    """
    planned = planned_arms(artifacts, usable_runtimes(config.runtimes))
    key = measurement_key(artifacts, config, planned, data)
    if (found := find_evidence(artifacts, key)) is not None:
        return key, found
    task = task_for(artifacts[0], data)
    judged_by = {"task": artifacts[0].manifest.task, "score_name": task.score_name} if task else {}
    writer = Writer(artifacts, config, key, judged_by=judged_by)
    watch = Watch()
    with ExitStack() as stack:
        arms = open_arms(artifacts, planned, stack, progress, threads=config.threads, device=config.device)
        answer_all(artifacts, arms, data, task, progress)
        inputs = timed_batch(data, config.batch_size)
        complete = _time(arms, inputs, config, stack, writer, watch, progress)
        if complete:
            complete = _look_further(artifacts, arms, inputs, config, writer, progress)
    return key, writer.write(arms.figures, watch.record(), complete=complete)


def _look_further(
    artifacts: Sequence[Artifact],
    arms: Arms,
    inputs: dict[str, np.ndarray],
    config: BenchmarkConfig,
    writer: Writer,
    progress: Progress,
) -> bool:
    """Energy, layers, work and the roof; False when interrupted, with what was timed all the same.

    Each is an addition: where one fails, the others and the times are kept.
    """
    threads, device = config.threads or default_threads(), config.device or "cpu"
    try:
        _count_energy(arms, inputs, config, progress)
        look_inside(artifacts, arms, inputs, progress)
        works: dict[str, Work] = tried("the work of the models", lambda: works_of(artifacts), {})
        roof: dict[str, Any] = tried(
            "the ceilings of this machine",
            lambda: ceilings(threads=threads, device=device, progress=progress)._asdict(),
            {},
        )
    except KeyboardInterrupt:
        return False
    writer.know({name: work._asdict() for name, work in works.items()}, roof)
    return True


def _time(
    arms: Arms,
    inputs: dict[str, np.ndarray],
    config: BenchmarkConfig,
    stack: ExitStack,
    writer: Writer,
    watch: Watch,
    progress: Progress,
) -> bool:
    """Time every arm until it is sure which runtime of each artifact is fastest; False when interrupted.

    Raises:
        RequestError: every arm failed.
    """
    last, runtime = next(reversed(arms.runtimes.items()))
    control = ArmKey(CONTROL, last.runtime)
    again = open_runtime(runtime.artifact, last.runtime, threads=config.threads, device=config.device)
    timed = {**arms.runtimes, control: stack.enter_context(again)}
    session = Session(timed, inputs, round_ms=config.round_ms)
    written = time.monotonic()

    def after_round() -> None:
        nonlocal written
        watch.read()
        if time.monotonic() - written > _WRITE_SECONDS:
            _take(session, arms, last, control)
            writer.write(arms.figures, watch.record(), complete=False)
            written = time.monotonic()

    writer.write(arms.figures, watch.record(), complete=False)
    complete = True
    try:
        session.warm_up(config.num_warmup)
        watch.read()
        time_rounds(
            session,
            num_rounds=config.num_rounds,
            max_rounds=config.max_rounds or 3 * config.num_rounds,
            decided=lambda rounds: is_decided(
                {arm: own for arm, own in rounds.items() if arm.artifact != CONTROL}
            ),
            progress=progress,
            after_round=after_round,
        )
    except KeyboardInterrupt:
        if min((len(own) for own in session.rounds.values()), default=0) < _MIN_ROUNDS:
            raise
        complete = False
    for arm, exc in session.failed.items():
        if arm != control:
            arms.drop(arm, "timed", str(exc) or type(exc).__name__)
    arms.check()
    _take(session, arms, last, control)
    return complete


def _take(session: Session[ArmKey], arms: Arms, last: ArmKey, control: ArmKey) -> None:
    """Put what was timed into the figures; rounds that not every arm has come to are left out."""
    num_rounds = min((len(own) for own in session.rounds.values()), default=0)
    for arm, own in session.rounds.items():
        if arm == control:
            arms.figures[last]["control_ms"] = own[:num_rounds]
        else:
            arms.figures[arm] |= {
                "rounds_ms": own[:num_rounds],
                "warmup": session.warmups[arm]._asdict(),
                "load": session.counters[arm].cores(),
            }


def _count_energy(
    arms: Arms, inputs: dict[str, np.ndarray], config: BenchmarkConfig, progress: Progress
) -> None:
    """Energy of every arm, where a counter can be read."""
    counters = energy.counters() if config.energy_seconds else []
    if not counters:
        return
    with progress.task("count energy", len(arms.runtimes) + 1) as advance:
        idle = energy.idle_watts(counters)
        advance(1)
        for arm, runtime in list(arms.runtimes.items()):
            found = tried(
                f"the energy of {arm.artifact} on {arm.runtime}",
                lambda runtime=runtime: energy.spent(  # type: ignore[misc]
                    lambda: take_samples(runtime).infer(inputs),
                    counters,
                    seconds=config.energy_seconds,
                    idle=idle,
                ),
                None,
            )
            if found is not None:
                arms.figures[arm]["energy"] = found._asdict()
            advance(1)


def timed_batch(data: Data, batch_size: int) -> dict[str, np.ndarray]:
    """The tensors of a timed call; samples repeat where the split is smaller than the batch."""
    split = next(name for name in ("select", "calibrate", "report", "train") if len(data.indices[name]))
    tensors = data.tensors(split)
    index = np.arange(batch_size) % len(next(iter(tensors.values())))
    return {name: array[index] for name, array in tensors.items()}
