"""The requests of answers.json: put on the wire byte by byte, and what came back.

A case names a request and what it is answered with, by lissom and by Triton 2.51. Its fields:

    name      of the case
    method    path  headers  body     of a usual request, one a connection
    raw       all bytes of a connection instead, for what no client library would send
    key       whose API key goes with it: admin (the usual), user, wrong or none; Triton takes none
    lissom    status, several that are right, or null where the connection is closed without an answer
    triton    the same; absent where not asked. What ends or stalls another server has no place here: a guard
              is tested one step past our own limit instead
    why       lissom does not answer as Triton does
    plain     true where uvicorn or BentoML may answer, in their own way and without an id
    fault     what is wrong in lissom now: the case is expected to fail until it is mended

Paths, headers and bodies are text, or an object with one of `json`, `hex`, `repeat` with `times`, `gzip`,
`zlib`, `deflate`, or a list of these, joined. In `raw`, `{admin}` stands for the key.
"""

from __future__ import annotations

import gzip
import json
import math
import select
import socket
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("answers.json")
SECONDS = 30.0
"""After which a connection that says nothing counts as hanging."""
_PIECE_BYTES = 1 << 16


class Answer(NamedTuple):
    """One answer on a connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_cases() -> list[dict[str, Any]]:
    """Every case, in the order of the file: those that load and unload models build on each other."""
    cases: list[dict[str, Any]] = json.loads(FILE.read_text())
    return cases


def content_of(part: Any) -> bytes:
    """The bytes that a part of a request stands for."""
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, list):
        return b"".join(map(content_of, part))
    if "json" in part:
        return json.dumps(part["json"], separators=(",", ":")).encode()
    if "hex" in part:
        return bytes.fromhex(part["hex"])
    if "repeat" in part:
        return content_of(part["repeat"]) * int(part["times"])
    if "gzip" in part:
        return gzip.compress(content_of(part["gzip"]), mtime=0)
    if "zlib" in part:
        return zlib.compress(content_of(part["zlib"]))
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content_of(part["deflate"])) + packer.flush()


def request_of(case: Mapping[str, Any], keys: Mapping[str, str]) -> bytes:
    """What is sent: the server closes the connection after it, so that the end is seen."""
    if "raw" in case:
        return content_of(case["raw"]).replace(b"{admin}", keys.get("admin", "").encode())
    body = content_of(case.get("body", ""))
    headers = {"Host": "localhost", "Connection": "close", **key_header(case, keys)}
    if body or case["method"] not in ("GET", "HEAD"):
        headers["Content-Length"] = str(len(body))
    headers |= {name: content_of(value).decode() for name, value in case.get("headers", {}).items()}
    path = content_of(case["path"]).decode()
    lines = [f"{case['method']} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def key_header(case: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, str]:
    key = keys.get(case.get("key", "admin"))
    return {"Authorization": f"Bearer {key}"} if key else {}


def exchange(
    port: int, request: bytes, *, head: bool = False, seconds: float = SECONDS, most: float = math.inf
) -> list[Answer]:
    """Send bytes on a connection of their own; every answer until the server closes it.

    Args:
        port: On this machine.
        request: Everything that is sent; an answer that comes meanwhile ends the sending.
        head: The request is one HEAD, whose answer has no body, whatever its headers say.
        seconds: How long the server may say nothing.
        most: Answers after which the end is not waited for.

    Raises:
        TimeoutError: the server neither answers nor closes.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        _send(connection, request)
        received = b""
        while piece := _piece(connection):
            received += piece
            if len(answers_in(received, head=head, ended=False)) >= most:
                break
        return answers_in(received, head=head)


def answers_in(received: bytes, *, head: bool = False, ended: bool = True) -> list[Answer]:
    """The answers that were received one after the other; more may follow unless it has `ended`."""
    found = []
    while b"\r\n\r\n" in received:
        top, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        length = 0 if head or status < 200 else int(headers.get("content-length", len(rest) + (not ended)))
        if length > len(rest) and not ended:
            break
        if status >= 200:
            found.append(Answer(status, headers, rest[:length]))
        received = b"" if head else rest[length:]
    return found


def statuses(expected: Any) -> list[Any]:
    """The statuses that are right, from the field of a case."""
    return expected if isinstance(expected, list) else [expected]


def _send(connection: socket.socket, request: bytes) -> None:
    for start in range(0, len(request), _PIECE_BYTES):
        if start and select.select([connection], [], [], 0)[0]:
            return
        try:
            connection.sendall(request[start : start + _PIECE_BYTES])
        except (BrokenPipeError, ConnectionResetError):
            return


def _piece(connection: socket.socket) -> bytes:
    """What came next; nothing where the connection is closed."""
    try:
        return connection.recv(_PIECE_BYTES)
    except ConnectionResetError:
        return b""  # what came before counts
