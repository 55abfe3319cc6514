"""Requests go past BentoML's middleware, but for the few paths that BentoML itself answers.

BentoML's own stack (metrics, tracing, access log, timeout, context) costs ten times what a small model
does, and it would count every unknown path as an endpoint of its own. A `Service` may say which ASGI
application its worker runs, so ours puts the application of the models in front. What a request on this
path does not get: BentoML's metrics, access log, timeout, concurrency limit, and middleware added by
`add_asgi_middleware`. The same application is mounted in BentoML as well; with `LISSOM_FAST_PATH=0`
requests take that way.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import bentoml

from lissom.serve.bodies import Receive, Scope, Send

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


class FastService(bentoml.Service):  # type: ignore[misc]
    """A BentoML service whose class has a `fast_app`, and the `bento_paths` that are left to BentoML."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """The application of a worker."""
        app = super().to_asgi(is_main=is_main)
        fast = getattr(self.inner, "fast_app", None)
        if fast is None or not is_main or os.environ.get("LISSOM_FAST_PATH") == "0":
            return app
        logging.getLogger("uvicorn.access").propagate = False  # never printed, yet costs a microsecond
        guard = getattr(self.inner, "fast_guard", lambda scope: True)
        return FastFirst(app, fast, self.inner.bento_paths, guard)
