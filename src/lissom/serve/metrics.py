"""Metrics of the served models in the text that Prometheus reads.

Names and labels are those of Triton where it has one, so that its dashboards go on working. Labels hold the
names of models that are or were served, and nothing that came with a request: their number is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import psutil

from lissom.serve.latencies import BOUNDS_MS
from lissom.serve.repository import VERSION, ServedModel, State
from lissom.serve.scheduler import Counts

Labels = Mapping[str, str | float]


class _Family(NamedTuple):
    """One metric: its name, kind, meaning, and a sample for each set of labels."""

    name: str
    kind: str
    help: str
    samples: Iterable[tuple[str, Labels, float]]


def exposition(
    models: Iterable[ServedModel], absent: Mapping[str, State], responses: Counter[tuple[str, int]]
) -> str:
    """Everything that is measured, as text.

    Args:
        models: That answer.
        absent: Models that do not, and their state.
        responses: Number of answers by kind of route and status.
    """
    return "".join(
        line
        for family in (*_of_models(list(models)), *_of_server(models, absent, responses))
        for line in _lines(family)
    )


_COUNTERS: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
    ("nv_inference_request_success", "Requests that were answered", lambda counts: counts.answered),
    ("nv_inference_count", "Samples of answered requests", lambda counts: counts.rows),
    ("nv_inference_exec_count", "Batches that were computed", lambda counts: sum(counts.batches.values())),
    (
        "nv_inference_request_duration_us",
        "Time of answered requests, microseconds",
        lambda counts: round(1e6 * counts.latencies.seconds),
    ),
    (
        "nv_inference_queue_duration_us",
        "Time that answered requests waited, microseconds",
        lambda counts: round(1e6 * counts.queue_seconds),
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Time of their batches, microseconds",
        lambda counts: round(1e6 * counts.compute_seconds),
    ),
    (
        "lissom_deadline_missed_total",
        "Requests whose deadline passed, or could not be met",
        lambda counts: counts.expired,
    ),
)
_FAILURES: dict[str, Callable[[Counts], int]] = {
    "REJECTED": lambda counts: counts.refused + counts.expired,
    "CANCELED": lambda counts: counts.dropped,
    "BACKEND": lambda counts: counts.failed,
}


def _of_models(models: list[ServedModel]) -> Iterator[_Family]:
    counts = [(_labels(model), model.scheduler.counts) for model in models]
    for name, text, value in _COUNTERS:
        yield _Family(name, "counter", text, [(name, labels, value(one)) for labels, one in counts])
    name = "nv_inference_request_failure"
    yield _Family(
        name,
        "counter",
        "Requests that were not: no room or no time (REJECTED), no caller any more, or the model raised",
        [
            (name, {**labels, "reason": reason}, value(one))
            for labels, one in counts
            for reason, value in _FAILURES.items()
        ],
    )
    name = "nv_inference_pending_request_count"
    waiting = [(name, _labels(model), model.scheduler.num_waiting) for model in models]
    yield _Family(name, "gauge", "Requests that wait", waiting)
    yield _Family(
        "lissom_request_duration_ms",
        "histogram",
        "From the queue to the answer, milliseconds",
        [
            sample
            for labels, one in counts
            for sample in _histogram(labels, one.latencies.counts, 1e3 * one.latencies.seconds)
        ],
    )


def _of_server(
    models: Iterable[ServedModel], absent: Mapping[str, State], responses: Counter[tuple[str, int]]
) -> Iterator[_Family]:
    states = {model.name: model.state for model in models}
    ready = "lissom_model_ready"
    yield _Family(
        ready,
        "gauge",
        "1 for a model that answers",
        [
            (ready, {"model": name, "version": VERSION}, float(state is State.READY))
            for name, state in (*absent.items(), *states.items())
        ],
    )
    answered = "lissom_http_responses_total"
    yield _Family(
        answered,
        "counter",
        "Answers by kind of route and status",
        [
            (answered, {"route": route, "status": status}, number)
            for (route, status), number in sorted(responses.items())
        ],
    )
    process = psutil.Process()
    for name, kind, text, value in (
        ("process_resident_memory_bytes", "gauge", "Memory of this process", process.memory_info().rss),
        (
            "process_cpu_seconds_total",
            "counter",
            "Time of this process on processors",
            sum(process.cpu_times()[:2]),
        ),
    ):
        yield _Family(name, kind, text, [(name, {}, value)])


def _labels(model: ServedModel) -> Labels:
    return {"model": model.name, "version": VERSION}


def _histogram(labels: Labels, counts: list[int], total: float) -> Iterator[tuple[str, Labels, float]]:
    name = "lissom_request_duration_ms"
    ends = [*(f"{bound:g}" for bound in BOUNDS_MS), "+Inf"]
    for end, number in zip(ends, accumulate(counts), strict=True):
        yield f"{name}_bucket", {**labels, "le": end}, number
    yield f"{name}_sum", labels, total
    yield f"{name}_count", labels, sum(counts)


def _lines(family: _Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
    for name, labels, value in family.samples:
        told = ",".join(f'{key}="{_escaped(str(one))}"' for key, one in labels.items())
        number = f"{value:d}" if isinstance(value, int) else repr(float(value))
        yield f"{name}{{{told}}} {number}\n" if told else f"{name} {number}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
