"""Zeros that stay zero while a model trains, and how many there are.

That a model is sparse is not guessed from its weights: the stage that made the zeros says so in its manifest.

    notes["sparsity"]  pattern             unstructured or 2:4
                       share               of the weights of `layers` that are zero
                       layers              the same for each matrix, by name
                       raw_bytes           of the weights as stored
                       compressed_bytes    after zlib, level 6

A stage that changes the weights of such a model keeps the zeros of `layers` zero, and counts them again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lissom.structure import weights_bytes

NOTE = "sparsity"
_LEVEL = 6


def is_sparse(notes: Mapping[str, Any]) -> bool:
    """True when the notes of a manifest say that its model is sparse."""
    return NOTE in notes


def keep_zeros(model: nn.Module, *notes: Mapping[str, Any]) -> Callable[[], None] | None:
    """What sets the zeros that a model has now to zero again, called after every step; None for a dense one.

    Args:
        model: The model; its parameters may be moved to another device afterwards.
        notes: Of the manifests that say which matrices are sparse.
    """
    found = _named(model, _layers(notes)).values()
    kept = [(weight, weight.detach() == 0) for weight in found]

    @torch.no_grad()
    def keep() -> None:
        for place, (weight, zeros) in enumerate(kept):
            if zeros.device != weight.device:
                zeros = zeros.to(weight.device)
                kept[place] = (weight, zeros)
            weight.masked_fill_(zeros, 0.0)

    return keep if kept else None


def count_zeros(model: nn.Module, layers: Iterable[str], pattern: str) -> dict[str, Any]:
    """The note `sparsity` of a model.

    Args:
        model: The model.
        layers: Names of the matrices that were made sparse: that of a module for its `weight`.
        pattern: unstructured or 2:4.
    """
    weights = _named(model, layers)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    stored = weights_bytes(model)
    return {
        "pattern": pattern,
        "share": sum(zeros.values()) / sum(weight.numel() for weight in weights.values()),
        "layers": {name: zeros[name] / weight.numel() for name, weight in weights.items()},
        "raw_bytes": len(stored),
        "compressed_bytes": len(zlib.compress(stored, _LEVEL)),
    }


def recount_zeros(model: nn.Module, *notes: Mapping[str, Any], pattern: str | None = None) -> dict[str, Any]:
    """The notes of a model that came from a sparse one: its zeros, counted again; none for a dense one.

    Args:
        model: The model; a matrix that it no longer has is left out.
        notes: Of the manifests that say which matrices are sparse.
        pattern: What the zeros are now; default: what the notes say, unstructured where they differ.
    """
    layers = _named(model, _layers(notes))
    if not layers:
        return {}
    patterns = {note[NOTE]["pattern"] for note in notes if NOTE in note}
    found = pattern or (patterns.pop() if len(patterns) == 1 else "unstructured")
    return {NOTE: count_zeros(model, layers, found)}


def _layers(notes: Iterable[Mapping[str, Any]]) -> list[str]:
    return [name for note in notes for name in note.get(NOTE, {}).get("layers", {})]


def _named(model: nn.Module, layers: Iterable[str]) -> dict[str, nn.Parameter]:
    """The matrices that the model has, by name."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {name: parameters.get(f"{name}.weight", parameters.get(name)) for name in layers}
    return {name: weight for name, weight in found.items() if weight is not None}
