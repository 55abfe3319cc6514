"""Connections that end when a request does not: requests, and their heads, have a size and a time.

uvicorn bounds neither with httptools, so that a stranger could fill the memory with one header, or hold
thousands of connections with a byte a minute. It takes the name of its protocol from a table, where ours is
put in the place of its own choice. What is no HTTP at all is answered in the shape of all other errors.

A socket that is closed while data arrives is reset, and a caller in the middle of an upload never sees why
it is refused (RFC 9112, 9.6). So a connection whose request is not whole closes in two steps: it says that
no more will be written, and throws away what comes for a while.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import ClassVar

import orjson
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lissom.serve.bodies import MAX_BODY_BYTES

MAX_HEAD_BYTES = 64 * 2**10
MAX_MESSAGE_BYTES = 2 * MAX_BODY_BYTES
"""With the lengths of chunks, and trailers."""
HEAD_SECONDS = 20.0
MESSAGE_SECONDS = 75.0
"""From the end of the head; somewhat more than the application itself waits for a body."""
LINGER_SECONDS = 5.0
"""That a caller may still send what nobody reads, so that the answer reaches it."""


def bound_connections(keep_alive: float | None = None) -> None:
    """Make the servers of this process that choose their protocol themselves take ours.

    Args:
        keep_alive: Seconds that a connection is kept open without a request; None for uvicorn's own 5.
            BentoML's command has no option for it.
    """
    BoundedProtocol.keep_alive = keep_alive
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:BoundedProtocol"


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    keep_alive: ClassVar[float | None] = None
    """Seconds that it is kept open without a request; None as the server is configured."""
    _in_head = True
    _is_whole = True
    _is_lingering = False
    _num_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._answers = _AnswerTransport(self)
        if self.keep_alive is not None:
            self.timeout_keep_alive = self.keep_alive  # type: ignore[assignment]
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and let go of the request, whose body may be large and which holds on to us."""
        self._stop_waiting()
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Read, unless the request has become too large; what is not whole has its time."""
        if self._is_lingering:
            return
        self._num_bytes += len(data)
        self._is_whole = False
        super().data_received(data)
        if self._is_whole or self._is_lingering or self.transport.is_closing():
            return
        if self._in_head and self._num_bytes > MAX_HEAD_BYTES:
            self._end(431, f"the head of the request has more than {MAX_HEAD_BYTES:,} bytes")
        elif self._num_bytes > MAX_MESSAGE_BYTES:
            self._end(413, f"the request has more than {MAX_MESSAGE_BYTES:,} bytes")
        elif self._timer is None:
            self._wait(HEAD_SECONDS if self._in_head else MESSAGE_SECONDS)

    def on_headers_complete(self) -> None:
        """Answer the request."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()
        if self.cycle is not None:  # a WebSocket has none
            self.cycle.transport = self._answers  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """Expect another request."""
        self._in_head, self._is_whole, self._num_bytes = True, True, 0
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Expect no other request where the connection ends with this answer."""
        if self._is_lingering:
            self.pipeline.clear()
        super().on_response_complete()

    def shutdown(self) -> None:
        """Wait for nobody who has the answer."""
        if self._is_lingering:
            self.transport.close()
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP."""
        self._end(400, f"this is no HTTP request: {msg}")

    def _wait(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._end_of_patience, seconds)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_of_patience(self, seconds: float) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._end(408, f"the request was not whole after {seconds:g} seconds")

    def _end(self, status: int, message: str) -> None:
        """Answer with an error, unless there is an answer already, and close."""
        if self._in_head or self.cycle is None or not self.cycle.response_started:
            body = orjson.dumps({"error": message})
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self._is_whole = False
        self.close()
        if not self._in_head and self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def close(self) -> None:
        """Close, at once where the request is whole, and else when the caller has closed or had its time."""
        self._stop_waiting()
        if self._is_whole:
            self.transport.close()
        elif not self._is_lingering and not self.transport.is_closing():
            self._is_lingering = True
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.flow.resume_reading()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)


class _AnswerTransport:
    """What an answer is written to: the transport of a connection, which the connection closes."""

    def __init__(self, connection: BoundedProtocol) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.close
