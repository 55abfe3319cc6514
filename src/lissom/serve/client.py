"""Clients of a server of the Open Inference Protocol: tensors go and come in binary.

A request is sent again only where that cannot change what it means: when the connection was refused or broke
before an answer began, and when the server says to come back (429, 503). It is waited as long as the server's
Retry-After says, else longer each time and never the same for two callers; never beyond the deadline, which
the server is told, too. Redirects are not followed, and nothing is unpickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import http.client
import math
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import orjson

from lissom.errors import ServerError
from lissom.logs import log
from lissom.serve.messages import (
    BINARY_HEADER,
    TIMEOUT_HEADER,
    address_of,
    error_text,
    headers_of,
    infer_answer,
    infer_body,
    model_path,
)

_AGAIN = (429, 503)
_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 5.0
_SLACK_SECONDS = 0.5
"""How much longer than its deadline an answer is waited for: the server says itself that it is too late."""
_CHUNK_BYTES = 1 << 18
_MAX_MILLISECONDS = 10**9 - 1
_HINT = "is it running, and is the address right? lissom serve ARTIFACT"
Found = TypeVar("Found")


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """By name in small letters."""
    body: bytes


class _Broken(Exception):
    """The connection was refused, or broke before an answer began; the cause says how."""


class Client:
    """Asks a server; one client may be used by several threads, each of which has a connection of its own."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:3000",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
    ) -> None:
        """Say where the server is; it is not asked yet.

        Args:
            url: http:// or https://, host and port.
            api_key: Sent as `Authorization: Bearer`; default: the environment variable LISSOM_API_KEY.
            timeout: Seconds that a request takes at most with all its retries, unless it says otherwise.
            retries: How often a request is sent again.

        Raises:
            RequestError: the URL or the key is none.
        """
        self._address = address_of(url)
        self._url = url
        self._headers = headers_of(self._address, api_key)
        self._timeout, self._retries = timeout, retries
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._tls = ssl.create_default_context() if self._address.is_tls else None
        self._closed = False

    def infer(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """The outputs of a model for tensors after preprocessing.

        Args:
            model: Name of the model.
            inputs: Arrays of the model's dtypes, shape [samples, ...], by input name.
            version: Default: the one that the server chooses.
            outputs: Names of what is wanted; default: every output.
            timeout: Seconds until an answer is of no use; the server is told.

        Raises:
            RequestError: a tensor has a dtype that the protocol does not know.
            ServerError: the server cannot be reached, or answers with an error.
        """
        body, headers = infer_body(inputs, outputs)
        path = f"{model_path(model, version)}/infer"
        found = self._successful("POST", path, body, headers, timeout)
        return infer_answer(found.body, found.headers.get(BINARY_HEADER.lower()))

    def predict(
        self, inputs: Mapping[str, Any], *, model: str | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Labels, scores and outputs of raw samples, which the server preprocesses, and `warnings`.

        What the server finds odd about the samples, such as another range than the model was made for, stands
        in `warnings`, an empty list where nothing is, and in the log.

        Args:
            inputs: Arrays or lists of shape [samples, ...] by input name.
            model: Name of the model; may be left out where only one is served.
            timeout: As of `infer`.

        Raises:
            ServerError: as `infer`.
        """
        lists = {name: np.asarray(value).tolist() for name, value in inputs.items()}
        path = "/predict" if model is None else model_path(model).replace("/v2/models", "/predict", 1)
        body, headers = orjson.dumps({"inputs": lists}), {"Content-Type": "application/json"}
        document: dict[str, Any] = self._document("POST", path, body, headers, timeout)
        for text in document.get("warnings", ()):
            log.warning("%s: %s", document.get("model"), text)
        return document

    def metadata(self, model: str | None = None, *, version: str | None = None) -> dict[str, Any]:
        """What the server says of itself, or of a model: its inputs, outputs and digest.

        Raises:
            ServerError: as `infer`.
        """
        document: dict[str, Any] = self._document(
            "GET", "/v2" if model is None else model_path(model, version)
        )
        return document

    def ready(self, model: str | None = None) -> bool:
        """True when the server, or a model of it, answers; nothing is tried twice."""
        path = "/v2/health/ready" if model is None else f"{model_path(model)}/ready"
        try:
            return self._answered("GET", path, retries=0).status == 200
        except ServerError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """Every model that the server knows: name, version and state.

        Raises:
            ServerError: as `infer`.
        """
        found: list[dict[str, Any]] = self._document("POST", "/v2/repository/index", b"{}")
        return found

    def close(self) -> None:
        """Close every connection; the client asks no more."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _document(self, method: str, path: str, *request: Any) -> Any:
        found = self._successful(method, path, *request)
        try:
            return orjson.loads(found.body)
        except orjson.JSONDecodeError as exc:
            raise ServerError(f"{self._url}{path} answers no JSON: {exc}", status=found.status) from exc

    def _successful(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> _Answer:
        found = self._answered(method, path, body, headers or {}, timeout, retries=self._retries)
        if found.status == 200:
            return found
        if 300 <= found.status < 400:
            place = found.headers.get("location", "elsewhere")
            raise ServerError(
                f"{self._url}{path} points to {place[:200]}, which is not followed",
                status=found.status,
                hint="give the client that address, if it is to be trusted",
            )
        raise ServerError(error_text(found.body), status=found.status)

    def _answered(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        *,
        retries: int,
    ) -> _Answer:
        """The last answer of all tries, whatever its status."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        for attempt in range(retries + 1):
            found: _Answer | ServerError
            try:
                found = self._once(method, path, body, {**self._headers, **(headers or {})}, deadline)
                if found.status not in _AGAIN:
                    return found
                wait = _asked_wait(found.headers.get("retry-after"))
            except _Broken as exc:
                cause = exc.__cause__
                found, wait = ServerError(f"{self._url} cannot be reached: {cause}", hint=_HINT), None
            if wait is None:
                most = min(_MAX_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2**attempt)
                wait = random.uniform(most / 2, most)
            if attempt == retries or time.monotonic() + wait >= deadline:
                break
            time.sleep(wait)
        if isinstance(found, ServerError):
            raise found
        return found

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], deadline: float
    ) -> _Answer:
        """One try. A connection that was kept and has been closed meanwhile is replaced at once.

        Raises:
            _Broken: no answer began.
            ServerError: an answer came too late, or only half.
        """
        if self._closed:
            raise ServerError("the client is closed")
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            try:
                return self._exchange(connection, method, path, body, headers, deadline)
            except _Broken as exc:
                if not isinstance(exc.__cause__, ConnectionError):
                    raise
        return self._exchange(self._connection(), method, path, body, headers, deadline)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._address.host, self._address.port
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, context=self._tls)
        return http.client.HTTPConnection(host, port)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        deadline: float,
    ) -> _Answer:
        left = max(deadline - time.monotonic(), 0.001)
        milliseconds = min(math.ceil(left * 1e3), _MAX_MILLISECONDS)
        kept = False
        try:
            connection.timeout = left + _SLACK_SECONDS
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            response = _begun(
                connection,
                method,
                self._address.prefix + path,
                body,
                {**headers, TIMEOUT_HEADER: str(milliseconds)},
            )
            found = self._read(connection, response, deadline + _SLACK_SECONDS)
            kept = not response.will_close and not self._closed
            return found
        except TimeoutError as exc:
            raise ServerError(f"{self._url} did not answer within {left:.3g} s", hint=_HINT) from exc
        except (http.client.HTTPException, OSError) as exc:
            if isinstance(exc, ssl.SSLError):
                raise ServerError(f"{self._url} cannot be trusted: {exc}") from exc
            text = f"the answer of {self._url} broke off: {type(exc).__name__}: {exc}"
            raise ServerError(text, hint=_HINT) from exc
        finally:
            if kept:
                self._idle.append(connection)
            else:
                connection.close()

    def _read(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, until: float
    ) -> _Answer:
        """The whole body; a server that sends it drop by drop is not waited for longer than others."""
        headers = {name.lower(): value for name, value in response.getheaders()}
        chunks, size = [], 0
        while chunk := response.read1(_CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left)
        response.close()
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) != size and response.status not in (204, 304):
            raise http.client.IncompleteRead(b"", int(declared) - size)
        return _Answer(response.status, headers, b"".join(chunks))


class AsyncClient:
    """Asks a server without blocking the event loop; what `Client` does, each request in a thread.

    A task that is cancelled no longer waits; its request ends by itself, by the deadline at the latest.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:3000",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        connections: int = 32,
    ) -> None:
        """Say where the server is; it is not asked yet.

        Args:
            url: As of `Client`.
            api_key: As of `Client`.
            timeout: As of `Client`.
            retries: As of `Client`.
            connections: Requests that are under way at once; more wait.

        Raises:
            RequestError: the URL or the key is none.
        """
        self._client = Client(url, api_key=api_key, timeout=timeout, retries=retries)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="lissom-client")

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """As `Client.infer`."""
        options = {"version": version, "outputs": outputs, "timeout": timeout}
        return await self._run(partial(self._client.infer, model, inputs, **options))  # type: ignore[arg-type]

    async def predict(
        self, inputs: Mapping[str, Any], *, model: str | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """As `Client.predict`."""
        return await self._run(partial(self._client.predict, inputs, model=model, timeout=timeout))

    async def metadata(self, model: str | None = None, *, version: str | None = None) -> dict[str, Any]:
        """As `Client.metadata`."""
        return await self._run(partial(self._client.metadata, model, version=version))

    async def ready(self, model: str | None = None) -> bool:
        """As `Client.ready`."""
        return await self._run(partial(self._client.ready, model))

    async def models(self) -> list[dict[str, Any]]:
        """As `Client.models`."""
        return await self._run(self._client.models)

    async def close(self) -> None:
        """Wait for what is under way, and close every connection."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Callable[[], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _begun(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> http.client.HTTPResponse:
    """The response once its head is there.

    Raises:
        _Broken: the connection was refused, or broke before.
        TimeoutError: nothing came in time.
    """
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        with contextlib.suppress(BrokenPipeError):  # refused before it was whole: the answer says why
            connection.endheaders(body)
        return connection.getresponse()
    except (TimeoutError, ssl.SSLError):
        raise
    except OSError as exc:  # refused, reset, or a name that is not known
        raise _Broken from exc


def _asked_wait(header: str | None) -> float | None:
    """Seconds that a Retry-After asks for, as a number or a date; None where it says nothing of use."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
