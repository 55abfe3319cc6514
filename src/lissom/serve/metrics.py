"""Metrics of the served models in the text that Prometheus reads.

Names and labels are those of Triton where it has one, so that its dashboards go on working. Labels hold the
names of models that are or were served, and nothing that came with a request: their number is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import psutil

from lissom.serve.latencies import BOUNDS_MS
from lissom.serve.repository import VERSION, ServedModel, State

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


def _of_models(models: list[ServedModel]) -> Iterator[_Family]:
    def counter(name: str, text: str, values: Iterable[tuple[Labels, float]]) -> _Family:
        return _Family(name, "counter", text, [(name, labels, value) for labels, value in values])

    counts = [(_labels(model), model.scheduler.counts) for model in models]
    yield counter(
        "nv_inference_request_success",
        "Requests that were answered",
        ((one, c.answered) for one, c in counts),
    )
    yield counter(
        "nv_inference_request_failure",
        "Requests that were not: no room or no time (REJECTED), no caller any more, or the model raised",
        (
            ({**one, "reason": reason}, number)
            for one, c in counts
            for reason, number in (
                ("REJECTED", c.refused + c.expired),
                ("CANCELED", c.dropped),
                ("BACKEND", c.failed),
            )
        ),
    )
    yield counter(
        "nv_inference_count",
        "Samples that were computed",
        ((one, sum(rows * number for rows, number in c.batches.items())) for one, c in counts),
    )
    yield counter(
        "nv_inference_exec_count",
        "Batches that were computed",
        ((one, sum(c.batches.values())) for one, c in counts),
    )
    yield counter(
        "nv_inference_request_duration_us",
        "Time of answered requests, microseconds",
        ((one, round(1e6 * c.latencies.seconds)) for one, c in counts),
    )
    yield counter(
        "nv_inference_queue_duration_us",
        "Time that computed requests waited, microseconds",
        ((one, round(1e6 * c.queue_seconds)) for one, c in counts),
    )
    yield counter(
        "nv_inference_compute_infer_duration_us",
        "Time of batches, microseconds",
        ((one, round(1e6 * c.compute_seconds)) for one, c in counts),
    )
    yield counter(
        "lissom_deadline_missed_total",
        "Requests whose deadline passed, or could not be met",
        ((one, c.expired) for one, c in counts),
    )
    pending = "nv_inference_pending_request_count"
    yield _Family(
        pending,
        "gauge",
        "Samples that wait",
        [(pending, _labels(model), model.scheduler.waiting_rows) for model in models],
    )
    yield _Family(
        "lissom_request_duration_ms",
        "histogram",
        "From the queue to the answer, milliseconds",
        [
            sample
            for one, c in counts
            for sample in _histogram(one, c.latencies.counts, 1e3 * c.latencies.seconds)
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
