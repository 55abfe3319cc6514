"""How many cores a server may use, and with how many threads a model is served."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.artifacts import tiny_onnx_artifact

from lissom.artifact import Artifact
from lissom.recipe import default_threads
from lissom.runtime.machine import machine
from lissom.serve import budget
from lissom.serve.budget import instances_of, threads_of, usable_cores

CORES = 8


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "default_threads", lambda: CORES)


def grouped(root: Path, membership: str, **files: str) -> Path:
    """A machine whose process is in these control groups, with these files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        place = root / "sys/fs/cgroup" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def test_the_cores_here_are_at_most_those_of_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "default_threads", default_threads)
    assert 1 <= usable_cores() <= default_threads()


def test_without_control_groups_every_core_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == CORES
    assert usable_cores(grouped(tmp_path, "garbage: no\n")) == CORES


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 8),
        ("300000 100000\n", 3),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("nonsense\n", 8),
        ("100000 0\n", 8),
    ],
)
def test_the_quota_of_version_two_counts(tmp_path: Path, text: str, cores: int) -> None:
    assert usable_cores(grouped(tmp_path, "0::/\n", **{"cpu.max": text})) == cores


def test_the_smallest_quota_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    files = {
        "cpu.max": "max 100000",
        "pods/cpu.max": "200000 100000",
        "pods/one/cpu.max": "600000 100000",
        "other/cpu.max": "100000 100000",
    }
    assert usable_cores(grouped(tmp_path, "0::/pods/one\n", **files)) == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("group", ["/docker/abc", "/"])
def test_the_quota_of_version_one_counts(tmp_path: Path, folder: str, group: str) -> None:
    membership = f"9:memory:{group}\n4:cpu,cpuacct:{group}\n2:cpuset:{group}\n"
    files = {f"{folder}/cpu.cfs_quota_us": "400000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    assert usable_cores(grouped(tmp_path, membership, **files)) == 4


def test_minus_one_is_no_quota_in_version_one(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert usable_cores(grouped(tmp_path, "4:cpu:/\n", **files)) == CORES


def measured(
    artifact: Artifact, threads: int | None, *, finished: str = "2026-01-01", **changes: Any
) -> None:
    record = {
        "artifact": {"digest": artifact.digest},
        "finished": finished,
        "environment": {**machine(), **changes.pop("environment", {})},
        "benchmark": {"batch_size": changes.pop("batch_size", 1)},
        "runtimes": {"onnxruntime": {"threads": threads}},
    }
    artifact.add_evidence(record | changes, name=f"record-{len(artifact.evidence())}")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny_onnx_artifact(tmp_path / "tiny")


def test_what_was_not_measured_gets_every_core(artifact: Artifact) -> None:
    assert threads_of(artifact, "onnxruntime", 5) == 5


def test_the_threads_of_the_newest_measurement_are_taken(artifact: Artifact) -> None:
    measured(artifact, 3, finished="2026-02-01")
    measured(artifact, 2, finished="2026-01-01")
    assert threads_of(artifact, "onnxruntime", 8) == 3
    assert threads_of(artifact, "openvino", 8) == 8


def test_more_threads_than_the_model_may_use_say_nothing(artifact: Artifact) -> None:
    measured(artifact, 4)
    assert threads_of(artifact, "onnxruntime", 2) == 2
    assert threads_of(artifact, "onnxruntime", 4) == 4


@pytest.mark.parametrize("changes", [{"environment": {"cpu": "another"}}, {"batch_size": 16}])
def test_measurements_of_other_machines_or_of_batches_say_nothing(
    artifact: Artifact, changes: dict[str, Any]
) -> None:
    measured(artifact, 2, **changes)
    assert threads_of(artifact, "onnxruntime", 8) == 8


def test_a_record_without_threads_says_nothing(artifact: Artifact) -> None:
    measured(artifact, 2)
    measured(artifact, None, finished="2026-03-01")
    assert threads_of(artifact, "onnxruntime", 8) == 2


@pytest.mark.parametrize(
    ("threads", "thread_safe", "instances"),
    [(1, True, 8), (3, True, 2), (8, True, 1), (9, True, 1), (1, False, 1)],
)
def test_as_many_batches_are_computed_at_once_as_there_are_cores_for(
    threads: int, thread_safe: bool, instances: int
) -> None:
    engine: Any = SimpleNamespace(threads=threads, thread_safe=thread_safe)
    assert instances_of(engine, CORES) == instances
