"""What this machine can do at most, measured: large matrix products by type, and a large copy.

The roofline (Williams, Waterman and Patterson 2009): work of I operations a byte moved can reach at most
min(peak, I * bandwidth) operations a second. Peak and bandwidth are measured with the threads that a model is
timed with and kept for this machine, since figures from a data sheet are reached by nothing. Small models
live in caches that are faster than the memory whose copy is timed, so a share above 1 is possible.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lissom.artifact import canonical_json, content_id, write_atomic
from lissom.logs import NoProgress, Progress
from lissom.models.embedded import cache_folder
from lissom.optional import version
from lissom.runtime.machine import isa_flags, machine

SCHEMA = "lissom.ceilings/1"
_SIZE = {"cpu": 1536, "cuda": 8192}
_COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}
"""Bytes; no cache holds them."""
_TRIES = 5


class Ceilings(NamedTuple):
    """The most that a device does.

    Attributes:
        device: cpu or cuda.
        threads: Of the processor.
        flops_per_s: Of a large product, by type; a type without instructions of its own is left out.
        bytes_per_s: Read and written by a large copy.
    """

    device: str
    threads: int
    flops_per_s: dict[str, float]
    bytes_per_s: float


class Attained(NamedTuple):
    """How near to the roof a model comes.

    Attributes:
        flops_per_s: Operations of a call over its seconds.
        intensity: Operations a byte.
        roof: Operations a second that this intensity allows.
        share: Of the roof.
        bound: compute, or memory where the bytes decide.
        precision: Type whose peak was taken.
    """

    flops_per_s: float
    intensity: float
    roof: float
    share: float
    bound: str
    precision: str


def attained(
    flops: float, moved_bytes: float, seconds: float, ceilings: Ceilings, precision: str
) -> Attained | None:
    """Hold a call against the roof; None where the type of its products has no ceiling.

    Args:
        flops: Of the call.
        moved_bytes: That it moves at least.
        seconds: It took.
        ceilings: Of the machine.
        precision: Type of the products.
    """
    peak = ceilings.flops_per_s.get(precision)
    if peak is None or not moved_bytes or not seconds:
        return None
    intensity = flops / moved_bytes
    by_memory = intensity * ceilings.bytes_per_s
    roof = min(peak, by_memory)
    reached = flops / seconds
    bound = "memory" if by_memory < peak else "compute"
    return Attained(reached, intensity, roof, reached / roof if roof else 0.0, bound, precision)


def ceilings(*, threads: int, device: str = "cpu", progress: Progress | None = None) -> Ceilings:
    """The ceilings of this machine, from the cache or measured in a second or two.

    Args:
        threads: Of the processor.
        device: cpu or cuda.
        progress: Told of a measurement; default: shows nothing.
    """
    key = content_id(
        {
            "schema": SCHEMA,
            "machine": machine(),
            "threads": threads,
            "device": device,
            "torch": version("torch"),
        }
    )
    path = cache_folder() / f"ceilings-{key[:16]}.json"
    kept = _kept(path, threads, device)
    if kept is not None:
        return kept
    with (progress or NoProgress()).task("measure what this machine can do", 1) as advance:
        measured = measure(threads=threads, device=device)
        advance(1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, canonical_json({"schema": SCHEMA, **measured._asdict()}))
    except OSError:
        pass  # a cache that cannot be written is measured again
    return measured


def _kept(path: Path, threads: int, device: str) -> Ceilings | None:
    """What the cache holds; None where it holds nothing or is damaged."""
    try:
        found = json.loads(path.read_bytes())
        peaks = {kind: float(value) for kind, value in found["flops_per_s"].items()}
        kept = Ceilings(device, threads, peaks, float(found["bytes_per_s"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = all(math.isfinite(value) and value > 0 for value in (*peaks.values(), kept.bytes_per_s))
    return kept if sound and "float32" in peaks else None


def measure(*, threads: int, device: str = "cpu", size: int | None = None) -> Ceilings:
    """Time products and a copy; torch's threads are as before afterwards.

    Args:
        threads: Of the processor.
        device: cpu or cuda.
        size: Rows and columns of the matrices; default: large enough for the device.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        peaks = {
            kind: 2.0 * side**3 / _seconds(call, device)
            for side in [size or _SIZE[device]]
            for kind, call in _products(side, device)
        }
        num_bytes = _COPIED[device] if size is None else 4 * size * size
        source = torch.ones(num_bytes // 4, device=device)
        target = torch.empty_like(source)
        copied = 2.0 * source.nbytes / _seconds(lambda: target.copy_(source), device)
    finally:
        torch.set_num_threads(before)
    return Ceilings(device, threads, peaks, copied)


def _products(size: int, device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A product of every type for which the device has instructions."""
    import torch

    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    yield "float32", lambda: left @ right
    for kind in ("bfloat16", "float16"):
        if device == "cuda" or (kind == "bfloat16" and {"avx512_bf16", "amx_bf16"} & set(isa_flags())):
            one, other = (tensor.to(getattr(torch, kind)) for tensor in (left, right))
            yield kind, lambda one=one, other=other: one @ other  # type: ignore[misc]
    if device == "cuda" or {"avx512_vnni", "avx_vnni", "amx_int8"} & set(isa_flags()):
        whole, columns = (
            torch.randint(-9, 9, (size, size), dtype=torch.int8, device=device) for _ in range(2)
        )
        yield "int8", lambda: torch._int_mm(whole, columns.t())


def _seconds(call: Callable[[], Any], device: str) -> float:
    """The fastest of some calls after one that does not count, because a ceiling is the most there is."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    call()
    wait()
    found = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - started)
    return min(found)
