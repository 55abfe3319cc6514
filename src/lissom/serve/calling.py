"""A model is called for a request: until its deadline, while its caller is there, when there is room."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from typing import Any

import numpy as np

from lissom.serve.answers import RETRY_SOON
from lissom.serve.bodies import Disconnected, Receive, Refused, Scope, headers_of
from lissom.serve.repository import ServedModel
from lissom.serve.scheduler import Closed, Overloaded, TooLate

_TIMEOUT = b"x-request-timeout-ms"
_MOST_DIGITS = 9


def deadline_of(scope: Scope, since: float, timeout: float | None = None) -> float:
    """Time of the event loop until which an answer is of use: the sooner of header and request.

    Args:
        scope: Whose header X-Request-Timeout-Ms counts.
        since: Time of the event loop at which the request came.
        timeout: Seconds that the request itself gives; None for any time.

    Raises:
        Refused: the header is no whole number of milliseconds.
    """
    header = headers_of(scope).get(_TIMEOUT)
    if header is not None:
        text = header.decode("latin-1")
        if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text)):
            raise Refused(400, f"X-Request-Timeout-Ms is {text[:40]!r}; whole milliseconds were expected")
        timeout = min(int(text) / 1e3, timeout if timeout is not None else math.inf)
    return math.inf if timeout is None else since + timeout


async def computed(
    model: ServedModel, inputs: Mapping[str, np.ndarray], deadline: float, receive: Receive
) -> Mapping[str, np.ndarray]:
    """The outputs of a model, unless the caller leaves.

    Raises:
        Overloaded, TooLate, Closed: as `Scheduler.submit`.
        Disconnected: the caller left.
    """
    work = model.scheduler.submit(inputs, deadline=deadline)
    return await (work if model.is_inline else _while_connected(work, receive))


def refusal(exc: Overloaded | TooLate | Closed) -> Refused:
    """What a caller is told whose request was not taken, or is too late."""
    if isinstance(exc, Overloaded):
        seconds = max(1, math.ceil(exc.retry_after))
        text = f"more waits for the model than it can take; come back in {seconds} s"
        return Refused(429, text, (b"retry-after", b"%d" % seconds))
    if isinstance(exc, TooLate):
        return Refused(504, "the model cannot answer before the deadline of the request")
    return Refused(503, "the model is being unloaded", RETRY_SOON)


async def _while_connected(
    work: Coroutine[Any, Any, Mapping[str, np.ndarray]], receive: Receive
) -> Mapping[str, np.ndarray]:
    computing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({computing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if computing.done():
            return computing.result()
        raise Disconnected
    finally:
        leaving.cancel()
        computing.cancel()
        # An exception holds this frame, and the task that raised it would hold the exception.
        del leaving, computing


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
