"""Libraries on this machine that get in each other's way, and what to type."""

from __future__ import annotations

import mmap
import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from lissom.optional import version
from lissom.runtime.machine import cuda_version, machine


class Conflict(NamedTuple):
    """Two things that do not go together.

    Attributes:
        what: What was found.
        mend: What to type.
    """

    what: str
    mend: str


def conflicts() -> list[Conflict]:
    """Every conflict that is known of; nothing heavy is imported."""
    found = (_two_onnx_runtimes(), _other_tensorrt(), _other_cuda(), _torch_without_cuda())
    return [conflict for conflict in found if conflict is not None]


def _two_onnx_runtimes() -> Conflict | None:
    names = [name for name in ("onnxruntime", "onnxruntime-gpu") if version(name) != "absent"]
    if len(names) < 2:
        return None
    return Conflict(
        "onnxruntime and onnxruntime-gpu are both installed, and each overwrites the other's files",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    )


def _other_tensorrt() -> Conflict | None:
    """An execution provider that is linked against another TensorRT than the one that is installed."""
    found, linked = version("tensorrt").partition(".")[0], _linked("tensorrt", rb"libnvinfer\.so\.(\d+)")
    if found == "absent" or linked in (None, found):
        return None
    return Conflict(
        f"TensorRT {version('tensorrt')} is installed, and ONNX Runtime's TensorRT provider links "
        f"TensorRT {linked}: it cannot be loaded",
        f"pip install 'tensorrt=={linked}.*', or use the runtime tensorrt",
    )


def _other_cuda() -> Conflict | None:
    """A CUDA provider that is linked against another CUDA than torch brings."""
    own = (cuda_version() or "").partition(".")[0]
    linked = _linked("cuda", rb"libcudart\.so\.(\d+)")
    if not own or linked in (None, own):
        return None
    return Conflict(
        f"torch brings CUDA {own}, and ONNX Runtime's CUDA provider links CUDA {linked}",
        f"pip install 'onnxruntime-gpu[cuda,cudnn]', or an onnxruntime-gpu for CUDA {own}",
    )


def _torch_without_cuda() -> Conflict | None:
    if not machine()["gpus"] or cuda_version():
        return None
    return Conflict(
        f"there is a GPU, and torch {version('torch')} is built without CUDA",
        "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130",
    )


def _linked(provider: str, pattern: bytes) -> str | None:
    """The major version of a library that one of ONNX Runtime's providers is linked against."""
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if not path.is_file() or not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = re.search(pattern, content)
        return found[1].decode() if found else None
