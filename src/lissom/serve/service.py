"""The BentoML service; `lissom.serve.launch` starts it and says by environment variables what it serves.

A worker answers health at once and loads its models meanwhile; it is ready when all are warm. What was
allocated until then lives as long as the worker, so it is taken out of the garbage collector's sight:
full collections over it were pauses of 100 ms. A worker that cannot load its models ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import bentoml

from lissom.errors import LissomError
from lissom.logs import log
from lissom.serve import environment
from lissom.serve.access_log import AccessLog
from lissom.serve.app import Application
from lissom.serve.environment import MOST_DRAIN_SECONDS, Settings
from lissom.serve.fast_path import FastService
from lissom.serve.keys import Keys
from lissom.serve.repository import Repository

_PR_SET_PDEATHSIG = 1
_GC_THRESHOLDS = (10_000, 20, 50)
_SWITCH_SECONDS = 5e-4
"""An engine that ends a batch waits so long at most for an event loop that is busy; Python's own is 5 ms."""
_tasks: set[asyncio.Task[None]] = set()


def end_with_parent() -> None:
    """Make this process end when the one that started it does, however that happens (Linux only).

    The launcher, BentoML's supervisor and its workers are three generations; each tells the next its id.
    """
    expected = os.environ.get(environment.PARENT)
    if expected is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(expected):  # it ended before the line above
        raise SystemExit(1)
    os.environ[environment.PARENT] = str(os.getpid())


def log_to_stderr() -> None:
    """Show the messages of lissom in the server's log."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


end_with_parent()
application = Application()


@bentoml.service(
    name="lissom",
    service_class=FastService,
    workers=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
)
@bentoml.asgi_app(application, path="/", name="models")
class ModelService:
    """Serves the artifacts that the environment names."""

    fast_app = staticmethod(application)
    fast_guard = staticmethod(application.guard)
    bento_paths = ("/metrics", "/livez", "/readyz", "/healthz")

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def load(self) -> None:
        """Begin to load; health is answered from now on."""
        log_to_stderr()
        settings = Settings.read(os.environ)
        if settings.keys is not None:  # before anybody is answered
            application.keys = Keys(settings.keys, per_second=settings.rate_limit)
        if settings.access_log is not None:
            application.access_log = AccessLog(settings.access_log)
        loop = asyncio.get_running_loop()
        _drain_on_signal(loop, settings.drain_seconds or 0.0)
        loading = loop.run_in_executor(None, _open_repository)
        loading.add_done_callback(_loaded)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def unload(self) -> None:
        """Free the engines."""
        repository, application.repository = application.repository, None
        if repository is not None:
            repository.close()
        if application.access_log is not None:
            application.access_log.close()

    def __is_ready__(self) -> bool:
        return application.is_ready

    async def __metrics__(self, told: str) -> str:
        """What BentoML measures of its own routes, and what is measured of the models."""
        return told + application.metrics()


def _drain_on_signal(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """When told to end, say so to whoever asks, finish what was begun, then let uvicorn end the worker."""
    ends = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(ends):
        return

    async def drain() -> None:
        try:
            async with asyncio.timeout(MOST_DRAIN_SECONDS):
                await asyncio.gather(application.drain(), asyncio.sleep(seconds))
        except TimeoutError:
            log.warning("requests that were begun are given up after %g s", MOST_DRAIN_SECONDS)
        finally:
            ends(signal.SIGTERM, None)

    def begin(*_: object) -> None:
        signal.signal(signal.SIGTERM, ends)  # told again, it ends at once
        loop.call_soon_threadsafe(lambda: _tasks.add(loop.create_task(drain())))

    signal.signal(signal.SIGTERM, begin)


def _open_repository() -> Repository:
    if folder := os.environ.get(environment.FOLDER):
        os.chdir(folder)  # a factory may be named by a path relative to where lissom was called
    settings = Settings.read(os.environ)
    return Repository.open(
        settings.artifacts,
        runtime=settings.runtime,
        threads=settings.threads,
        max_batch=settings.max_batch,
        max_waiting=settings.max_waiting,
        max_delay_ms=settings.max_delay_ms,
        allow_nonfinite=settings.allow_nonfinite,
        range_check=settings.range_check,
    )


def _loaded(loading: asyncio.Future[Repository]) -> None:
    if loading.cancelled():
        return
    if (exc := loading.exception()) is not None:
        log.error(
            "the models cannot be served: %s", exc, exc_info=None if isinstance(exc, LissomError) else exc
        )
        if isinstance(exc, LissomError) and (file := os.environ.get(environment.FAILURE)):
            environment.write_failure(exc, Path(file))
        signal.raise_signal(signal.SIGTERM)
        return
    application.repository = loading.result()
    for model in application.repository.models.values():
        log.info("%s is ready on %s", model.name, model.runtime.name)
    environment.write_ready()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)
