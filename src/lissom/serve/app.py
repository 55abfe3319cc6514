"""The HTTP application: one ASGI callable without a framework, whose routing would outweigh small models.

    GET  /v2  /v2/health/live  /v2/health/ready
    GET  /v2/models/{model}[/versions/{version}][/ready]
    POST /v2/models/{model}[/versions/{version}]/infer     tensors, by the Open Inference Protocol
    POST /predict[/{model}]                                raw rows

Bodies are decoded, computed and encoded in the thread of the model, so that health is answered meanwhile.
Every error has the shape `{"error": "..."}`; the cause of a 500 is in the log only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from lissom.errors import RequestError, near
from lissom.logs import log
from lissom.optional import version
from lissom.serve.bodies import Disconnected, Receive, Refused, Scope, Send, parse_object, read_body
from lissom.serve.prediction import predict_inputs, predict_response
from lissom.serve.protocol import infer_request, infer_response, tensor_metadata
from lissom.serve.repository import VERSION, Repository, ServedModel
from lissom.serve.tensors import MAX_NAME

_MODEL_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")
_MAX_ERROR = 500
_READ = ("GET", "HEAD")
_RETRY_SOON = (b"retry-after", b"1")


class Answer(NamedTuple):
    """Status, JSON body and further headers of a response."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Application:
    """Answers requests for the models of a repository; not ready until it has one."""

    def __init__(self, repository: Repository | None = None) -> None:
        self.repository = repository

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever it holds."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        elif scope["type"] == "http":
            try:
                answer = await self._answer(scope, receive)
            except Disconnected:
                return
            except Exception as exc:  # the server must outlive every request
                answer = _failure(exc)
            await _respond(answer, scope, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path = scope["path"].rstrip("/")
        if path == "/v2":
            return self._server_metadata(scope)
        if path == "/v2/health/live":
            _allow(scope, *_READ)
            return _json({"live": True})
        if path == "/v2/health/ready":
            _allow(scope, *_READ)
            self._ready_repository()
            return _json({"ready": True})
        if found := _MODEL_PATH.fullmatch(path):
            return await self._model(scope, receive, *found.groups())
        place, _, name = path[1:].partition("/")
        if place == "predict" and "/" not in name:
            return await self._predict(scope, receive, name)
        raise Refused(
            404, f"there is nothing at {path[:MAX_NAME] or '/'}; see /v2, /v2/models/NAME and /predict"
        )

    def _server_metadata(self, scope: Scope) -> Answer:
        _allow(scope, *_READ)
        return _json({"name": "lissom", "version": version("lissom"), "extensions": []})

    async def _model(
        self, scope: Scope, receive: Receive, name: str, model_version: str | None, action: str | None
    ) -> Answer:
        _allow(scope, *(("POST",) if action == "infer" else _READ))
        model = self._find(name, model_version)
        if action == "infer":
            body = await read_body(scope, receive)
            return await _in_thread(model, lambda: _infer(model, body))
        if action == "ready":
            return _json({"name": model.name, "ready": True})
        return _json(_model_metadata(model))

    async def _predict(self, scope: Scope, receive: Receive, name: str) -> Answer:
        _allow(scope, "POST")
        model = self._find(name or self._only_model(), None)
        body = await read_body(scope, receive)
        return await _in_thread(model, lambda: _predict(model, body))

    def _ready_repository(self) -> Repository:
        if self.repository is None:
            raise Refused(503, "the models are still being loaded", _RETRY_SOON)
        return self.repository

    def _find(self, name: str, model_version: str | None) -> ServedModel:
        models = self._ready_repository().models
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


def _infer(model: ServedModel, body: bytes) -> Answer:
    request = infer_request(parse_object(body), model.manifest.signature)
    outputs = model.infer(request.inputs)
    return _json(infer_response(request, outputs, model=model.name, version=VERSION))


def _predict(model: ServedModel, body: bytes) -> Answer:
    inputs = predict_inputs(parse_object(body), model.manifest)
    return _json(predict_response(model.infer(inputs), model.manifest, model=model.name))


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


async def _in_thread(model: ServedModel, work: Callable[[], Answer]) -> Answer:
    return await asyncio.get_running_loop().run_in_executor(model.thread, work)


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
    length = str(len(answer.body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})
