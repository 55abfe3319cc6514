"""One child process with workers of its own: started, watched, and ended whatever happens."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_WORKER_MODULE = "_bentoml_impl.worker.service"
_KEPT_LINES = 20
_JOIN_SECONDS = 5.0
_DYING_SECONDS = 10.0
_ZOMBIE_SECONDS = 1.0


class Process:
    """A server in a session of its own, so that a signal reaches it only through us; a context manager."""

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        folder: Path,
        on_line: Callable[[str], None],
    ) -> None:
        self.stopping = False
        self._command = list(command)
        self._variables = dict(variables)
        self._folder = folder
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._killer: threading.Timer | None = None

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._root = psutil.Process(self._child.pid)
        self._family = {self._root}
        self._workers: set[psutil.Process] = set()
        self._dead_since: dict[psutil.Process, float] = {}
        self._forgotten: set[psutil.Process] = set()
        self._reader = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child and every descendant that was seen."""
        self._remember()
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(_DYING_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self.kill()
        self._child.wait()
        if self._killer is not None:
            self._killer.cancel()
        self._reader.join(_JOIN_SECONDS)

    def stop(self, grace_seconds: float) -> None:
        """Ask the server to end; asked again, or when the grace is over, end it at once."""
        self._remember()
        if self.stopping:
            self.kill()
            return
        self.stopping = True
        self._child.terminate()
        self._killer = threading.Timer(grace_seconds + _DYING_SECONDS, self.kill)
        self._killer.daemon = True
        self._killer.start()

    def kill(self) -> None:
        """End the child and its descendants without asking."""
        self._remember()
        for process in list(self._family):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until the child ends; gives its exit code, None when the time is over before."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def forget_workers(self) -> None:
        """Those that are gone now are no loss any more; their parent may take seconds to look at them."""
        self._workers = set(filter(_is_alive, self._workers))
        self._forgotten.update(self._dead_children())

    def lost_a_worker(self) -> bool:
        """True when the child, or a worker, is gone.

        A worker may die before it is seen alive. Then it stays a zombie until its parent looks, which a
        helper that the parent waits for does not.
        """
        self._remember()
        if self._child.poll() is not None or not all(map(_is_alive, self._workers)):
            return True
        now = time.monotonic()
        dead = self._dead_children() - self._forgotten
        self._dead_since = {process: self._dead_since.get(process, now) for process in dead}
        return any(now - since > _ZOMBIE_SECONDS for since in self._dead_since.values())

    def last_lines(self) -> str:
        """The end of what the server wrote, indented for a message."""
        if self._child.poll() is not None:
            self._reader.join(_JOIN_SECONDS)
        return "\n".join(f"  {line}" for line in self._lines) or "  (it wrote nothing)"

    def _dead_children(self) -> set[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return {process for process in self._root.children() if not _is_alive(process)}
        return set()

    def _remember(self) -> None:
        """Note the descendants of now: once their parent is gone, nothing leads to them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family.update(self._root.children(recursive=True))
            self._workers.update(filter(_is_worker, self._root.children()))

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as stream:
            for line in stream:
                self._lines.append(line.rstrip("\n"))
                # Whoever looks on may be gone; a pipe that nobody empties would block the server.
                with contextlib.suppress(OSError, ValueError):
                    self._on_line(self._lines[-1])


def _is_worker(process: psutil.Process) -> bool:
    """Short-lived children, of libraries that ask the system something, are none."""
    try:
        return _WORKER_MODULE in process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
