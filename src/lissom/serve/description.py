"""What the extensions of the protocol tell of a model: its configuration, and what became of its requests."""

from __future__ import annotations

import time
from typing import Any

import orjson

from lissom.artifact import TensorSpec
from lissom.runtime.layout import describe_batching
from lissom.serve.protocol import tensor_metadata
from lissom.serve.repository import VERSION, ServedModel
from lissom.serve.tensors import DATATYPES


def metadata(model: ServedModel) -> dict[str, Any]:
    """What a model takes and gives, and which artifact it is."""
    manifest = model.manifest
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": f"{model.runtime.name}_{manifest.format}",
        "inputs": [tensor_metadata(spec) for spec in manifest.signature.inputs],
        "outputs": [tensor_metadata(spec) for spec in manifest.signature.outputs],
        "properties": {
            "artifact": model.artifact.id,
            "digest": model.artifact.digest,
            "precision": manifest.precision,
            "runtime": model.runtime.name,
            "stage": manifest.name,
            "preprocessing": [step.model_dump(mode="json") for step in manifest.preprocessing],
            "input_ranges": [one.model_dump(mode="json") for one in manifest.input_ranges],
            "batching": describe_batching(model.batching),
            "batch_axes": model.batching.model_dump(mode="json", include={"inputs", "outputs", "states"}),
        },
    }


def configuration(model: ServedModel) -> dict[str, Any]:
    """As clients of Triton read it: sizes without the axis of samples, where there is one."""
    scheduler, signature = model.scheduler, model.manifest.signature
    joined = scheduler.batches and model.runtime.layout.is_plain  # the form knows no other axis
    skipped = 1 if joined else 0
    return {
        "name": model.name,
        "platform": f"{model.runtime.name}_{model.manifest.format}",
        "backend": model.runtime.name,
        "max_batch_size": scheduler.limits.max_batch if joined else 0,
        "input": [_tensor(spec, skipped) for spec in signature.inputs],
        "output": [_tensor(spec, skipped) for spec in signature.outputs],
        "instance_group": [{"name": model.name, "count": scheduler.num_instances, "kind": _kind(model)}],
        "dynamic_batching": {
            "max_queue_delay_microseconds": round(scheduler.limits.max_delay * 1e6),
            "default_queue_policy": {"max_queue_size": scheduler.limits.max_waiting},
        },
        "version_policy": {"latest": {"num_versions": 1}},
        "parameters": {
            "batching": {"string_value": describe_batching(model.batching)},
            **{
                name: {"string_value": orjson.dumps([one.model_dump(mode="json") for one in found]).decode()}
                for name, found in (
                    ("preprocessing", model.manifest.preprocessing),
                    ("input_ranges", model.manifest.input_ranges),
                )
            },
        },
    }


def statistics(model: ServedModel) -> dict[str, Any]:
    """Requests and batches since the model was loaded, and the time they took, nanoseconds.

    `latency_ms` is ours: percentiles of the last ten seconds, and requests a second; null without any.
    """
    counts = model.scheduler.counts
    executed = sum(counts.batches.values())
    computed = {"count": counts.answered, "ns": _ns(counts.compute_seconds)}
    nothing = {"count": 0, "ns": 0}
    failed = counts.failed + counts.refused + counts.expired + counts.dropped
    return {
        "name": model.name,
        "version": VERSION,
        "last_inference": round(1e3 * counts.last_batch),
        "inference_count": counts.rows,
        "execution_count": executed,
        "inference_stats": {
            "success": {
                "count": counts.answered,
                "ns": _ns(counts.latencies.seconds),
            },
            "fail": {"count": failed, "ns": 0},
            "queue": {"count": counts.answered, "ns": _ns(counts.queue_seconds)},
            "compute_input": nothing,
            "compute_infer": computed,
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {"batch_size": rows, "compute_infer": {"count": number, "ns": _ns(counts.batch_seconds[rows])}}
            for rows, number in sorted(counts.batches.items())
        ],
        "latency_ms": counts.latencies.recent(time.perf_counter()),
    }


def _tensor(spec: TensorSpec, skipped: int) -> dict[str, Any]:
    sizes = [size if isinstance(size, int) else -1 for size in spec.shape[skipped:]]
    return {"name": spec.name, "data_type": f"TYPE_{DATATYPES[spec.dtype]}", "dims": sizes}


def _kind(model: ServedModel) -> str:
    return "KIND_GPU" if model.runtime.device == "cuda" else "KIND_CPU"


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)
