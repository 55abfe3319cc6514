"""Which runtimes work on this machine, proved by running a tiny model on each, on each of its devices.

Each is tried in a child process first, so that one that ends its process is a row of the table.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lissom.errors import LissomError
from lissom.logs import NoProgress, Progress
from lissom.optional import version
from lissom.registry import COMPILING, RUNTIMES, resolve, runtime_entry
from lissom.runtime.availability import absence
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.isolation import fault_in_child
from lissom.runtime.machine import machine
from lissom.runtime.tiny_models import WEIGHTS, tiny

_INPUT = np.array([[3.0, 4.0]], dtype=np.float32)


class Examined(NamedTuple):
    """One runtime on one device of this machine.

    Attributes:
        runtime: Its name.
        version: Of its library, or `absent`.
        works: True when it computed what a tiny model gives.
        reason: Why it does not work, and what to type.
        device: cpu or cuda.
        thread_safe: True when several threads may call it at once; None when it is absent.
    """

    runtime: str
    version: str
    works: bool
    reason: str
    device: str = "cpu"
    thread_safe: bool | None = None

    @property
    def state(self) -> str:
        """works, absent, or broken when it is installed and does not work."""
        if self.works:
            return "works"
        return "absent" if self.thread_safe is None else "broken"


def examine(*, progress: Progress | None = None) -> list[Examined]:
    """Try every runtime; the reason says why one does not work and what to type."""
    with (
        tempfile.TemporaryDirectory() as folder,
        (progress or NoProgress()).task("a tiny model on every runtime", len(RUNTIMES)) as advance,
    ):
        found = []
        for name in RUNTIMES:
            found += _examine(name, Path(folder))
            advance(1)
        return found


def _examine(name: str, folder: Path) -> list[Examined]:
    """A row for each device that is here; where none is, one that says so."""
    found = version(runtime_entry(name).distribution)
    kind = resolve(runtime_entry(name).reference, known={})
    assert isinstance(kind, type)
    assert issubclass(kind, Runtime)
    if reason := absence(name):
        return [Examined(name, found, False, f"{reason[0]}: {reason[1]}", kind.devices[0])]
    here = [device for device in kind.devices if device == "cpu" or machine()["gpus"]]
    if not here:
        return [Examined(name, found, False, "there is no GPU", kind.devices[0], kind.thread_safe)]
    rows = []
    for device in here:
        fault = _fault(name, device, folder)
        rows.append(Examined(name, found, not fault, fault or "a tiny model ran", device, kind.thread_safe))
    return rows


def _fault(name: str, device: str, folder: Path) -> str:
    """What goes wrong in a child process, and then here; a compilation takes long and is done there."""
    with tempfile.TemporaryDirectory() as place:
        try:
            fault = fault_in_child(name, device, Path(place))
        except LissomError as exc:
            return exc.message
    return fault if name in (*COMPILING, "aotinductor") else find_fault(name, device, folder)


def find_fault(name: str, device: str, folder: Path) -> str:
    """What goes wrong when a tiny model is run; empty when nothing does."""
    try:
        artifact = tiny(runtime_entry(name).formats[0], folder)
        with open_runtime(artifact, name, threads=1, device=device) as runtime:
            answer = runtime.infer({"x": _INPUT})["y"]
    except LissomError as exc:
        return f"{exc.message}: {exc.hint}" if exc.hint else exc.message
    except Exception as exc:  # the point is to find out how an engine fails here
        return f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"
    right = np.allclose(answer, _INPUT @ WEIGHTS.T, rtol=1e-2)  # a GPU may multiply in TF32
    return "" if right else f"a tiny model gave {answer.tolist()}"
