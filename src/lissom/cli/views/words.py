"""Words that several views share, and those of the command line itself."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lissom.errors import RequestError


def command(*words: str) -> str:
    """How to call this lissom again: as it was called, when that was by a path."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "lissom" and not _on_path(sys.argv[0]) else "lissom"
    return shlex.join([program, *words])


def kwarg_options(arguments: Mapping[str, Any]) -> str:
    """Keyword arguments as words of the command line; `keyword_arguments` reads their values.

    >>> kwarg_options({"widths": (1, 2), "bias": True, "stem": "imagenet"})
    "--kwarg 'widths=[1,2]' --kwarg bias=true --kwarg stem=imagenet"
    """
    words = [
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in arguments.items()
    ]
    return " ".join(f"--kwarg {shlex.quote(word)}" for word in words)


def keyword_arguments(words: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as keyword arguments, values as YAML.

    >>> keyword_arguments(["widths=[1, 2]", "bias=true"])
    {'widths': [1, 2], 'bias': True}

    Raises:
        RequestError: a word has no equals sign.
    """
    import yaml

    arguments = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise RequestError(f"--kwarg {word!r} is not of the form KEY=VALUE")
        try:
            arguments[key] = yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise RequestError(f"--kwarg {word!r}: the value is not YAML") from exc
    return arguments


def duration(seconds: float | None) -> str:
    """A time with its unit.

    >>> duration(7.6), duration(150), duration(None)
    ('8 s', '2 min', '-')
    """
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def size(size_bytes: float) -> str:
    """A size with its unit.

    >>> size(999), size(21_655), size(4_924_165)
    ('999 B', '22 kB', '4.9 MB')
    """
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    return f"{size_bytes / 1e3:.0f} kB" if size_bytes < 1e6 else f"{size_bytes / 1e6:.1f} MB"


def _on_path(program: str) -> bool:
    import shutil

    found = shutil.which("lissom")
    return found is not None and Path(found).resolve() == Path(program).resolve()
