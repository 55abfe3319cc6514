"""Models that are not ours are opened and called in a child process first: an engine may end its process.

A segmentation fault, an abort or the kernel's want of memory cannot be caught, so what might cause one is
tried where nothing else is lost. That is done for what is experimental: files that lissom's own exporter did
not write and what was made of them, parts of graphs, and engines that are looked at by `lissom doctor`. What
a child could open and call is opened in this process from then on, and evidence says that it could.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from lissom import errors
from lissom.artifact import Artifact, content_id
from lissom.errors import ArtifactError, LissomError, ModelError
from lissom.optional import version
from lissom.registry import runtime_entry
from lissom.runtime.arrays import safetensors_bytes
from lissom.runtime.machine import host

TRIAL_SCHEMA = "lissom.trial/1"
LIMIT_SECONDS = 600.0
"""For opening and calling a whole model once."""
_TAIL = 2000
"""Bytes of what an engine printed last that are looked at."""


class _Died(Exception):
    """The child is gone; the message says how, `idle` whether it had waited for too long."""

    def __init__(self, how: str, *, idle: bool = False) -> None:
        super().__init__(how)
        self.idle = idle


class _Child:
    """One process that answers requests; see `lissom.runtime.child`."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `end`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lissom.runtime.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C is for this process, which ends the child
        )
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._unread = b""
        self.at = "opened"

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The last reply to a request.

        Raises:
            _Died: the process has ended, or was ended because it took longer than allowed.
        """
        assert self._process.stdin is not None
        limit = time.monotonic() + seconds
        self.at = ""
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            while True:
                reply: dict[str, Any] = json.loads(self._line(limit, seconds))
                self.at = reply.get("at", self.at)
                if "at" not in reply:
                    return reply
        except BrokenPipeError:
            raise self._ended() from None
        except BaseException:
            self.end()
            raise

    def _line(self, limit: float, seconds: float) -> bytes:
        """The next line that the child writes."""
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            if not self._selector.select(max(limit - time.monotonic(), 0)):
                raise _Died(f"did not answer within {seconds:g} s")
            if not (read := os.read(self._process.stdout.fileno(), 1 << 16)):
                raise self._ended()
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _ended(self) -> _Died:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        if code == 0 and not self.at:
            return _Died("was idle", idle=True)
        return _Died(f"{_how_ended(code)}{self._last_words()}")

    def _last_words(self) -> str:
        """The last line that the engine printed, in brackets; empty where there is none."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(size - _TAIL, 0))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()[:200]})" if lines else ""

    def end(self) -> None:
        """End the process, whatever it does."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _how_ended(code: int | None) -> str:
    """A return code in words.

    >>> _how_ended(-11), _how_ended(-9), _how_ended(3)
    ('died of SIGSEGV', 'died of SIGKILL, as when memory is short', 'ended its process with exit code 3')
    """
    if code is None or code >= 0:
        return f"ended its process with exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    return f"died of {name}{', as when memory is short' if code == -signal.SIGKILL else ''}"


_lock = threading.Lock()
_child: _Child | None = None
_outcomes: dict[tuple[str, str, str], str] = {}
"""By digest, runtime and device: empty where the model works, else how the engine died."""


def call_in_child(
    artifact: Artifact,
    name: str,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
    hint: str = "latency",
    seconds: float = LIMIT_SECONDS,
) -> dict[str, np.ndarray]:
    """Open an artifact on a runtime in another process, call it once, and give its outputs.

    Args:
        artifact: Any artifact, also one that was written for this call.
        name: Of the runtime.
        inputs: Tensors after preprocessing; default: the stored probe, where there is one.
        threads: As `Runtime` takes them.
        device: As `Runtime` takes it.
        hint: As `Runtime` takes it.
        seconds: After which the engine is given up.

    Raises:
        ArtifactError: the process ended, or took longer.
        LissomError: as `open_runtime` and `Runtime.infer`.
    """
    with tempfile.TemporaryDirectory() as place:
        options = {"threads": threads, "device": device, "hint": hint}
        request = _call(artifact, name, inputs, Path(place)) | options
        _asked(request, name, artifact.name, seconds)
        return dict(safetensors.numpy.load(Path(request["outputs"]).read_bytes()))


def prove_file(
    path: Path, inputs: Mapping[str, np.ndarray] | None = None, *, seconds: float = LIMIT_SECONDS
) -> None:
    """Have ONNX Runtime open a file, and call it where inputs are given, in another process before this one.

    What it merely refuses is left to whoever opens it here.

    Raises:
        ArtifactError: the process ended, or took longer.
    """
    with tempfile.TemporaryDirectory() as place, suppress(ModelError):
        given = _write_tensors(Path(place) / "inputs", inputs)
        _asked({"file": str(path), "inputs": given}, "onnxruntime", path.name, seconds)
    if path.is_file():
        _proven_files.add(_state_of(path))


_guarded: ContextVar[bool] = ContextVar("guarded", default=False)
_proven_files: set[tuple[str, int, int]] = set()


def _state_of(path: Path) -> tuple[str, int, int]:
    state = path.stat()
    return str(path.absolute()), state.st_mtime_ns, state.st_size


@contextmanager
def guard_sessions(active: bool) -> Iterator[None]:
    """Have every graph that a stage makes of a model from elsewhere opened in another process first.

    An engine that opens a file may die of the same graph with other axes, outputs or operators.
    """
    token = _guarded.set(active or _guarded.get())
    try:
        yield
    finally:
        _guarded.reset(token)


def prove_session(model: Path | bytes) -> None:
    """Have ONNX Runtime open a graph in another process, where `guard_sessions` asks for it.

    Raises:
        ArtifactError: the process ended, or took longer.
    """
    if not _guarded.get():
        return
    if isinstance(model, Path):
        if model.is_file() and _state_of(model) not in _proven_files:
            prove_file(model)
        return
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "graph.onnx"
        path.write_bytes(model)
        prove_file(path)


def fault_in_child(name: str, device: str, folder: Path, *, seconds: float = LIMIT_SECONDS) -> str:
    """What goes wrong when another process runs a tiny model on an engine; empty when nothing does.

    Raises:
        ArtifactError: the process ended, or took longer.
    """
    request = {"runtime": name, "entry": runtime_entry(name), "device": device, "folder": str(folder)}
    return str(_asked(request, name, "a tiny model", seconds)["fault"])


def prove_opening(
    artifact: Artifact, name: str, *, threads: int | None = None, device: str | None = None
) -> None:
    """Open and call a model that is not ours in another process, unless that went well before.

    What the engine merely refuses is left to whoever opens it here.

    Raises:
        ArtifactError: the engine ended its process.
    """
    key = (artifact.digest, name, device or "")
    if key not in _outcomes and not _is_proven(artifact, name, device):
        with tempfile.TemporaryDirectory() as place:
            request = _call(artifact, name, None, Path(place)) | {"threads": threads, "device": device}
            try:
                reply = _ask(request, name, artifact.name, LIMIT_SECONDS)
            except _Died as exc:
                _outcomes[key] = str(exc)
            else:
                if "error" in reply:
                    return
                _outcomes[key] = ""
                _keep(artifact, name, device)
    if how := _outcomes.get(key):
        raise _translated(how, name)


def _call(
    artifact: Artifact, name: str, inputs: Mapping[str, np.ndarray] | None, place: Path
) -> dict[str, Any]:
    """The request to open and call an artifact, with its tensors in a folder."""
    return {
        "artifact": str(artifact.path),
        "runtime": name,
        "entry": runtime_entry(name),
        "threads": None,
        "device": None,
        "hint": "latency",
        "inputs": _write_tensors(place / "inputs", inputs),
        "outputs": str(place / "outputs"),
    }


def _write_tensors(path: Path, tensors: Mapping[str, np.ndarray] | None) -> str | None:
    """Write tensors to a file, and give its path; None where there are none."""
    if tensors is None:
        return None
    path.write_bytes(safetensors_bytes(tensors))
    return str(path)


def _asked(request: Mapping[str, Any], name: str, what: str, seconds: float) -> dict[str, Any]:
    """What the child replies, where that is no error.

    Raises:
        ArtifactError: the process ended, or took longer.
        LissomError: what the child raised.
    """
    try:
        reply = _ask(request, name, what, seconds)
    except _Died as exc:
        raise _translated(str(exc), name) from None
    if "error" in reply:
        kind = getattr(errors, reply["error"] or "ModelError", ModelError)
        raise kind(reply["message"], hint=reply["hint"])
    return reply


def _ask(request: Mapping[str, Any], name: str, what: str, seconds: float) -> dict[str, Any]:
    """What the child replies; it is started where there is none.

    Raises:
        _Died: saying what did, how, and over what.
    """
    global _child
    with _lock:
        for _ in range(2):  # one that has just gone away for want of work is replaced
            child = _child = _child or _Child()
            try:
                return child.ask(request, seconds)
            except _Died as exc:
                _end_child()
                if not exc.idle:
                    raise _Died(f"{name} {exc} when {what} was {child.at or 'given to it'}") from None
            except BaseException:
                _end_child()
                raise
    raise _Died(f"{name} could not be tried: its process ends at once")


def _translated(how: str, name: str) -> ArtifactError:
    return ArtifactError(how, hint=_hint(name))


def _hint(name: str) -> str:
    return f"use another runtime than {name} (--runtime); lissom doctor says whether {name} works at all"


def _is_proven(artifact: Artifact, name: str, device: str | None) -> bool:
    """Whether this machine has opened the model with this version of the engine before."""
    wanted = _trial(name, device)
    return any(record.get("trial") == wanted for record in artifact.evidence())


def _trial(name: str, device: str | None) -> dict[str, str]:
    return {
        "runtime": name,
        "version": version(runtime_entry(name).distribution),
        "device": device or "",
        "host": host(),
    }


def _keep(artifact: Artifact, name: str, device: str | None) -> None:
    """Write down that a model works, so that it is tried once; a folder that cannot be written is let be."""
    trial = _trial(name, device)
    record = {
        "schema": TRIAL_SCHEMA,
        "trial": trial,
        "measurement": "",
        "complete": True,
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "artifact": {"id": artifact.id, "digest": artifact.digest, "name": artifact.name},
    }
    with suppress(OSError, LissomError):
        artifact.add_evidence(record, name=f"{host()}-trial-{content_id(trial)[:8]}")


@atexit.register
def _end_child() -> None:
    global _child
    if _child is not None:
        _child.end()
        _child = None
