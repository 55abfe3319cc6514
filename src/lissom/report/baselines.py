"""Saved baselines: reports that a team keeps beside its code, by name, to hold every change against.

A baseline is the `report.json` of a run, byte for byte, as `<folder>/<name>.json`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from lissom.artifact import write_atomic
from lissom.errors import RequestError, is_disk_full, near
from lissom.recipe import GatesConfig
from lissom.report.comparison import Comparison, alone, compare
from lissom.report.files import read_report, report_bytes, report_from_json, report_path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def compare_with(
    before: str | Path,
    after: Path,
    limits: GatesConfig,
    *,
    folder: Path,
    update: bool = False,
    allow: Sequence[str] = (),
) -> Comparison:
    """Compare a report with an earlier one, or with a saved baseline.

    Args:
        before: Folder of a run, its report.json, or the name of a baseline; a path that exists wins.
        after: Folder of the newer run, or its report.json.
        limits: What may be lost.
        folder: Of the baselines.
        update: Keep `after` as the baseline `before`, unless a gate failed that is not allowed.
        allow: Gates that may fail.

    Raises:
        RequestError: a report is not there or damaged, they cannot be compared, or `before` cannot be kept.
    """
    place = _kept_as(before, folder) if update else located(before, folder, after=after)
    content = report_bytes(path := report_path(after))  # what is judged is what is kept
    report = report_from_json(content, path)
    if update and not place.exists():
        found = alone(report, allow=allow)
        found = found._replace(
            notes=(f"there was no baseline {place}, so nothing was compared", *found.notes)
        )
    else:
        found = compare(read_report(place), report, limits, allow=allow)
    if not update:
        return found
    if not found.ok:
        return found._replace(notes=(*found.notes, f"a gate failed, so {place} was not written"))
    return found._replace(baseline=_keep(content, place))


def located(before: str | Path, folder: Path, *, after: str | Path = "AFTER") -> Path:
    """The report that BEFORE names: a run, a file, or a saved baseline; a path that exists wins.

    Raises:
        RequestError: it is none of them.
    """
    path = Path(before)
    if path.exists():
        return path
    if not _is_name(before):
        raise RequestError(
            f"there is no report at {path}, and that is no name of a baseline: "
            "those are letters, digits, '.', '_' and '-', without .json at the end",
            hint="lissom run RECIPE makes a report",
        )
    saved = _file(before, folder)
    if saved.exists():
        return saved
    names = [file.stem for file in folder.glob("*.json") if _is_name(file.stem)]
    offered = near(str(before), names) if names else f"{folder} holds no baseline yet"
    raise RequestError(
        f"{str(before)!r} is no run, no report and no baseline in {folder}; {offered}",
        hint=f"lissom compare {shlex.join([str(before), str(after)])} --update makes that baseline",
    )


def _kept_as(name: str | Path, folder: Path) -> Path:
    """The file of a baseline that is to be written."""
    if Path(name).exists():
        raise RequestError(
            f"--update keeps a baseline by its name, and {str(name)!r} is a file or folder",
            hint=f"take a name that is no path here, such as {_suggested(name)}, or leave --update out",
        )
    if not _is_name(name):
        raise RequestError(
            f"{str(name)!r} cannot be the name of a baseline",
            hint="take letters, digits, '.', '_' and '-', without .json at the end, such as main",
        )
    return _file(name, folder)


def _keep(content: bytes, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_atomic(path, content)
    except OSError as exc:
        if is_disk_full(exc):
            raise
        raise RequestError(
            f"the baseline {path} cannot be written: {exc.strerror}",
            hint="name a folder that can be written with --baselines",
        ) from exc


def _is_name(word: str | Path) -> bool:
    return _NAME.fullmatch(str(word)) is not None and not str(word).endswith(".json")


def _file(name: str | Path, folder: Path) -> Path:
    return folder / f"{name}.json"


def _suggested(path: str | Path) -> str:
    stem = Path(path).stem
    return stem if _is_name(stem) and not Path(stem).exists() else "main"
