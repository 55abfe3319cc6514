"""The models that are served: every artifact opened, proven and warm before the server is ready.

Which runtime executes an artifact: the one that was asked for; else the fastest that was measured on this
kind of machine; else the first that opens. A runtime that does not reproduce the artifact's stored probe
within its tolerance is not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

from lissom.artifact import Artifact, Manifest
from lissom.bench.selection import ArmKey, choose
from lissom.bench.statistics import median_latency
from lissom.errors import ArtifactError, LissomError, MissingExtra, RequestError
from lissom.logs import log
from lissom.options import ServingOptions
from lissom.registry import COMPILING, runtime_entry, runtimes_for
from lissom.runtime.availability import absence, unfit_runtimes
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.finiteness import checked_inputs
from lissom.runtime.input_check import InputCheck
from lissom.runtime.layout import Layout, shape_without
from lissom.runtime.probe import check_probe, load_probe
from lissom.runtime.reproof import prove_on
from lissom.serve.budget import instances_of, measured_here, threads_of, usable_cores
from lissom.serve.naming import Source, check_different, source_of
from lissom.serve.protocol import Heads
from lissom.serve.scheduler import Limits, Scheduler
from lissom.serve.tensors import DATATYPES

VERSION = "1"
"""The only version of every model."""
INLINE_SECONDS = 150e-6
"""A model that takes less is called on the event loop: a hop to a thread takes about 60 microseconds."""
_USUAL_BATCH = 32
_CALLS = 5
_NEARLY = 0.95
"""Share of the most samples a second with which a smaller batch is as good."""


class State(StrEnum):
    """Of one model, from its first byte to its last."""

    LOADING = "LOADING"
    WARMING = "WARMING"
    READY = "READY"
    DRAINING = "UNLOADING"
    UNLOADED = "UNAVAILABLE"


_UNLOADED = (State.UNLOADED, "it was unloaded")


class Users:
    """Counts those who use something: a context manager for each, and a wait until none is left."""

    def __init__(self) -> None:
        self._count, self._none = 0, asyncio.Event()

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def gone(self) -> None:
        """Wait until nobody uses it."""
        while self._count:
            self._none.clear()
            await self._none.wait()


class ServedModel:
    """One artifact, warm on one runtime, with a queue of its own.

    Attributes:
        artifact: It.
        name: Under which it is served.
        runtime: The engine.
        batching: Where the samples lie, and whether requests are computed together, proven on this engine.
        scheduler: Through which every request goes.
        explaining: Held while an answer is explained.
        checked_inputs: Names of the inputs that must be finite.
        input_check: Tells of raw samples in another range than those of the calibration.
        range_check: What then becomes of them: warn, refuse or off.
        heads: Reads its binary requests.
        users: The requests that began while it answered, and so are answered by it.
        state: READY until it drains.
    """

    def __init__(
        self, artifact: Artifact, name: str | None = None, **options: Unpack[ServingOptions]
    ) -> None:
        """Open the runtime, call it, and see how long that takes.

        Args:
            artifact: It.
            name: Under which it is served; default: that of its recipe.
            options: How it is served.

        Raises:
            LissomError: no runtime opens the artifact and reproduces its probe.
        """
        self.artifact = artifact
        self.name = name or artifact.manifest.recipe
        self.state = State.WARMING
        self.explaining = asyncio.Lock()
        self.checked_inputs = checked_inputs(
            artifact.manifest, allow_nonfinite=options.get("allow_nonfinite", False)
        )
        self.input_check = InputCheck(artifact)
        self.range_check = options.get("range_check") or "warn"
        self.heads = Heads(artifact.manifest.signature, self.checked_inputs)
        self.users = Users()
        runtime = options.get("runtime")
        names = [runtime] if runtime is not None else ranked_runtimes(artifact)
        with ExitStack() as opened:
            self._thread = opened.enter_context(ThreadPoolExecutor(1, thread_name_prefix=self.name))
            opening = self._thread.submit(_open_first, artifact, names, options.get("threads"))
            self.runtime: Runtime = opened.enter_context(opening.result())
            seconds = self._thread.submit(_seconds_of_call, self.runtime).result()
            limits = _limits(self.runtime, options)
            self.batching = self._thread.submit(prove_on, self.runtime, limits.max_batch).result()
            self.runtime.layout = Layout(artifact.manifest.signature, self.batching)
            self.is_inline = seconds < INLINE_SECONDS and self.runtime.thread_safe
            num_instances = 1 if self.is_inline else instances_of(self.runtime, usable_cores())
            self._workers = self._thread
            if num_instances > 1:
                self._workers = opened.enter_context(
                    ThreadPoolExecutor(num_instances, thread_name_prefix=self.name)
                )
            self.scheduler = Scheduler(
                self.runtime.infer_request,
                limits,
                executor=None if self.is_inline else self._workers,
                aside=self._thread,
                num_instances=num_instances,
                batches=self.batching.joins,
                batching=None if self.runtime.layout.is_plain else self.batching,
            )
            opened.pop_all()
        self.state = State.READY

    @property
    def manifest(self) -> Manifest:
        """Everything known about the artifact."""
        return self.artifact.manifest

    async def drain(self) -> None:
        """Take nothing more, finish what was begun, and free the engine."""
        self.state = State.DRAINING
        await self.users.gone()
        await self.scheduler.close()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Wait for the calls that were begun, and free the engine."""
        self._workers.shutdown()
        self._thread.shutdown()
        self.runtime.close()
        self.state = State.UNLOADED


class Swap(NamedTuple):
    """What became of a model that was read again.

    Attributes:
        name: Of the model.
        digest: Of the artifact that answers from now on.
        previous: Digest of the one that answered until now; None where none did.
    """

    name: str
    digest: str
    previous: str | None

    @property
    def told(self) -> str:
        """The same in words."""
        if self.previous is None:
            return f"{self.digest[:12]} answers now"
        if self.previous == self.digest:
            return f"still {self.digest[:12]}: what lies there has not changed"
        return f"{self.digest[:12]} answers now in the place of {self.previous[:12]}"


class Repository:
    """The served models by name; a context manager, because engines must be closed.

    Attributes:
        models: Those that answer.
        sources: Where each model is, or was, read from; links are followed anew by every `load`.
        absent: State and reason of those that do not answer now.
    """

    def __init__(self, models: Iterable[ServedModel], **options: Unpack[ServingOptions]) -> None:
        self.models = {model.name: model for model in models}
        self.sources = {name: Source(model.artifact.path, name) for name, model in self.models.items()}
        self.absent: dict[str, tuple[State, str]] = {}
        self._options = options
        self._changing: dict[str, asyncio.Lock] = {}
        self._draining: set[asyncio.Task[None]] = set()

    @classmethod
    def open(cls, paths: Sequence[str | Path | Source], **options: Unpack[ServingOptions]) -> Self:
        """Check every artifact, then open all of them.

        Args:
            paths: Folders of artifacts, or NAME=PATH for those that shall have another name.
            options: How they are served.

        Raises:
            LissomError: an artifact cannot be served; those already open are closed.
        """
        opened: list[ServedModel] = []
        sources = [source_of(path) for path in paths]
        try:
            checked = check_artifacts(sources, runtime=options.get("runtime"))
            for source, artifact in zip(sources, checked, strict=True):
                opened.append(ServedModel(artifact, source.name, **options))
        except BaseException:
            for model in opened:
                model.close()
            raise
        found = cls(opened, **options)
        found.sources = {model.name: source for model, source in zip(opened, sources, strict=True)}
        return found

    async def load(self, name: str) -> Swap:
        """Read a model again from where it came, and put it in the place of the one that answers now.

        Requests are answered all the while: by the old model until the new one is warm, then by the new one.
        The old one finishes what it began, and is freed.

        Raises:
            LissomError: what lies there now cannot be served; the old model goes on.
        """
        async with self._changing.setdefault(name, asyncio.Lock()):
            if name not in self.models:
                self.absent[name] = (State.LOADING, "it is being read")
            try:
                artifact = await asyncio.to_thread(self._checked, name)
                if name not in self.models:
                    self.absent[name] = (State.WARMING, "it is called for the first time")
                new = await asyncio.to_thread(ServedModel, artifact, name, **self._options)
            except BaseException:
                if name in self.absent:  # what was raised may name folders of this machine
                    self.absent[name] = (State.UNLOADED, "it could not be loaded; the server's log says why")
                log.exception("%s could not be loaded", name)
                raise
            old, self.models[name] = self.models.get(name), new
            self.absent.pop(name, None)
            if old is not None:
                self._drain(old)
            swap = Swap(name, artifact.digest, None if old is None else old.artifact.digest)
            log.info("%s, read from %s: %s", name, artifact.path, swap.told)
            return swap

    async def unload(self, name: str) -> None:
        """Take a model away; requests that were begun are finished."""
        async with self._changing.setdefault(name, asyncio.Lock()):
            model = self.models.pop(name, None)
            if model is None:
                self.absent[name] = _UNLOADED
                return
            self.absent[name] = (State.DRAINING, "it finishes what was begun")
            self._drain(model)

    def _checked(self, name: str) -> Artifact:
        source = self.sources[name]
        (artifact,) = check_artifacts([source], runtime=self._options.get("runtime"))
        if source.name_of(artifact) != name:
            raise RequestError(f"{source.path} holds {artifact.manifest.recipe!r} now, not {name!r}")
        return artifact

    def _drain(self, model: ServedModel) -> None:
        task = asyncio.get_running_loop().create_task(self._drained(model))
        self._draining.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._draining.discard)

    async def _drained(self, model: ServedModel) -> None:
        await model.drain()
        state, _ = self.absent.get(model.name, _UNLOADED)
        if state is State.DRAINING and model.name not in self.models:
            self.absent[model.name] = _UNLOADED

    def close(self) -> None:
        """Close every model."""
        for model in self.models.values():
            model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_artifacts(
    paths: Sequence[str | Path | Source], *, runtime: str | None = None, verb: str = "serve"
) -> list[Artifact]:
    """Everything that can be said about a request to serve without opening an engine.

    Args:
        paths: Folders of artifacts, or NAME=PATH.
        runtime: That was asked for.
        verb: That was called, for what to type next.

    Raises:
        ArtifactError: an artifact is missing or damaged.
        RequestError: two models would have one name, or the runtime does not execute a format.
        MissingExtra: the runtime that is needed is not installed.
    """
    if not paths:
        raise RequestError("no artifact was named", hint=f"lissom {verb} runs/digits/artifact")
    sources = [source_of(path) for path in paths]
    artifacts = [Artifact.open(source.path) for source in sources]
    check_different(list(zip(sources, artifacts, strict=True)), verb)
    for artifact in artifacts:
        _check_runtime(artifact, runtime)
        _check_signature(artifact)
    return artifacts


def ranked_runtimes(artifact: Artifact) -> list[str]:
    """Runtimes to try, best first: those measured on this kind of machine, then the others.

    One on which the int8 file was proven not to hold is not among them.
    """
    unfit = unfit_runtimes(artifact.manifest)
    here = [name for name in runtimes_for(artifact.manifest.format) if absence(name) is None]
    fitting = [name for name in here if name not in unfit]
    rounds = {
        ArmKey(artifact.name, name): figures["rounds_ms"]
        for name, figures in _measured(artifact).items()
        if name in fitting and _is_sound(figures)
    }
    ranked: list[str] = []
    while best := choose(rounds, {artifact.name: artifact.size_bytes}):
        ranked.append(best.runtime)
        del rounds[best]
    return ranked + [name for name in fitting if name not in ranked and name not in COMPILING]


def _check_runtime(artifact: Artifact, runtime: str | None) -> None:
    fitting = runtimes_for(artifact.manifest.format)
    if runtime is None:
        absences = [absence(name) for name in fitting]
        if all(absences):
            reason, hint = absences[0] or ("none is known", "")
            raise MissingExtra(f"no runtime for {artifact.manifest.format} is here: {reason}", hint=hint)
        return
    if artifact.manifest.format not in runtime_entry(runtime).formats:
        raise RequestError(
            f"{runtime} does not execute {artifact.manifest.format}, the format of {artifact.path}",
            hint=f"use --runtime {' or '.join(fitting)}",
        )
    if found := absence(runtime):
        raise MissingExtra(f"the runtime {runtime} was asked for, but {found[0]}", hint=found[1])


def _check_signature(artifact: Artifact) -> None:
    manifest = artifact.manifest
    for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
        if spec.dtype not in DATATYPES:
            raise ArtifactError(f"{artifact.path} cannot be served: {spec.name!r} has the dtype {spec.dtype}")
    first = manifest.signature.outputs[0]
    classes = shape_without(first.shape, Layout(manifest.signature).batching.outputs.get(first.name))[-1:]
    if manifest.labels and classes != (len(manifest.labels),):
        raise ArtifactError(
            f"{artifact.path} has {len(manifest.labels)} labels, its first output has {list(classes)}"
        )


def _limits(runtime: Runtime, options: ServingOptions) -> Limits:
    """What was chosen, else what was measured; never more than the engine takes."""
    usual = Limits()
    rows = options.get("max_batch") or best_batch(runtime.artifact, runtime.name)
    delay = options.get("max_delay_ms")
    return usual._replace(
        max_batch=min(rows, runtime.max_batch or rows),
        max_waiting=options.get("max_waiting") or usual.max_waiting,
        max_delay=usual.max_delay if delay is None else delay / 1e3,
    )


def best_batch(artifact: Artifact, runtime: str) -> int:
    """The smallest batch with nearly the most samples a second, as it was measured; 32 where it was not."""
    rates: dict[int, float] = {}
    for record in artifact.evidence():
        for one in record.get("batches", ()):
            mine = (one["artifact"], one["runtime"]) == (artifact.name, runtime)
            if mine and one["rounds_ms"] and not one["error"]:
                rates[one["batch_size"]] = one["batch_size"] / median_latency(one["rounds_ms"]).value
    good = [size for size, rate in rates.items() if rate >= _NEARLY * max(rates.values())]
    return min(good, default=_USUAL_BATCH)


def _measured(artifact: Artifact) -> Mapping[str, Any]:
    """Figures by runtime of the newest measurement on this kind of machine; empty when there is none."""
    for record in reversed(artifact.evidence()):
        if measured_here(record):
            runtimes: Mapping[str, Any] = record.get("runtimes", {})
            if any("rounds_ms" in figures for figures in runtimes.values()):
                return runtimes
    return {}


def _is_sound(figures: Mapping[str, Any]) -> bool:
    """It was timed, reproduced the probe, and computes what it was made from."""
    probe, parity = figures.get("probe") or {}, figures.get("parity") or {}
    same = all(output.get("passed") for output in parity.get("outputs", ()))
    return bool(figures.get("rounds_ms")) and not figures.get("error") and bool(probe.get("passed")) and same


def _open_first(artifact: Artifact, names: Sequence[str], threads: int | None) -> Runtime:
    problem: LissomError | None = None
    for name in names:
        try:
            return _open_warm(artifact, name, threads)
        except LissomError as exc:
            log.warning("%s is not served on %s: %s", artifact.manifest.recipe, name, exc)
            problem = problem or exc
    raise problem or RequestError(f"no runtime executes {artifact.manifest.format} artifacts here")


def _open_warm(artifact: Artifact, name: str, threads: int | None) -> Runtime:
    """Open a runtime and call it with the stored probe.

    Raises:
        ArtifactError: the answers are not those that were stored.
    """
    runtime = open_runtime(artifact, name, threads=threads or threads_of(artifact, name, usable_cores()))
    try:
        check_probe(runtime)
    except BaseException:
        runtime.close()
        raise
    return runtime


def _seconds_of_call(runtime: Runtime) -> float:
    """Median of a few calls with one sample, after as many to warm up."""
    inputs, _ = load_probe(runtime.artifact)
    one = next(runtime.layout.groups({name: array[:1] for name, array in inputs.items()})).tensors
    times = [runtime.timed_infer(one)[1] for _ in range(2 * _CALLS)]
    return median(times[_CALLS:])
