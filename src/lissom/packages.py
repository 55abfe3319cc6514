"""Subpackages that are verbs, too. Light: `lissom --help` imports them all."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any


class VerbPackage(ModuleType):
    """A subpackage that shares its name with a verb: `lissom.export(...)` calls the verb."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the verb."""
        return self._verb(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._verb)

    @property
    def _verb(self) -> Callable[..., Any]:
        verb: Callable[..., Any] = getattr(
            importlib.import_module("lissom.verbs"), self.__name__.rpartition(".")[2]
        )
        return verb
