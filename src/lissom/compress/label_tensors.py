"""Tensors of labels: one number for each channel, 0 for none, in the shape of the numbers they stand for.

What is repeated along an axis is not stored again: its stride there is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def thin(labels: Tensor) -> Tensor:
    """The same without what is repeated along an axis."""
    for axis, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def distinct(labels: Tensor) -> Tensor:
    """Each label once."""
    found: Tensor = torch.unique(labels)
    return found


def distinct_pairs(one: Tensor, other: Tensor) -> Tensor:
    """Each pair of labels once, shape [2, pairs]."""
    base = int(other.max()) + 1
    pairs = distinct(one * base + other)  # one number for each pair: lines would be compared far more slowly
    return torch.stack([pairs // base, pairs % base])


def broadcast(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one shape."""
    shape = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]
    return one.expand(shape), other.expand(shape)


def varying(labels: Tensor) -> set[int]:
    """Axes along which labels differ."""
    labels = thin(labels)
    return {
        axis
        for axis, size in enumerate(labels.shape)
        if size > 1 and bool((labels != labels.narrow(axis, 0, 1)).any())
    }
