"""Modules that a config names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lissom.errors import ModelError, near


def excluded(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules that `exclude` names.

    Raises:
        ModelError: a name is no module of the model; the nearest are offered.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise ModelError(
                f"exclude names {name!r}, which is no module of the model", hint=near(name, modules)
            )
    return [modules[name] for name in names]
