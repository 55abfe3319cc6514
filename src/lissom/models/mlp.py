"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from lissom.models.layers import build_activation, build_normalisation, initialise


def mlp(
    *,
    in_features: int = 64,
    num_classes: int = 10,
    hidden: Sequence[int] = (128, 128),
    activation: str = "relu",
    normalisation: str = "none",
    initialisation: str = "default",
    dropout: float = 0.0,
) -> nn.Module:
    """Linear layers with an activation between them; flattens [batch, ...] and gives [batch, num_classes].

    A hidden layer is linear, normalisation, activation, dropout. The paper's size is LeNet-300-100
    (LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998) for 28x28 digits.

    Args:
        in_features: Elements of one flattened sample.
        num_classes: Classes, one logit each.
        hidden: Width of each hidden layer.
        activation: relu, leaky-relu, elu, silu, gelu or mish.
        normalisation: batch, layer, group, instance or none.
        initialisation: default (torch's own), xavier or he.
        dropout: Share of the hidden features that training sets to zero, in [0, 1).

    Raises:
        ValueError: a name is not known.
    """
    sizes = [in_features, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers.append(nn.Linear(before, after))
        if normalisation != "none":
            layers.append(build_normalisation(normalisation, after, sample="features"))
        layers.append(build_activation(activation))
        if dropout:
            layers.append(nn.Dropout(dropout))
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
    initialise(model, initialisation)
    return model
