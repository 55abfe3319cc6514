"""Convolutional networks: published structures and sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lissom.models import cnn
from lissom.models.vgg import vgg


def features(model: nn.Module, image: torch.Tensor) -> tuple[int, ...]:
    """Shape of what the blocks give."""
    with torch.inference_mode():
        return tuple(model.get_submodule("blocks")(model.get_submodule("stem")(image)).shape)


@pytest.mark.parametrize(
    ("factory", "num_layers"), [(cnn.resnet20, 20), (cnn.resnet32, 32), (cnn.resnet56, 56)]
)
def test_a_cifar_resnet_has_the_layers_of_its_name(
    factory: Callable[..., nn.Module], num_layers: int
) -> None:
    model = factory(width=8)
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]
    assert len(layers) == num_layers
    assert features(model, torch.zeros(1, 3, 32, 32)) == (1, 32, 8, 8)


def test_resnet20_is_the_default_resnet() -> None:
    torch.manual_seed(0)
    one = cnn.resnet().state_dict()
    torch.manual_seed(0)
    other = cnn.resnet20().state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("factory", "num_layers", "channels"),
    [(cnn.resnet18, 18, 64), (cnn.resnet34, 34, 64), (cnn.resnet50, 50, 256)],
)
@pytest.mark.parametrize(("stem", "side"), [("cifar", 8), ("imagenet", 2)])
def test_an_imagenet_resnet_has_the_layers_of_its_name(
    factory: Callable[..., nn.Module], num_layers: int, channels: int, stem: str, side: int
) -> None:
    model = factory(width=8, stem=stem)
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]
    assert len(layers) == num_layers
    assert features(model, torch.zeros(1, 3, 64, 64)) == (1, channels, side, side)


def test_vgg_has_two_convolutions_in_a_block_and_two_dropouts() -> None:
    model = vgg(in_channels=1, widths=(4, 8, 16), dropout=0.1)
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("Conv2d") == 6
    assert kinds.count("BatchNorm2d") == 6
    assert kinds.count("MaxPool2d") == 3
    assert kinds.count("Dropout") == 2


def test_a_convolution_has_a_bias_only_where_no_normalisation_has_one() -> None:
    for normalisation in ("batch", "layer", "group", "instance", "none"):
        model = vgg(widths=(16,), normalisation=normalisation)
        biased = {module.bias is not None for module in model.modules() if isinstance(module, nn.Conv2d)}
        assert biased == {normalisation == "none"}
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("factory", "kwargs", "message"),
    [
        (cnn.resnet18, {"stem": "imagnet"}, r"unknown stem 'imagnet'; did you mean imagenet\?"),
        (cnn.resnet50, {"width": 0}, "width is 0; it must be at least 1"),
        (cnn.resnet20, {"width": -1}, "width is -1"),
        (vgg, {"widths": ()}, "widths is empty"),
        (vgg, {"activation": "rel"}, "did you mean relu"),
        (vgg, {"normalisation": "btch"}, "did you mean batch"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    factory: Callable[..., nn.Module], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        factory(**kwargs)
