"""Answers: their status, headers and body, errors in one shape, and the id of the request in all of them."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from lissom.errors import AnswerError, RaggedAnswers, RequestError
from lissom.logs import log
from lissom.runtime.arrays import json_bytes
from lissom.serve.bodies import Refused, Scope, Send, headers_of, packed
from lissom.serve.tensors import MAX_NAME

Headers = tuple[tuple[bytes, bytes], ...]
RETRY_SOON = (b"retry-after", b"1")
READ = ("GET", "HEAD")
_WARNING = b"x-lissom-warning"
_REQUEST_ID = b"x-request-id"
_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_MAX_ERROR = 500
LARGE = 1 << 16
"""Bytes that are read, written and compressed in a thread."""
_SAFE = (b"x-content-type-options", b"nosniff")


class Answer(NamedTuple):
    """Status, body and further headers of a response; a body is JSON unless a content type is given."""

    status: int
    body: bytes
    headers: Headers = ()
    content_type: bytes = b"application/json"


def json_answer(document: Any, status: int = 200, headers: Headers = ()) -> Answer:
    """An answer that holds a document."""
    return Answer(status, json_bytes(document), headers)


def warning_headers(warnings: Sequence[str]) -> Headers:
    """The header that says what is odd about a request which was answered; none where nothing is."""
    if not warnings:
        return ()
    text = "; ".join(warnings).encode("ascii", "backslashreplace")
    return ((_WARNING, b" ".join(text.split())[:_MAX_ERROR]),)


async def compressed(answer: Answer, scope: Scope) -> Answer:
    """An answer as the client takes it: compressed when it asked for that, in a thread when it is large."""
    if b"accept-encoding" not in headers_of(scope):
        return answer
    if len(answer.body) < LARGE:
        body, encoding = packed(answer.body, scope)
    else:
        body, encoding = await asyncio.to_thread(packed, answer.body, scope)
    if encoding is None:
        return answer
    return answer._replace(body=body, headers=(*answer.headers, (b"content-encoding", encoding)))


def failure(exc: Exception) -> Answer:
    """What is said of anything that was raised; the cause of a 500 is in the log only."""
    if isinstance(exc, Refused):
        return json_answer({"error": exc.message[:_MAX_ERROR]}, exc.status, exc.headers)
    if isinstance(exc, AnswerError):  # the request is well formed: the model has nothing to say to it
        return json_answer({"error": exc.message[:_MAX_ERROR]}, 422)
    # A damaged artifact is a RequestError too, and no fault of the client.
    if isinstance(exc, RaggedAnswers) or type(exc) is RequestError:
        return json_answer({"error": exc.message[:_MAX_ERROR]}, 400)
    log.error("a request could not be answered", exc_info=exc)
    return json_answer({"error": "internal error; the cause is in the log of the server"}, 500)


def allow(scope: Scope, *methods: str) -> None:
    """Go on for some methods.

    Raises:
        Refused: the request has another.
    """
    if scope["method"] not in methods:
        allowed = ", ".join(methods)
        text = f"{scope['method'][:MAX_NAME]} is not answered at {scope['path'][:MAX_NAME]}; use {allowed}"
        raise Refused(405, text, (b"allow", allowed.encode()))


def request_id(scope: Scope) -> bytes:
    """The id that came with the request, when it is printable and short; else a new one."""
    given = headers_of(scope).get(_REQUEST_ID)
    return given if given is not None and _ID.fullmatch(given) else b"%016x" % random.getrandbits(64)


async def respond(answer: Answer, scope: Scope, send: Send, identity: bytes) -> None:
    """Send an answer, with the id of its request."""
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        _SAFE,
        (_REQUEST_ID, identity),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})
