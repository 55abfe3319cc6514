"""Connections that end when a request does not, under a real uvicorn."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from lissom.serve import connections
from lissom.serve.connections import MAX_HEAD_BYTES, bound_connections


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers everything, and refuses what it is asked to without reading it."""
    if scope["type"] == "lifespan":
        return
    headers = [(b"content-length", b"2")]
    if refuses := scope["path"] == "/refuse":
        headers.append((b"connection", b"close"))
    while not refuses and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 413 if refuses else 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    bound_connections()
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def answer(port: int, *pieces: bytes, pause: float = 0.0) -> tuple[int, bytes]:
    """Status and body of whatever comes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_requests_are_answered_one_after_the_other(port: int) -> None:
    one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"a" * 100_000
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for _ in range(3):
            connection.sendall(one)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_head_that_is_too_large_is_refused(port: int) -> None:
    status, body = answer(port, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (MAX_HEAD_BYTES + 1))
    assert (status, "65,536 bytes" in json.loads(body)["error"]) == (431, True)


def test_what_is_no_http_is_told_in_json(port: int) -> None:
    status, body = answer(port, b"nonsense\r\n\r\n")
    assert (status, set(json.loads(body))) == (400, {"error"})


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nX: "])
def test_a_head_that_does_not_come_is_given_up(
    port: int, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    started = time.monotonic()
    pieces = [begun] if begun else []
    status, body = answer(port, *pieces)
    assert (status, "not whole" in json.loads(body)["error"]) == (408, True)
    assert time.monotonic() - started < 10


def test_the_next_request_on_a_connection_has_its_time_too(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    status, body = answer(port, whole, b"GET / HTT", pause=0.1)
    assert (status, body[:2]) == (200, b"ok")
    assert b"408" in body


@pytest.mark.parametrize("body", [b"", b"a"])
def test_a_body_that_does_not_come_has_its_time_too(
    port: int, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(connections, "MESSAGE_SECONDS", 0.3)
    status, found = answer(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" + body)
    assert (status, "not whole" in json.loads(found)["error"]) == (408, True)


def test_trailers_without_end_are_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_MESSAGE_BYTES", 200_000)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    assert answer(port, head, *[b"X: " + b"a" * 60_000 + b"\r\n"] * 4)[0] in (400, 413)


@pytest.mark.parametrize("path", ["/", "/refuse"])
def test_who_sends_much_more_than_is_allowed_learns_why_it_is_refused(
    port: int, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(connections, "MAX_MESSAGE_BYTES", 200_000)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n".encode()
    assert answer(port, head, *[b"a" * 1_000_000] * 30)[0] == 413


def test_a_connection_that_lingers_is_closed_in_the_end(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 413")
        time.sleep(1.0)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(b"a")  # answered with a reset
        time.sleep(0.2)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(b"a")


def test_nothing_is_answered_after_a_connection_was_closed(port: int) -> None:
    closes = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(closes)
        time.sleep(0.2)
        connection.sendall(b"aaaaaaaa" + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.makefile("rb").read().count(b"HTTP/1.1") == 1
