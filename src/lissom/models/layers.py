"""Activations, normalisations and initialisations by name, as recipes name them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from torch import Tensor, nn

from lissom.errors import near

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
}
NORMALISATIONS = ("batch", "layer", "group", "instance", "none")
INITIALISATIONS = ("default", "he", "normal", "xavier")

_CHANNELS_PER_GROUP = 16
_NORMAL_STD = 0.02


def build_activation(name: str) -> nn.Module:
    """An activation: relu, leaky-relu (slope 0.01), elu, silu, gelu (exact) or mish.

    Raises:
        ValueError: no activation has this name.
    """
    check_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def build_normalisation(
    name: str, num_channels: int, *, sample: Literal["features", "image"] = "image"
) -> nn.Module:
    """A normalisation of [batch, num_channels] features, or of [batch, num_channels, height, width] images.

    `layer` on an image normalises channels and places together (GroupNorm of one group); `group` has at
    least 16 channels in a group where they divide, as Wu and He recommend (arXiv 1803.08494); `none` is the
    identity.

    `instance` normalises each channel of an image over its places, with a learned scale. Features have no
    places: each sample is normalised over its features, as nn.InstanceNorm1d does for [batch, 1, features].
    That differs from `layer` only in that no scale and no offset is learned.

    Raises:
        ValueError: no normalisation has this name.
    """
    check_name("normalisation", name, NORMALISATIONS)
    image = sample == "image"
    if name == "batch":
        return nn.BatchNorm2d(num_channels) if image else nn.BatchNorm1d(num_channels)
    if name == "layer":
        return nn.GroupNorm(1, num_channels) if image else nn.LayerNorm(num_channels)
    if name == "group":
        return nn.GroupNorm(_num_groups(num_channels), num_channels)
    if name == "instance":
        if image:
            return nn.InstanceNorm2d(num_channels, affine=True)
        return nn.LayerNorm(num_channels, elementwise_affine=False)
    return nn.Identity()


def initialise(model: nn.Module, name: str) -> None:
    """Draw the weights of every linear, convolutional and embedding layer anew.

    `xavier` is uniform (Glorot and Bengio 2010) and `he` normal over the fan-out (arXiv 1502.01852), both
    for linear and convolutional layers; `normal` has standard deviation 0.02 in embeddings too, as BERT and
    GPT-2 have it. All three set biases to zero. `default` leaves what torch drew.

    Raises:
        ValueError: no initialisation has this name.
    """
    check_name("initialisation", name, INITIALISATIONS)
    if name == "default":
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            _draw(module.weight, name)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and name == "normal":
            _draw(module.weight, name)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known.

    >>> check_name("activation", "rely", ["relu", "elu"])
    Traceback (most recent call last):
    ValueError: unknown activation 'rely'; did you mean relu?
    """
    known = list(known)
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; {near(name, known)}")


def check_positive(**sizes: int) -> None:
    """Refuse a size below one.

    >>> check_positive(width=8, depth=0)
    Traceback (most recent call last):
    ValueError: depth is 0; it must be at least 1
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


def _num_groups(num_channels: int) -> int:
    most = max(1, num_channels // _CHANNELS_PER_GROUP)
    return max(count for count in range(1, most + 1) if num_channels % count == 0)


def _draw(weight: Tensor, name: str) -> None:
    if name == "xavier":
        nn.init.xavier_uniform_(weight)
    elif name == "he":
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(weight, std=_NORMAL_STD)
