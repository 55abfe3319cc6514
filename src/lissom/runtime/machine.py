"""What this machine is: processor, instruction sets, memory, accelerator; read from the system."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lissom.recipe import default_threads

# Instruction sets that change which kernels an engine picks, and so speed and bits.
_ISA_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "neon",
    "asimddp",
    "i8mm",
)


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Processor, instruction sets, usable cores, memory and accelerators of this machine."""
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "isa": list(isa_flags()),
        "cores": default_threads(),
        "memory_bytes": _memory_bytes(),
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "gpus": _gpus(),
    }


def host() -> str:
    """A short name for this kind of machine, for file names; two machines alike may share it."""
    words = "".join(char if char.isalnum() else "-" for char in f"{cpu_name()}-{default_threads()}c").split(
        "-"
    )
    return "-".join(word for word in words if word)[:48]


def cpu_name() -> str:
    """Model name of the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def isa_flags() -> tuple[str, ...]:
    """Instruction sets of this processor that matter for inference."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return tuple(flag for flag in _ISA_FLAGS if flag in flags)


def has_vnni() -> bool:
    """True when int8 products are accumulated in 32 bits, so that 8-bit weights cannot saturate."""
    flags = isa_flags()
    return platform.machine() not in ("x86_64", "AMD64") or any(
        "vnni" in flag or flag == "amx_int8" for flag in flags
    )


def compiler() -> str | None:
    """The C++ compiler that inductor would call, or None."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def compiler_version() -> str | None:
    """The C++ compiler and its version, as it says them itself."""
    path = compiler()
    if path is None:
        return None
    found = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    said = found.stdout.splitlines()[0].strip() if found.stdout else "says nothing of its version"
    return f"{path}, {said}"


def cuda_version() -> str | None:
    """The CUDA that torch is built for; None for a build for the CPU.

    It stands in a file of torch, which is read, not run: the version of the package need not name it.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*= '([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def _cpuinfo(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next(
        (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), None
    )


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return (
        [line.strip() for line in found.stdout.splitlines() if line.strip()] if found.returncode == 0 else []
    )
