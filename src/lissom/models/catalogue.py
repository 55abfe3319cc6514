"""What the built-in models are, for `lissom models`."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from lissom.registry import MODELS, resolve


class Entry(NamedTuple):
    """One built-in model, built with its default arguments."""

    name: str
    num_parameters: int
    signature: str
    summary: str


def catalogue() -> list[Entry]:
    """Every built-in model."""
    return [_entry(name) for name in sorted(MODELS)]


def _entry(name: str) -> Entry:
    factory = resolve(name, known=MODELS)
    arguments = ", ".join(
        f"{key}={parameter.default!r}" for key, parameter in inspect.signature(factory).parameters.items()
    )
    summary = (inspect.getdoc(factory) or "").partition("\n")[0]
    return Entry(name, sum(parameter.numel() for parameter in factory().parameters()), arguments, summary)
