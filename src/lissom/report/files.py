"""Reading and writing a run's report: `report.json`, and the files that are drawn from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from lissom.artifact import canonical_json, write_atomic
from lissom.errors import RequestError
from lissom.logs import Progress, tried
from lissom.report.migrations import migrated
from lissom.report.schema import Report

REPORT_FILE, HTML_FILE, MARKDOWN_FILE = "report.json", "report.html", "report.md"
CSV_FILE, JUNIT_FILE = "report.csv", "report.junit.xml"


def write_report(report: Report, folder: Path, *, progress: Progress) -> None:
    """Write the JSON and draw the pages; nothing is touched when the same report is there already.

    A page that cannot be drawn is warned of: the JSON holds what was measured.
    """
    content = canonical_json(report.model_dump(mode="json", by_alias=True))
    path = folder / REPORT_FILE
    pages = [folder / name for name in (HTML_FILE, MARKDOWN_FILE, CSV_FILE, JUNIT_FILE)]
    if path.exists() and path.read_bytes() == content and all(page.exists() for page in pages):
        return
    write_atomic(path, content)
    drawings = _drawings(report)
    with progress.task("draw report", len(drawings)) as advance:
        for name, draw in drawings.items():
            page = tried(f"{folder / name}", draw, None)
            if page is not None:
                write_atomic(folder / name, page)
            else:
                (folder / name).unlink(missing_ok=True)  # an older one would be of another run
            advance(1)


def draw_pages(report: Report, folder: Path, *, progress: Progress) -> None:
    """Draw the HTML and the Markdown page from a report, its arms as CSV and its gates as JUnit."""
    drawings = _drawings(report)
    with progress.task("draw report", len(drawings)) as advance:
        for name, draw in drawings.items():
            write_atomic(folder / name, draw())
            advance(1)


def _drawings(report: Report) -> dict[str, Callable[[], bytes]]:
    """What draws each file, by its name; the quick ones first."""
    from lissom.report.exports import csv_of, junit_of
    from lissom.report.pages import html_from_report, markdown_from_report

    return {
        CSV_FILE: lambda: csv_of([report]).encode(),
        JUNIT_FILE: lambda: junit_of(report.gates, suite=report.name, name="lissom.run"),
        MARKDOWN_FILE: lambda: markdown_from_report(report).encode(),
        HTML_FILE: lambda: html_from_report(report).encode(),
    }


def read_report(folder: Path) -> Report:
    """The report in a run's folder, or the JSON file itself.

    Raises:
        RequestError: none is there, it is damaged, or of a newer schema.
    """
    path = report_path(folder)
    return report_from_json(report_bytes(path), path)


def report_path(folder: Path) -> Path:
    """The file of a report, which a folder holds, or which was named itself."""
    named = folder.is_file() or (folder.suffix == ".json" and not folder.is_dir())
    return folder if named else folder / REPORT_FILE


def report_bytes(path: Path) -> bytes:
    """The file as it is.

    Raises:
        RequestError: none is there, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise RequestError(f"no report at {path}", hint="lissom run RECIPE makes one") from exc
    except OSError as exc:
        raise RequestError(
            f"{path} cannot be read: {exc.strerror}", hint="name the folder of a run, or its report.json"
        ) from exc


def report_from_json(content: bytes, path: Path) -> Report:
    """A report of any schema so far.

    Args:
        content: The file.
        path: Where it was read, for the messages.

    Raises:
        RequestError: it is damaged, or of a newer schema.
    """
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise RequestError(
            f"{path} is damaged, or only a part of it is there: {exc}",
            hint="run the recipe again, or restore the file from a copy",
        ) from exc
    document = migrated(raw, path)
    try:
        return Report.model_validate(document)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            f"{path} is damaged: {where}: {first['msg']}",
            hint="run the recipe again, or restore the file from a copy",
        ) from exc
