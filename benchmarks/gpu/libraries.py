"""Which libraries are there, and wheels that were carried along."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path


class NotInstalled(Exception):
    """A library that an engine needs is missing."""


def missing(modules: Iterable[str]) -> str | None:
    """The first module that could not be imported; nothing is imported."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except (ModuleNotFoundError, ValueError):
            found = None
        if found is None:
            return module.partition(".")[0]
    return None


def unpack_wheels(folder: Path) -> None:
    """Put the wheels of a folder on the path, unpacked: compiled modules cannot be imported from a zip."""
    wheels = sorted(folder.glob("*.whl"))
    site = folder / "site"
    for wheel in wheels:
        done = site / f".{wheel.stem}"
        if not done.exists():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            done.touch()
    if wheels and str(site) not in sys.path:
        sys.path.insert(0, str(site))
