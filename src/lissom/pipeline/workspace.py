"""The folder of a run: one process at a time, what is found there again, and the link to the best."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lissom.artifact import (
    MANIFEST_NAME,
    TEACHERS_NAME,
    TEMPORARY_PREFIX,
    WORK_PREFIX,
    Artifact,
    sweep_temporary,
)
from lissom.errors import DiskFull, RequestError, is_disk_full

LOCK_NAME = ".lock"
_MIN_FREE_BYTES = 20_000_000


@contextmanager
def locked(folder: Path, *, sweep: bool = True) -> Iterator[None]:
    """Hold the folder of a run alone, and sweep what a killed run left half-written.

    What fails before it has written anything leaves no folder that was not there.

    Raises:
        RequestError: another process holds it, or it is not a folder that can be written.
        DiskFull: no space is left for it.
    """
    try:
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("w")
    except OSError as exc:
        if is_disk_full(exc):
            raise DiskFull(f"no space left on the disk of {folder}", hint="name another with --out") from exc
        raise RequestError(
            f"{folder} cannot be used for a run: {exc.strerror}", hint="name another with --out"
        ) from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise RequestError(
                f"another lissom is working in {folder}", hint="wait, or name another with --out"
            ) from exc
        if sweep:
            sweep_temporary(folder)
            sweep_temporary(folder / TEACHERS_NAME)
        try:
            yield
        except BaseException:
            _withdraw(created)
            raise


def _withdraw(created: Sequence[Path]) -> None:
    """Remove folders that were made for a run, the innermost first, if they hold nothing but its lock."""
    if not created or any(path.name != LOCK_NAME for path in created[0].iterdir()):
        return
    (created[0] / LOCK_NAME).unlink()
    for path in created:
        with suppress(OSError):  # another run may have put something beside it
            path.rmdir()


def clean(folder: str | Path, *, dry_run: bool = False) -> list[Path]:
    """Remove from a run's folder what its report does not refer to; gives what was, or would be, removed.

    Raises:
        RequestError: the folder has no report, or another process works in it.
    """
    from lissom.report.files import read_report

    folder = Path(folder)
    report = read_report(folder)
    kept = {Path(row.path).name for row in report.stages}
    with locked(folder, sweep=not dry_run):
        leftovers = [
            path
            for path in sorted(folder.iterdir())
            if (
                path.is_dir()
                and not path.is_symlink()
                and (path / MANIFEST_NAME).is_file()
                and path.name not in kept
            )
            or path.name.startswith((TEMPORARY_PREFIX, WORK_PREFIX))
            or path.name == TEACHERS_NAME
        ]
        for path in leftovers if not dry_run else ():
            shutil.rmtree(path)
    return leftovers


def find_artifact(path: Path, made: Mapping[str, Artifact]) -> Artifact | None:
    """The artifact on disk, unless a parent was made again since and came out otherwise."""
    if not path.exists():
        return None
    artifact = Artifact.open(path)
    if any(made[parent.name].digest != parent.digest for parent in artifact.manifest.parents):
        shutil.rmtree(path)
        return None
    return artifact


def check_space(folder: Path) -> None:
    """Refuse to begin a stage on a full disk.

    Raises:
        DiskFull: less is free than a stage needs.
    """
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        raise DiskFull(
            f"the disk of {folder} has {free / 1e6:,.0f} MB; a stage needs {_MIN_FREE_BYTES / 1e6:,.0f} MB",
            hint="free some space, or name another folder with --out",
        )


def link_artifact(folder: Path, artifact: Artifact) -> None:
    """Point `<out>/artifact` at the chosen artifact, at once."""
    link, temporary = folder / "artifact", folder / f".writing-artifact-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(artifact.path.name)
    try:
        temporary.replace(link)
    except IsADirectoryError as exc:
        temporary.unlink()
        raise RequestError(f"{link} is a folder; the link to the chosen artifact goes there") from exc
