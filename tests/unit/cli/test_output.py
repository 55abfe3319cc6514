"""One document on the last line of stdout, and one message on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.artifacts import tiny_onnx_artifact

from lissom.cli import main
from lissom.cli.output import SCHEMA, Outcome, show, show_error, table
from lissom.errors import ArtifactError, Interrupted, LissomError, MissingExtra, RequestError
from lissom.report.schema import Gate

KEYS = {"schema", "verb", "ok", "exit_code", "out", "artifact", "gates", "error"}
GATE = Gate(name="parity", state="fail", measured="1", limit="0", reason="too far", allowed=False)


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_people_get_the_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    show("check", Outcome(["one", "two"]), as_json=False)
    assert capsys.readouterr() == ("one\ntwo\n", "")


def test_programs_get_one_document_of_the_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    outcome = Outcome(["one"], False, tmp_path, artifact, [GATE], {"more": [1]})
    show("run", outcome, as_json=True)
    found = document(capsys)
    assert set(found) == KEYS | {"more"}
    assert (found["schema"], found["verb"], found["ok"], found["exit_code"]) == (SCHEMA, "run", False, 1)
    assert found["artifact"] == {
        "id": artifact.id,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "format": "onnx",
    }
    assert found["gates"] == [GATE.model_dump(mode="json")]
    assert found["error"] is None
    assert found["more"] == [1]


def test_what_was_not_made_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    show("doctor", Outcome(), as_json=True)
    found = document(capsys)
    assert (found["out"], found["artifact"], found["gates"], found["ok"]) == (None, None, [], True)


def test_the_document_is_also_written_where_it_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show("doctor", Outcome(["fine"], extra={"more": 1}), as_json=False, folder=tmp_path / "new" / "folder")
    assert capsys.readouterr().out == "fine\n"
    written = json.loads((tmp_path / "new" / "folder" / "doctor.json").read_bytes())
    assert set(written) == KEYS | {"more"}


def test_a_place_that_cannot_be_written_is_a_wrong_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["check", "recipes/digits.yaml", "--out", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


@pytest.mark.parametrize(("ok", "exit_code"), [(True, 0), (False, 1)])
def test_a_gate_that_failed_decides_the_exit_code(ok: bool, exit_code: int) -> None:
    assert Outcome(ok=ok).exit_code == exit_code


@pytest.mark.parametrize(
    "error",
    [RequestError("wrong", hint="do right"), MissingExtra("none"), ValueError("bug"), KeyboardInterrupt()],
)
def test_an_error_is_one_message_and_with_json_one_document(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    show_error("run", error, exit_code=2, message="what happened", as_json=True)
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert set(found) == KEYS
    assert (found["ok"], found["exit_code"]) == (False, 2)
    hint = error.hint if isinstance(error, LissomError) else ""
    assert found["error"] == {"type": type(error).__name__, "message": "what happened", "hint": hint}
    assert captured.err == "lissom run: what happened\n" + (f"  {hint}\n" if hint else "")


def test_an_error_before_any_verb_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    show_error("", Interrupted("stopped"), exit_code=130, message="stopped", as_json=False)
    assert capsys.readouterr() == ("", "lissom: stopped\n")


cells = st.text("abc é", max_size=6)


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=5)
    )
)
def test_the_columns_of_a_table_are_aligned(rows: list[list[str]]) -> None:
    header, *body = rows
    lines = table(header, body, right=[len(header) - 1])
    assert len(lines) == len(rows)
    starts = [max(len(row[column]) for row in rows) + 2 for column in range(len(header) - 1)]
    for row, line in zip(rows, lines, strict=True):
        place = 0
        for cell, width in zip(row, starts, strict=False):
            assert line[place : place + width].rstrip() == cell.rstrip()
            place += width
    assert all(line == line.rstrip() for line in lines)


def test_numbers_stand_to_the_right() -> None:
    assert table(["name", "n"], [["a", "10"], ["bcdef", "9"]], right=[1]) == [
        "name    n",
        "a      10",
        "bcdef   9",
    ]


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (["--version"], 0),
        (["check", "recipes/digits.yaml"], 0),
        (["check"], 2),
        (["nonsense"], 2),
        (["--nonsense"], 2),
    ],
)
def test_the_exit_code_is_that_of_the_contract(
    words: list[str], exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == exit_code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert bool(captured.err) is (exit_code != 0)


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "no-such-folder", "--debug"]) == ArtifactError.exit_code
    errors = capsys.readouterr().err
    assert "Traceback" in errors
    assert "no artifact at no-such-folder" in errors.splitlines()[-2]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--out", str(tmp_path / "file" / "deeper")]) == 2
    told = capsys.readouterr()
    assert "cannot be written" in told.err
    assert told.out == ""
