"""The child process that opens and calls artifacts where an engine might end the process that it runs in.

    python -m lissom.runtime.child      requests and replies, one JSON document a line

Tensors travel as safetensors files, artifacts by their path; nothing is pickled. What engines print goes to
stderr, so that it cannot be taken for a reply. The parent's half is `lissom.runtime.isolation`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import safetensors.numpy

from lissom.artifact import Artifact
from lissom.errors import LissomError
from lissom.optional import require
from lissom.registry import RUNTIMES, RuntimeEntry, resolve
from lissom.runtime.arrays import safetensors_bytes
from lissom.runtime.base import Runtime
from lissom.runtime.doctor import find_fault
from lissom.runtime.open_vino import reason_of
from lissom.runtime.probe import load_probe

IDLE_SECONDS = 15.0
"""How long a child waits for the next request, since an engine that is loaded holds memory."""
_EXPENDABLE = "1000"
"""For the kernel's choice of what it ends first when memory is short."""


def main() -> None:
    """Answer requests until the parent closes the pipe, or asks for nothing for a while."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    while line := _next_line():
        _answer(json.loads(line), replies)


def _next_line() -> str:
    """The next request; empty when there will be none."""
    ready, _, _ = select.select([sys.stdin], [], [], IDLE_SECONDS)
    return sys.stdin.readline() if ready else ""


def _answer(request: dict[str, Any], replies: TextIO) -> None:
    try:
        _serve(request, replies)
    except LissomError as exc:
        _reply(replies, {"error": type(exc).__name__, "message": exc.message, "hint": exc.hint})
    except Exception as exc:  # engines raise anything; the parent says which
        message = f"{type(exc).__name__}: {reason_of(exc)}"
        _reply(replies, {"error": "", "message": message, "hint": ""})


def _serve(request: dict[str, Any], replies: TextIO) -> None:
    """Carry out one request; what is done at the moment is told, for the case that it is the last thing."""
    _reply(replies, {"at": "opened"})
    fault = ""
    if "file" in request:
        _open_file(request, replies)
    else:
        name, entry = request["runtime"], RuntimeEntry(*request["entry"])
        RUNTIMES.setdefault(name, entry)
        if "artifact" in request:
            _open_artifact(request, resolve(entry.reference, known={}), replies)
        else:
            fault = find_fault(name, request["device"], Path(request["folder"]))
    _reply(replies, {"fault": fault})


def _open_file(request: dict[str, Any], replies: TextIO) -> None:
    library: Any = require("onnxruntime", extra="cpu")
    session = library.InferenceSession(request["file"], providers=["CPUExecutionProvider"])
    if request["inputs"]:
        _reply(replies, {"at": "called"})
        session.run(None, _read_tensors(request["inputs"]))


def _open_artifact(request: dict[str, Any], kind: Callable[..., Runtime], replies: TextIO) -> None:
    """Open it, call it, and write the outputs."""
    artifact = Artifact.open(request["artifact"])
    options = {name: request[name] for name in ("threads", "device", "hint")}
    with kind(artifact, **options) as runtime:
        _reply(replies, {"at": "called"})
        inputs = _inputs(request, artifact)
        outputs = runtime.infer_batch(inputs) if inputs else {}
        Path(request["outputs"]).write_bytes(safetensors_bytes(outputs))
        _reply(replies, {"at": "closed"})


def _inputs(request: dict[str, Any], artifact: Artifact) -> dict[str, np.ndarray]:
    """Those of the request, else the stored probe, else none."""
    if request["inputs"]:
        return _read_tensors(request["inputs"])
    return load_probe(artifact)[0] if any("probe" in entry.path for entry in artifact.manifest.files) else {}


def _read_tensors(path: str) -> dict[str, np.ndarray]:
    return dict(safetensors.numpy.load(Path(path).read_bytes()))


def _reply(replies: TextIO, document: dict[str, Any]) -> None:
    replies.write(json.dumps(document) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
