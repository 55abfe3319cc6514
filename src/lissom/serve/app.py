"""The HTTP application: one ASGI callable without a framework, whose routing would outweigh small models.

    GET  /                                                 the page
    GET  /page.json  /openapi.json  /report/{model}        what it shows, the routes, the report of a run
    GET  /v2  /v2/health/live  /v2/health/ready
    GET  /v2/models/{model}[/versions/{version}][/ready|/config|/stats]   GET /v2/models/stats
    POST /v2/models/{model}[/versions/{version}]/infer     tensors, by the Open Inference Protocol
    POST /v2/repository/index                              every model and its state
    POST /v2/repository/models/{model}/load|unload         for administrators
    POST /predict[/{model}]                                raw rows, a picture or a text
    POST /explain[/{model}]                                the same, one sample: what its answer hangs on

Models are called through their scheduler. Every error has the shape `{"error": "..."}`; the cause of a 500 is
in the log only. Every answer has the request id that came with the request, or a new one.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from lissom.errors import RequestError, near
from lissom.optional import version
from lissom.serve import inference
from lissom.serve.access_log import AccessLog
from lissom.serve.answers import (
    READ,
    RETRY_SOON,
    Answer,
    Headers,
    allow,
    compressed,
    failure,
    json_answer,
    request_id,
    respond,
)
from lissom.serve.bodies import (
    Disconnected,
    Receive,
    Refused,
    Scope,
    Send,
    headers_of,
    parse_object,
    read_body,
    release,
)
from lissom.serve.calling import refusal
from lissom.serve.description import configuration, metadata, statistics
from lissom.serve.keys import Key, Keys
from lissom.serve.metrics import exposition
from lissom.serve.openapi import document
from lissom.serve.page import page, page_data, page_headers, report_headers, report_of
from lissom.serve.repository import VERSION, Repository, ServedModel, State
from lissom.serve.scheduler import Closed, Overloaded, TooLate
from lissom.serve.tensors import MAX_NAME

_MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer|config|stats))?")
_INDEX_PATH = re.compile(r"/v2/repository(?:/[^/]+)?/index")
_CHANGE_PATH = re.compile(r"/v2/repository(?:/[^/]+)?/models/([^/]+)/(load|unload)")
_OPEN_PATHS = ("", "/v2/health/live", "/v2/health/ready")
"""Answered without a key: the page holds nothing until it is given one."""
_METRICS = "/metrics"
_EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
_ROUTE, _KEY = "lissom.route", "lissom.key"
"""What is noted in the scope for metrics and the access log: kind of route, name of the key."""
Handler = Callable[[ServedModel, Scope, Receive], Awaitable[Answer]]
_CALLS: dict[str, Handler] = {"predict": inference.predict, "explain": inference.explained}


class Application:
    """Answers requests for the models of a repository; not ready until it has one.

    Attributes:
        repository: The models; None while they are loaded.
        keys: Who may ask; None where everybody may.
        access_log: Where answers are noted; None for nowhere.
        is_draining: True once the server was told to end.
        responses: Number of answers by kind of route and status.
    """

    def __init__(self, repository: Repository | None = None, *, keys: Keys | None = None) -> None:
        self.repository = repository
        self.keys = keys
        self.access_log: AccessLog | None = None
        self.is_draining = False
        self.responses: Counter[tuple[str, int]] = Counter()
        self._num_begun = 0
        self._finished = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """True while there is a model that answers."""
        models = {} if self.repository is None else self.repository.models
        return not self.is_draining and any(model.state is State.READY for model in models.values())

    async def drain(self) -> None:
        """Answer nothing new but that the server is alive, and wait until what was begun is finished."""
        self.is_draining = True
        while self._num_begun:
            self._finished.clear()
            await self._finished.wait()

    def guard(self, scope: Scope) -> bool:
        """True for a request to one of BentoML's own paths that may be answered."""
        if self.keys is None or scope["path"] != _METRICS:
            return True
        key = self.keys.find(_presented(scope))
        return key is not None and key.is_admin

    def metrics(self) -> str:
        """Everything that is measured, in the text that Prometheus reads."""
        repository = self.repository
        absent = {} if repository is None else {name: found[0] for name, found in repository.absent.items()}
        models = [] if repository is None else list(repository.models.values())
        return exposition(models, absent, self.responses)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever it holds; the server outlives all that is raised."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1003})
            return
        started, identity, answer = time.perf_counter(), request_id(scope), None
        self._num_begun += 1
        try:
            try:
                answer = await self._answer(scope, receive)
                if b"accept-encoding" in headers_of(scope):
                    answer = await compressed(answer, scope)
            except Disconnected:
                return
            except (Overloaded, TooLate, Closed) as exc:
                answer = failure(refusal(exc))
            except Exception as exc:
                answer = failure(exc)
            self.responses[scope.get(_ROUTE, "other"), answer.status] += 1
            await respond(answer, scope, send, identity)
        finally:
            self._end(scope, answer, identity, time.perf_counter() - started)

    def _end(self, scope: Scope, answer: Answer | None, identity: bytes, seconds: float) -> None:
        release(scope)
        self._num_begun -= 1
        self._finished.set()
        if self.access_log is not None:
            self.access_log.note(scope, answer, seconds=seconds, key=scope.get(_KEY), identity=identity)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path = scope["path"].rstrip("/")
        if self.is_draining and path != "/v2/health/live":
            raise Refused(503, "the server is shutting down", RETRY_SOON, (b"connection", b"close"))
        key = self._authorized(scope) if self.keys is not None and path not in _OPEN_PATHS else None
        if place := _model_place(path):
            name, model_version, action = place
            if action == "infer":
                scope[_ROUTE] = "infer"
                allow(scope, "POST")
                return await inference.infer(self._find(name, model_version), scope, receive)
            if place != ("stats", None, None):
                return self._model(scope, name, model_version, action)
            scope[_ROUTE] = "model"
            allow(scope, *READ)
            return json_answer({"model_stats": [statistics(model) for model in self._models()]})
        call, _, name = path[1:].partition("/")
        if call in _CALLS and "/" not in name:
            scope[_ROUTE] = call
            allow(scope, "POST")
            return await _CALLS[call](self._find(name or self._only_model(), None), scope, receive)
        if _INDEX_PATH.fullmatch(path):
            return await self._index(scope, receive)
        if found := _CHANGE_PATH.fullmatch(path):
            return await self._change(scope, receive, found[1], found[2], key)
        return self._read(scope, path)

    def _read(self, scope: Scope, path: str) -> Answer:
        """What is the same for everybody: the server, its health, its page."""
        if path.startswith("/report/"):
            scope[_ROUTE] = "page"
            allow(scope, *READ)
            return _html(self._report(path.removeprefix("/report/")), report_headers())
        readers: dict[str, tuple[str, Callable[[], Answer]]] = {
            "": ("page", lambda: _html(page(), page_headers())),
            "/page.json": ("page", self._page_data),
            "/openapi.json": ("page", lambda: json_answer(document(self._models()))),
            "/v2": ("health", _server_metadata),
            "/v2/health/live": ("health", lambda: json_answer({"live": True})),
            "/v2/health/ready": ("health", self._ready),
        }
        if path not in readers:
            raise Refused(
                404, f"there is nothing at {path[:MAX_NAME]}; see /v2, /v2/models/NAME and /predict"
            )
        scope[_ROUTE], read = readers[path]
        allow(scope, *READ)
        return read()

    def _ready(self) -> Answer:
        self._ready_repository()
        if not self.is_ready:
            raise Refused(503, "no model is ready", RETRY_SOON)
        return json_answer({"ready": True})

    def _page_data(self) -> Answer:
        repository = self._ready_repository()
        return json_answer(page_data(list(repository.models.values()), repository.absent))

    def _report(self, name: str) -> bytes:
        file = report_of(self._find(name, None).artifact)
        if file is None:
            raise Refused(404, f"the run of model {name!r} has no report here")
        return file.read_bytes()

    def _model(self, scope: Scope, name: str, model_version: str | None, action: str | None) -> Answer:
        scope[_ROUTE] = "model"
        allow(scope, *READ)
        model = self._find(name, model_version)
        if action == "ready":
            return json_answer({"name": model.name, "ready": True})
        if action == "config":
            return json_answer(configuration(model))
        if action == "stats":
            return json_answer({"model_stats": [statistics(model)]})
        return json_answer(metadata(model))

    async def _index(self, scope: Scope, receive: Receive) -> Answer:
        scope[_ROUTE] = "repository"
        allow(scope, "POST")
        body = await read_body(scope, receive)
        ready_only = bool(parse_object(body).get("ready")) if body.strip() else False
        told: list[dict[str, Any]] = [
            {
                "name": model.name,
                "version": VERSION,
                "state": model.state.value,
                "reason": "",
                "digest": model.artifact.digest,
            }
            for model in self._models()
            if not ready_only or model.state is State.READY
        ]
        repository = self._ready_repository()
        if not ready_only:
            told += [
                {"name": name, "version": VERSION, "state": state.value, "reason": reason, "digest": None}
                for name, (state, reason) in repository.absent.items()
            ]
        return json_answer(told)

    async def _change(
        self, scope: Scope, receive: Receive, name: str, action: str, key: Key | None
    ) -> Answer:
        scope[_ROUTE] = "repository"
        allow(scope, "POST")
        repository = self._ready_repository()
        if key is None or not key.is_admin:
            raise Refused(403, f"to {action} a model takes the key of an administrator")
        _check_change(await read_body(scope, receive))
        if name not in repository.sources:
            raise Refused(404, f"there is no model {name[:MAX_NAME]!r}; {near(name, repository.sources)}")
        if action == "unload":
            await repository.unload(name)
            return json_answer({})
        swap = await repository.load(name)
        is_new = swap.digest != swap.previous
        return json_answer(swap._asdict() | {"changed": is_new, "message": f"{name}: {swap.told}"})

    def _authorized(self, scope: Scope) -> Key:
        """The key that came with the request.

        Raises:
            Refused: there is none, it is unknown, or it comes too often.
        """
        assert self.keys is not None
        presented = _presented(scope)
        key = self.keys.find(presented) if presented else None
        if key is None:
            why = "is unknown" if presented else "is missing: Authorization: Bearer KEY"
            raise Refused(401, f"the API key {why}", (b"www-authenticate", b"Bearer"))
        scope[_KEY] = key.name
        if wait := self.keys.wait(key):
            seconds = str(math.ceil(wait))
            text = f"{key.name} asks more often than it may; come back in {seconds} s"
            raise Refused(429, text, (b"retry-after", seconds.encode()))
        if scope["path"] == _METRICS and not key.is_admin:
            raise Refused(403, "metrics take the key of an administrator")
        return key

    def _models(self) -> list[ServedModel]:
        return list(self._ready_repository().models.values())

    def _ready_repository(self) -> Repository:
        if self.repository is None:
            raise Refused(503, "the models are still being loaded", RETRY_SOON)
        return self.repository

    def _find(self, name: str, model_version: str | None) -> ServedModel:
        repository = self._ready_repository()
        models = repository.models
        if name in repository.absent and name not in models:
            state, reason = repository.absent[name]
            raise Refused(503, f"model {name!r} is {state.value.lower()}: {reason}", RETRY_SOON)
        if name not in models:
            raise Refused(404, f"there is no model {name[:MAX_NAME]!r}; {near(name[:MAX_NAME], models)}")
        if model_version not in (None, VERSION):
            raise Refused(404, f"model {name!r} has no version {model_version!r}; there is {VERSION!r}")
        return models[name]

    def _only_model(self) -> str:
        names = list(self._ready_repository().models)
        if not names:
            raise Refused(503, "no model is ready", RETRY_SOON)
        if len(names) > 1:
            raise RequestError(
                f"several models are served; name one: {', '.join(f'/predict/{n}' for n in names)}"
            )
        return names[0]


@lru_cache(maxsize=256)
def _model_place(path: str) -> tuple[str, str | None, str | None] | None:
    """Name, version and action of a path below `/v2/models`."""
    found = _MODEL_PATH.fullmatch(path)
    return (found[1], found[2], found[3]) if found else None


def _html(content: bytes, headers: Headers) -> Answer:
    return Answer(200, content, headers, b"text/html; charset=utf-8")


def _check_change(body: bytes) -> None:
    """What a model is stands in its artifact: nothing of it is taken from a request."""
    parameters = parse_object(body).get("parameters") if body.strip() else None
    if isinstance(parameters, dict) and (unknown := sorted(parameters.keys() - {"unload_dependents"})):
        raise RequestError(f"the parameter {unknown[0][:MAX_NAME]!r} is not taken: change the artifact")


def _server_metadata() -> Answer:
    return json_answer({"name": "lissom", "version": version("lissom"), "extensions": list(_EXTENSIONS)})


def _presented(scope: Scope) -> bytes:
    """The key of a request; empty where it has none."""
    headers = headers_of(scope)
    kind, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
