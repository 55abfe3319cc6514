"""What the launcher tells the server, by environment variables, and how the server says that it failed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import orjson

import lissom.errors
from lissom.errors import LissomError, RequestError

ARTIFACTS = "LISSOM_ARTIFACTS"
RUNTIME = "LISSOM_RUNTIME"
THREADS = "LISSOM_THREADS"
FOLDER = "LISSOM_FOLDER"
FAILURE = "LISSOM_FAILURE"
PARENT = "LISSOM_PARENT"
KEYS = "LISSOM_KEYS"
RATE_LIMIT = "LISSOM_RATE_LIMIT"
DRAIN_SECONDS = "LISSOM_DRAIN_SECONDS"
"""How long a server that was told to end says so before it ends, for a balancer to notice."""


class Settings(NamedTuple):
    """What is served, how, and to whom.

    Attributes:
        artifacts: Folders.
        runtime: Of every model; None for the fastest by measurement.
        threads: Of one call; None for all cores.
        keys: File of API keys; None where everybody may ask.
        rate_limit: Requests a second of each key; None for any number.
    """

    artifacts: tuple[Path, ...]
    runtime: str | None = None
    threads: int | None = None
    keys: Path | None = None
    rate_limit: float | None = None

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Settings:
        """The settings in the environment; artifacts are a JSON list, or paths joined as in PATH.

        Raises:
            RequestError: a variable cannot be read.
        """
        text = variables.get(ARTIFACTS, "").strip()
        try:
            paths = (
                orjson.loads(text)
                if text.startswith("[")
                else [part for part in text.split(os.pathsep) if part]
            )
            threads = int(variables[THREADS]) if variables.get(THREADS) else None
            rate_limit = float(variables[RATE_LIMIT]) if variables.get(RATE_LIMIT) else None
        except ValueError as exc:
            raise RequestError(
                f"{ARTIFACTS} is {text!r} and {THREADS} is {variables.get(THREADS)!r}: {exc}"
            ) from exc
        keys = Path(variables[KEYS]) if variables.get(KEYS) else None
        artifacts = tuple(Path(path) for path in paths)
        return cls(artifacts, variables.get(RUNTIME) or None, threads, keys, rate_limit)

    def variables(self) -> dict[str, str]:
        """The environment that `read` reads."""
        return {
            ARTIFACTS: orjson.dumps([str(path) for path in self.artifacts]).decode(),
            RUNTIME: self.runtime or "",
            THREADS: str(self.threads or ""),
            KEYS: str(self.keys or ""),
            RATE_LIMIT: str(self.rate_limit or ""),
        }


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
