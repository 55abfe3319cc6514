"""The Open Inference Protocol, version 2: what a request asks for, and what is answered.

Tensors are those of the manifest's signature, after preprocessing. In JSON, `data` may be flat or nested;
numbers that JSON cannot write (NaN, infinity) are answered as null. By the binary tensor extension they stand
behind the JSON, little-endian and in row-major order, one after the other in the order of `inputs`. A body
without JSON is the one input of a model, for one sample. Whether NaN and infinity are taken is asked later.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import cache, lru_cache
from reprlib import repr as shortened
from typing import Any, NamedTuple

import numpy as np
import orjson

from lissom.artifact import Signature, TensorSpec
from lissom.errors import RequestError, near
from lissom.runtime.arrays import json_bytes, little_endian_bytes, plain
from lissom.runtime.layout import SAMPLES, states_of
from lissom.serve.bodies import parse_object
from lissom.serve.tensors import BY_DTYPE, DATATYPES, MAX_NAME, array_from_json, check_names, check_shapes

_MAX_HEADS = 256
_MAX_HEAD = 4096
"""Bytes of JSON that are kept."""


class InferRequest(NamedTuple):
    """What one request to `infer` asks for.

    Attributes:
        id: Given back with the answer.
        inputs: Tensors by name.
        outputs: Names of the outputs, in order, and whether each is answered in binary.
        timeout: Seconds until which an answer is of use; None for any time.
    """

    id: str | None
    inputs: dict[str, np.ndarray]
    outputs: dict[str, bool]
    timeout: float | None = None


def infer_request(
    document: Mapping[str, Any],
    signature: Signature,
    binary: memoryview | None = None,
    *,
    checked: Collection[str] | None = None,
) -> InferRequest:
    """Read a request.

    Args:
        document: The JSON.
        signature: Of the model.
        binary: What stands behind the JSON; None for a request without the header.
        checked: Names of the inputs that must be finite; None for all.

    Raises:
        RequestError: it does not fit the protocol or the signature.
    """
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(f"'id' is {shortened(request_id)}; the protocol wants a string")
    entries = _entries(document, "inputs")
    specs = {spec.name: spec for spec in signature.inputs}
    check_names([entry["name"] for entry in entries], specs, states_of(signature))
    reader = _Reader(binary)
    inputs = {entry["name"]: _tensor(entry, specs[entry["name"]], reader, checked) for entry in entries}
    reader.check_empty()
    check_shapes(inputs, specs)
    parameters = _parameters(document)
    return InferRequest(request_id, inputs, _wanted_outputs(document, signature), _timeout(parameters))


class Heads:
    """Reads binary requests of one model; what the same JSON says again is known.

    A client sends the same JSON before every tensor of one shape, and to parse and check it costs more than a
    small model does. Only JSON that was read without an error, has no id and no data of its own is kept.
    """

    def __init__(self, signature: Signature, checked: Collection[str] | None = None) -> None:
        """Know nothing yet.

        Args:
            signature: Of the model.
            checked: Names of the inputs that must be finite; None for all.
        """
        self._signature, self._checked = signature, checked
        self._known: dict[bytes, _Head] = {}

    def request(self, head: bytes, binary: memoryview) -> InferRequest:
        """A request from its JSON and what stands behind.

        Raises:
            RequestError: as `infer_request`.
        """
        if (known := self._known.get(head)) is not None and len(binary) == known.size:
            place, inputs = 0, {}
            for spec, shape, size in known.inputs:
                inputs[spec.name] = _from_bytes(binary[place : place + size], spec, shape)
                place += size
            return InferRequest(None, inputs, known.outputs, known.timeout)
        document = parse_object(head)
        request = infer_request(document, self._signature, binary, checked=self._checked)
        self._remember(head, document, request)
        return request

    def _remember(self, head: bytes, document: Mapping[str, Any], request: InferRequest) -> None:
        entries = document["inputs"]
        if request.id is not None or len(head) > _MAX_HEAD or any("data" in entry for entry in entries):
            return
        if len(self._known) >= _MAX_HEADS:  # whoever sends so many is not slowed down much by this
            self._known.clear()
        specs = {spec.name: spec for spec in self._signature.inputs}
        inputs = [
            (specs[entry["name"]], entry["shape"], entry["parameters"]["binary_data_size"])
            for entry in entries
        ]
        size = sum(size for _, _, size in inputs)
        self._known[head] = _Head(inputs, size, request.outputs, request.timeout)


class _Head(NamedTuple):
    """What the JSON of a binary request says: spec, shape and bytes of the inputs, and the rest of it."""

    inputs: list[tuple[TensorSpec, list[int], int]]
    size: int
    outputs: dict[str, bool]
    timeout: float | None


def raw_request(signature: Signature, binary: memoryview) -> InferRequest:
    """A request whose body is nothing but the one input of one sample; every output is answered in binary.

    Raises:
        RequestError: the model has several inputs or axes of free size, or the size is another.
    """
    spec = signature.inputs[0]
    sizes = [1 if size == SAMPLES else size for size in spec.shape]
    if sizes and isinstance(sizes[0], str) and SAMPLES not in spec.shape:  # it may have another name
        sizes[0] = 1
    if len(signature.inputs) > 1 or not all(isinstance(size, int) for size in sizes):
        raise RequestError("a body without JSON needs a model with one input, whose sizes are known")
    shape = [int(size) for size in sizes]
    inputs = {spec.name: _from_bytes(binary, spec, shape)}
    return InferRequest(None, inputs, dict.fromkeys((one.name for one in signature.outputs), True))


def infer_response(
    request: InferRequest, outputs: Mapping[str, np.ndarray], model: str, version: str
) -> tuple[bytes, int | None]:
    """The body of the answer, and how many bytes of it are JSON; None where all are."""
    arrays = {name: plain(outputs[name]) for name in request.outputs}
    if request.id is None and all(request.outputs.values()):
        told = tuple((name, array.dtype, array.shape, array.nbytes) for name, array in arrays.items())
        head = _binary_head(model, version, told)
        return b"".join([head, *(little_endian_bytes(array) for array in arrays.values())]), len(head)
    response: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        response["id"] = request.id
    in_binary = [name for name, is_binary in request.outputs.items() if is_binary]
    response["outputs"] = [
        _told_binary(name, array.dtype, array.shape, array.nbytes)
        if name in in_binary
        else {**_told(name, array.dtype, array.shape), "data": array.reshape(-1)}
        for name, array in arrays.items()
    ]
    document = json_bytes(response)
    if not in_binary:
        return document, None
    return b"".join([document, *(little_endian_bytes(arrays[name]) for name in in_binary)]), len(document)


@lru_cache(maxsize=256)
def _binary_head(
    model: str, version: str, outputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...], int], ...]
) -> bytes:
    """The JSON of an answer whose outputs all stand behind it: the same for all requests of one size."""
    entries = [_told_binary(*output) for output in outputs]
    return orjson.dumps({"model_name": model, "model_version": version, "outputs": entries})


def _told(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": BY_DTYPE[dtype], "shape": list(shape)}


def _told_binary(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> dict[str, Any]:
    return {**_told(name, dtype, shape), "parameters": {"binary_data_size": size}}


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


class _Reader:
    """Takes the tensors behind the JSON one by one."""

    def __init__(self, binary: memoryview | None) -> None:
        self._binary, self._place = binary, 0

    def take(self, size: Any, name: str) -> memoryview:
        """The next bytes.

        Raises:
            RequestError: the size is no size, or there are not so many bytes.
        """
        if type(size) is not int or size < 0:
            raise RequestError(f"'binary_data_size' of input {name!r} is {shortened(size)}")
        if self._binary is None:
            raise RequestError(
                f"input {name!r} is said to be binary, but Inference-Header-Content-Length is not given"
            )
        left = len(self._binary) - self._place
        if size > left:
            raise RequestError(f"input {name!r} has {size:,} bytes, {left:,} are left behind the JSON")
        self._place += size
        return self._binary[self._place - size : self._place]

    def check_empty(self) -> None:
        """Refuse bytes that belong to no input."""
        left = len(self._binary) - self._place if self._binary is not None else 0
        if left:
            raise RequestError(f"{left:,} bytes behind the JSON belong to no input")


def _from_bytes(binary: memoryview, spec: TensorSpec, shape: list[int]) -> np.ndarray:
    """A tensor of its own memory, aligned and writable, as engines want it."""
    dtype = _little_endian(spec.dtype)
    wanted = math.prod(shape) * dtype.itemsize
    if len(binary) != wanted:
        raise RequestError(
            f"input {spec.name!r} has {len(binary):,} bytes, its shape {shape} wants {wanted:,}"
        )
    if dtype.kind == "b" and (np.frombuffer(binary, np.uint8) > 1).any():
        raise RequestError(f"input {spec.name!r} holds bytes that are neither 0 nor 1")
    return np.array(np.frombuffer(binary, dtype).reshape(shape), dtype=dtype.newbyteorder("="))


@cache
def _little_endian(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """Seconds; the protocol says microseconds, and 0 for none."""
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 0:
        raise RequestError(f"'timeout' is {shortened(timeout)}; the protocol wants microseconds")
    return timeout / 1e6 if timeout else None


def _tensor(
    entry: Mapping[str, Any], spec: TensorSpec, reader: _Reader, checked: Collection[str] | None
) -> np.ndarray:
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
    if "binary_data_size" in (parameters := _parameters(entry)):
        if "data" in entry:
            raise RequestError(f"input {spec.name!r} has both 'data' and 'binary_data_size'")
        return _from_bytes(reader.take(parameters["binary_data_size"], spec.name), spec, shape)
    if "data" not in entry:
        raise RequestError(f"input {spec.name!r} has no 'data'")
    if not isinstance(entry["data"], list):
        raise RequestError(f"'data' of input {spec.name!r} is not a list")
    array = array_from_json(entry["data"], spec, checked)
    if array.ndim > 1 and list(array.shape) != shape:
        raise RequestError(f"input {spec.name!r} has the shape {shape}, its lists have {list(array.shape)}")
    if array.size != math.prod(shape):
        raise RequestError(
            f"input {spec.name!r} has {array.size} values, its shape {shape} wants {math.prod(shape)}"
        )
    return array.reshape(shape)


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = entry.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestError(f"'parameters' is {shortened(parameters)}; the protocol wants an object")
    return parameters or {}


def _flag(parameters: Mapping[str, Any], name: str, usual: bool) -> bool:
    found = parameters.get(name, usual)
    if not isinstance(found, bool):
        raise RequestError(f"{name!r} is {shortened(found)}; the protocol wants true or false")
    return found


def _wanted_outputs(document: Mapping[str, Any], signature: Signature) -> dict[str, bool]:
    """Outputs to answer with, in the order asked for, and whether in binary; all when none is named."""
    known = [spec.name for spec in signature.outputs]
    usual = _flag(_parameters(document), "binary_data_output", False)
    if document.get("outputs") in (None, []):
        return dict.fromkeys(known, usual)
    wanted: dict[str, bool] = {}
    for entry in _entries(document, "outputs"):
        name, parameters = entry["name"], _parameters(entry)
        if name not in known:
            raise RequestError(f"the model has no output {shortened(name)}; {near(name[:MAX_NAME], known)}")
        if name in wanted:
            raise RequestError(f"output {name!r} is asked for twice")
        if parameters.get("classification"):
            raise RequestError(f"output {name!r} is asked for as classes; /predict gives labels")
        wanted[name] = _flag(parameters, "binary_data", usual)
    return wanted
