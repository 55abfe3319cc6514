"""Start the server as a process of its own, watch it, and leave nothing behind.

The launcher checks what can be checked, runs `bentoml serve` with a private home folder, waits until the
server is ready, and then until it ends. SIGINT and SIGTERM are passed on: requests that were begun are
finished, then the server ends.

The launcher asks the server itself whether it is ready. Where clients must show a certificate it has none to
show, and waits for the file that the server then leaves.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Unpack

from lissom.errors import LissomError, RequestError
from lissom.logs import log
from lissom.options import ServeOptions
from lissom.serve import environment
from lissom.serve.access_log import STDERR
from lissom.serve.certificates import Tls, check_tls
from lissom.serve.environment import Settings
from lissom.serve.keys import read_keys
from lissom.serve.naming import Source, named_sources
from lissom.serve.process import Process
from lissom.serve.repository import check_artifacts

SERVICE = "lissom.serve.service:ModelService"
GRACE_SECONDS = 30
"""How long requests that were begun may go on after the signal to stop."""
READY_SECONDS = 600.0
READY_NAME = "ready"
RESPAWN_SECONDS = 120.0
"""How long it may take until another worker is in the place of one that died."""
_POLL_SECONDS = 0.1
_WATCH_SECONDS = 1.0


class Address(NamedTuple):
    """Where the server listens: an IP address, a port that was free, and whether with TLS."""

    ip: str
    port: int
    is_tls: bool = False

    @property
    def url(self) -> str:
        """How a client on this machine reaches the server."""
        scheme = "https" if self.is_tls else "http"
        host = f"[{self.local_ip}]" if ":" in self.ip else self.local_ip
        return f"{scheme}://{host}:{self.port}"

    @property
    def local_ip(self) -> str:
        """The loopback address where the server listens on every address."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.ip, self.ip)


def serve(
    artifacts: Sequence[str | Path],
    *,
    on_ready: Callable[[str], None] | None = None,
    on_log: Callable[[str], None] | None = None,
    ready_seconds: float = READY_SECONDS,
    **options: Unpack[ServeOptions],
) -> int:
    """Serve artifacts until a signal ends it; gives the exit code.

    Args:
        artifacts: Folders of artifacts, or NAME=PATH.
        on_ready: Called once with the URL, when every model is warm.
        on_log: Called, from a thread, with every line that the server writes.
        ready_seconds: How long loading may take.
        options: How the models are served, where, and to whom.

    Raises:
        RequestError: an artifact, the runtime, the host, the port or a file cannot be used.
        LissomError: the server did not become ready, or ended by itself.
    """
    sources = named_sources(artifacts, options.get("names"))
    check_artifacts(sources, runtime=options.get("runtime"))
    tls = check_tls(*(_path(options, name) for name in ("tls_cert", "tls_key", "tls_ca")))
    host, port = options.get("host", "127.0.0.1"), options.get("port", 3000)
    address = free_address(host, port)._replace(is_tls=tls is not None)
    keys = _path(options, "keys")
    check_access(address, keys, options.get("rate_limit"))
    warn_of_clear_text(address)
    settings = _settings(sources, keys, options)
    with tempfile.TemporaryDirectory(prefix="lissom-serve-", ignore_cleanup_errors=True) as home:
        failure = Path(home, "failure.json")
        variables = child_environment(settings, Path(home), failure)
        command = child_command(address, Path(home), tls)
        wait = partial(_wait_until_ready, is_ready=_readiness(address, tls, Path(home)), failure=failure)
        with (
            Process(command, variables, folder=Path(home), on_line=on_log or log.info) as process,
            _signals_passed_on(process),
        ):
            if wait(process, seconds=ready_seconds) and on_ready is not None:
                on_ready(address.url)
            return _wait_until_ended(process, failure, wait)


def check_log(file: Path) -> None:
    """Prove that the access log can be written.

    Raises:
        RequestError: it cannot.
    """
    try:
        file.open("ab").close()
    except OSError as exc:
        raise RequestError(
            f"the access log {file} cannot be written: {exc.strerror}",
            hint="--access-log FILE, or - for stderr",
        ) from exc


def _path(options: ServeOptions, name: str) -> Path | None:
    found = options.get(name)
    return None if found is None else Path(str(found)).absolute()


def _settings(sources: Sequence[Source], keys: Path | None, options: ServeOptions) -> Settings:
    """What the server is told; its working folder is another."""
    log_file = options.get("access_log")
    if log_file is not None and str(log_file) != STDERR:
        log_file = Path(log_file).absolute()
        check_log(log_file)
    return Settings(
        tuple(Path(str(source)) for source in sources),
        runtime=options.get("runtime"),
        threads=options.get("threads"),
        max_batch=options.get("max_batch"),
        max_waiting=options.get("max_waiting"),
        max_delay_ms=options.get("max_delay_ms"),
        keys=keys,
        rate_limit=options.get("rate_limit"),
        access_log=None if log_file is None else str(log_file),
        drain_seconds=options.get("drain_seconds"),
        keep_alive=options.get("keep_alive"),
        allow_nonfinite=options.get("allow_nonfinite", False),
        range_check=options.get("range_check", "warn"),
    )


def free_address(host: str, port: int) -> Address:
    """Resolve the host and prove that the port can be bound.

    Raises:
        RequestError: the host is unknown, or the port is in use, forbidden or no port.
    """
    if not host:
        raise RequestError(
            "the host is empty", hint="--host 127.0.0.1, or 0.0.0.0 for every address of this machine"
        )
    if not 0 <= port <= 65535:
        raise RequestError(f"{port} is not a port", hint="name one from 1 to 65535")
    try:
        family, kind, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found)
            ip, free_port = probe.getsockname()[:2]
            probe.listen()
    except (OSError, UnicodeError) as exc:
        raise _unusable(host, port, exc) from exc
    return Address(str(ipaddress.ip_address(ip)), free_port)


def check_access(address: Address, keys: Path | None, rate_limit: float | None) -> None:
    """Refuse to serve others than this machine without keys.

    Raises:
        RequestError: keys are needed, or cannot be read.
    """
    if keys is not None:
        read_keys(keys)
        return
    if rate_limit is not None:
        raise RequestError("a rate limit is one of each key, and no keys are given", hint="--keys FILE")
    if not ipaddress.ip_address(address.ip).is_loopback:
        raise RequestError(
            f"{address.ip} can be reached by other machines, and no keys are given",
            hint="lissom serve --new-key NAME --keys FILE makes a key; then add --keys FILE",
        )


def warn_of_clear_text(address: Address) -> None:
    """Say so where keys and samples cross a network unencrypted."""
    if not address.is_tls and not ipaddress.ip_address(address.ip).is_loopback:
        log.warning(
            "%s is answered without TLS: keys and samples travel in the clear; add --tls-cert FILE --tls-key "
            "FILE, or let only a proxy with TLS reach it",
            address.ip,
        )


def child_command(address: Address, home: Path, tls: Tls | None = None) -> list[str]:
    """The command of the server; its working folder is empty, so that no file of the user is imported."""
    return [
        *(sys.executable, "-m", "bentoml", "serve", SERVICE),
        *("--host", address.ip, "--port", str(address.port), "--working-dir", str(home)),
        *("--timeout-graceful-shutdown", str(GRACE_SECONDS)),
        *(tls.options() if tls is not None else ()),
    ]


def child_environment(settings: Settings, home: Path, failure: Path) -> dict[str, str]:
    """The environment of the server: ours, private folders, no telemetry."""
    python_path = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        **settings.variables(),
        environment.FOLDER: str(Path.cwd()),
        environment.FAILURE: str(failure),
        environment.READY: str(home / READY_NAME),
        environment.PARENT: str(os.getpid()),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "OTEL_SDK_DISABLED": "true",
        "PYTHONPATH": os.pathsep.join(
            str(Path(part).absolute()) for part in python_path.split(os.pathsep) if part
        ),
        "PYTHONUNBUFFERED": "1",
    }


def _unusable(host: str, port: int, exc: OSError | UnicodeError) -> RequestError:
    if isinstance(exc, socket.gaierror | UnicodeError):
        return RequestError(f"the host {host!r} is unknown: {exc}", hint="--host 127.0.0.1")
    if isinstance(exc, PermissionError):
        return RequestError(
            f"port {port} may not be used by this user", hint="name one above 1023, as in --port 3000"
        )
    return RequestError(
        f"port {port} of {host} cannot be used: {os.strerror(exc.errno or 0)}",
        hint=f"stop the other server, or name another port, as in --port {port % 65535 + 1}",
    )


@contextlib.contextmanager
def _signals_passed_on(process: Process) -> Iterator[None]:
    """SIGINT and SIGTERM stop the server; the second one stops it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread handle signals
        return

    def stop(number: int, frame: object) -> None:
        process.stop(GRACE_SECONDS)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait_until_ready(
    process: Process, *, is_ready: Callable[[], bool], failure: Path, seconds: float
) -> bool:
    """True when the server is ready, False when it was told to stop before.

    Raises:
        LissomError: a worker ended, or the time is over.
    """
    deadline = time.monotonic() + seconds
    while not process.stopping:
        if process.lost_a_worker():
            raise environment.read_failure(failure) or LissomError(
                f"the server could not start; the end of its log:\n{process.last_lines()}"
            )
        if is_ready():
            return True
        if time.monotonic() > deadline:
            raise LissomError(
                f"the server was not ready after {seconds:g} s; the end of its log:\n{process.last_lines()}"
            )
        time.sleep(_POLL_SECONDS)
    return False


def _wait_until_ended(process: Process, failure: Path, wait: Callable[..., bool]) -> int:
    """Watch the server until it ends; a worker that dies has one more, which must become ready.

    Raises:
        LissomError: the server ended by itself, or the worker in the place of a dead one died as well.
    """
    while (code := process.wait(_WATCH_SECONDS)) is None:
        if not process.stopping and process.lost_a_worker():
            log.warning("a worker of the server died; another is being started")
            process.forget_workers()
            for left in (failure, failure.with_name(READY_NAME)):
                left.unlink(missing_ok=True)
            wait(process, seconds=RESPAWN_SECONDS)
    if process.stopping:
        return 0
    raise environment.read_failure(failure) or LissomError(
        f"the server ended by itself with the exit code {code}; the end of its log:\n{process.last_lines()}"
    )


def _readiness(address: Address, tls: Tls | None, home: Path) -> Callable[[], bool]:
    """How the launcher learns that every model is warm."""
    if tls is not None and tls.client_authority is not None:
        return (home / READY_NAME).exists
    context = tls.client_context() if tls is not None else None
    return partial(_answers_ready, address, context)


def _answers_ready(address: Address, context: ssl.SSLContext | None) -> bool:
    host, port = address.local_ip, address.port
    connection = (
        http.client.HTTPConnection(host, port, timeout=2)
        if context is None
        else http.client.HTTPSConnection(host, port, timeout=2, context=context)
    )
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
