"""The routes of `lissom.serve.app` as an OpenAPI 3.1 document, for the models that are served now.

Names of models are the values that a path takes, and what a body holds follows from their signatures: the
datatype and shape of tensors after preprocessing for `infer`, raw rows for `/predict` and `/explain`. What
JSON Schema cannot say, such as that `data` has as many values as the shape, is answered with 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lissom.optional import version
from lissom.serve.bodies import MAX_BODY_BYTES
from lissom.serve.openapi_schemas import COUNT, TEXT, Schema, answers, any_of, ref, requests
from lissom.serve.repository import VERSION, ServedModel

_ERRORS = {
    400: "The request does not fit the protocol or the model.",
    401: "The API key is missing or unknown.",
    403: "This takes the key of an administrator.",
    404: "There is no such model, version or page.",
    405: "This path takes another method, named in Allow.",
    413: f"The body is longer than {MAX_BODY_BYTES:,} bytes, packed or unpacked.",
    415: "The body is packed in an unknown way, or of a kind that is not taken.",
    422: "The model gives no finite score for a sample, so that there is no label.",
    429: "The queue of the model is full, or the key asks too often.",
    503: "The models are being loaded, the model is not loaded, or the server shuts down.",
    504: "The model cannot answer before the deadline of the request.",
}
_ALWAYS = (401, 405, 429, 503)
_OF_BODY = (400, 413, 415)
_RETRIED = (429, 503)
_MAX_TIMEOUT_MS = 999_999_999
_OPEN: dict[str, Any] = {"security": []}
"""Answered without a key."""


def document(models: Sequence[ServedModel]) -> dict[str, Any]:
    """Every route, what it takes and what it gives.

    Args:
        models: Those that answer now; without any, paths take any name.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "lissom",
            "version": version("lissom"),
            "description": "Compressed models over HTTP: the Open Inference Protocol, and raw samples.",
        },
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": {**_page_paths(), **_server_paths(), **_model_paths(), **_call_paths(models)},
        "components": {
            "schemas": {**answers(), **requests(models)},
            "responses": {f"Error{status}": _error(status) for status in _ERRORS},
            "parameters": _parameters([model.name for model in models]),
            "headers": _headers(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _page_paths() -> dict[str, Any]:
    html, anything = {"text/html": {"schema": TEXT}}, _json({"type": "object"})
    report = _operation("The report of the run that made a model", html, errors=(*_ALWAYS, 404))
    metrics = _operation(
        "Metrics as Prometheus reads them", {"text/plain": {"schema": TEXT}}, errors=(*_ALWAYS, 403)
    )
    del metrics["responses"]["200"]["headers"]  # this comes from BentoML, without an id
    return {
        "/": {"get": _operation("The page", html, errors=(405, 503)) | _OPEN},
        "/page.json": {"get": _operation("What the page shows", anything)},
        "/openapi.json": {"get": _operation("This document", anything)},
        "/report/{model}": _path("model", get=report),
        "/metrics": {"get": metrics},
    }


def _server_paths() -> dict[str, Any]:
    live, ready = _json(ref("Live")), _json(ref("Ready"))
    reader = {"description": "A filter", "content": _json(ref("IndexRequest")), "required": False}
    return {
        "/v2": {"get": _operation("The server", _json(ref("Server")))},
        "/v2/health/live": {
            "get": _operation("The server answers", live, errors=(405,)) | _OPEN,
            "head": _operation("The server answers", {}, errors=(405,)) | _OPEN,
        },
        "/v2/health/ready": {
            "get": _operation("Every model is warm", ready, errors=(405, 503)) | _OPEN,
            "head": _operation("Every model is warm", {}, errors=(405, 503)) | _OPEN,
        },
        "/v2/models/stats": {"get": _operation("Statistics of every model", _json(ref("Statistics")))},
        "/v2/repository/index": {
            "post": _operation(
                "Every model and its state", _json(ref("Index")), body=reader, errors=(*_ALWAYS, *_OF_BODY)
            )
        },
        "/v2/repository/models/{model}/load": _change(
            "Read a model again from where it came, and warm it", ref("Swap")
        ),
        "/v2/repository/models/{model}/unload": _change(
            "Take a model away; what was begun is finished", {"type": "object"}
        ),
    }


def _change(summary: str, answer: Schema) -> dict[str, Any]:
    body = {"description": "Ignored", "content": _json({"type": "object"}), "required": False}
    errors = (*_ALWAYS, *_OF_BODY, 403, 404)
    return _path("model", post=_operation(summary, _json(answer), body=body, errors=errors))


def _model_paths() -> dict[str, Any]:
    """What is told of a model, with and without its version."""
    told = {
        "": ("What a model takes and gives", "Model"),
        "/ready": ("A model answers", "ModelReady"),
        "/config": ("The configuration of a model, as clients of Triton read it", "Configuration"),
        "/stats": ("Statistics of a model", "Statistics"),
    }
    return {
        f"/v2/models/{{model}}{middle}{end}": _path(
            *names, get=_operation(summary, _json(ref(schema)), errors=(*_ALWAYS, 404))
        )
        for middle, names in (("", ("model",)), ("/versions/{version}", ("model", "version")))
        for end, (summary, schema) in told.items()
    }


def _call_paths(models: Sequence[ServedModel]) -> dict[str, Any]:
    """What calls a model."""
    errors = (*_ALWAYS, *_OF_BODY, 404, 504)
    binary: dict[str, Any] = {"application/octet-stream": {}}
    infer = _operation(
        "Tensors by the Open Inference Protocol",
        _json(ref("InferResponse")) | binary,
        body={"content": _json(any_of("infer", models)) | binary, "required": True},
        errors=errors,
        parameters=("timeout", "binary"),
    )
    uploads: dict[str, Any] = {"image/png": {}, "image/jpeg": {}, "text/plain": {"schema": TEXT}}
    samples = {"content": _json(any_of("predict", models)) | uploads, "required": True}
    predict = _operation(
        "Labels and scores of raw samples",
        _json(ref("Prediction")),
        body=samples,
        errors=(*errors, 422),
        parameters=("timeout",),
    )
    explain = _operation(
        "What the answer to one raw sample hangs on",
        _json(ref("Explanation")),
        body=samples,
        errors=(*errors, 422),
        parameters=("timeout",),
    )
    return {
        "/v2/models/{model}/infer": _path("model", post=infer),
        "/v2/models/{model}/versions/{version}/infer": _path("model", "version", post=infer),
        "/predict": {"post": predict},
        "/predict/{model}": _path("model", post=predict),
        "/explain": {"post": explain},
        "/explain/{model}": _path("model", post=explain),
    }


def _operation(
    summary: str,
    content: Mapping[str, Any],
    *,
    errors: Iterable[int] = _ALWAYS,
    body: Mapping[str, Any] | None = None,
    parameters: Iterable[str] = (),
) -> dict[str, Any]:
    """One method of one path; the content is that of a 200, none for an answer without a body."""
    headers = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    answer: dict[str, Any] = {"description": summary, "headers": headers}
    if content:
        answer["content"] = dict(content)
    refused = {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in sorted(errors)}
    found: dict[str, Any] = {
        "summary": summary,
        "parameters": [_parameter(name) for name in ("request", *parameters)],
        "responses": {"200": answer, **refused},
    }
    return found if body is None else {**found, "requestBody": dict(body)}


def _path(*parameters: str, **operations: dict[str, Any]) -> dict[str, Any]:
    """A path with parameters, in their order."""
    return {"parameters": [_parameter(name) for name in parameters], **operations}


def _parameter(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}


def _parameters(names: Sequence[str]) -> dict[str, Any]:
    def one(name: str, place: str, schema: Schema, text: str) -> dict[str, Any]:
        return {
            "name": name,
            "in": place,
            "required": place == "path",
            "schema": schema,
            "description": text,
        }

    known: Schema = {"enum": list(names)} if names else {}
    timeout = {"type": "integer", "minimum": 1, "maximum": _MAX_TIMEOUT_MS}
    identity = {"type": "string", "pattern": r"^[!-~]{1,128}$"}
    return {
        "model": one("model", "path", {"type": "string", **known}, "Name of a model."),
        "version": one("version", "path", {"type": "string", "enum": [VERSION]}, "The only version."),
        "timeout": one(
            "X-Request-Timeout-Ms", "header", timeout, "Milliseconds until which an answer is of use."
        ),
        "request": one("X-Request-Id", "header", identity, "Given back with the answer."),
        "binary": one(
            "Inference-Header-Content-Length",
            "header",
            {"type": "integer", "minimum": 0},
            "Bytes of JSON in front of binary tensors; 0 for a body that is the one input of one sample.",
        ),
    }


def _headers() -> dict[str, Any]:
    return {
        "RequestId": {
            "description": "The id that came with the request, or a new one.",
            "schema": TEXT,
            "required": True,
        },
        "RetryAfter": {"description": "Seconds after which to come back.", "schema": COUNT},
    }


def _error(status: int) -> dict[str, Any]:
    headers = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    if status in _RETRIED:
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {"description": _ERRORS[status], "headers": headers, "content": _json(ref("Error"))}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
