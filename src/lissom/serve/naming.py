"""Where models are read from, and under which names they are served.

An artifact has the name of its recipe unless it is given another, `NAME=PATH`. Paths are kept as they were
given, with their links: a link that points elsewhere later names another artifact, which `load` then reads.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lissom.artifact import MANIFEST_NAME, Artifact
from lissom.errors import RequestError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_TAKEN = ("stats",)
"""Words that have a meaning of their own in the place of a name, as in /v2/models/stats."""


class Source(NamedTuple):
    """Where a model is read from.

    Attributes:
        path: Absolute; links in it are followed whenever it is read.
        name: Under which it is served; None for that of its recipe.
    """

    path: Path
    name: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.name is None else f"{self.name}={self.path}"

    def name_of(self, artifact: Artifact) -> str:
        """The name under which an artifact that was read here is served."""
        return self.name or artifact.manifest.recipe


def source_of(word: str | Path | Source) -> Source:
    """The source that `PATH` or `NAME=PATH` says.

    Raises:
        RequestError: the name is taken.

    >>> source_of("digits=/runs/a").name, source_of("/runs/a=b").name
    ('digits', None)
    """
    if isinstance(word, Source):
        return word
    name, mark, path = str(word).partition("=")
    if not mark or not path or not _NAME.fullmatch(name) or Path(word).exists():
        return Source(_unresolved(Path(word)))
    return Source(_unresolved(Path(path)), _checked(name))


def named_sources(words: Sequence[str | Path], names: Sequence[str] | None) -> list[Source]:
    """Sources with the names of `--name`, one an artifact in their order.

    Raises:
        RequestError: there are more or fewer names than artifacts, one has two names, or a name is none.
    """
    sources = [source_of(word) for word in words]
    if not names:
        return sources
    if len(names) != len(sources):
        raise RequestError(
            f"{len(names)} names were given for {len(sources)} artifacts",
            hint="--name once for each artifact, in their order; or NAME=PATH",
        )
    if twice := next((source for source in sources if source.name is not None), None):
        raise RequestError(f"{twice} has a name already", hint="use either NAME=PATH or --name")
    return [Source(one.path, _checked(name)) for one, name in zip(sources, names, strict=True)]


def check_different(named: Sequence[tuple[Source, Artifact]], verb: str) -> None:
    """Prove that no two models would be served under one name.

    Args:
        named: Sources and what was read there.
        verb: That was called, for what to type next.

    Raises:
        RequestError: two would.
    """
    seen: dict[str, Path] = {}
    for source, artifact in named:
        name = source.name_of(artifact)
        if name in seen:
            why = "" if source.name else ", the name of their recipe"
            raise RequestError(
                f"{seen[name]} and {source.path} would both be served as {name!r}{why}",
                hint=f"lissom {verb} {' '.join(_different(named))}",
            )
        seen[name] = source.path


def _different(named: Sequence[tuple[Source, Artifact]]) -> list[str]:
    """The same sources with different names: where two share one, those of their runs, else numbered."""
    usual = [source.name_of(artifact) for source, artifact in named]
    runs = [artifact.path.parent.name for _, artifact in named]
    words, given, times = [], Counter(usual), Counter(runs)
    used = {name for name in usual if given[name] == 1}
    for (source, _), name, run in zip(named, usual, runs, strict=True):
        if given[name] > 1:
            is_free = times[run] == 1 and run not in used and run not in _TAKEN and _NAME.fullmatch(run)
            name = run if is_free else name
            name = next(f"{name}{end}" for end in ("", *_ENDS) if f"{name}{end}" not in used)
            used.add(name)
        words.append(shlex.quote(f"{name}={source.path}"))
    return words


_ENDS = tuple(f"-{number}" for number in range(2, 1000))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise RequestError(
            f"{name!r} cannot be the name of a model",
            hint="letters, digits, '.', '-' and '_', the first a letter or digit, as in digits-int8",
        )
    return name


def _unresolved(path: Path) -> Path:
    """The folder of an artifact, absolute, with its links as they are."""
    path = path.absolute()
    return path.parent if path.name == MANIFEST_NAME else path
