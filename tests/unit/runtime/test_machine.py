"""What this machine is, read from what the system says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import lissom.recipe
from lissom.recipe import default_threads
from lissom.runtime import machine as module
from lissom.runtime.machine import compiler, has_vnni, host, isa_flags, machine


@pytest.mark.parametrize(
    ("flags", "architecture", "found"),
    [
        ((), "x86_64", False),
        (("avx2", "fma"), "x86_64", False),
        (("avx2", "fma", "avx512f"), "x86_64", False),
        (("avx2", "fma", "avx512f", "avx512_bf16"), "AMD64", False),
        (("avx512f", "avx512_vnni"), "x86_64", True),
        (("avx2", "avx_vnni"), "x86_64", True),
        (("avx512f", "amx_int8"), "AMD64", True),
        (("amx_bf16",), "x86_64", False),
        ((), "aarch64", True),
        (("neon", "asimddp"), "arm64", True),
    ],
)
def test_only_x86_without_vnni_can_saturate(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], architecture: str, found: bool
) -> None:
    monkeypatch.setattr(module, "isa_flags", lambda: flags)
    monkeypatch.setattr(module.platform, "machine", lambda: architecture)
    assert has_vnni() is found


INTEL = """processor\t: 0
model name\t: Example(R) CPU @ 2.00GHz
flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni amx_tile

processor\t: 1
model name\t: Example(R) CPU @ 2.00GHz
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "flags"),
    [(INTEL, ("avx2", "fma", "avx512f", "avx512_vnni")), (ARM, ("asimddp", "i8mm")), ("", ())],
)
def test_instruction_sets_are_read_from_the_first_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, flags: tuple[str, ...]
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(module, "Path", lambda path: tmp_path / Path(path).name)
    assert isa_flags() == flags


def test_a_system_that_says_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Path", lambda path: tmp_path / "none")
    assert isa_flags() == ()
    assert module.cpu_name()


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("200000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("400000 50000", 8),
        ("max 100000", 8),
        ("99900000 100000", 8),
        ("", 8),
        ("garbage", 8),
        (None, 8),
    ],
)
def test_threads_are_the_cores_that_the_quota_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, threads: int
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(lissom.recipe, "Path", lambda path: tmp_path / Path(path).name)
    monkeypatch.setattr(lissom.recipe.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert default_threads() == threads


def test_threads_are_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lissom.recipe.os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert default_threads() == 1


def test_a_compiler_is_found_by_its_variable_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler() is None
    for name in ("clang++", "g++", "mine++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert compiler() == str(tmp_path / "g++")
    monkeypatch.setenv("CXX", "mine++")
    assert compiler() == str(tmp_path / "mine++")
    monkeypatch.setenv("CXX", "none++")
    assert compiler() == str(tmp_path / "clang++")


def test_the_machine_is_described_once_and_the_same() -> None:
    found = machine()
    assert found == machine()
    assert found["cores"] == default_threads() <= (os.cpu_count() or 1)
    assert found["isa"] == list(isa_flags())
    assert found["memory_bytes"] > 10**8
    assert set(found) == {"cpu", "architecture", "isa", "cores", "memory_bytes", "os", "python", "gpus"}


@pytest.mark.parametrize("name", ["Example(R) CPU @ 2.00GHz", "a" * 100, "../../etc", "é x/y"])
def test_the_name_of_a_host_can_be_part_of_a_file_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(module, "cpu_name", lambda: name)
    found = host()
    assert re.fullmatch(r"[\w-]{1,48}", found)
    assert not found.startswith("-")


def test_two_machines_with_more_cores_have_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for cores in (1, 2, 16):
        monkeypatch.setattr(module, "default_threads", lambda cores=cores: cores)
        names.add(host())
    assert len(names) == 3


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("__version__ = '2.13.0+cu130'\ncuda: str | None = '13.0'\nhip = None\n", "13.0"),
        ("cuda: Optional[str] = '12.8'\n", "12.8"),
        ("cuda = '12.6'\n", "12.6"),
        ("cuda: str | None = None\n", None),
        ("", None),
    ],
)
def test_the_cuda_of_torch_is_read_from_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, cuda: str | None
) -> None:
    (tmp_path / "version.py").write_text(text)
    monkeypatch.setattr(
        module, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    assert module.cuda_version() == cuda
    (tmp_path / "version.py").unlink()
    assert module.cuda_version() is None


@pytest.mark.parametrize(
    ("said", "found"), [("g++ 99.1\nmore", "g++ 99.1"), ("", "says nothing of its version")]
)
def test_a_compiler_says_its_version_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, found: str
) -> None:
    path = tmp_path / "g++"
    path.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    path.chmod(0o755)
    monkeypatch.setattr(module, "compiler", lambda: str(path))
    assert module.compiler_version() == f"{path}, {found}"
    monkeypatch.setattr(module, "compiler", lambda: None)
    assert module.compiler_version() is None
