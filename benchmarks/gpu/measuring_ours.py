"""Our own artifacts through `open_runtime`: trained, pruned and distilled, exported, in fewer bits."""

from __future__ import annotations

import functools
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gpu import figures
from gpu.book import Book
from gpu.catalog import OURS, Key, Row, ours_of, reason_of, row_of
from gpu.engines import allow_tf32
from gpu.libraries import NotInstalled, missing
from gpu.measuring_stock import check_device, memory, peak_bytes, release
from gpu.timing import Call

NEEDS = ("pydantic", "safetensors", "yaml")
"""What lissom imports before anything else."""
ALLOW = ("accuracy", "not-slower", "parity", "precision")
"""A gate that fails is a result here, not the end."""
DATA = "digits"
NUM_WARMUP = 5
OWN_MEMORY = ("onnxruntime", "tensorrt", "torch_tensorrt")
"""Runtimes whose memory torch's allocator does not see."""


class Opened(NamedTuple):
    """An artifact on a runtime, and one batch for it."""

    runtime: Any
    inputs: dict[str, np.ndarray]


def measure(book: Book, batch: int, given: Namespace, runs: Path) -> None:
    """Settle every open row of our artifacts at a batch for which there is time."""
    todo = [key for key in ours_of(batch) if book.is_open(key)]
    if library := missing(NEEDS):
        for key in todo:
            book.settle(row_of(key, "not installed", library, run=given.run))
        return
    for key in todo[:]:
        if reason := _absence(key, given.device):
            book.settle(row_of(key, "not installed", reason, run=given.run))
            todo.remove(key)
    if todo and time.time() < given.deadline:
        num_threads = torch.get_num_threads()
        try:
            _measure_together(book, todo, given, runs / ("gpu-tiny" if given.tiny else "gpu"))
        finally:  # a runtime sets the threads of the whole process, and stock models come next
            torch.set_num_threads(num_threads)
            allow_tf32(False)
            release(given.device)


def _absence(key: Key, device: str) -> str | None:
    from lissom.registry import resolve, runtime_entry
    from lissom.runtime.availability import absence

    name = key[1].removeprefix(f"{OURS} ")
    if found := absence(name):
        return found[0].removesuffix(" is not installed")
    try:
        kind: Any = resolve(runtime_entry(name).reference, known={})
    except ImportError as exc:
        return str(exc.name)
    return None if device in kind.devices else "a GPU"


def _measure_together(book: Book, todo: list[Key], given: Namespace, folder: Path) -> None:
    baseline = (f"{OURS} trained", f"{OURS} torch", todo[0][2])
    keys = [baseline, *(key for key in todo if key != baseline)]
    opened: dict[Key, Opened] = {}
    rows: dict[Key, Row] = {}
    for key in keys:
        if opened and time.time() > given.deadline:
            break
        book.now_at(key)
        try:
            opened[key], rows[key] = _opened(key, given, folder)
        except Exception as exc:
            if key in todo:
                book.settle(_failure(key, exc, given.run))
            check_device(given.device)
    for key, found in _timed(book, opened, given).items():
        rows[key] |= {"rounds_ms": found, "latency_ms": figures.latency(found)}
    for key, row in rows.items():
        if key in todo and "rounds_ms" in row:
            if key != baseline and "rounds_ms" in rows.get(baseline, {}):
                row["speedup"] = figures.speedup(rows[baseline]["rounds_ms"], row["rounds_ms"])
            book.settle(row_of(key, "measured", run=given.run, **row))
    for each in opened.values():
        each.runtime.close()


def _failure(key: Key, exc: Exception, run: str) -> Row:
    from lissom.errors import MissingExtra

    if isinstance(exc, MissingExtra):
        return row_of(key, "not installed", exc.message.partition(" ")[0], run=run)
    if isinstance(exc, NotInstalled | ModuleNotFoundError):
        return row_of(key, "not installed", str(getattr(exc, "name", None) or exc), run=run)
    return row_of(key, "failed", reason_of(exc), run=run)


def _opened(key: Key, given: Namespace, folder: Path) -> tuple[Opened, Row]:
    """The runtime after its warm-up, and how far its answers are from torch on the CPU.

    Raises:
        RuntimeError: an operator computes in another place than was asked for.
    """
    from lissom.runtime.base import open_runtime

    name, runtime_name = (word.removeprefix(f"{OURS} ") for word in key[:2])
    artifact = _artifact(name, folder, given.tiny)
    if runtime_name == "tensorrt":
        artifact = _engine(artifact, folder, given.tiny)
    inputs, wanted = _trusted("trained" if name == "trained" else "distilled", folder, given.tiny)
    started = time.perf_counter()
    held, free = memory(given.device)
    runtime = open_runtime(artifact, runtime_name, device=given.device)
    try:
        batch = {name: np.resize(array, (key[2], *array.shape[1:])) for name, array in inputs.items()}
        answer = next(iter(runtime.infer_batch(inputs).values()))
        for _ in range(NUM_WARMUP):
            runtime.infer_batch(batch)
        if elsewhere := runtime.elsewhere():
            raise RuntimeError(f"{len(elsewhere)} operators fell back to the CPU, such as {elsewhere[0]}")
        row: Row = {
            "precision": artifact.manifest.precision,
            "executed": runtime.executed(),
            "prepare_seconds": time.perf_counter() - started,
            "peak_bytes": peak_bytes(given.device, held, free, own=runtime_name in OWN_MEMORY),
            "size_bytes": artifact.size_bytes,
            **_parity(wanted, answer),
        }
    except Exception:
        runtime.close()
        raise
    return Opened(runtime, batch), row


def _parity(wanted: np.ndarray, answer: np.ndarray) -> dict[str, float | None]:
    return figures.parity(torch.from_numpy(wanted), torch.from_numpy(np.asarray(answer, np.float32)))


def _timed(book: Book, opened: dict[Key, Opened], given: Namespace) -> dict[Key, list[list[float]]]:
    """Milliseconds in interleaved rounds, by the clock of the runtimes."""
    num_rounds, num_calls = (2, 3) if given.tiny else (given.rounds, 20)
    rounds: dict[Key, list[list[float]]] = {key: [] for key in opened}
    for index in range(num_rounds):
        keys = list(rounds)
        shift = index % max(1, len(keys))
        for key in keys[shift:] + keys[:shift]:
            book.now_at(key)
            clock = _clock(opened[key])
            try:
                clock()
                rounds[key].append([1e3 * clock() for _ in range(num_calls)])
            except Exception as exc:
                del rounds[key]
                book.settle(_failure(key, exc, given.run))
                check_device(given.device)
    return rounds


def _clock(opened: Opened) -> Callable[[], float]:
    """Seconds of one batch; a runtime that takes fewer samples a call is called several times."""
    runtime, inputs = opened
    most = runtime.max_batch
    if most is None or len(next(iter(inputs.values()))) <= most:
        return lambda: float(runtime.timed_infer(inputs)[1])
    return lambda: _seconds(lambda: runtime.infer_batch(inputs))


def _seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@functools.cache
def _trusted(name: str, folder: Path, tiny: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs, and what torch answers on the CPU."""
    from lissom.runtime.base import open_runtime
    from lissom.runtime.probe import load_probe

    artifact = _artifact(name, folder, tiny)
    inputs, _ = load_probe(artifact)
    with open_runtime(artifact, "torch", device="cpu") as runtime:
        return inputs, next(iter(runtime.infer_batch(inputs).values()))


@functools.cache
def _artifact(name: str, folder: Path, tiny: bool) -> Any:
    """An artifact of the chain: a ResNet trained on the digits, then made small; kept in the folder."""
    import lissom

    options: dict[str, Any] = {"out": folder / name, "allow": ALLOW, "runtimes": ["torch"]}
    epochs = 1 if tiny else 10
    if name == "trained":
        kwargs = {"widths": [16, 32] if tiny else [32, 64], "blocks": [1, 1]}
        return lissom.train("resnet", DATA, kwargs=kwargs, epochs=epochs, **options).artifact
    if name == "distilled":
        teacher = _artifact("trained", folder, tiny)
        pruned = lissom.prune(teacher, DATA, ratio=0.5, **(options | {"out": folder / "pruned"})).artifact
        return lissom.distill(pruned, DATA, teacher=teacher, epochs=epochs, **options).artifact
    parent = _artifact("distilled", folder, tiny)
    options["runtimes"] = ["torch", "onnxruntime"]
    if name == "int8":
        made = lissom.quantize(parent, DATA, target="tensorrt", **options)
        return lissom.Artifact.open(next(made.out.glob("*-quantize-*")))
    precision = {"precision": "float16"} if name == "float16" else {}
    made = lissom.export(parent, DATA, format="onnx", **precision, **options)
    return lissom.Artifact.open(next(made.out.glob("*-export-*")))


@functools.cache
def _engine(artifact: Any, folder: Path, tiny: bool) -> Any:
    """A TensorRT engine of an ONNX artifact."""
    import lissom

    out = folder / f"engine-{artifact.path.name}"
    made = lissom.export(artifact, DATA, format="tensorrt", out=out, allow=ALLOW)
    return lissom.Artifact.open(next(made.out.glob("*-export-*")))
