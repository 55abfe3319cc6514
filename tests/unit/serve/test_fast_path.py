"""The way past BentoML: which paths take it, and that BentoML still lets us."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import bentoml
import pytest

from lissom.serve.fast_path import FastFirst, FastService, Timeout


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


def test_the_timer_of_bentoml_is_replaced_by_one_that_is_cancelled() -> None:
    class Anything:
        pass

    found = bentoml.service(service_class=FastService)(Anything).to_asgi()
    names = [middleware.cls.__name__ for middleware in found.user_middleware]
    assert "Timeout" in names
    assert "TimeoutMiddleware" not in names


@pytest.mark.parametrize(("seconds", "status"), [(0.0, 200), (0.5, 504)])
def test_what_does_not_answer_in_time_is_answered_504(seconds: float, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.2)  # what has begun may take as long as it likes
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/", "method": "GET", "headers": []}
        await Timeout(app, 0.1)(scope, None, send)  # type: ignore[arg-type]
        loop: Any = asyncio.get_running_loop()
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]
        return sent

    sent = asyncio.run(ask())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == status


def test_an_error_before_the_first_word_is_raised_at_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError("of its own")

    scope = {"type": "http", "path": "/", "method": "GET", "headers": []}
    with pytest.raises(TimeoutError, match="of its own"):
        asyncio.run(Timeout(app, 10.0)(scope, None, None))  # type: ignore[arg-type]
