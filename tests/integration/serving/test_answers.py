"""What a real server answers to usual, wrong and hostile requests, and that it outlives every one of them.

The cases are data, in answers.json, beside what Triton answers; `benchmarks/conformance.py` asks both.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import psutil
import pytest
from tests.integration.serving.cases import (
    Answer,
    answers_in,
    exchange,
    key_header,
    read_cases,
    request_of,
    statuses,
)
from tests.integration.test_serving import WORKER, Server, serving
from tests.unit.artifacts import identity_onnx_artifact, tiny_onnx_artifact

from lissom.serve.bodies import MAX_BODY_BYTES
from lissom.serve.keys import add_key

MAX_GROWTH_BYTES = 64 * 2**20
NUM_CONNECTIONS = 200
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
GOOD = {
    "method": "POST",
    "path": "/v2/models/tiny/infer",
    "body": {
        "json": {
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [0, 1, 2, 3]}]
        }
    },
}


class Asked(NamedTuple):
    """The server that is asked, its keys by kind of holder, and its memory before the first case, bytes."""

    server: Server
    keys: dict[str, str]
    memory: int

    def answers(self, case: dict[str, Any]) -> list[Answer]:
        head = case.get("method") == "HEAD"
        return exchange(self.server.port, request_of(case, self.keys), head=head)

    def is_live(self) -> bool:
        return [answer.status for answer in exchange(self.server.port, LIVE)] == [200]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("answers")
    models = [
        *(tiny_onnx_artifact(folder / name, recipe=name) for name in ("tiny", "spare")),
        identity_onnx_artifact(folder / "integers", "int32"),
    ]
    file = folder / "keys"
    keys = {"user": add_key(file, "user"), "admin": add_key(file, "root", is_admin=True), "wrong": "nonsense"}
    with serving(folder, *(model.path for model in models), keys=str(file)) as server:
        found = Asked(server, keys, 0)
        assert [answer.status for answer in found.answers(GOOD)] == [200]
        yield found._replace(memory=memory_of(server))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case["name"],
            marks=[pytest.mark.xfail(reason=case["fault"], strict=False)] if "fault" in case else [],
        )
        for case in read_cases()
    ],
)
def test_a_request_is_answered_as_the_table_says(asked: Asked, case: dict[str, Any]) -> None:
    answers = asked.answers(case)
    assert asked.is_live()
    found = [answer.status for answer in answers]
    assert (found or [None]) in [[status] for status in statuses(case["lissom"])]
    for answer in answers:
        if not case.get("plain"):
            assert_well_formed(answer, case)
        assert "x-injected" not in answer.headers
        assert "set-cookie" not in answer.headers


def assert_well_formed(answer: Answer, case: dict[str, Any]) -> None:
    """An id in every answer, and errors in one shape."""
    assert 0 < len(answer.headers["x-request-id"]) <= 128
    if answer.status < 400 or case.get("method") == "HEAD":
        return
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["error"]
    assert isinstance(answer.json["error"], str)
    assert 0 < len(answer.json["error"]) <= 500


def test_the_id_of_a_request_comes_back_unless_it_is_unsafe(asked: Asked) -> None:
    def id_for(given: str) -> str:
        case = {"method": "GET", "path": "/nothing", "headers": {"X-Request-Id": given}}
        return asked.answers(case)[0].headers["x-request-id"]

    assert id_for("my-7") == "my-7"
    for unsafe in ("a b", "a" * 129, "\x80", ""):
        assert id_for(unsafe) not in (unsafe, "")


def test_headers_that_never_end_keep_nobody_from_being_answered(asked: Asked) -> None:
    begun = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: a\r\nX-Slow: "
    with many_connections(asked, begun) as connections:
        for _ in range(3):
            for connection in connections:
                connection.sendall(b"a")
            assert_quick(asked)


def test_bodies_that_never_come_keep_nobody_from_being_answered(asked: Asked) -> None:
    (header,) = key_header({}, asked.keys).items()
    begun = (
        f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: a\r\n{header[0]}: {header[1]}\r\n"
        'Content-Length: 1000\r\n\r\n{"inputs": ['
    ).encode()
    with many_connections(asked, begun):
        assert_quick(asked)
    until_closed(asked)  # they left in the middle of a body
    assert_quick(asked)


def test_callers_who_leave_before_the_answer_keep_nobody_from_being_answered(asked: Asked) -> None:
    with many_connections(asked, request_of(GOOD, asked.keys)):
        pass
    until_closed(asked)
    assert_quick(asked)


def test_a_body_in_chunks_without_end_is_refused_when_it_is_too_long(asked: Asked) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    case = {**GOOD, "headers": {"Transfer-Encoding": "chunked"}, "body": ""}
    top = request_of(case, asked.keys).replace(b"Content-Length: 0\r\n", b"")
    answers = exchange(asked.server.port, top + chunk * (MAX_BODY_BYTES // 0x10000 + 200))
    assert [answer.status for answer in answers] == [413]
    assert asked.is_live()


def test_garbage_of_every_length_is_answered_or_closed(asked: Asked) -> None:
    begin = request_of(GOOD, asked.keys)
    for length in range(1, len(begin), 7):
        with socket.create_connection(("127.0.0.1", asked.server.port), timeout=30) as connection:
            connection.sendall(begin[:length])
            connection.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    received += piece
        assert {answer.status for answer in answers_in(received)} <= {400}
    assert asked.is_live()


def test_after_all_this_the_server_is_as_large_as_before(asked: Asked) -> None:
    assert [answer.status for answer in asked.answers(GOOD)] == [200]
    deadline = time.monotonic() + 30  # what callers left who went away is freed when they are given up
    while memory_of(asked.server) - asked.memory >= MAX_GROWTH_BYTES and time.monotonic() < deadline:
        time.sleep(0.5)
    assert memory_of(asked.server) - asked.memory < MAX_GROWTH_BYTES


@contextlib.contextmanager
def many_connections(asked: Asked, begun: bytes) -> Iterator[list[socket.socket]]:
    """Connections on which so much was sent and nothing follows."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(NUM_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", asked.server.port), timeout=30)
            connections.append(stack.enter_context(connection))
            connection.sendall(begun)
        yield connections


def assert_quick(asked: Asked) -> None:
    """A good request is answered in far less than any timeout."""
    started = time.monotonic()
    assert [answer.status for answer in asked.answers(GOOD)] == [200]
    assert asked.is_live()
    assert time.monotonic() - started < 10


def until_closed(asked: Asked) -> None:
    """Wait until the server has closed the connections whose callers left."""
    deadline = time.monotonic() + 30
    while len(worker_of(asked.server).net_connections("tcp")) > 10:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def worker_of(server: Server) -> psutil.Process:
    (worker,) = (member for member in server.family() if WORKER in member.cmdline())
    return worker


def memory_of(server: Server) -> int:
    """Resident memory of the worker, bytes."""
    return int(worker_of(server).memory_info().rss)
