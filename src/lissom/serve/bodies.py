"""Request bodies: read and unpacked within a limit, and parsed only when their nesting is harmless."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy as np
import orjson

from lissom.errors import RequestError

MAX_BODY_BYTES = 64 * 2**20
MAX_JSON_BYTES = 16 * 2**20
"""Of JSON: while it is parsed nothing else is answered, and it takes many times its size in memory."""
MAX_BYTES_HELD = 256 * 2**20
"""Of the bodies, packed and unpacked, of all requests that are being answered."""
BODY_SECONDS = 60.0
MAX_NESTING = 100
MAX_LISTS = 1_000_000
"""Lists and objects in one body; empty lists cost twenty times their text in memory."""

BINARY_HEADER = b"inference-header-content-length"
_WINDOWS = {"gzip": (31,), "deflate": (15, -15)}
"""Of zlib by encoding: deflate is sent with and without zlib's own header."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_HEADERS, _HELD = "lissom.headers", "lissom.held"
_bytes_held = 0
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'"[]{}')
_CHUNK_BYTES = 1 << 16
_MOST_DIGITS = 15
_QUOTE = ord('"')
_STEPS = np.zeros(256, dtype=np.int32)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Headers of a request by name, in lower case; built once."""
    found: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if found is None:
        found = scope[_HEADERS] = dict(scope["headers"])
    return found


class Refused(RequestError):
    """A request is answered with this status instead of being carried out."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class Disconnected(Exception):
    """The client went away before its request was whole; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body of a request, unpacked.

    Raises:
        Refused: the body is longer than `MAX_BODY_BYTES`, packed or unpacked, packed in an unknown way,
            takes longer than `BODY_SECONDS`, or too much is being read already.
        Disconnected: the client went away.
    """
    headers = headers_of(scope)
    encoding = _encoding(headers)
    _check_length(headers)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    reserve(scope, len(body))
    if message.get("more_body", False):
        body = await _whole_body(body, scope, receive)
    elif len(body) > MAX_BODY_BYTES:
        raise _too_long(f"more than {MAX_BODY_BYTES:,}")
    if encoding:
        body = await asyncio.to_thread(_unpacked, body, encoding)
        reserve(scope, len(body))
    return body


def reserve(scope: Scope, size: int) -> None:
    """Count bytes that a request holds until `release`.

    Raises:
        Refused: all requests together hold too many.
    """
    global _bytes_held
    _bytes_held += size
    scope[_HELD] = scope.get(_HELD, 0) + size
    if _bytes_held > MAX_BYTES_HELD:
        text = f"more than {MAX_BYTES_HELD:,} bytes of bodies are being read"
        raise Refused(503, text, (b"retry-after", b"1"), (b"connection", b"close"))


def release(scope: Scope) -> None:
    """A request is answered, or given up."""
    global _bytes_held
    _bytes_held -= scope.pop(_HELD, 0)


async def _whole_body(first: bytes, scope: Scope, receive: Receive) -> bytes:
    """A body that comes in pieces."""
    chunks, size, more = [first], len(first), True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                if size > MAX_BODY_BYTES:
                    raise _too_long(f"more than {MAX_BODY_BYTES:,}")
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                reserve(scope, len(chunks[-1]))
                more = message.get("more_body", False)
    except TimeoutError as exc:
        text = f"the body was not whole after {BODY_SECONDS:g} seconds"
        raise Refused(408, text, (b"connection", b"close")) from exc
    if size > MAX_BODY_BYTES:
        raise _too_long(f"more than {MAX_BODY_BYTES:,}")
    return b"".join(chunks)


def split_binary(scope: Scope, body: bytes) -> tuple[bytes, memoryview | None]:
    """The JSON of a request and the tensors behind it; None where it has none.

    Raises:
        Refused: the header is no length within the body.
    """
    declared = headers_of(scope).get(BINARY_HEADER)
    if declared is None:
        return body, None
    text = declared.decode("latin-1")
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > len(body):
        raise Refused(
            400, f"Inference-Header-Content-Length is {text[:40]!r}; the body has {len(body):,} bytes"
        )
    length = int(text)
    return body[:length], memoryview(body)[length:]


def packed(body: bytes, scope: Scope) -> tuple[bytes, bytes | None]:
    """A body as the client asked for it, and its encoding; None for a body as it is."""
    accepted = headers_of(scope).get(b"accept-encoding", b"")
    wanted = dict(map(_weighed, accepted.split(b","))) if accepted else {}
    if wanted.get(b"gzip"):
        return gzip.compress(body, compresslevel=1), b"gzip"
    if wanted.get(b"deflate"):
        return zlib.compress(body, 1), b"deflate"
    return body, None


def _weighed(part: bytes) -> tuple[bytes, bool]:
    """An encoding, and whether it is wanted: `gzip;q=0` is not."""
    name, _, parameters = part.partition(b";")
    weight = parameters.partition(b"q=")[2].strip() or b"1"
    return name.strip().lower(), any(digit in b"123456789" for digit in weight)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        RequestError: it is not JSON, not an object, or nested too deeply.
        Refused: it is longer than `MAX_JSON_BYTES`.
    """
    if not body:
        raise RequestError("the body is empty; a JSON object was expected")
    if len(body) > MAX_JSON_BYTES:
        text = f"the body has {len(body):,} bytes of JSON; at most {MAX_JSON_BYTES:,} are taken, "
        raise Refused(413, f"{text}so send smaller batches, or binary tensors")
    _check_nesting(body)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        literal = "; NaN and Infinity are not JSON" if b"NaN" in body or b"Infinity" in body else ""
        raise RequestError(f"the body is not JSON: {exc}{literal}") from exc
    if not isinstance(document, dict):
        raise RequestError(f"the body is a JSON {type(document).__name__}, not an object")
    return document


def _encoding(headers: dict[bytes, bytes]) -> str:
    """How a body is packed; empty for one as it is."""
    if b"content-encoding" not in headers:
        return ""
    encoding = headers[b"content-encoding"].decode("latin-1").lower()
    if encoding not in ("identity", *_WINDOWS):
        text = f"the body has the Content-Encoding {encoding[:40]!r}; gzip, deflate or none is taken"
        raise Refused(415, text, (b"accept-encoding", b"gzip, deflate"))
    return "" if encoding == "identity" else encoding


def _check_length(headers: dict[bytes, bytes]) -> None:
    declared = headers.get(b"content-length", b"0").decode("latin-1")
    if not (declared.isascii() and declared.isdigit()) or len(declared) > _MOST_DIGITS:
        raise Refused(400, f"the Content-Length {declared[:40]!r} is not a number of bytes")
    if int(declared) > MAX_BODY_BYTES:
        raise _too_long(f"{int(declared):,}")


def _unpacked(body: bytes, encoding: str) -> bytes:
    """A body that was packed; never more than `MAX_BODY_BYTES` are unpacked."""
    for window in _WINDOWS[encoding]:
        unpacker = zlib.decompressobj(window)
        try:
            found = unpacker.decompress(body, MAX_BODY_BYTES + 1)
        except zlib.error:
            continue
        if len(found) > MAX_BODY_BYTES:
            raise _too_long(f"unpacked more than {MAX_BODY_BYTES:,}")
        if unpacker.eof and not unpacker.unused_data:
            return found
    raise Refused(400, f"the body is not {encoding}, as its Content-Encoding says")


def _too_long(found: str) -> Refused:
    text = f"the body has {found} bytes; at most {MAX_BODY_BYTES:,} are taken, so send smaller batches"
    return Refused(413, text, (b"connection", b"close"))


def _check_nesting(body: bytes) -> None:
    """Refuse deep nesting and floods of lists by brackets and quotes alone, before anything is built."""
    num_lists = body.count(b"[") + body.count(b"{")
    if num_lists <= MAX_NESTING:
        return
    if num_lists > MAX_LISTS:
        raise RequestError(f"the body holds {num_lists:,} lists and objects; at most {MAX_LISTS:,} are taken")
    if b"\\" in body:  # an escaped quote does not end a string
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = np.frombuffer(body.translate(None, _NOT_STRUCTURE), dtype=np.uint8)
    depth, inside = 0, 0
    for start in range(0, len(structure), _CHUNK_BYTES):
        chunk = structure[start : start + _CHUNK_BYTES]
        quotes = np.cumsum(chunk == _QUOTE) + inside
        depths = depth + np.cumsum(np.where(quotes % 2, 0, _STEPS[chunk]))
        if depths.max() > MAX_NESTING:
            raise RequestError(f"the body is nested more than {MAX_NESTING} levels deep")
        depth, inside = int(depths[-1]), int(quotes[-1] % 2)
