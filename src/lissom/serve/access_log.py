"""One line of JSON for each answer: when, who, what, how it went and how long it took.

Lines are gathered and written every fifth of a second, so that a small model does not pay for the disk.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import orjson

from lissom.serve.answers import Answer
from lissom.serve.bodies import Scope

STDERR = "-"
_FLUSH_SECONDS = 0.2
_MOST_LINES = 512
_MAX_PATH = 256


class AccessLog:
    """Appends to a file, or to the standard error; must be closed."""

    def __init__(self, target: str) -> None:
        """Open the file.

        Args:
            target: Its name, or `-`.

        Raises:
            OSError: it cannot be written.
        """
        to_stderr = target == STDERR
        self._stream: BinaryIO = sys.stderr.buffer if to_stderr else Path(target).open("ab")  # noqa: SIM115
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def note(
        self, scope: Scope, answer: Answer | None, *, seconds: float, key: str | None, identity: bytes
    ) -> None:
        """Note one answer; None for a caller who went away without one, as status 499."""
        client = scope.get("client")
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": identity.decode(),
            "client": client[0] if client else None,
            "key": key,
            "method": scope["method"][:16],
            "path": scope["path"][:_MAX_PATH],
            "status": answer.status if answer else 499,
            "bytes": len(answer.body) if answer else 0,
            "ms": round(1e3 * seconds, 3),
        }
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if len(self._lines) >= _MOST_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what was noted; a full disk loses lines, not requests."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        try:
            self._stream.write(b"".join(lines))
            self._stream.flush()
        except OSError:
            return

    def close(self) -> None:
        """Write the rest."""
        self.flush()
        if self._stream is not sys.stderr.buffer:
            self._stream.close()
