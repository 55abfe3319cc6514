"""Layers by name: every name gives its layer, and a misspelt one is offered the right one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lissom.models.layers import (
    ACTIVATIONS,
    INITIALISATIONS,
    NORMALISATIONS,
    build_activation,
    build_normalisation,
    initialise,
)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_function_of_its_name(name: str) -> None:
    x = torch.linspace(-3, 3, 13)
    wanted = getattr(functional, name.replace("-", "_"))(x)
    assert torch.equal(build_activation(name)(x), wanted)


@pytest.mark.parametrize("name", ["batch", "layer", "group", "instance"])
@pytest.mark.parametrize("num_channels", [1, 6, 32, 48])
def test_a_normalised_image_has_mean_zero_and_variance_one(name: str, num_channels: int) -> None:
    torch.manual_seed(0)
    axes = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}
    found = build_normalisation(name, num_channels)(3 + 2 * torch.randn(4, num_channels, 5, 5))
    if name == "group":
        groups = max(1, num_channels // 16)
        found, axes["group"] = found.unflatten(1, (groups, -1)), (2, 3, 4)
    assert found.mean(axes[name]).abs().max() < 1e-5
    assert (found.var(axes[name], correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["batch", "layer", "group", "instance"])
def test_features_are_normalised_without_losing_them(name: str) -> None:
    torch.manual_seed(0)
    found = build_normalisation(name, 32, sample="features")(torch.randn(8, 32)).detach()
    assert found.shape == (8, 32)
    assert abs(float(found.mean())) < 1e-5
    assert abs(float(found.std()) - 1) < 0.01


def test_no_normalisation_is_the_identity() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(build_normalisation("none", 3)(x), x)


def test_instance_normalisation_of_features_looks_at_one_sample_and_learns_nothing() -> None:
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(6, 8)
    layer = build_normalisation("instance", 8, sample="features")
    torch.testing.assert_close(layer(x), nn.InstanceNorm1d(1)(x[:, None])[:, 0])
    torch.testing.assert_close(layer(x[:1]), layer(x)[:1])
    assert list(layer.parameters()) == []


@pytest.mark.parametrize("num_channels", [1, 7, 16, 20, 33, 100])
def test_groups_divide_the_channels(num_channels: int) -> None:
    layer = build_normalisation("group", num_channels)
    assert isinstance(layer, nn.GroupNorm)
    assert num_channels // layer.num_groups >= min(16, num_channels)


def test_an_initialisation_draws_the_spread_that_it_promises() -> None:
    torch.manual_seed(0)
    spread = {}
    for name in ("xavier", "he", "normal"):
        model = nn.Sequential(nn.Linear(400, 200), nn.Conv2d(16, 200, 5))
        initialise(model, name)
        spread[name] = [float(layer.weight.detach().std()) for layer in model]
        assert all(not layer.bias.any() for layer in model)
    assert spread["xavier"] == pytest.approx([(2 / 600) ** 0.5, (2 / 5400) ** 0.5], rel=0.03)
    assert spread["he"] == pytest.approx([(2 / 200) ** 0.5, (2 / 5000) ** 0.5], rel=0.03)
    assert spread["normal"] == pytest.approx([0.02, 0.02], rel=0.03)


def test_the_default_initialisation_leaves_what_torch_drew() -> None:
    layer = nn.Linear(4, 4)
    before = layer.weight.clone()
    initialise(layer, "default")
    assert torch.equal(layer.weight, before)


def test_the_embedding_of_padding_stays_zero() -> None:
    embedding = nn.Embedding(10, 4, padding_idx=0)
    initialise(embedding, "normal")
    assert not embedding.weight[0].any()
    assert embedding.weight[1:].all()
    assert embedding.weight.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_activation("rely"), r"unknown activation 'rely'; did you mean relu"),
        (lambda: build_normalisation("bath", 3), r"unknown normalisation 'bath'; did you mean batch\?"),
        (lambda: build_normalisation("", 3), f"known: {', '.join(sorted(NORMALISATIONS))}"),
        (lambda: initialise(nn.Linear(1, 1), "xavir"), "did you mean xavier"),
        (lambda: initialise(nn.Linear(1, 1), "42"), f"known: {', '.join(INITIALISATIONS)}"),
    ],
)
def test_an_unknown_name_is_offered_near_ones(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
