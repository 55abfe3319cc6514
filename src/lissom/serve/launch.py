"""Start the server as a process of its own, watch it, and leave nothing behind.

The launcher checks what can be checked, runs `bentoml serve` with a private home folder, waits until the
server is ready, and then until it ends. SIGINT and SIGTERM are passed on: requests that were begun are
finished, then the server ends.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lissom.errors import LissomError, RequestError
from lissom.logs import log
from lissom.serve import environment
from lissom.serve.environment import Settings
from lissom.serve.keys import read_keys
from lissom.serve.process import Process
from lissom.serve.repository import check_artifacts

SERVICE = "lissom.serve.service:ModelService"
GRACE_SECONDS = 30
"""How long requests that were begun may go on after the signal to stop."""
READY_SECONDS = 600.0
_POLL_SECONDS = 0.1


class Address(NamedTuple):
    """Where the server listens: an IP address, and a port that was free."""

    ip: str
    port: int

    @property
    def url(self) -> str:
        """How a client on this machine reaches the server."""
        return (
            f"http://[{self.local_ip}]:{self.port}"
            if ":" in self.ip
            else f"http://{self.local_ip}:{self.port}"
        )

    @property
    def local_ip(self) -> str:
        """The loopback address where the server listens on every address."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.ip, self.ip)


def serve(
    artifacts: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 3000,
    runtime: str | None = None,
    threads: int | None = None,
    keys: Path | None = None,
    rate_limit: float | None = None,
    on_ready: Callable[[str], None] | None = None,
    on_log: Callable[[str], None] | None = None,
    ready_seconds: float = READY_SECONDS,
) -> int:
    """Serve artifacts until a signal ends it; gives the exit code.

    Args:
        artifacts: Folders of artifacts.
        host: Name or address to listen on.
        port: Port to listen on; 0 takes a free one.
        runtime: Runtime of every model; default: the fastest by measurement on this kind of machine.
        threads: Threads of one call; default: every core this process may use.
        keys: File of API keys; needed for every host but this machine's own.
        rate_limit: Requests a second of each key; default: any number.
        on_ready: Called once with the URL, when every model is warm.
        on_log: Called, from a thread, with every line that the server writes.
        ready_seconds: How long loading may take.

    Raises:
        RequestError: an artifact, the runtime, the host or the port cannot be used.
        LissomError: the server did not become ready, or ended by itself.
    """
    checked = check_artifacts(artifacts, runtime=runtime)
    address = free_address(host, port)
    check_access(address, keys, rate_limit)
    artifact_paths = tuple(artifact.path for artifact in checked)
    settings = Settings(artifact_paths, runtime, threads, keys and keys.absolute(), rate_limit)
    with tempfile.TemporaryDirectory(prefix="lissom-serve-", ignore_cleanup_errors=True) as home:
        failure = Path(home, "failure.json")
        variables = child_environment(settings, Path(home), failure)
        command = child_command(address, Path(home))
        with (
            Process(command, variables, folder=Path(home), on_line=on_log or log.info) as process,
            _signals_passed_on(process),
        ):
            if _wait_until_ready(process, address, failure, ready_seconds) and on_ready is not None:
                on_ready(address.url)
            return _wait_until_ended(process, failure)


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


def child_command(address: Address, home: Path) -> list[str]:
    """The command of the server; its working folder is empty, so that no file of the user is imported."""
    return [
        *(sys.executable, "-m", "bentoml", "serve", SERVICE),
        *("--host", address.ip, "--port", str(address.port), "--working-dir", str(home)),
        *("--timeout-graceful-shutdown", str(GRACE_SECONDS)),
    ]


def child_environment(settings: Settings, home: Path, failure: Path) -> dict[str, str]:
    """The environment of the server: ours, private folders, no telemetry."""
    python_path = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        **settings.variables(),
        environment.FOLDER: str(Path.cwd()),
        environment.FAILURE: str(failure),
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


def _wait_until_ready(process: Process, address: Address, failure: Path, ready_seconds: float) -> bool:
    """True when the server is ready, False when it was told to stop before.

    Raises:
        LissomError: a worker ended, or the time is over.
    """
    deadline = time.monotonic() + ready_seconds
    while not process.stopping:
        if process.lost_a_worker():
            raise environment.read_failure(failure) or LissomError(
                f"the server could not start; the end of its log:\n{process.last_lines()}"
            )
        if _is_ready(address):
            return True
        if time.monotonic() > deadline:
            raise LissomError(
                f"the server was not ready after {ready_seconds:g} s; the end of its log:\n"
                f"{process.last_lines()}"
            )
        time.sleep(_POLL_SECONDS)
    return False


def _wait_until_ended(process: Process, failure: Path) -> int:
    code = process.wait()
    if process.stopping:
        return 0
    raise environment.read_failure(failure) or LissomError(
        f"the server ended by itself with the exit code {code}; the end of its log:\n{process.last_lines()}"
    )


def _is_ready(address: Address) -> bool:
    connection = http.client.HTTPConnection(address.local_ip, address.port, timeout=2)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
