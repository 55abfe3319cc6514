"""Fully connected networks: the default is what it was, and every option is where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.small import DATA, load, make
from torch import nn

from lissom.artifact import Artifact
from lissom.models.layers import ACTIVATIONS, NORMALISATIONS
from lissom.models.mlp import mlp
from lissom.runtime.base import open_runtime


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
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_every_activation_goes_with_every_normalisation(activation: str, normalisation: str) -> None:
    model = mlp(in_features=12, hidden=(32,), activation=activation, normalisation=normalisation)
    logits = model(torch.randn(4, 3, 2, 2))
    assert logits.shape == (4, 10)
    assert logits.std() > 0


def test_without_hidden_layers_it_is_one_linear_layer() -> None:
    assert names(mlp(hidden=())) == ["Flatten", "Linear"]


@pytest.mark.parametrize(
    "kwargs",
    [{"activation": "rel"}, {"normalisation": "bat"}, {"initialisation": "h"}],
)
def test_a_name_that_does_not_fit_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unknown"):
        mlp(**kwargs)


def test_a_normalisation_without_weights_can_be_pruned_and_exported(tmp_path: Path) -> None:
    loaded = load(tmp_path / "load", DATA, "mlp", hidden=[32, 16], normalisation="instance")
    pruned = make(tmp_path / "prune", DATA, "prune", parents={"input": loaded})
    assert num_parameters(pruned) < num_parameters(loaded)
    exported = make(tmp_path / "export", DATA, "export", parents={"input": pruned})
    inputs = {"image": DATA.tensors("report")["image"]}
    with open_runtime(pruned, "torch") as one, open_runtime(exported, "onnxruntime") as other:
        wanted, found = one.infer_batch(inputs)["logits"], other.infer_batch(inputs)["logits"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def num_parameters(artifact: Artifact) -> int:
    assert artifact.manifest.num_parameters is not None
    return artifact.manifest.num_parameters
