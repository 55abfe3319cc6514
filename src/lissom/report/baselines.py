"""Saved baselines: reports that a team keeps beside its code, by name, to hold every change against.

A baseline is the `report.json` of a run, byte for byte, as `<folder>/<name>.json`.
"""

from __future__ import annotations

import re
from pathlib import Path

from lissom.artifact import write_atomic
from lissom.errors import RequestError, near
from lissom.report.files import REPORT_FILE

FOLDER = Path("baselines")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def located(before: str | Path, folder: Path) -> Path:
    """The report that BEFORE names: a run, a file, or a saved baseline; a path that exists wins.

    Raises:
        RequestError: it is none of them.
    """
    path = Path(before)
    if path.exists():
        return path
    if (saved := _file(before, folder)) is not None and saved.exists():
        return saved
    names = sorted(file.stem for file in folder.glob("*.json"))
    known = f"; {near(str(before), names)}" if names else ""
    raise RequestError(
        f"{before} is no run, no report, and no baseline in {folder}{known}",
        hint="lissom compare NAME AFTER --update keeps AFTER as the baseline NAME",
    )


def is_saved(before: str | Path, folder: Path) -> bool:
    """True when BEFORE is the name of a baseline that is there, and not a path."""
    saved = _file(before, folder)
    return not Path(before).exists() and saved is not None and saved.exists()


def save(name: str | Path, after: Path, folder: Path) -> Path:
    """Keep the report of a run as a baseline, in the place of an older one.

    Args:
        name: Letters, digits, `.`, `_` and `-`.
        after: Folder of the run, or its report.json.
        folder: Of the baselines; it is made when it is not there.

    Raises:
        RequestError: the name cannot be that of a file, or is that of a path that exists.
    """
    path = _file(name, folder)
    if path is None or Path(name).exists():
        raise RequestError(
            f"{str(name)!r} cannot be the name of a baseline"
            + (": a file or folder is called so" if Path(name).exists() else ""),
            hint="take letters, digits, '.', '_' and '-', such as main",
        )
    folder.mkdir(parents=True, exist_ok=True)
    report = after if after.suffix == ".json" else after / REPORT_FILE
    return write_atomic(path, report.read_bytes())


def _file(name: str | Path, folder: Path) -> Path | None:
    return folder / f"{name}.json" if _NAME.fullmatch(str(name)) else None
