"""The HTTP application: one ASGI callable without a framework, whose routing would outweigh small models.

    GET  /v2  /v2/health/live  /v2/health/ready
    GET  /v2/models/{model}[/versions/{version}][/ready|/config|/stats]   GET /v2/models/stats
    POST /v2/models/{model}[/versions/{version}]/infer     tensors, by the Open Inference Protocol
    POST /v2/repository/index                              every model and its state
    POST /v2/repository/models/{model}/load|unload         for administrators
    POST /predict[/{model}]                                raw rows

Large JSON is read and written in a thread, so that health is answered meanwhile; models are called through
their scheduler. Every error has the shape `{"error": "..."}`; the cause of a 500 is in the log only. Every
answer has the request id that came with the request, or a new one.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson

from lissom.errors import RequestError, near
from lissom.logs import log
from lissom.optional import version
from lissom.serve.bodies import (
    BINARY_HEADER,
    Disconnected,
    Receive,
    Refused,
    Scope,
    Send,
    packed,
    parse_object,
    read_body,
    split_binary,
)
from lissom.serve.description import configuration, statistics
from lissom.serve.keys import Key, Keys
from lissom.serve.prediction import predict_inputs, predict_response
from lissom.serve.protocol import (
    InferRequest,
    infer_request,
    infer_response,
    raw_request,
    tensor_metadata,
)
from lissom.serve.repository import VERSION, Repository, ServedModel, State
from lissom.serve.scheduler import Closed, Overloaded, TooLate
from lissom.serve.tensors import MAX_NAME

Found = TypeVar("Found")

_MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer|config|stats))?")
_INDEX_PATH = re.compile(r"/v2/repository(?:/[^/]+)?/index")
_CHANGE_PATH = re.compile(r"/v2/repository(?:/[^/]+)?/models/([^/]+)/(load|unload)")
_HEALTH = ("/v2/health/live", "/v2/health/ready")
_METRICS = "/metrics"
_EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
_TIMEOUT = b"x-request-timeout-ms"
_REQUEST_ID = b"x-request-id"
_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LARGE = 1 << 16
"""Bytes of JSON that are read and written in a thread."""
_MAX_ERROR = 500
_READ = ("GET", "HEAD")
_RETRY_SOON = (b"retry-after", b"1")


class Answer(NamedTuple):
    """Status, body and further headers of a response; a body is JSON unless a content type is given."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


class Application:
    """Answers requests for the models of a repository; not ready until it has one."""

    def __init__(self, repository: Repository | None = None, *, keys: Keys | None = None) -> None:
        self.repository = repository
        self.keys = keys
        self.is_draining = False
        self._num_begun = 0
        self._finished = asyncio.Event()

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever it holds."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        elif scope["type"] == "http":
            self._num_begun += 1
            try:
                await _respond(await self._guarded(scope, receive), scope, send)
            except Disconnected:
                return
            finally:
                self._num_begun -= 1
                self._finished.set()

    async def _guarded(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to one request; an error where anything is raised, since the server must outlive it."""
        try:
            return await self._answer(scope, receive)
        except Disconnected:
            raise
        except Exception as exc:
            return _failure(exc)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path = scope["path"].rstrip("/")
        if self.is_draining and path != "/v2/health/live":
            raise Refused(503, "the server is shutting down", _RETRY_SOON, (b"connection", b"close"))
        key = self._authorized(scope) if self.keys is not None and path not in _HEALTH else None
        if path == "/v2":
            return self._server_metadata(scope)
        if path == "/v2/health/live":
            _allow(scope, *_READ)
            return _json({"live": True})
        if path == "/v2/health/ready":
            _allow(scope, *_READ)
            self._ready_repository()
            return _json({"ready": True})
        if path == "/v2/models/stats":
            _allow(scope, *_READ)
            return _json({"model_stats": [statistics(model) for model in self._models()]})
        if found := _MODEL_PATH.fullmatch(path):
            return await self._model(scope, receive, *found.groups())
        if _INDEX_PATH.fullmatch(path):
            return await self._index(scope, receive)
        if found := _CHANGE_PATH.fullmatch(path):
            return await self._change(scope, receive, found[1], found[2], key)
        place, _, name = path[1:].partition("/")
        if place == "predict" and "/" not in name:
            return await self._predict(scope, receive, name)
        raise Refused(
            404, f"there is nothing at {path[:MAX_NAME] or '/'}; see /v2, /v2/models/NAME and /predict"
        )

    def _server_metadata(self, scope: Scope) -> Answer:
        _allow(scope, *_READ)
        return _json({"name": "lissom", "version": version("lissom"), "extensions": list(_EXTENSIONS)})

    async def _model(
        self, scope: Scope, receive: Receive, name: str, model_version: str | None, action: str | None
    ) -> Answer:
        _allow(scope, *(("POST",) if action == "infer" else _READ))
        model = self._find(name, model_version)
        if action == "infer":
            return await self._infer(scope, receive, model)
        if action == "ready":
            return _json({"name": model.name, "ready": True})
        if action == "config":
            return _json(configuration(model))
        if action == "stats":
            return _json({"model_stats": [statistics(model)]})
        return _json(_model_metadata(model))

    async def _infer(self, scope: Scope, receive: Receive, model: ServedModel) -> Answer:
        body = await read_body(scope, receive)
        request = await _perhaps_in_thread(len(body), lambda: _read_infer(scope, body, model))
        deadline = _deadline(scope, request.timeout)
        outputs = await _computed(model, request.inputs, deadline, receive)
        size = sum(outputs[name].nbytes for name, in_binary in request.outputs.items() if not in_binary)
        content, json_length = await _perhaps_in_thread(
            size, lambda: infer_response(request, outputs, model=model.name, version=VERSION)
        )
        if json_length is None:
            return _packed(Answer(200, content), scope)
        header = ((BINARY_HEADER, str(json_length).encode()),)
        return _packed(Answer(200, content, header, b"application/octet-stream"), scope)

    async def _predict(self, scope: Scope, receive: Receive, name: str) -> Answer:
        _allow(scope, "POST")
        model = self._find(name or self._only_model(), None)
        body = await read_body(scope, receive)
        inputs = await _perhaps_in_thread(
            len(body), lambda: predict_inputs(parse_object(body), model.manifest)
        )
        outputs = await _computed(model, inputs, _deadline(scope, None), receive)
        size = sum(array.nbytes for array in outputs.values())
        answer = await _perhaps_in_thread(
            size, lambda: _json(predict_response(outputs, model.manifest, model=model.name))
        )
        return _packed(answer, scope)

    async def _index(self, scope: Scope, receive: Receive) -> Answer:
        _allow(scope, "POST")
        body = await read_body(scope, receive)
        ready_only = bool(parse_object(body).get("ready")) if body.strip() else False
        told = [
            {"name": model.name, "version": VERSION, "state": model.state.value, "reason": ""}
            for model in self._models()
            if not ready_only or model.state is State.READY
        ]
        repository = self._ready_repository()
        if not ready_only:
            told += [
                {"name": name, "version": VERSION, "state": state.value, "reason": reason}
                for name, (state, reason) in repository.absent.items()
            ]
        return _json(told)

    async def _change(
        self, scope: Scope, receive: Receive, name: str, action: str, key: Key | None
    ) -> Answer:
        _allow(scope, "POST")
        repository = self._ready_repository()
        if key is None or not key.is_admin:
            raise Refused(403, f"to {action} a model takes the key of an administrator")
        await read_body(scope, receive)  # overrides of the configuration are not taken
        if name not in repository.sources:
            raise Refused(404, f"there is no model {name[:MAX_NAME]!r}; {near(name, repository.sources)}")
        await (repository.load(name) if action == "load" else repository.unload(name))
        return _json({})

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
            raise Refused(503, "the models are still being loaded", _RETRY_SOON)
        return self.repository

    def _find(self, name: str, model_version: str | None) -> ServedModel:
        repository = self._ready_repository()
        models = repository.models
        if name in repository.absent and name not in models:
            state, reason = repository.absent[name]
            raise Refused(503, f"model {name!r} is {state.value.lower()}: {reason}", _RETRY_SOON)
        if name not in models:
            raise Refused(404, f"there is no model {name[:MAX_NAME]!r}; {near(name[:MAX_NAME], models)}")
        if model_version not in (None, VERSION):
            raise Refused(404, f"model {name!r} has no version {model_version!r}; there is {VERSION!r}")
        return models[name]

    def _only_model(self) -> str:
        names = list(self._ready_repository().models)
        if len(names) > 1:
            raise RequestError(
                f"several models are served; name one: {', '.join(f'/predict/{n}' for n in names)}"
            )
        return names[0]


def _read_infer(scope: Scope, body: bytes, model: ServedModel) -> InferRequest:
    document, binary = split_binary(scope, body)
    signature = model.manifest.signature
    if binary is not None and not document:
        return raw_request(signature, binary)
    return infer_request(parse_object(document), signature, binary)


def _presented(scope: Scope) -> bytes:
    """The key of a request; empty where it has none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, key = value.partition(b" ")
            return bytes(key.strip()) if kind.lower() == b"bearer" else b""
        if name == b"x-api-key":
            return bytes(value)
    return b""


def _deadline(scope: Scope, timeout: float | None) -> float:
    """Time of the event loop until which an answer is of use: the sooner of header and request."""
    header = next((value for name, value in scope["headers"] if name == _TIMEOUT), None)
    if header is not None:
        text = header.decode("latin-1")
        if not (text.isascii() and text.isdigit()) or not 0 < int(text[:12]) < 1e9:
            raise Refused(400, f"X-Request-Timeout-Ms is {text[:40]!r}; whole milliseconds were expected")
        timeout = min(int(text) / 1e3, timeout if timeout is not None else math.inf)
    return math.inf if timeout is None else asyncio.get_running_loop().time() + timeout


async def _computed(
    model: ServedModel, inputs: Mapping[str, np.ndarray], deadline: float, receive: Receive
) -> Mapping[str, np.ndarray]:
    """The outputs, unless the caller leaves or there is no room for the request."""
    work = model.scheduler.submit(inputs, deadline=deadline)
    try:
        return await (work if model.is_inline else _while_connected(work, receive))
    except Overloaded as exc:
        seconds = max(1, math.ceil(exc.retry_after))
        text = f"more waits for model {model.name!r} than it can take; come back in {seconds} s"
        raise Refused(429, text, (b"retry-after", str(seconds).encode())) from exc
    except TooLate as exc:
        raise Refused(504, f"model {model.name!r} cannot answer before the deadline of the request") from exc
    except Closed as exc:
        raise Refused(503, f"model {model.name!r} is being unloaded", _RETRY_SOON) from exc


async def _while_connected(
    work: Coroutine[Any, Any, Mapping[str, np.ndarray]], receive: Receive
) -> Mapping[str, np.ndarray]:
    """What is computed, unless the caller goes away meanwhile.

    Raises:
        Disconnected: nobody waits for the answer.
    """
    computing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({computing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if computing.done():
            return computing.result()
        raise Disconnected
    finally:
        leaving.cancel()
        computing.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _perhaps_in_thread(size: int, work: Callable[[], Found]) -> Found:
    """What `work` gives; called in a thread when it handles much."""
    return work() if size < _LARGE else await asyncio.to_thread(work)


def _packed(answer: Answer, scope: Scope) -> Answer:
    """An answer as the client takes it: compressed when it asked for that."""
    body, encoding = packed(answer.body, scope)
    if encoding is None:
        return answer
    return answer._replace(body=body, headers=(*answer.headers, (b"content-encoding", encoding)))


def _model_metadata(model: ServedModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": f"{model.runtime.name}_{manifest.format}",
        "inputs": [tensor_metadata(spec) for spec in manifest.signature.inputs],
        "outputs": [tensor_metadata(spec) for spec in manifest.signature.outputs],
        "properties": {
            "artifact": model.artifact.id,
            "digest": model.artifact.digest,
            "precision": manifest.precision,
            "runtime": model.runtime.name,
            "stage": manifest.name,
        },
    }


def _allow(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        allowed = ", ".join(methods)
        text = f"{scope['method'][:MAX_NAME]} is not answered at {scope['path'][:MAX_NAME]}; use {allowed}"
        raise Refused(405, text, (b"allow", allowed.encode()))


def _json(document: Any, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    return Answer(status, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), headers)


def _failure(exc: Exception) -> Answer:
    if isinstance(exc, Refused):
        return _json({"error": exc.message[:_MAX_ERROR]}, exc.status, exc.headers)
    if type(exc) is RequestError:  # a damaged artifact is no fault of the client
        return _json({"error": exc.message[:_MAX_ERROR]}, 400)
    log.error("a request could not be answered", exc_info=exc)
    return _json({"error": "internal error; the cause is in the log of the server"}, 500)


async def _respond(answer: Answer, scope: Scope, send: Send) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (_REQUEST_ID, _request_id(scope)),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> bytes:
    """The id that came with the request, when it is printable and short; else a new one."""
    for name, value in scope["headers"]:
        if name == _REQUEST_ID and _ID.fullmatch(value):
            return bytes(value)
    return b"%016x" % random.getrandbits(64)
