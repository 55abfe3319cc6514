"""A line for each answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.serve.asgi import request, send_request

from lissom.serve.access_log import AccessLog
from lissom.serve.app import Application
from lissom.serve.keys import Keys, add_key
from lissom.serve.repository import Repository

BODY = {"inputs": {"image": [[[0, 1], [2, 3]]]}}


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def test_an_answer_is_noted_with_the_name_of_its_key(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    key = add_key(tmp_path / "keys", "ada")
    with Repository.open([artifact.path], runtime="onnxruntime", threads=1) as repository:
        app = Application(repository, keys=Keys(tmp_path / "keys"))
        app.access_log = AccessLog(str(tmp_path / "log"))
        headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "one"}
        answer = request(app, "POST", "/predict/tiny", BODY, headers=headers)
        request(app, "GET", '/nothing"\n', headers={"X-Request-ID": "two"})
        app.access_log.close()
    first, second = lines_of(tmp_path / "log")
    assert (first["request_id"], first["key"], first["status"]) == ("one", "ada", 200)
    assert (first["method"], first["path"]) == ("POST", "/predict/tiny")
    assert first["bytes"] == len(answer.body)
    assert 0 < first["ms"] < 10_000
    assert (second["request_id"], second["key"], second["status"]) == ("two", None, 401)
    assert key not in (tmp_path / "log").read_text()


def test_a_caller_who_left_is_noted(tmp_path: Path) -> None:
    app = Application()
    app.access_log = AccessLog(str(tmp_path / "log"))

    async def leave() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError("nobody is there")

        scope = {"type": "http", "method": "POST", "path": "/v2/repository/index", "headers": []}
        await app(scope, receive, send)

    asyncio.run(leave())
    app.access_log.close()
    assert [line["status"] for line in lines_of(tmp_path / "log")] == [499]


def test_lines_are_written_soon_and_many_at_once(tmp_path: Path) -> None:
    async def ask() -> None:
        app = Application()
        app.access_log = log = AccessLog(str(tmp_path / "log"))
        await send_request(app, "GET", "/v2/health/live")
        assert lines_of(tmp_path / "log") == []
        await asyncio.sleep(0.4)
        assert len(lines_of(tmp_path / "log")) == 1
        for _ in range(600):
            await send_request(app, "GET", "/v2/health/live")
        assert len(lines_of(tmp_path / "log")) > 500
        log.close()

    asyncio.run(ask())
    assert len(lines_of(tmp_path / "log")) == 601


def test_a_full_disk_does_not_stop_the_server() -> None:
    app = Application()
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    app.access_log = AccessLog("/dev/full")
    assert request(app, "GET", "/v2/health/live").status == 200
    app.access_log.flush()
