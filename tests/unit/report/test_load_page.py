"""The page and the verb of a server under load."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.serve.fake_server import Request, Step, echo, in_json, model, serving

from lissom import cli
from lissom.report.load_page import html_from_load, rows, told
from lissom.serve.load import Load, LoadRequest, measure, prepare


def measured(**options: Any) -> Load:
    def busy(request: Request) -> list[Step]:
        if request.number > 40 and request.number % 3 == 0:
            return [in_json({"error": "full"}, 503)]
        return echo(request)

    with serving(model(busy)) as server:
        request = LoadRequest(server.url, rates=(50.0, 100.0), seconds=0.5, **options)
        return measure(prepare(request, None, "random <numbers>"))


def test_the_page_has_every_rate_the_line_of_the_limit_and_escaped_words() -> None:
    found = measured(slo_ms=500.0)
    page = html_from_load(found, machine="a <machine>")
    assert "a &lt;machine&gt;" in page
    assert "random &lt;numbers&gt;" in page
    assert "asked: 500" in page
    assert told(found).split(";")[0] in page.replace("&#x27;", "'")
    assert len(re.findall(r"<tr", page)) == 1 + len(found.figures)
    assert [row[0] for row in rows(found)] == ["50.0", "100"]


def test_a_server_that_answers_too_little_is_said_to() -> None:
    def refuses(request: Request) -> list[Step]:
        return [in_json({"error": "full"}, 503)] if request.number > 4 else echo(request)

    with serving(model(refuses)) as server:
        found = measure(prepare(LoadRequest(server.url, rates=(50.0,), seconds=0.5), None, "random"))
    assert told(found).startswith("Not even 50.0 queries a second are answered to 99 %")
    assert "No query was answered" in html_from_load(found, machine="m") or found.figures[0].percentiles


def test_the_verb_writes_its_page_and_its_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(model(echo)) as server:
        words = ["load", server.url, "--rate", "50", "--seconds", "0.5"]
        assert cli.main([*words, "--dry-run"]) == 0
        assert "50 queries a second" in capsys.readouterr().out
        assert cli.main([*words, "--out", str(tmp_path / "new"), "--json", "--api-key", "key-of-ada"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["load"]["figures"][0]["num_ok"] == 25
    written = (tmp_path / "new/load.json").read_text()
    assert json.loads(written)["schema"] == "lissom.load/1"
    assert len(json.loads(written)["figures"][0]["latencies_ms"]) == 25
    assert "key-of-ada" not in written + (tmp_path / "new/load.html").read_text()


def test_the_verb_ends_as_the_contract_says(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(model(echo)) as server:
        assert cli.main(["load", server.url, "--model", "tini"]) == 2
        assert "did you mean tiny?" in capsys.readouterr().err
    assert cli.main(["load", "ftp://x"]) == 2
    assert cli.main(["load", server.url]) == 3


def test_the_verb_keeps_what_was_measured_when_it_is_interrupted(tmp_path: Path) -> None:
    def interrupts(request: Request) -> list[Step]:
        if request.number == 60:
            process.send_signal(signal.SIGINT)
        return echo(request)

    with serving(model(interrupts)) as server:
        words = [sys.executable, "-m", "lissom", "load", server.url, "--out", str(tmp_path / "new")]
        process = subprocess.Popen(
            [*words, "--rate", "100", "--rate", "200", "--seconds", "1"],
            stdout=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background lets its children ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: fewer queries" in shown
    found = json.loads((tmp_path / "new/load.json").read_text())
    assert not found["complete"]
    (one,) = found["figures"]
    assert 40 < one["num_planned"] < 70
