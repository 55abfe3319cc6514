"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(*, in_features: int = 64, num_classes: int = 10, hidden: Sequence[int] = (128, 128)) -> nn.Module:
    """Linear layers with ReLU between them; flattens [batch, ...] and gives [batch, num_classes].

    Args:
        in_features: Elements of one flattened sample.
        num_classes: Classes, one logit each.
        hidden: Width of each hidden layer.
    """
    sizes = [in_features, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
