"""Every error that lissom raises on purpose, in one tree.

    LissomError                     exit code
    ├── RequestError                2   the request or a file is wrong
    │   ├── RecipeError             2   a recipe does not hold together
    │   ├── ModelError              2   a model cannot be found, built or traced
    │   ├── DataError               2   data are missing, malformed or too few
    │   ├── ArtifactError           2   an artifact is damaged or not what was asked
    │   ├── RaggedAnswers           2   the answers to two samples have different shapes
    │   └── AnswerError             2   a model gives no finite answer for a sample
    ├── MachineError                3   something this machine lacks
    │   ├── MissingExtra            3   an optional library is not installed
    │   └── DiskFull                3   no space left
    ├── ServerError                 3   a server cannot be reached, or answers with an error
    └── Interrupted                 130 Ctrl-C, or SIGTERM

A message says what was asked and what was found; the hint says what to type next. A failed gate is no
error: the run ends with exit code 1 and everything is written.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "AnswerError",
    "ArtifactError",
    "DataError",
    "DiskFull",
    "Interrupted",
    "LissomError",
    "MachineError",
    "MissingExtra",
    "ModelError",
    "RaggedAnswers",
    "RecipeError",
    "RequestError",
    "ServerError",
    "is_disk_full",
    "near",
    "near_files",
]


class LissomError(Exception):
    """Base of the tree; `exit_code` is what the command line ends with."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RequestError(LissomError):
    """The request, or a file that it names, is wrong."""

    exit_code = 2


class RecipeError(RequestError):
    """A recipe has an unknown key, a value out of range, or stages in an order that cannot work."""


class ModelError(RequestError):
    """A model cannot be found, built, traced or loaded."""


class RaggedAnswers(RequestError):
    """The answers to two samples have different shapes, so that no array holds them all."""


class DataError(RequestError):
    """Data are missing, malformed, or too few for what was asked."""


class ArtifactError(RequestError):
    """An artifact is missing, damaged, or of another format than asked."""


class AnswerError(RequestError):
    """A model gives no finite answer for a sample, so that there is no label."""


class MachineError(LissomError):
    """This machine lacks something that the request needs."""

    exit_code = 3


class MissingExtra(MachineError):
    """An optional library is not installed."""


class DiskFull(MachineError):
    """A file could not be written because no space is left."""


class ServerError(LissomError):
    """A server cannot be reached, or answers with an error.

    Attributes:
        status: HTTP status of its answer; None where there was none.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Interrupted(LissomError):
    """The user stopped it."""

    exit_code = 130


def is_disk_full(exc: BaseException) -> bool:
    """True when `exc` is an operating system error that says that a disk or quota is full."""
    return isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)


def near(word: str, known: Iterable[str]) -> str:
    """A sentence that offers names close to `word`, else every known name.

    >>> near("epoch", ["epochs", "batch_size"])
    'did you mean epochs?'
    >>> near("zzz", ["b", "a"])
    'known: a, b'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"


def near_files(path: str | Path) -> str:
    """A sentence that offers what lies beside a path where nothing is: near names, else the same suffix."""
    path = Path(path)
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.name[0] != ".")
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(str(path.parent / name) for name in close)}?"
    alike = [name for name in names if name.endswith(path.suffix)]
    more = f" and {len(alike) - 5} more" if len(alike) > 5 else ""
    what = ", ".join(alike[:5]) or (f"nothing that ends in {path.suffix}" if path.suffix else "nothing")
    return f"{path.parent.absolute()} holds {what}{more}"
