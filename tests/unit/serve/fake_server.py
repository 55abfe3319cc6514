"""A server in a thread that answers, or fails, as a test says."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import orjson

METADATA = {
    "name": "tiny",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
}
INDEX = [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]


class Request(NamedTuple):
    number: int
    """Of all requests to this server, from 0."""
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Step = bytes | float | None
"""Bytes that are sent, seconds that are slept, None to reset the connection."""
Answer = Callable[[Request], list[Step]]


def response(status: int, body: bytes, **headers: str) -> bytes:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in names.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def in_json(document: object, status: int = 200, **headers: str) -> bytes:
    return response(status, orjson.dumps(document), **headers)


def model(infer: Answer) -> Answer:
    """The paths of a server with one model, whose `infer` answers as given."""

    def answer(request: Request) -> list[Step]:
        if request.path == "/v2/repository/index":
            return [in_json(INDEX)]
        if request.path.endswith("/infer"):
            return infer(request)
        return [in_json(METADATA)] if request.path == "/v2/models/tiny" else [in_json({"error": "no"}, 404)]

    return answer


def echo(request: Request) -> list[Step]:
    """The input as the output, in binary."""
    length = int(request.headers["inference-header-content-length"])
    head, tensor = orjson.loads(request.body[:length]), request.body[length:]
    entry = {**head["inputs"][0], "name": "y"}
    told = orjson.dumps({"model_name": "tiny", "outputs": [entry]})
    return [response(200, told + tensor, Inference_Header_Content_Length=str(len(told)))]


class FakeServer:
    """Listens on a free port of this machine."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.num_connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in (self._socket, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.num_connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as lines:
            while first := lines.readline():
                method, path, _ = first.decode().split(" ", 2)
                headers: dict[str, str] = {}
                while (line := lines.readline().decode().strip()) and ":" in line:
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                body = lines.read(int(headers.get("content-length", "0")))
                with self._lock:
                    request = Request(len(self.requests), method, path, headers, body)
                    self.requests.append(request)
                if not self._play(connection, self.answer(request)):
                    return

    def _play(self, connection: socket.socket, steps: list[Step]) -> bool:
        for step in steps:
            if step is None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            if isinstance(step, float):
                time.sleep(step)
            else:
                connection.sendall(step)
        return bool(steps)


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[FakeServer]:
    server = FakeServer(answer)
    try:
        yield server
    finally:
        server.close()
