"""Who may ask: API keys, of which only hashes are kept, and how often each may.

A file holds one key a line, `name sha256 [admin]`; `lissom serve --new-key NAME` adds a line and shows the
key once. The file is looked at again every second, so that a line that is removed revokes its key while the
server runs. A key that was presented is hashed and held against every hash in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lissom.artifact import write_atomic
from lissom.errors import RequestError
from lissom.logs import log

_LINE = re.compile(r"([\w.-]{1,64})\s+([0-9a-f]{64})(\s+admin)?")
_LOOK_SECONDS = 1.0
_BYTES = 32


class Key(NamedTuple):
    """One key.

    Attributes:
        name: What the log calls its holder.
        digest: SHA-256 of the key.
        is_admin: May load and unload models, and read metrics.
    """

    name: str
    digest: bytes
    is_admin: bool


class Keys:
    """The keys in a file, as they are now."""

    def __init__(
        self, file: Path, *, per_second: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the file.

        Args:
            file: With one key a line.
            per_second: Requests that each key may make; None for any number. Twice as many may come at once.
            clock: Seconds, from any start.

        Raises:
            RequestError: the file is missing, or a line is no key.
        """
        self._file, self._per_second, self._clock = file, per_second, clock
        self._keys = read_keys(file)
        self._stamp, self._looked = _stamp(file), clock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def find(self, presented: bytes) -> Key | None:
        """The key that was presented, or None."""
        self._look_again()
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def wait(self, key: Key) -> float:
        """Seconds until the holder of a key may ask; 0 when the request counts and may go on."""
        if self._per_second is None:
            return 0.0
        now = self._clock()
        most = max(1.0, 2 * self._per_second)
        left, since = self._buckets.get(key.name, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        if left < 1:
            self._buckets[key.name] = (left, now)
            return (1 - left) / self._per_second
        self._buckets[key.name] = (left - 1, now)
        return 0.0

    def _look_again(self) -> None:
        """Read the file again when it changed.

        What is not there any more is revoked, also when other lines are wrong or the file is gone: a server
        that nobody can ask is noticed, one that answers those who were locked out is not.
        """
        if self._clock() - self._looked < _LOOK_SECONDS:
            return
        self._looked = self._clock()
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys, wrong = _keys_in(self._file) if stamp else ([], [])
        except RequestError as exc:
            self._keys, wrong = [], [exc.message]
        for problem in wrong:
            log.error("%s", problem)
        if not self._keys:
            log.error("%s holds no key: nobody is answered", self._file)


def read_keys(file: Path) -> list[Key]:
    """The keys of a file.

    Raises:
        RequestError: it is missing, holds no key, or a line is none.
    """
    keys, wrong = _keys_in(file)
    if wrong:
        raise RequestError(
            wrong[0], hint="a line is: name, the SHA-256 of the key in hex, and for an administrator: admin"
        )
    if not keys:
        raise RequestError(f"{file} holds no key", hint=f"lissom serve --new-key NAME --keys {file}")
    return keys


def _keys_in(file: Path) -> tuple[list[Key], list[str]]:
    """The keys of a file, and what is wrong with its other lines.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise RequestError(
            f"the keys in {file} cannot be read: {exc}", hint=f"lissom serve --new-key NAME --keys {file}"
        ) from exc
    keys: dict[str, Key] = {}
    wrong = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match[1] in keys:
            wrong.append(f"line {number} of {file} is no key, or one whose name is there twice")
        else:
            keys[match[1]] = Key(match[1], bytes.fromhex(match[2]), bool(match[3]))
    return list(keys.values()), wrong


def add_key(file: Path, name: str, *, is_admin: bool = False) -> str:
    """Add a key to a file, which is made when it is not there; gives the key, which is kept nowhere.

    Raises:
        RequestError: the name is none, or is there already.
    """
    key = secrets.token_urlsafe(_BYTES)
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}{' admin' * is_admin}"
    if _LINE.fullmatch(line) is None:
        raise RequestError(f"{name!r} is no name of a key", hint="letters, digits, '.', '-' and '_'")
    known = read_keys(file) if file.is_file() and file.read_text().strip() else []
    if any(other.name == name for other in known):
        raise RequestError(f"{file} has a key called {name!r}", hint="remove its line to revoke it")
    before = file.read_text() if file.is_file() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, f"{before}{line}\n".encode())
    file.chmod(0o600)
    return key


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
