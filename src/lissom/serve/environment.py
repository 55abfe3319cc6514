"""What the launcher tells the server, by environment variables, and how the server says that it failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import orjson

import lissom.errors
from lissom.errors import LissomError, RequestError
from lissom.options import RangeCheck

ARTIFACTS = "LISSOM_ARTIFACTS"
FOLDER = "LISSOM_FOLDER"
FAILURE = "LISSOM_FAILURE"
READY = "LISSOM_READY"
"""File that a server leaves when every model is warm, for a launcher that has no certificate to ask with."""
PARENT = "LISSOM_PARENT"
FAST_PATH = "LISSOM_FAST_PATH"
"""0 sends every request through BentoML's own middleware."""
MOST_DRAIN_SECONDS = 30.0
MOST_KEEP_ALIVE_SECONDS = 3600.0
_READERS: dict[str, Callable[[str], Any]] = {
    "runtime": str,
    "threads": int,
    "max_batch": int,
    "max_waiting": int,
    "max_delay_ms": float,
    "keys": Path,
    "rate_limit": float,
    "access_log": str,
    "drain_seconds": float,
    "keep_alive": float,
    "allow_nonfinite": lambda text: text.lower() in ("1", "true"),
    "range_check": lambda text: _one_of(text, get_args(RangeCheck)),
}
"""Of the settings beside the artifacts; the variable of `threads` is LISSOM_THREADS."""


class Settings(NamedTuple):
    """What is served, how, and to whom.

    Attributes:
        artifacts: Folders, or NAME=PATH.
        runtime: As the others up to `max_delay_ms`: see `lissom.options.ServingOptions`.
        keys: File of API keys; None where everybody may ask.
        rate_limit: Requests a second of each key; None for any number.
        access_log: File that a line is appended to for each answer, or `-`; None for none.
        drain_seconds: How long a server that was told to end says so before it ends, for a balancer to
            notice, 0 to 30; None for no longer than requests take that were begun.
        keep_alive: Seconds that a connection is kept open without a request; None for 5.
        allow_nonfinite: As `range_check`: see `lissom.options.ServingOptions`.
    """

    artifacts: tuple[Path, ...]
    runtime: str | None = None
    threads: int | None = None
    max_batch: int | None = None
    max_waiting: int | None = None
    max_delay_ms: float | None = None
    keys: Path | None = None
    rate_limit: float | None = None
    access_log: str | None = None
    drain_seconds: float | None = None
    keep_alive: float | None = None
    allow_nonfinite: bool = False
    range_check: RangeCheck = "warn"

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Settings:
        """The settings in the environment; artifacts are a JSON list, or paths joined as in PATH.

        Raises:
            RequestError: a variable cannot be read, or two do not go together.
        """
        text = variables.get(ARTIFACTS, "").strip()
        found: dict[str, Any] = {"artifacts": tuple(Path(path) for path in _paths(text))}
        for name, reader in _READERS.items():
            if given := variables.get(_variable(name)):
                found[name] = _read(_variable(name), given, reader)
        if not 0 <= found.get("drain_seconds", 0.0) <= MOST_DRAIN_SECONDS:
            raise RequestError(f"{_variable('drain_seconds')} is not from 0 to {MOST_DRAIN_SECONDS:g}")
        if not 0 < found.get("keep_alive", 1.0) <= MOST_KEEP_ALIVE_SECONDS:
            raise RequestError(f"{_variable('keep_alive')} is not above 0, up to {MOST_KEEP_ALIVE_SECONDS:g}")
        if "keys" in found and variables.get(FAST_PATH) == "0":
            raise RequestError(
                f"with {FAST_PATH}=0 BentoML answers /metrics to anybody, whatever the keys",
                hint=f"unset {FAST_PATH}",
            )
        return cls(**found)

    def variables(self) -> dict[str, str]:
        """The environment that `read` reads."""
        told = {ARTIFACTS: orjson.dumps([str(path) for path in self.artifacts]).decode()}
        values = self._asdict()
        return told | {
            _variable(name): "" if values[name] is None else str(values[name]) for name in _READERS
        }


def _variable(name: str) -> str:
    return f"LISSOM_{name.upper()}"


def _one_of(text: str, known: Sequence[str]) -> str:
    if text not in known:
        raise ValueError(f"it is one of {', '.join(known)}")
    return text


def _paths(text: str) -> list[str]:
    if not text.startswith("["):
        return [part for part in text.split(os.pathsep) if part]
    found: list[str] = _read(ARTIFACTS, text, orjson.loads)
    return found


def _read(variable: str, text: str, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(text)
    except ValueError as exc:
        raise RequestError(f"{variable} is {text[:200]!r}: {exc}") from exc


def write_ready() -> None:
    """Tell the launcher that every model is warm; without one nothing is written."""
    if file := os.environ.get(READY):
        Path(file).touch()


def write_failure(exc: LissomError, file: Path) -> None:
    """Leave an error for the launcher, which is another process."""
    file.write_bytes(orjson.dumps({"type": type(exc).__name__, "message": exc.message, "hint": exc.hint}))


def read_failure(file: Path) -> LissomError | None:
    """The error that the server left, or None."""
    if not file.is_file():
        return None
    found = orjson.loads(file.read_bytes())
    known = {name: getattr(lissom.errors, name) for name in lissom.errors.__all__ if name[0].isupper()}
    error: LissomError = known.get(found["type"], LissomError)(found["message"], hint=found["hint"])
    return error
