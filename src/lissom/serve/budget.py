"""How many threads and instances a served model has: what this process may use, and what was measured.

A server with more threads than it may run is stopped by the kernel for the rest of every period of its quota,
which shows as a tail of tens of milliseconds. Where the artifact was measured on this kind of machine, it is
served with the threads of that measurement, so that what was measured is what is served, and as many batches
are computed at once as there are cores for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lissom.artifact import Artifact
from lissom.recipe import default_threads
from lissom.runtime.base import Runtime
from lissom.runtime.machine import machine

MACHINE_KIND = ("cpu", "architecture", "isa", "cores")
"""What two machines have in common on which one measurement holds."""
_CGROUP_ROOT = "sys/fs/cgroup"


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, by affinity and by the quotas of all its control groups; at least 1.

    Part of a core is left out: threads for it would be stopped before the others.

    Args:
        root: Where `proc` and `sys` are.
    """
    return max(1, min([default_threads(), *(int(cores) for cores in _quotas(root))]))


def threads_of(artifact: Artifact, runtime: str, cores: int) -> int:
    """Threads of one call: those at which it was measured on this kind of machine, else every core.

    Args:
        artifact: What is served.
        runtime: The engine.
        cores: That the model may use; a measurement with more says nothing here.

    Raises:
        ArtifactError: a record of evidence is damaged.
    """
    for record in reversed(artifact.evidence()):
        threads = record.get("runtimes", {}).get(runtime, {}).get("threads")
        if threads is not None and measured_here(record):
            return threads if 1 <= threads <= cores else cores
    return cores


def instances_of(runtime: Runtime, cores: int) -> int:
    """Batches that are computed at once: 1 unless the engine may be called by several threads at once.

    Args:
        runtime: Open, so that its threads are known.
        cores: That the model may use.
    """
    return max(1, cores // runtime.threads) if runtime.thread_safe else 1


def measured_here(record: Mapping[str, Any]) -> bool:
    """True for evidence of single samples that was taken on this kind of machine."""
    here, there = machine(), record.get("environment", {})
    single = record.get("benchmark", {}).get("batch_size", 1) == 1  # larger batches may prefer another engine
    return single and all(there.get(key) == here[key] for key in MACHINE_KIND)


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group allows, from that of this process up to the root; version 2 and 1."""
    for folder, is_new in _groups(root):
        try:
            if is_new:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if int(quota) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # not there, or without a quota: "max"
            continue


def _groups(root: Path) -> Iterator[tuple[Path, bool]]:
    """Folders of the control groups that may limit this process, and whether they are of version 2.

    A container may see the name that its group has outside, and its own group as the root.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in {"", controllers, "cpu" if controllers else ""}:
            top = root / _CGROUP_ROOT / mount
            for part in (PurePosixPath(path), *PurePosixPath(path).parents):
                yield top / str(part).lstrip("/"), not controllers
