"""The routes of `lissom.serve.app` as an OpenAPI 3.1 document, for the models that are served now.

Names of models are the values that a path takes, and what a body holds follows from their signatures: the
datatype and shape of tensors after preprocessing for `infer`, raw rows for `/predict` and `/explain`. What
JSON Schema cannot say, such as that `data` has as many values as the shape, is answered with 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lissom.artifact import TensorSpec
from lissom.optional import version
from lissom.serve.bodies import MAX_BODY_BYTES
from lissom.serve.repository import VERSION, ServedModel, State
from lissom.serve.tensors import DATATYPES

Schema = dict[str, Any]

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
_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": ["number", "null"], "description": "null where it is not finite"}
_DIGEST: Schema = {"type": ["string", "null"], "description": "sha256 of the manifest of the artifact."}
_NAMES: Schema = {"type": "array", "items": _TEXT}


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
            "schemas": {**_answers(), **_requests(models)},
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
    html, anything = {"text/html": {"schema": _TEXT}}, _json({"type": "object"})
    report = _operation("The report of the run that made a model", html, errors=(*_ALWAYS, 404))
    metrics = _operation(
        "Metrics as Prometheus reads them", {"text/plain": {"schema": _TEXT}}, errors=(*_ALWAYS, 403)
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
    live, ready = _json(_ref("Live")), _json(_ref("Ready"))
    reader = {"description": "A filter", "content": _json(_ref("IndexRequest")), "required": False}
    return {
        "/v2": {"get": _operation("The server", _json(_ref("Server")))},
        "/v2/health/live": {
            "get": _operation("The server answers", live, errors=(405,)) | _OPEN,
            "head": _operation("The server answers", {}, errors=(405,)) | _OPEN,
        },
        "/v2/health/ready": {
            "get": _operation("Every model is warm", ready, errors=(405, 503)) | _OPEN,
            "head": _operation("Every model is warm", {}, errors=(405, 503)) | _OPEN,
        },
        "/v2/models/stats": {"get": _operation("Statistics of every model", _json(_ref("Statistics")))},
        "/v2/repository/index": {
            "post": _operation(
                "Every model and its state", _json(_ref("Index")), body=reader, errors=(*_ALWAYS, *_OF_BODY)
            )
        },
        "/v2/repository/models/{model}/load": _change(
            "Read a model again from where it came, and warm it", _ref("Swap")
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
            *names, get=_operation(summary, _json(_ref(schema)), errors=(*_ALWAYS, 404))
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
        _json(_ref("InferResponse")) | binary,
        body={"content": _json(_any_of("infer", models)) | binary, "required": True},
        errors=errors,
        parameters=("timeout", "binary"),
    )
    uploads: dict[str, Any] = {"image/png": {}, "image/jpeg": {}, "text/plain": {"schema": _TEXT}}
    samples = {"content": _json(_any_of("predict", models)) | uploads, "required": True}
    predict = _operation(
        "Labels and scores of raw samples",
        _json(_ref("Prediction")),
        body=samples,
        errors=(*errors, 422),
        parameters=("timeout",),
    )
    explain = _operation(
        "What the answer to one raw sample hangs on",
        _json(_ref("Explanation")),
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
            "schema": _TEXT,
            "required": True,
        },
        "RetryAfter": {"description": "Seconds after which to come back.", "schema": _COUNT},
    }


def _error(status: int) -> dict[str, Any]:
    headers = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    if status in _RETRIED:
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {"description": _ERRORS[status], "headers": headers, "content": _json(_ref("Error"))}


def _answers() -> dict[str, Schema]:
    """What is answered, by name."""
    tensor = _object(name=_TEXT, datatype=_datatype(), shape={"type": "array", "items": {"type": "integer"}})
    tensors = {"type": "array", "items": tensor}
    state = {"enum": [one.value for one in State]}
    return {
        "Error": {**_object(error=_TEXT), "additionalProperties": False},
        "Live": _object(live={"const": True}),
        "Ready": _object(ready={"const": True}),
        "Server": _object(name=_TEXT, version=_TEXT, extensions=_NAMES),
        "Model": _object(
            name=_TEXT,
            versions=_NAMES,
            platform=_TEXT,
            inputs=tensors,
            outputs=tensors,
            properties=_properties(),
        ),
        "ModelReady": _object(name=_TEXT, ready={"const": True}),
        "Configuration": _configuration(),
        "Statistics": _object(model_stats={"type": "array", "items": _statistics()}),
        "IndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "Index": {
            "type": "array",
            "items": _object(name=_TEXT, version=_TEXT, state=state, reason=_TEXT, digest=_DIGEST),
        },
        "Swap": _object(
            name=_TEXT, digest=_TEXT, previous=_DIGEST, changed={"type": "boolean"}, message=_TEXT
        ),
        "InferResponse": _infer_response(),
        "Prediction": _prediction(),
        "Explanation": _object(
            model=_TEXT,
            label={"type": ["string", "null"]},
            score=_NUMBER,
            map={"type": "array", "items": {"type": "array", "items": _NUMBER}},
            method=_TEXT,
            warnings=_NAMES,
        ),
    }


def _properties() -> Schema:
    """What a model is besides its tensors, and what its raw inputs look like."""
    values = {"type": "array", "items": {"type": "number"}}
    steps = {"type": "array", "items": _object(op=_TEXT, input=_TEXT, mean=values, std=values)}
    number: Schema = {"type": "number"}
    axes: Schema = {"type": "object", "additionalProperties": {"type": ["integer", "null"]}}
    ranges = _object(
        input=_TEXT, low=number, high=number, mean=number, std=number, nonfinite={"type": "boolean"}
    )
    return _object(
        artifact=_TEXT,
        digest=_TEXT,
        precision=_TEXT,
        runtime=_TEXT,
        stage=_TEXT,
        preprocessing={**steps, "description": "Of raw inputs, in this order: (input - mean) / std."},
        input_ranges={
            "type": "array",
            "items": ranges,
            "description": "Of the raw calibration samples; empty in older artifacts.",
        },
        batching=_TEXT,
        batch_axes={
            **_object(inputs=axes, outputs=axes, states={"type": "object"}),
            "description": "Axis of the samples of each tensor, null where it has none; and the outputs "
            "with the next values of recurrent states, which may be left out.",
        },
    )


def _configuration() -> Schema:
    many = {"type": "array", "items": {"type": "object"}}
    tensors = {
        "type": "array",
        "items": _object(name=_TEXT, data_type=_TEXT, dims={"type": "array", "items": {"type": "integer"}}),
    }
    return _object(
        name=_TEXT,
        platform=_TEXT,
        backend=_TEXT,
        max_batch_size=_COUNT,
        input=tensors,
        output=tensors,
        instance_group=many,
        dynamic_batching={"type": "object"},
        parameters={"type": "object", "additionalProperties": _object(string_value=_TEXT)},
    )


def _statistics() -> Schema:
    duration = _object(count=_COUNT, ns=_COUNT)
    return _object(
        name=_TEXT,
        version=_TEXT,
        last_inference=_COUNT,
        inference_count=_COUNT,
        execution_count=_COUNT,
        inference_stats={"type": "object", "additionalProperties": duration},
        batch_stats={"type": "array", "items": {"type": "object"}},
    )


def _infer_response() -> Schema:
    output = _object(name=_TEXT, datatype=_datatype(), shape={"type": "array", "items": _COUNT})
    output["properties"]["data"] = {"type": "array", "description": "Row-major; null is not finite."}
    output["properties"]["parameters"] = _object(binary_data_size=_COUNT)
    outputs = {"type": "array", "items": output}
    found = _object(model_name=_TEXT, model_version=_TEXT, outputs=outputs)
    found["properties"]["id"] = _TEXT
    return found


def _prediction() -> Schema:
    return _object(
        model=_TEXT,
        labels={"type": ["array", "null"], "items": _TEXT},
        scores={
            "type": ["array", "null"],
            "items": {"type": "array", "items": _NUMBER},
            "description": "Of every class, in the order of the model's labels.",
        },
        warnings={**_NAMES, "description": "What is odd about the samples, as their range."},
        outputs={"type": "object", "additionalProperties": {"type": "array"}},
    )


def _requests(models: Iterable[ServedModel]) -> dict[str, Schema]:
    """What each model takes: tensors by the protocol, and raw rows."""
    found = {}
    for model in models:
        signature = model.manifest.signature
        outputs = [spec.name for spec in signature.outputs]
        found[f"infer.{model.name}"] = _infer_request(signature.inputs, outputs)
        found[f"predict.{model.name}"] = _predict_request(signature.inputs)
    return found


def _infer_request(inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> Schema:
    wanted = _object(name={"enum": list(outputs)})
    wanted["properties"]["parameters"] = {
        "type": "object",
        "properties": {"binary_data": {"type": "boolean"}},
    }
    tensors = [_tensor(spec) for spec in inputs]
    found = _object(
        inputs={
            "type": "array",
            "minItems": len(tensors),
            "maxItems": len(tensors),
            "items": tensors[0] if len(tensors) == 1 else {"anyOf": tensors},
        }
    )
    timeout = {**_COUNT, "description": "Microseconds until which an answer is of use; 0 for any time."}
    found["properties"] |= {
        "id": {**_TEXT, "description": "Given back with the answer."},
        "parameters": {
            "type": "object",
            "properties": {"timeout": timeout, "binary_data_output": {"type": "boolean"}},
        },
        "outputs": {"type": "array", "items": wanted, "description": "Default: all."},
    }
    return found


def _tensor(spec: TensorSpec) -> Schema:
    """One input of an infer request: its values in JSON, or how many bytes of them stand behind it."""
    flat = {"type": "array", "items": _value(spec)}
    nested = _nested(spec, [None] * len(spec.shape))
    sizes = [{"const": size} if isinstance(size, int) else _free_size(size) for size in spec.shape]
    found = _object(
        name={"const": spec.name},
        datatype={"const": DATATYPES[spec.dtype]},
        shape={"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
    )
    found["properties"] |= {
        "data": flat if len(sizes) < 2 else {"anyOf": [flat, nested]},
        "parameters": {"type": "object", "properties": {"binary_data_size": _COUNT}},
    }
    return found


def _predict_request(inputs: Sequence[TensorSpec]) -> Schema:
    """Rows by input; the axis of samples may be left out for one sample."""
    rows = {}
    for spec in inputs:
        sizes = [size if isinstance(size, int) else None for size in spec.shape]
        batch = _nested(spec, sizes)
        single = len(sizes) > 1 and sizes[0] is None
        rows[spec.name] = {"anyOf": [batch, _nested(spec, sizes[1:])]} if single else batch
    return {
        **_object(inputs={**_object(**rows), "additionalProperties": False}),
        "additionalProperties": False,
    }


def _nested(spec: TensorSpec, sizes: Sequence[int | None]) -> Schema:
    """Lists in lists, of known sizes where there is one."""
    found = _value(spec)
    for size in reversed(sizes):
        least, most = (1, {}) if size is None else (size, {"maxItems": size})
        found = {"type": "array", "items": found, "minItems": least, **most}
    return found


def _value(spec: TensorSpec) -> Schema:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return {"type": "boolean"}
    if dtype.kind == "f":
        return {"type": "number"}
    limits = np.iinfo(dtype)
    return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}


def _free_size(name: str) -> Schema:
    return {"type": "integer", "minimum": 1, "description": name}


def _datatype() -> Schema:
    return {"enum": list(DATATYPES.values())}


def _object(**properties: Schema) -> Schema:
    """An object with these keys, and perhaps others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _any_of(kind: str, models: Sequence[ServedModel]) -> Schema:
    """The request of one of the models, since JSON Schema cannot look at the path."""
    known = [_ref(f"{kind}.{model.name}") for model in models]
    if not known:
        return {"type": "object"}
    return known[0] if len(known) == 1 else {"anyOf": known}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
