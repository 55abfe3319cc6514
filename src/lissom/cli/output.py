"""What a verb says: text for people on stdout, or with --json one document as the last line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EACCES
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.errors import Interrupted, LissomError, RequestError

if TYPE_CHECKING:
    from lissom.artifact import Artifact
    from lissom.report.schema import Gate

SCHEMA = "lissom.result/1"


@dataclass(frozen=True)
class Outcome:
    """What a verb did.

    Attributes:
        lines: Text for people.
        ok: False when a gate failed that was not allowed.
        out: Folder that was written.
        artifact: Artifact that was made or read.
        gates: Gates that were judged.
        extra: Further keys of the JSON document.
        interrupted: True when Ctrl-C ended it with something to show.
    """

    lines: Sequence[str] = ()
    ok: bool = True
    out: Path | None = None
    artifact: Artifact | None = None
    gates: Sequence[Gate] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 when it is ok, 1 when a gate failed, 130 when it was interrupted."""
        if self.interrupted:
            return Interrupted.exit_code
        return 0 if self.ok else 1


def show(verb: str, outcome: Outcome, *, as_json: bool, folder: Path | None = None) -> None:
    """Write an outcome to stdout; with a folder, also its JSON document as `<verb>.json`."""
    document = _document(verb, outcome)
    if folder is not None:
        from lissom.artifact import canonical_json

        write_in(folder, f"{verb}.json", canonical_json(document))
    _print(json.dumps(document, allow_nan=False) if as_json else "\n".join(outcome.lines))


def write_in(folder: Path, name: str, content: bytes) -> Path:
    """Write a file into the folder that --out names, which is made when it is not there.

    Raises:
        RequestError: the folder cannot be made or written.
    """
    from lissom.artifact import write_atomic

    with writable(folder):
        return write_atomic(folder / name, content)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make the folder that --out names; also to know that it can be written before anything is measured.

    Raises:
        RequestError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
        yield
    except (FileExistsError, NotADirectoryError, PermissionError) as exc:
        raise RequestError(f"--out {folder} cannot be written: {exc.strerror}", hint="name a folder") from exc


def show_error(verb: str, exc: BaseException, *, exit_code: int, message: str, as_json: bool) -> None:
    """Write an error: one message and what to type next, on stderr; with --json also the document."""
    hint = exc.hint if isinstance(exc, LissomError) else ""
    kind = type(exc).__name__
    if as_json:
        error = {"type": kind, "message": message, "hint": hint}
        base = _document(verb, Outcome(ok=False)) | {"exit_code": exit_code, "error": error}
        _print(json.dumps(base, allow_nan=False))
    if sys.stderr is None:
        return
    print(f"lissom {verb}: {message}".replace("lissom :", "lissom:"), file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Aligned columns as lines.

    >>> table(["a", "b"], [["x", "1"]], right=[1])
    ['a  b', 'x  1']
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(row) for row in [header, *rows]]


def _print(text: str) -> None:
    """Write to stdout; a reader that has left, as `head` does, is no error and hides none."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _document(verb: str, outcome: Outcome) -> dict[str, Any]:
    artifact = outcome.artifact
    return {
        "schema": SCHEMA,
        "verb": verb,
        "ok": outcome.ok,
        "exit_code": outcome.exit_code,
        "out": str(outcome.out) if outcome.out else None,
        "artifact": {
            "id": artifact.id,
            "digest": artifact.digest,
            "path": str(artifact.path),
            "format": artifact.manifest.format,
        }
        if artifact
        else None,
        "gates": [gate.model_dump(mode="json") for gate in outcome.gates],
        "error": None,
        **outcome.extra,
    }
