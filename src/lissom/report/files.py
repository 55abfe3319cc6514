"""Reading and writing a run's report: `report.json`, and the files that are drawn from it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from lissom.artifact import canonical_json, write_atomic
from lissom.errors import RequestError
from lissom.logs import Progress
from lissom.report.migrations import migrated
from lissom.report.schema import Report

REPORT_FILE, HTML_FILE, MARKDOWN_FILE = "report.json", "report.html", "report.md"
CSV_FILE, JUNIT_FILE = "report.csv", "report.junit.xml"


def write_report(report: Report, folder: Path, *, progress: Progress) -> None:
    """Write the JSON and draw the pages; nothing is touched when the same report is there already."""
    content = canonical_json(report.model_dump(mode="json", by_alias=True))
    path = folder / REPORT_FILE
    pages = [folder / name for name in (HTML_FILE, MARKDOWN_FILE, CSV_FILE, JUNIT_FILE)]
    if path.exists() and path.read_bytes() == content and all(page.exists() for page in pages):
        return
    write_atomic(path, content)
    draw_pages(report, folder, progress=progress)


def draw_pages(report: Report, folder: Path, *, progress: Progress) -> None:
    """Draw the HTML and the Markdown page from a report, its arms as CSV and its gates as JUnit."""
    from lissom.report.exports import csv_of, junit_of
    from lissom.report.pages import html_from_report, markdown_from_report

    with progress.task("draw report", 2) as advance:
        write_atomic(folder / CSV_FILE, csv_of([report]).encode())
        write_atomic(folder / JUNIT_FILE, junit_of(report.gates, suite=report.name, name="lissom.run"))
        write_atomic(folder / MARKDOWN_FILE, markdown_from_report(report).encode())
        advance(1)
        write_atomic(folder / HTML_FILE, html_from_report(report).encode())
        advance(1)


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
