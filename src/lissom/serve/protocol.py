"""The Open Inference Protocol, version 2, in JSON: what a request asks for, and what is answered.

Tensors are those of the manifest's signature, after preprocessing. `data` may be flat or nested; numbers
that JSON cannot write (NaN, infinity) are answered as null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from reprlib import repr as shortened
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import Signature, TensorSpec
from lissom.errors import RequestError, near
from lissom.serve.tensors import DATATYPES, MAX_NAME, array_from_json, check_names, check_shapes


class InferRequest(NamedTuple):
    """What one request to `infer` asks for."""

    id: str | None
    inputs: dict[str, np.ndarray]
    outputs: list[str]


def infer_request(document: Mapping[str, Any], signature: Signature) -> InferRequest:
    """Read a request.

    Raises:
        RequestError: it does not fit the protocol or the signature.
    """
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(f"'id' is {shortened(request_id)}; the protocol wants a string")
    entries = _entries(document, "inputs")
    specs = {spec.name: spec for spec in signature.inputs}
    check_names([entry["name"] for entry in entries], specs)
    inputs = {entry["name"]: _tensor(entry, specs[entry["name"]]) for entry in entries}
    check_shapes(inputs, specs)
    return InferRequest(request_id, inputs, _wanted_outputs(document, signature))


def infer_response(
    request: InferRequest, outputs: Mapping[str, np.ndarray], *, model: str, version: str
) -> dict[str, Any]:
    """Write the answer; its arrays are serialised by the caller."""
    response: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        response["id"] = request.id
    response["outputs"] = [
        {
            "name": name,
            "datatype": DATATYPES[outputs[name].dtype.name],
            "shape": list(outputs[name].shape),
            "data": np.ascontiguousarray(outputs[name]).reshape(-1),
        }
        for name in request.outputs
    ]
    return response


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """Name, datatype and shape of a tensor; a size that may vary is -1."""
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}


def _entries(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list):
        found = "missing" if entries is None else f"{type(entries).__name__}"
        raise RequestError(f"{key!r} is {found}; the protocol wants a list of tensors")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RequestError(f"every entry of {key!r} is an object with a 'name'")
    return entries


def _tensor(entry: Mapping[str, Any], spec: TensorSpec) -> np.ndarray:
    datatype, wanted = entry.get("datatype"), DATATYPES[spec.dtype]
    if datatype != wanted:
        raise RequestError(
            f"input {spec.name!r} has the datatype {shortened(datatype)}, the model takes {wanted!r}"
        )
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise RequestError(
            f"input {spec.name!r} has the shape {shortened(shape)}; a list of sizes was expected"
        )
    if len(shape) != len(spec.shape):  # before the product: that of a million sizes would take minutes
        wanted = ", ".join(str(size) for size in spec.shape)
        raise RequestError(
            f"input {spec.name!r} has the shape {shortened(shape)}, the model takes [{wanted}]"
        )
    if "data" not in entry:
        binary = "; binary tensors are not taken" if "binary_data_size" in _parameters(entry) else ""
        raise RequestError(f"input {spec.name!r} has no 'data'{binary}")
    if not isinstance(entry["data"], list):
        raise RequestError(f"'data' of input {spec.name!r} is not a list")
    array = array_from_json(entry["data"], spec)
    if array.ndim > 1 and list(array.shape) != shape:
        raise RequestError(f"input {spec.name!r} has the shape {shape}, its lists have {list(array.shape)}")
    if array.size != math.prod(shape):
        raise RequestError(
            f"input {spec.name!r} has {array.size} values, its shape {shape} wants {math.prod(shape)}"
        )
    return array.reshape(shape)


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = entry.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def _wanted_outputs(document: Mapping[str, Any], signature: Signature) -> list[str]:
    """Names of the outputs to answer with, in the order asked for; all of them when none is named."""
    known = [spec.name for spec in signature.outputs]
    if not document.get("outputs"):
        return known
    wanted = [entry["name"] for entry in _entries(document, "outputs")]
    for name in wanted:
        if name not in known:
            raise RequestError(f"the model has no output {shortened(name)}; {near(name[:MAX_NAME], known)}")
        if wanted.count(name) > 1:
            raise RequestError(f"output {name!r} is asked for twice")
    return wanted
