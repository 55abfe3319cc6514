"""Old reports stay readable: real files of every schema, and the steps between them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from lissom.errors import RequestError
from lissom.recipe import GatesConfig
from lissom.report.comparison import compare
from lissom.report.files import read_report
from lissom.report.migrations import migrated
from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.schema import REPORT_SCHEMA

STORED = sorted((Path(__file__).parents[2] / "golden" / "reports").glob("*.json"))
HERE = Path("report.json")


def test_a_file_of_every_older_schema_is_stored() -> None:
    found = {json.loads(path.read_bytes())["schema"] for path in STORED}
    newest = int(REPORT_SCHEMA.rpartition("/")[2])
    assert found >= {f"lissom.report/{number}" for number in range(1, newest)}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_report_is_read_drawn_and_compared(path: Path) -> None:
    report = read_report(path)
    assert report.schema_ == REPORT_SCHEMA
    found = compare(report, report, GatesConfig())
    assert {gate.name: gate.state for gate in found.gates}["accuracy"] == "pass"
    assert report.name in html_from_report(report)
    assert report.verdict.sentence in markdown_from_report(report).replace("\\", "")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_no_figure_of_a_stored_report_is_changed(path: Path) -> None:
    before = json.loads(path.read_bytes())
    after = migrated(copy.deepcopy(before), path)

    def kept(old: Any, new: Any, where: str) -> None:
        if isinstance(old, dict):
            for key, value in old.items():
                if key != "schema" or where:
                    kept(value, new[key], f"{where}.{key}")
        elif isinstance(old, list):
            assert len(old) == len(new), where
            for index, value in enumerate(old):
                kept(value, new[index], f"{where}[{index}]")
        else:
            assert old == new, where

    kept(before, after, "")


def test_percentiles_of_an_old_report_are_found_from_its_calls() -> None:
    first = next(path for path in STORED if path.stem == "report-1-first")
    for arm in read_report(first).arms:
        assert arm.latency is not None
        samples = sorted(sample for own in arm.latency.rounds_ms for sample in own)
        p50 = arm.latency.percentile(0.5)
        assert p50 is not None
        assert p50.value_ms in samples


def test_steps_are_taken_one_after_the_other_and_leave_what_was_given() -> None:
    document = {"schema": "lissom.report/1", "a": 1}
    steps = {1: lambda old: {**old, "b": old["a"] + 1}, 2: lambda old: {**old, "c": old["b"] + 1}}
    assert migrated(document, HERE, steps=steps) == {"schema": "lissom.report/3", "a": 1, "b": 2, "c": 3}
    assert document == {"schema": "lissom.report/1", "a": 1}
    assert migrated({"schema": "lissom.report/3"}, HERE, steps=steps) == {"schema": "lissom.report/3"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not a report"),
        ({}, "its schema is None"),
        ({"schema": 2}, "its schema is 2"),
        ({"schema": "lissom.result/1"}, "its schema is 'lissom.result/1'"),
        ({"schema": "lissom.report/0"}, "is unknown"),
        ({"schema": "lissom.report/4", "lissom": "0.9"}, "written by lissom 0.9"),
        ({"schema": f"lissom.report/{'9' * 5000}"}, "not a report"),
    ],
)
def test_what_cannot_be_read_is_refused(document: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        migrated(document, HERE, steps={1: dict, 2: dict})
    assert caught.value.hint


@pytest.mark.parametrize("damage", [{"predictions": None}, {"stages": 3}, {"arms": [{}]}, {"stages": [None]}])
def test_a_part_that_a_step_misses_is_a_damaged_file(damage: dict[str, Any]) -> None:
    document = json.loads(STORED[0].read_bytes()) | damage
    with pytest.raises(RequestError, match="is damaged") as caught:
        migrated(document, HERE)
    assert caught.value.hint


def test_a_document_with_nothing_but_a_schema_is_damaged() -> None:
    with pytest.raises(RequestError, match="a part that every report"):
        migrated({"schema": "lissom.report/1"}, HERE)


def test_the_stored_files_are_small() -> None:
    assert all(path.stat().st_size < 300_000 for path in STORED)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[" * 100_000, "is damaged"), (b"\xff", "is damaged"), (STORED[0].read_bytes()[:2000], "is damaged")],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        read_report(tmp_path)
    assert caught.value.hint


def test_a_report_is_found_in_a_folder_and_as_a_file_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    for path in (tmp_path / "run.json" / "report.json", tmp_path / "kept"):
        path.write_bytes(STORED[0].read_bytes())
    assert read_report(tmp_path / "run.json") == read_report(tmp_path / "kept")
    with pytest.raises(RequestError, match="no report at"):
        read_report(tmp_path / "kept" / "deeper")


def test_the_last_step_makes_the_schema_of_this_lissom() -> None:
    for path in STORED:
        assert migrated(json.loads(path.read_bytes()), path)["schema"] == REPORT_SCHEMA


def test_a_newer_report_says_to_upgrade() -> None:
    with pytest.raises(RequestError) as caught:
        migrated({"schema": "lissom.report/99", "lissom": "3.0"}, HERE)
    assert caught.value.hint == "pip install -U lissom"
