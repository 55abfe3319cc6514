"""Libraries that get in each other's way are named, with what to type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lissom.runtime import conflicts as module
from lissom.runtime.conflicts import Conflict, conflicts

Installed = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installed:
    """Replaces what is installed, what ONNX Runtime's providers link, and the GPU."""

    def replace(
        versions: dict[str, str],
        links: dict[str, bytes] | None = None,
        gpu: str = "",
        cuda: str | None = None,
    ) -> None:
        monkeypatch.setattr(module, "version", lambda name: versions.get(name, "absent"))
        monkeypatch.setattr(module, "cuda_version", lambda: cuda)
        monkeypatch.setattr(module, "machine", lambda: {"gpus": [gpu] if gpu else []})
        (tmp_path / "capi").mkdir()
        for provider, content in (links or {}).items():
            path = tmp_path / "capi" / f"libonnxruntime_providers_{provider}.so"
            path.write_bytes(b"\x7fELF" + content + b"\x00rest")
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(module, "find_spec", lambda name: spec)

    return replace


def only() -> Conflict:
    (found,) = conflicts()
    return found


def test_this_environment_has_none() -> None:
    assert conflicts() == []


def test_two_packages_of_onnx_runtime(installed: Installed) -> None:
    installed({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})
    assert "each overwrites the other's files" in only().what
    assert only().mend.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_a_newer_tensorrt_than_the_provider_links(installed: Installed) -> None:
    links = {"tensorrt": b"libnvinfer.so.10\x00libcudart.so.13"}
    installed({"onnxruntime-gpu": "1.32.0", "tensorrt": "11.0.0.1"}, links)
    assert "TensorRT 11.0.0.1 is installed" in only().what
    assert "links TensorRT 10" in only().what
    assert only().mend == "pip install 'tensorrt==10.*', or use the runtime tensorrt"


def test_the_tensorrt_that_the_provider_links(installed: Installed) -> None:
    installed({"onnxruntime-gpu": "1.32.0", "tensorrt": "10.16.1"}, {"tensorrt": b"libnvinfer.so.10"})
    assert conflicts() == []


def test_two_versions_of_cuda(installed: Installed) -> None:
    installed({"onnxruntime-gpu": "1.32.0"}, {"cuda": b"libcudart.so.12"}, cuda="13.0")
    assert only().what == "torch brings CUDA 13, and ONNX Runtime's CUDA provider links CUDA 12"


@pytest.mark.parametrize("cuda", ["13.0", "13.2", None])
def test_one_version_of_cuda_or_none(installed: Installed, cuda: str | None) -> None:
    installed({"onnxruntime-gpu": "1.32.0"}, {"cuda": b"libcudart.so.13"}, cuda=cuda)
    assert conflicts() == []


def test_torch_for_the_cpu_beside_a_gpu(installed: Installed) -> None:
    installed({"torch": "2.13.0+cpu"}, gpu="NVIDIA H200, 580.1")
    assert "torch 2.13.0+cpu is built without CUDA" in only().what
    assert "pip install" in only().mend


def test_without_onnx_runtime_nothing_is_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert module._linked("cuda", b"x") is None


def test_an_empty_provider_is_no_crash(installed: Installed, tmp_path: Path) -> None:
    installed({"onnxruntime-gpu": "1.32.0", "tensorrt": "11.0"})
    (tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so").write_bytes(b"")
    assert conflicts() == []
