"""The Open Inference Protocol as a client writes and reads it; binary unless JSON is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import orjson

from lissom.errors import RequestError, ServerError
from lissom.runtime.arrays import little_endian_bytes
from lissom.serve.tensors import DATATYPES

BINARY_HEADER = "Inference-Header-Content-Length"
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
API_KEY = "LISSOM_API_KEY"
"""Environment variable of the key that is sent unless one is given."""
_DTYPES = {datatype: name for name, datatype in DATATYPES.items()}
_MAX_ERROR = 500


class Address(NamedTuple):
    """Where a server is."""

    host: str
    port: int
    is_tls: bool
    prefix: str
    """What stands before every path."""

    @property
    def netloc(self) -> str:
        """Host and port, as the header Host has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address_of(url: str) -> Address:
    """The address in a URL.

    Raises:
        RequestError: it is no URL of a server.

    >>> address_of("http://localhost:3000/")
    Address(host='localhost', port=3000, is_tls=False, prefix='')
    """
    hint = "such as http://127.0.0.1:3000"
    if any(ord(letter) <= ord(" ") or ord(letter) == 127 for letter in url):
        raise RequestError(f"{url!r} is no URL: it holds a space or a control character", hint=hint)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise RequestError(f"{url!r} is no URL: {exc}", hint=hint) from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"{url!r} is no URL of a server; it begins with http:// or https://", hint=hint)
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise RequestError(
            f"{url!r} holds more than a server's address", hint=f"{hint}; keys are given apart"
        )
    is_tls = parts.scheme == "https"
    usual = 443 if is_tls else 80
    return Address(
        parts.hostname, usual if port is None else port, is_tls, quote(parts.path.rstrip("/"), safe="/%")
    )


def headers_of(address: Address, api_key: str | None) -> dict[str, str]:
    """What is sent with every request: the host, and the key that is given or in the environment.

    Raises:
        RequestError: the key cannot stand in a header.
    """
    key = os.environ.get(API_KEY) if api_key is None else api_key
    if key and not (key.isascii() and key.isprintable()):
        raise RequestError("the API key holds characters that no key has", hint=f"look at {API_KEY}")
    return {"Host": address.netloc, **({"Authorization": f"Bearer {key}"} if key else {})}


def model_path(model: str, version: str | None = None) -> str:
    """The path of a model, below that of the server.

    >>> model_path("a/b", "1")
    '/v2/models/a%2Fb/versions/1'
    """
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def infer_body(
    inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None, *, as_json: bool = False
) -> tuple[bytes, dict[str, str]]:
    """A request to infer and its headers.

    Args:
        inputs: Tensors by name.
        outputs: Names of what is wanted; None for every output.
        as_json: Numbers as text, there and back, in the place of binary tensors.

    Raises:
        RequestError: a tensor has a dtype that the protocol does not know.
    """
    entries, buffers = [], []
    for name, given in inputs.items():
        array = np.asarray(given)
        if array.dtype.name not in DATATYPES:
            known = ", ".join(DATATYPES)
            raise RequestError(f"input {name!r} has the dtype {array.dtype}; the protocol takes {known}")
        entry: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if as_json:
            entry["data"] = array.reshape(-1).tolist()
        else:
            buffers.append(little_endian_bytes(array))
            entry["parameters"] = {"binary_data_size": array.nbytes}
        entries.append(entry)
    document: dict[str, Any] = {"inputs": entries}
    if not as_json:
        document["parameters"] = {"binary_data_output": True}
    if outputs is not None:
        parameters = {} if as_json else {"parameters": {"binary_data": True}}
        document["outputs"] = [{"name": name, **parameters} for name in outputs]
    head = orjson.dumps(document)
    if as_json:
        return head, {"Content-Type": "application/json"}
    binary = {"Content-Type": "application/octet-stream", BINARY_HEADER: str(len(head))}
    return b"".join([head, *buffers]), binary


def infer_answer(body: bytes, json_length: str | None) -> dict[str, np.ndarray]:
    """The outputs in an answer, by name.

    Args:
        body: The whole body.
        json_length: Value of the header that says how much of it is JSON; None where all is.

    Raises:
        ServerError: it does not follow the protocol.
    """
    try:
        length = len(body) if json_length is None else int(json_length)
        if not 0 <= length <= len(body):
            raise ValueError(f"{length} bytes of JSON in {len(body)}")
        outputs, place = {}, length
        for entry in orjson.loads(body[:length])["outputs"]:
            dtype = np.dtype(_DTYPES[entry["datatype"]])
            shape = [int(size) for size in entry["shape"]]
            if "data" in entry:
                outputs[entry["name"]] = _from_json(entry["data"], dtype).reshape(shape)
                continue
            size = int(entry["parameters"]["binary_data_size"])
            if size != math.prod(shape) * dtype.itemsize or place + size > len(body):
                raise ValueError(f"output {entry['name']!r} has {size} bytes, {len(body) - place} are left")
            found = np.frombuffer(body[place : place + size], dtype.newbyteorder("<"))
            outputs[entry["name"]] = found.reshape(shape).astype(dtype)
            place += size
    except (ValueError, KeyError, TypeError, OverflowError) as exc:
        kind = type(exc).__name__
        raise ServerError(f"the answer does not follow the protocol: {kind}: {exc}", status=200) from exc
    if place != len(body):
        raise ServerError(f"{len(body) - place} bytes of the answer belong to no output", status=200)
    return outputs


def error_text(body: bytes) -> str:
    """What a server says of an error: the text of `{"error": ...}`, else the beginning of the body."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    found = document.get("error") if isinstance(document, dict) else None
    if isinstance(found, str):
        return found[:_MAX_ERROR]
    return body[:_MAX_ERROR].decode("utf-8", "replace").strip() or "without a word"


def _from_json(data: Any, dtype: np.dtype) -> np.ndarray:
    """Numbers of JSON, in which null stands for what JSON cannot write."""
    if dtype.kind == "f":
        return np.array(data, dtype=np.float64).astype(dtype)  # None becomes NaN
    return np.array(data, dtype=dtype)
