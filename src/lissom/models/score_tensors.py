"""The formulas of `lissom.runtime.scores` on torch tensors, with gradients: what losses are computed from.

Logarithms are those of at least the smallest float32, so that a share of 0 has a finite loss and a gradient
of 0 where it is lost already. Everything is computed in float32, also where a model trains in less.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissom.runtime.scores import SMALLEST, ScoreKind


def class_columns(outputs: Tensor, kind: ScoreKind) -> Tensor:
    """The outputs with one column a class: a single column tells two classes apart."""
    outputs = outputs.float()
    if outputs.ndim > 1 and outputs.shape[-1] > 1:
        return outputs
    second = outputs.reshape(len(outputs))
    first = torch.zeros_like(second) if kind == "logits" else 1 - second
    if kind == "log_probabilities":
        first = log_of(-torch.expm1(second))
    return torch.stack([first, second], dim=1)


def class_logits(outputs: Tensor, kind: ScoreKind) -> Tensor:
    """Numbers whose softmax is the shares of the classes, float32 [..., classes].

    >>> found = class_logits(torch.tensor([[0.25, 0.75]]), "sigmoids").exp()
    >>> [round(share, 4) for share in found[0].tolist()]
    [0.25, 0.75]
    """
    columns = class_columns(outputs, kind)
    if kind == "logits":
        return columns
    return columns.clamp(min=math.log(SMALLEST)) if kind == "log_probabilities" else log_of(columns)


def log_of(shares: Tensor) -> Tensor:
    """Logarithm of shares in [0, 1], finite for 0."""
    return shares.clamp(min=SMALLEST).log()
