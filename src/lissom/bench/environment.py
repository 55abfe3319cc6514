"""What the machine and the software were like while something was measured."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from lissom.optional import version
from lissom.runtime.machine import machine

_LIBRARIES = (
    "lissom",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch-pruning",
    "numpy",
    "bentoml",
)


def environment() -> dict[str, Any]:
    """Machine, state and versions; what cannot be read is None."""
    return {
        **machine(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "container": Path("/.dockerenv").exists() or "container" in os.environ,
        "git": _git_state(),
        "versions": {name: found for name in _LIBRARIES if (found := version(name)) != "absent"},
    }


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
