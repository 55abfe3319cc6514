"""The rows of one stock model and batch: prepare every engine, compare its answers, time all in turns."""

from __future__ import annotations

import gc
import sys
import time
from argparse import Namespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gpu import engines, figures, stock
from gpu.book import Book
from gpu.catalog import BASELINE, ENGINES, Engine, Key, Row, reason_of, row_of
from gpu.libraries import NotInstalled, missing
from gpu.timing import Call, interleaved

NUM_COMPARED = 8
"""Samples of a batch whose answers are compared: those of a language model fill gigabytes."""
NUM_WARMUP = 3
"""Calls before the first that counts, for engines that warm up or autotune."""


class Poisoned(Exception):
    """The device answers no more in this process."""


class Bench(NamedTuple):
    """One model and batch on a device."""

    name: str
    batch: int
    model: nn.Module
    samples: Tensor
    device: str
    tiny: bool

    def key(self, engine: str) -> Key:
        return self.name, engine, self.batch


def measure(book: Book, name: str, batch: int, given: Namespace) -> None:
    """Settle every open row of a model and batch for which there is time.

    Raises:
        Poisoned: a row broke the device for this process; it is settled, others may not be.
    """
    todo = [engine for engine in given.engines if book.is_open((name, engine, batch))]
    for engine in todo[:]:
        if reason := _absence(ENGINES[engine], given.device):
            book.settle(row_of((name, engine, batch), "not installed", reason, run=given.run))
            todo.remove(engine)
    if not todo:
        return
    book.now_at((name, todo[0], batch))
    try:
        model = stock.build(name, tiny=given.tiny)
        samples = stock.inputs_of(name, batch, tiny=given.tiny).to(given.device)
    except Exception as exc:
        for engine in todo[:]:
            _settle_failure(book, (name, engine, batch), exc, todo, given)
        return
    bench = Bench(name, batch, model, samples, given.device, given.tiny)
    while todo and time.time() < given.deadline:
        todo = _measure_together(book, bench, todo, given)
        release(given.device)


def _absence(engine: Engine, device: str) -> str | None:
    if library := missing(("transformers", *engine.needs)):
        return library
    return "a GPU" if engine.cuda and device == "cpu" else None


def _measure_together(book: Book, bench: Bench, todo: list[str], given: Namespace) -> list[str]:
    """Measure as many engines as fit into memory beside the baseline; gives those that are left."""
    dead = bench.key(BASELINE) in book.died
    left = [] if dead else [BASELINE]
    left += [name for name in todo if name != BASELINE]
    calls: dict[str, Call] = {}
    rows: dict[str, Row] = {}
    trusted: Tensor | None = None
    while left and (not calls or time.time() < given.deadline):
        name = left[0]
        book.now_at(bench.key(name))
        print(f"  preparing {bench.name} · {name} · batch {bench.batch}", file=sys.stderr, flush=True)
        try:
            calls[name], rows[name], answer = _prepared(name, bench, trusted)
            trusted = answer if name == BASELINE else trusted
        except torch.cuda.OutOfMemoryError as exc:
            _release_after(bench.device)
            if len(calls) > 1:  # beside fewer there may be room
                break
            _settle_failure(book, bench.key(name), exc, todo, given)
        except Exception as exc:
            _settle_failure(book, bench.key(name), exc, todo, given)
            check_device(bench.device)
        left.pop(0)
    _time(book, bench, calls, rows, todo, given)
    return left


def _prepared(name: str, bench: Bench, trusted: Tensor | None) -> tuple[Call, Row, Tensor]:
    """The call of an engine after its warm-up, what it took, and its first answers."""
    engine = ENGINES[name]
    started = time.perf_counter()
    held, free = memory(bench.device)
    with torch.no_grad():
        call = engines.call_of(engine, bench.model, bench.samples)
        for _ in range(NUM_WARMUP):
            answer = call()
        peak = peak_bytes(bench.device, held, free, own=engine.own_memory)
        if answer.device.type != bench.device:
            raise RuntimeError(f"the answer lies on {answer.device.type}, {bench.device} was asked for")
        first = answer[:NUM_COMPARED].float().clone()
        weights, values = stock.moved_weights(bench.model), bench.samples.nbytes + answer.nbytes
    row: Row = {
        "precision": engine.precision,
        "prepare_seconds": time.perf_counter() - started,
        "peak_bytes": peak,
        "flops": bench.batch * stock.flops_of_sample(bench.name, tiny=bench.tiny),
        "bytes": int(weights * engine.weight_bytes) + values,
    }
    if name != BASELINE:
        wanted = _answer_of_sparse(bench) if engine.maker == "two_of_four" else trusted
        row |= figures.parity(wanted, first) if wanted is not None else {}
    return call, row, first


def _answer_of_sparse(bench: Bench) -> Tensor:
    """Eager float32 with the weights that 2:4 leaves."""
    model = engines.two_of_four_weights(bench.model).to(bench.device)
    answer: Tensor = model(bench.samples[:NUM_COMPARED]).float()
    return answer


def _time(
    book: Book, bench: Bench, calls: dict[str, Call], rows: dict[str, Row], todo: list[str], given: Namespace
) -> None:
    """Time prepared engines and settle their rows; a baseline that was measured before keeps its row."""

    def failed(name: str, exc: Exception) -> None:
        _settle_failure(book, bench.key(name), exc, todo, given)
        check_device(bench.device)

    if not set(calls) & set(todo):
        return
    num_rounds, seconds = (2, 0.01) if bench.tiny else (given.rounds, 0.05)
    with torch.no_grad():
        rounds = interleaved(
            calls,
            bench.device,
            num_rounds=num_rounds,
            seconds=seconds,
            before=lambda name: book.now_at(bench.key(name)),
            failed=failed,
        )
    for name, found in rounds.items():
        if name in todo:
            row = rows[name] | {"rounds_ms": found, "latency_ms": figures.latency(found)}
            if name != BASELINE and BASELINE in rounds:
                row["speedup"] = figures.speedup(rounds[BASELINE], found)
            row |= figures.against_ceilings(row, book.state["ceilings"], ENGINES[name].multiplies)
            book.settle(row_of(bench.key(name), "measured", run=given.run, **row))


def _settle_failure(book: Book, key: Key, exc: Exception, todo: list[str], given: Namespace) -> None:
    """Say why a row was not measured, if it was asked for."""
    if key[1] not in todo:
        return
    status, reason = "failed", reason_of(exc)
    if isinstance(exc, NotInstalled):
        status, reason = "not installed", str(exc)
    elif isinstance(exc, ModuleNotFoundError):
        status, reason = "not installed", (exc.name or str(exc)).partition(".")[0]
    book.settle(row_of(key, status, reason, run=given.run))


def check_device(device: str) -> None:
    """After an error of the device every later call fails too."""
    if device == "cuda":
        try:
            torch.cuda.synchronize()
        except Exception as exc:
            raise Poisoned from exc
    _release_after(device)


def _release_after(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def release(device: str) -> None:
    """Free what the engines of a batch held, compiled code included."""
    dynamo: Any = torch._dynamo
    dynamo.reset()
    _release_after(device)


def memory(device: str) -> tuple[int, int]:
    """Bytes that torch holds, and bytes that are free on the card."""
    if device == "cpu":
        return 0, 0
    _release_after(device)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]


def peak_bytes(device: str, held: int, free: int, *, own: bool) -> int | None:
    """Bytes that were taken at most; of libraries with an allocator of their own, those they still hold."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    if own:
        return max(0, free - torch.cuda.mem_get_info()[0])
    return torch.cuda.max_memory_allocated() - held
