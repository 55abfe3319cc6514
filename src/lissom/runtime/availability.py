"""Which runtimes this machine has. Nothing heavy is imported; `lissom doctor` proves that they work."""

from __future__ import annotations

from collections.abc import Sequence

from lissom.errors import MissingExtra
from lissom.optional import is_installed
from lissom.registry import RUNTIMES, runtime_entry
from lissom.runtime.machine import compiler


def usable_runtimes(requested: Sequence[str] | None) -> list[str]:
    """The runtimes to measure on: those asked for, or every one that is installed.

    Raises:
        MissingExtra: one that was asked for is not installed.
    """
    if requested is None:
        return [name for name in RUNTIMES if absence(name) is None]
    for name in requested:
        if found := absence(name):
            raise MissingExtra(f"the runtime {name} was asked for, but {found[0]}", hint=found[1])
    return list(requested)


def absence(name: str) -> tuple[str, str] | None:
    """Why a runtime cannot be used here, and what to type; None when it can."""
    entry = runtime_entry(name)
    if not is_installed(entry.module):
        return f"{entry.distribution} is not installed", f"pip install 'lissom[{entry.extra}]'"
    if name in ("inductor", "aotinductor") and compiler() is None:
        return "there is no C++ compiler", "apt-get install g++"
    return None
