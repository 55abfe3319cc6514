"""Zeros that stay zero while a model trains."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def keep_zeros(model: nn.Module) -> Callable[[], None] | None:
    """What keeps the zeros of a sparse model zero, called after every step; None for a dense one."""
    return None
