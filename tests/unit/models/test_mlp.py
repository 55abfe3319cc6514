"""Fully connected networks: the default is what it was, and every option is where it belongs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lissom.models.layers import ACTIVATIONS
from lissom.models.mlp import mlp


def names(model: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in model.children()]


def test_the_default_is_linear_layers_with_relu_between_them() -> None:
    torch.manual_seed(0)
    model = mlp(in_features=6, num_classes=3, hidden=(5, 4))
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    assert names(model) == names(plain)
    assert all(torch.equal(tensor, plain.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_a_hidden_layer_is_linear_normalisation_activation_dropout() -> None:
    model = mlp(hidden=(8,), activation="mish", normalisation="batch", dropout=0.5)
    assert names(model) == ["Flatten", "Linear", "BatchNorm1d", "Mish", "Dropout", "Linear"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalisation", ["batch", "layer", "group", "none"])
def test_every_activation_goes_with_every_normalisation(activation: str, normalisation: str) -> None:
    model = mlp(in_features=12, hidden=(32,), activation=activation, normalisation=normalisation)
    logits = model(torch.randn(4, 3, 2, 2))
    assert logits.shape == (4, 10)
    assert logits.std() > 0


def test_without_hidden_layers_it_is_one_linear_layer() -> None:
    assert names(mlp(hidden=())) == ["Flatten", "Linear"]


@pytest.mark.parametrize(
    "kwargs",
    [{"activation": "rel"}, {"normalisation": "instance"}, {"normalisation": "bat"}, {"initialisation": "h"}],
)
def test_a_name_that_does_not_fit_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown|needs an image"):
        mlp(**kwargs)
