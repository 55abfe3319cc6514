"""What the machine and the software were like while something was measured."""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lissom.bench.gpu import gpu
from lissom.optional import version
from lissom.runtime.machine import machine

_LIBRARIES = (
    "lissom",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torchao",
    "numpy",
    "bentoml",
)
_CGROUP = Path("/sys/fs/cgroup")


def environment() -> dict[str, Any]:
    """Machine, state and versions; what cannot be read is None."""
    card = gpu()
    return {
        **machine(),
        "host_index": host_index(),
        "memory_available_bytes": psutil.virtual_memory().available,
        "swap_used_bytes": psutil.swap_memory().used,
        "cpu_limit": _cpu_limit(),
        "gpu": card.described() if card else None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "container": Path("/.dockerenv").exists() or "container" in os.environ,
        "git": _git_state(),
        "versions": {name: found for name in _LIBRARIES if (found := version(name)) != "absent"},
    }


def host_index() -> float:
    """How fast one core is now: 1 for that of an AMD EPYC at 2.6 GHz, 2 for one that takes half as long.

    Products of small matrices, a hash and a loop of Python, each the median of nine tries, by their geometric
    mean. It says whether two reports come from machines that are alike, not how fast a model is.
    """
    matrix, content = np.ones((64, 64), dtype=np.float32), bytes(1 << 16)
    tasks: list[tuple[float, Callable[[], object]]] = [
        (0.60e-3, lambda: [matrix @ matrix for _ in range(100)]),
        (0.73e-3, lambda: [hashlib.sha256(content).digest() for _ in range(20)]),
        (0.83e-3, lambda: sum(index * index for index in range(20_000))),
    ]
    return statistics.geometric_mean(usual / _seconds(task) for usual, task in tasks)


def _seconds(task: Callable[[], object]) -> float:
    found = []
    for _ in range(9):
        started = time.perf_counter()
        task()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def _cpu_limit() -> float | None:
    """Cores that a container may use, which can be less than it sees; None without a limit."""
    words = (_read(str(_CGROUP / "cpu.max")) or "").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdecimal() else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _git_state() -> str | None:
    """Commit of the working folder, with a plus sign when it has uncommitted changes."""
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() or None
