"""Optional libraries are imported in one way, so that a missing one is always the same clear error."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from lissom.errors import MissingExtra


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or say which extra of lissom brings it.

    Raises:
        MissingExtra: the module, or a library that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        library = module.partition(".")[0]
        raise MissingExtra(
            f"{library} is not installed ({exc})", hint=f"pip install 'lissom[{extra}]'"
        ) from exc


def is_installed(module: str) -> bool:
    """True when `module` could be imported; nothing is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def version(distribution: str) -> str:
    """The installed version of a distribution, or `absent`."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
