"""Drive an ASGI application without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from lissom.serve.app import Application


class Response(NamedTuple):
    """What the application sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    app: Application,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    chunks: Sequence[bytes] | None = None,
) -> Response:
    """One request; `body` is JSON unless it is bytes, `chunks` send it in pieces."""
    return asyncio.run(send_request(app, method, path, body, headers=headers, chunks=chunks))


async def send_request(
    app: Application,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    chunks: Sequence[bytes] | None = None,
    leaves: bool = False,
) -> Response:
    """One request in a loop that runs; a caller who leaves does so once the body was read."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    pieces = list(chunks) if chunks is not None else [content]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False
    sent: list[Any] = []

    finished = asyncio.Event()

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        if not leaves:
            await finished.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            finished.set()

    await app(scope, receive, send)
    start, *parts = sent or [{"status": 0, "headers": []}]
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Response(start["status"], found, b"".join(part["body"] for part in parts))
