"""Requests go past BentoML's middleware, but for the few paths that BentoML itself answers.

BentoML's own stack (metrics, tracing, access log, timeout, context) costs ten times what a small model
does, and it would count every unknown path as an endpoint of its own. A `Service` may say which ASGI
application its worker runs, so ours puts the application of the models in front. What a request on this
path does not get: BentoML's metrics, access log, timeout, concurrency limit, and middleware added by
`add_asgi_middleware`. The same application is mounted in BentoML as well; with `LISSOM_FAST_PATH=0`
requests take that way.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import bentoml

from lissom.serve.answers import json_answer, request_id, respond
from lissom.serve.bodies import Message, Receive, Scope, Send
from lissom.serve.connections import bound_connections
from lissom.serve.environment import FAST_PATH, Settings

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class FastFirst:
    """Sends every request to `fast`, but for some paths, and the lifespan, which go to `inner`."""

    def __init__(
        self,
        inner: Any,
        fast: ASGIApp,
        inner_paths: Iterable[str],
        guard: Callable[[Scope], bool] = lambda scope: True,
    ) -> None:
        """Choose the paths.

        Args:
            inner: The application of BentoML.
            fast: The application that answers all other requests.
            inner_paths: Exact paths that `inner` answers.
            guard: False for a request that `inner` must not answer; `fast` says why.
        """
        self.inner = inner
        self.fast = fast
        self.inner_paths = frozenset(inner_paths)
        self.guard = guard

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request to the application that answers its path."""
        is_inner = scope["type"] != "http" or (scope["path"] in self.inner_paths and self.guard(scope))
        if not is_inner:
            await self.fast(scope, receive, send)
        else:
            await self.inner(scope, receive, send)


class Timeout:
    """The middleware of BentoML that answers 504 when nothing was sent in time, but one that tidies up.

    BentoML's own leaves its timer running after every answer, with all that hangs on it. A busy route so
    feeds the garbage collector, whose full runs stop every request of the process for 100 ms.
    """

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        """Wrap an application.

        Args:
            app: It.
            timeout: Seconds until it must have begun to answer.
        """
        self.app = app
        self.timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say that it took too long."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.timeout) as limit:

                async def send_in_time(message: Message) -> None:
                    limit.reschedule(None)
                    await send(message)

                await self.app(scope, receive, send_in_time)
        except TimeoutError:
            if not limit.expired():
                raise
            error = {"error": f"nothing was answered within {self.timeout:g} seconds"}
            await respond(json_answer(error, 504), scope, send, request_id(scope))


class FastService(bentoml.Service):  # type: ignore[misc]
    """A BentoML service whose class has a `fast_app`, and the `bento_paths` that are left to BentoML."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """The application of a worker."""
        app = super().to_asgi(is_main=is_main)
        bound_connections(Settings.read(os.environ).keep_alive)
        for middleware in app.user_middleware:
            if middleware.cls.__name__ == "TimeoutMiddleware":
                middleware.cls = Timeout
        fast = getattr(self.inner, "fast_app", None)
        if fast is None or not is_main or os.environ.get(FAST_PATH) == "0":
            return app
        logging.getLogger("uvicorn.access").propagate = False  # never printed, yet costs a microsecond
        guard = getattr(self.inner, "fast_guard", lambda scope: True)
        return FastFirst(app, fast, self.inner.bento_paths, guard)
