"""The way past BentoML: which paths take it, and that BentoML still lets us."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import bentoml
import pytest

from lissom.serve.fast_path import FastFirst, FastService


class Recorder:
    """An ASGI application that notes what reached it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.routes = ["a route"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope.get("path", scope["type"]))


@pytest.mark.parametrize(
    ("scope", "fast"),
    [
        ({"type": "http", "path": "/v2"}, True),
        ({"type": "http", "path": "/predict/tiny"}, True),
        ({"type": "http", "path": "/unknown"}, True),
        ({"type": "http", "path": "/metrics/"}, True),
        ({"type": "http", "path": "/metrics"}, False),
        ({"type": "lifespan"}, False),
        ({"type": "websocket", "path": "/v2"}, False),
    ],
)
def test_only_the_paths_of_bentoml_and_the_lifespan_reach_bentoml(scope: dict[str, Any], fast: bool) -> None:
    inner, front = Recorder(), Recorder()
    asyncio.run(FastFirst(inner, front, ["/metrics"])(scope, None, None))  # type: ignore[arg-type]
    assert (len(front.seen), len(inner.seen)) == ((1, 0) if fast else (0, 1))


def test_what_wraps_the_application_of_bentoml_looks_like_it() -> None:
    assert FastFirst(Recorder(), Recorder(), []).routes == ["a route"]


def test_bentoml_still_has_the_seams_that_the_fast_path_hangs_on() -> None:
    assert "service_class" in inspect.signature(bentoml.service).parameters
    assert list(inspect.signature(bentoml.Service.to_asgi).parameters) == ["self", "is_main"]

    class Anything:
        pass

    found = bentoml.service(service_class=FastService)(Anything)
    assert isinstance(found, FastService)
    assert found.inner is Anything
