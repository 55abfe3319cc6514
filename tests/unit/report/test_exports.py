"""A report for other programs: CSV and JUnit, and several runs on one page."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.unit.report import samples
from tests.unit.report.test_comparison import written

from lissom.cli import main
from lissom.errors import RequestError
from lissom.logs import NoProgress
from lissom.report.exports import COLUMNS, csv_of, junit_of
from lissom.report.files import CSV_FILE, JUNIT_FILE, draw_pages
from lissom.report.history import Entry, draw_scores, history_page, in_order, summary
from lissom.report.pages import html_from_report
from lissom.report.schema import Report
from lissom.verbs import history


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def dated(day: int, **changes: object) -> Report:
    return samples.typical(created=f"2026-03-{day:02}T10:00:00.000+00:00", **changes)


def test_every_arm_has_a_line_with_its_figures_as_they_are() -> None:
    report = samples.typical()
    found = rows(csv_of([report]))
    assert list(found[0]) == list(COLUMNS)
    assert len(found) == len(report.arms)
    for line, arm in zip(found, report.arms, strict=True):
        assert (line["artifact"], line["runtime"]) == (arm.artifact, arm.runtime)
        assert arm.latency is not None
        assert float(line["median_ms"]) == arm.latency.median_ms.value
        assert arm.accuracy is not None
        assert float(line["drop"]) == arm.accuracy.drop.value


def test_an_arm_that_failed_has_a_line_with_its_error_and_no_figures() -> None:
    broken = next(line for line in rows(csv_of([samples.with_errors()])) if line["error"])
    assert "engine build failed" in broken["error"]
    assert broken["median_ms"] == broken["score"] == ""


def test_text_of_the_user_stays_in_its_cell() -> None:
    assert all(len(line) == len(COLUMNS) for line in rows(csv_of([samples.hostile()])))


def test_gates_are_test_cases() -> None:
    root = ElementTree.fromstring(junit_of(samples.with_errors().gates, suite="digits", name="lissom.run"))
    assert root.attrib["name"] == "digits"
    states = {case.attrib["name"]: [child.tag for child in case] for case in root}
    assert states["accuracy"] == []  # it failed and was allowed
    assert states["not-slower"] == ["skipped"]
    assert int(root.attrib["tests"]) == len(states)


def test_both_are_written_beside_the_pages(tmp_path: Path) -> None:
    draw_pages(samples.typical(), tmp_path, progress=NoProgress())
    assert rows((tmp_path / CSV_FILE).read_text())
    assert ElementTree.parse(tmp_path / JUNIT_FILE).getroot().tag == "testsuite"


def test_runs_are_told_the_oldest_first() -> None:
    failed = dated(9, verdict=samples.typical().verdict.model_copy(update={"ok": False}))
    entries = [Entry(Path("c"), dated(20)), Entry(Path("a"), dated(3)), Entry(Path("b"), failed)]
    ordered = in_order(entries)
    assert [str(entry.path) for entry in ordered] == ["a", "b", "c"]
    assert summary(ordered).startswith("2 of 3\u00a0runs passed. The newest: quantize on openvino")


def test_the_page_links_every_run_and_shows_its_gates(tmp_path: Path) -> None:
    entries = [Entry(tmp_path / "runs" / name, dated(day)) for day, name in ((1, "one"), (2, "two"))]
    page = history_page(entries, tmp_path / "pages")
    assert 'href="../runs/one/report.html"' in page
    assert page.count('class="state pass"') == 2
    for name in ("history-score", "history-speed", "history-size"):
        assert f'id="plot-{name}"' in page


def test_a_run_in_which_nothing_was_chosen_is_told_too(tmp_path: Path) -> None:
    none = samples.without_choice()
    page = history_page([Entry(tmp_path / "none", none)], tmp_path)
    assert "nothing" in page
    assert draw_scores([Entry(tmp_path / "none", none)]) is None


def test_markup_of_a_run_is_escaped(tmp_path: Path) -> None:
    page = history_page([Entry(tmp_path / "x", samples.hostile())], tmp_path)
    assert "<img" not in page


def test_the_verb_draws_one_page_and_one_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [written(tmp_path / name, dated(day)) for day, name in ((8, "late"), (2, "early"))]
    assert main(["report", *places, "--out", str(tmp_path / "all"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["created"][:10] for run in document["runs"]] == ["2026-03-02", "2026-03-08"]
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"runs.html", "runs.csv"}
    assert main(["report", places[0], str(tmp_path / "none")]) == 2


def test_the_pages_of_one_run_go_where_they_are_asked_to(tmp_path: Path) -> None:
    place = written(tmp_path / "run", samples.typical())
    assert main(["report", place, "--out", str(tmp_path / "pages")]) == 0
    drawn = {"report.html", "report.md", "report.csv", "report.junit.xml"}
    assert {path.name for path in (tmp_path / "pages").iterdir()} == drawn
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"report.json"}
    (tmp_path / "file").write_text("")
    assert main(["report", place, "--out", str(tmp_path / "file" / "x")]) == 2


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no run is named"):
        history([], tmp_path)


def test_a_report_of_fifty_artifacts_is_drawn_in_seconds_and_is_not_large() -> None:
    report = samples.typical()
    stage, arm = report.stages[-1], report.arms[-1]
    many = report.model_copy(
        update={
            "stages": tuple(stage.model_copy(update={"name": f"stage-{index}"}) for index in range(50)),
            "arms": tuple(
                arm.model_copy(
                    update={"artifact": f"stage-{index // 2}", "runtime": runtime, "chosen": index == 0}
                )
                for index, runtime in enumerate(("openvino", "onnxruntime") * 50)
            ),
        }
    )
    started = time.perf_counter()
    page = html_from_report(many)
    assert time.perf_counter() - started < 5
    assert len(page.encode()) < 8e6
