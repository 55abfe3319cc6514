"""Connections that end when a request does not: the head of a request has a size and a time.

uvicorn bounds neither with httptools, so that a stranger could fill the memory with one header, or hold
thousands of connections with a byte a minute. It takes the name of its protocol from a table, where ours is
put in the place of its own choice. What is no HTTP at all is answered in the shape of all other errors.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import orjson
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10
HEAD_SECONDS = 20.0


def bound_connections() -> None:
    """Make the servers of this process that choose their protocol themselves take ours."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:BoundedProtocol"


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._head_is_whole()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read, unless the head has become too large."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._end(431, f"the head of the request has more than {MAX_HEAD_BYTES:,} bytes")
        elif self._head_timer is None and self._head_bytes:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Answer the request; its body has limits of its own."""
        self._in_head, self._head_bytes = False, 0
        self._head_is_whole()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect another request."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP."""
        self._end(400, f"this is no HTTP request: {msg}")

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end_of_patience)

    def _head_is_whole(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_of_patience(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._end(408, f"the head of the request was not whole after {HEAD_SECONDS:g} seconds")

    def _end(self, status: int, message: str) -> None:
        """Answer with an error, and close."""
        body = orjson.dumps({"error": message})
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
