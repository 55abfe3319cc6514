"""What is sent and answered, as JSON Schemas: the components of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lissom.artifact import TensorSpec
from lissom.serve.repository import ServedModel, State
from lissom.serve.tensors import DATATYPES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": ["number", "null"], "description": "null where it is not finite"}
DIGEST: Schema = {"type": ["string", "null"], "description": "sha256 of the manifest of the artifact."}
NAMES: Schema = {"type": "array", "items": TEXT}


def answers() -> dict[str, Schema]:
    """What is answered, by name."""
    tensor = object_of(name=TEXT, datatype=_datatype(), shape={"type": "array", "items": {"type": "integer"}})
    tensors = {"type": "array", "items": tensor}
    state = {"enum": [one.value for one in State]}
    return {
        "Error": {**object_of(error=TEXT), "additionalProperties": False},
        "Live": object_of(live={"const": True}),
        "Ready": object_of(ready={"const": True}),
        "Server": object_of(name=TEXT, version=TEXT, extensions=NAMES),
        "Model": object_of(
            name=TEXT,
            versions=NAMES,
            platform=TEXT,
            inputs=tensors,
            outputs=tensors,
            properties=_properties(),
        ),
        "ModelReady": object_of(name=TEXT, ready={"const": True}),
        "Configuration": _configuration(),
        "Statistics": object_of(model_stats={"type": "array", "items": _statistics()}),
        "IndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "Index": {
            "type": "array",
            "items": object_of(name=TEXT, version=TEXT, state=state, reason=TEXT, digest=DIGEST),
        },
        "Swap": object_of(name=TEXT, digest=TEXT, previous=DIGEST, changed={"type": "boolean"}, message=TEXT),
        "InferResponse": _infer_response(),
        "Prediction": _prediction(),
        "Explanation": object_of(
            model=TEXT,
            label={"type": ["string", "null"]},
            score=NUMBER,
            map={"type": "array", "items": {"type": "array", "items": NUMBER}},
            method=TEXT,
            warnings=NAMES,
        ),
    }


def _properties() -> Schema:
    """What a model is besides its tensors, and what its raw inputs look like."""
    values = {"type": "array", "items": {"type": "number"}}
    steps = {"type": "array", "items": object_of(op=TEXT, input=TEXT, mean=values, std=values)}
    number: Schema = {"type": "number"}
    axes: Schema = {"type": "object", "additionalProperties": {"type": ["integer", "null"]}}
    ranges = object_of(
        input=TEXT, low=number, high=number, mean=number, std=number, nonfinite={"type": "boolean"}
    )
    return object_of(
        artifact=TEXT,
        digest=TEXT,
        precision=TEXT,
        runtime=TEXT,
        stage=TEXT,
        preprocessing={**steps, "description": "Of raw inputs, in this order: (input - mean) / std."},
        input_ranges={
            "type": "array",
            "items": ranges,
            "description": "Of the raw calibration samples; empty in older artifacts.",
        },
        batching=TEXT,
        batch_axes={
            **object_of(inputs=axes, outputs=axes, states={"type": "object"}),
            "description": "Axis of the samples of each tensor, null where it has none; and the outputs "
            "with the next values of recurrent states, which may be left out.",
        },
    )


def _configuration() -> Schema:
    many = {"type": "array", "items": {"type": "object"}}
    tensors = {
        "type": "array",
        "items": object_of(name=TEXT, data_type=TEXT, dims={"type": "array", "items": {"type": "integer"}}),
    }
    return object_of(
        name=TEXT,
        platform=TEXT,
        backend=TEXT,
        max_batch_size=COUNT,
        input=tensors,
        output=tensors,
        instance_group=many,
        dynamic_batching={"type": "object"},
        parameters={"type": "object", "additionalProperties": object_of(string_value=TEXT)},
    )


def _statistics() -> Schema:
    duration = object_of(count=COUNT, ns=COUNT)
    return object_of(
        name=TEXT,
        version=TEXT,
        last_inference=COUNT,
        inference_count=COUNT,
        execution_count=COUNT,
        inference_stats={"type": "object", "additionalProperties": duration},
        batch_stats={"type": "array", "items": {"type": "object"}},
    )


def _infer_response() -> Schema:
    output = object_of(name=TEXT, datatype=_datatype(), shape={"type": "array", "items": COUNT})
    output["properties"]["data"] = {"type": "array", "description": "Row-major; null is not finite."}
    output["properties"]["parameters"] = object_of(binary_data_size=COUNT)
    outputs = {"type": "array", "items": output}
    found = object_of(model_name=TEXT, model_version=TEXT, outputs=outputs)
    found["properties"]["id"] = TEXT
    return found


def _prediction() -> Schema:
    return object_of(
        model=TEXT,
        labels={"type": ["array", "null"], "items": TEXT},
        scores={
            "type": ["array", "null"],
            "items": {"type": "array", "items": NUMBER},
            "description": "Of every class, in the order of the model's labels.",
        },
        warnings={**NAMES, "description": "What is odd about the samples, as their range."},
        outputs={"type": "object", "additionalProperties": {"type": "array"}},
    )


def requests(models: Iterable[ServedModel]) -> dict[str, Schema]:
    """What each model takes: tensors by the protocol, and raw rows."""
    found = {}
    for model in models:
        signature = model.manifest.signature
        outputs = [spec.name for spec in signature.outputs]
        found[f"infer.{model.name}"] = _infer_request(signature.inputs, outputs)
        found[f"predict.{model.name}"] = _predict_request(signature.inputs)
    return found


def _infer_request(inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> Schema:
    wanted = object_of(name={"enum": list(outputs)})
    wanted["properties"]["parameters"] = {
        "type": "object",
        "properties": {"binary_data": {"type": "boolean"}},
    }
    tensors = [_tensor(spec) for spec in inputs]
    found = object_of(
        inputs={
            "type": "array",
            "minItems": len(tensors),
            "maxItems": len(tensors),
            "items": tensors[0] if len(tensors) == 1 else {"anyOf": tensors},
        }
    )
    timeout = {**COUNT, "description": "Microseconds until which an answer is of use; 0 for any time."}
    found["properties"] |= {
        "id": {**TEXT, "description": "Given back with the answer."},
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
    found = object_of(
        name={"const": spec.name},
        datatype={"const": DATATYPES[spec.dtype]},
        shape={"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
    )
    found["properties"] |= {
        "data": flat if len(sizes) < 2 else {"anyOf": [flat, nested]},
        "parameters": {"type": "object", "properties": {"binary_data_size": COUNT}},
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
        **object_of(inputs={**object_of(**rows), "additionalProperties": False}),
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


def object_of(**properties: Schema) -> Schema:
    """An object with these keys, and perhaps others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def any_of(kind: str, models: Sequence[ServedModel]) -> Schema:
    """The request of one of the models, since JSON Schema cannot look at the path."""
    known = [ref(f"{kind}.{model.name}") for model in models]
    if not known:
        return {"type": "object"}
    return known[0] if len(known) == 1 else {"anyOf": known}


def ref(name: str) -> Schema:
    """What stands for a schema of the document, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}
