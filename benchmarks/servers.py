"""Servers as processes of their own, and wrk that asks them: for `serving.py` and `serving_load.py`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

_LATENCY = re.compile(r"^\s+(50|75|90|99)%\s+([\d.]+)(us|ms|s)", re.MULTILINE)
_BROKEN = re.compile(r"\d+")
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Request(NamedTuple):
    """What wrk sends."""

    path: str
    body: bytes
    headers: Mapping[str, str]


def need_wrk() -> None:
    """End where wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str],
    url: str,
    log: Path,
    *,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
    seconds: float = 120.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers; it and its children are ended afterwards.

    Args:
        command: That starts it.
        url: Whatever it answers there, but 503, shows that it is ready.
        log: File of what it writes.
        variables: Of its environment, beside ours.
        folder: Where it runs.
        seconds: How long it may take.
    """
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, env={**os.environ, **(variables or {})}, cwd=folder, stdout=stream, stderr=stream
        )
        try:
            until_it_answers(process, url, log, seconds)
            yield process
        finally:
            family = family_of(process.pid)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all that it started; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    """Wait; end with the end of the log when it never does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.HTTPError as exc:
            if exc.code != 503:
                return
        except OSError:
            pass
        else:
            return
        time.sleep(0.01)
    sys.exit(f"the server does not answer:\n{log.read_text()[-2000:]}")


def wrk(
    request: Request, url: str, folder: Path, *, seconds: int, connections: int, warm_up: int = 1
) -> dict[str, Any]:
    """What wrk says of one request, asked again and again, after a short run that warms up.

    Args:
        request: It.
        url: Scheme, host and port.
        folder: For its script.
        seconds: That it asks.
        connections: That it keeps open, each with one request at a time.
        warm_up: Seconds.
    """
    script = folder / "request.lua"
    body = "".join(f"\\{byte:03d}" for byte in request.body)
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in request.headers.items())
    script.write_text(f'wrk.method = "POST"\nwrk.body = "{body}"\n{headers}')
    command = ["wrk", "-t1", f"-c{connections}", "--timeout", "30s", "--latency", "-s", str(script)]
    address = f"{url}{request.path}"
    subprocess.run([*command, f"-d{warm_up}s", address], check=True, capture_output=True)
    told = subprocess.run([*command, f"-d{seconds}s", address], check=True, capture_output=True, text=True)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told.stdout)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", told.stdout)
    broken = re.search(r"Socket errors: .*", told.stdout)
    latency = {share: float(value) * _UNITS[unit] for share, value, unit in _LATENCY.findall(told.stdout)}
    assert rate is not None, told.stdout
    return {
        "requests_per_second": float(rate[1]),
        "failed": (int(failed[1]) if failed else 0)
        + sum(map(int, _BROKEN.findall(broken[0] if broken else ""))),
        "p50_ms": latency["50"],
        "p99_ms": latency["99"],
    }


def environment_of(folder: Path, name: str, *packages: str) -> Path:
    """The Python of a virtual environment of its own, made where it is not there yet."""
    place = folder / name
    python = place / "bin" / "python"
    if not (place / "made").exists():
        print(f"installing {' '.join(packages)} into {place} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (place / "made").touch()
    return python
