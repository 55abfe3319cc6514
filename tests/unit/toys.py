"""Factories of small torch models that stand for kinds of layers and of mistakes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Classifier(nn.Module):
    """Features of an image, pooled, and one linear layer."""

    def __init__(self, features: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(image).mean(dim=(2, 3)))
        return logits


def _convolutions(*middle: nn.Module, in_channels: int, num_classes: int) -> nn.Module:
    first = nn.Conv2d(in_channels, 16, 3, padding=1)
    return Classifier(nn.Sequential(first, *middle, nn.ReLU(), nn.Conv2d(16, 16, 1)), 16, num_classes)


def plain(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    return _convolutions(in_channels=in_channels, num_classes=num_classes)


def grouped(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    layer = nn.Conv2d(16, 16, 3, padding=1, groups=4)
    return _convolutions(layer, in_channels=in_channels, num_classes=num_classes)


def depthwise(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    layer = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    return _convolutions(layer, in_channels=in_channels, num_classes=num_classes)


def group_norm(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    return _convolutions(nn.GroupNorm(4, 16), in_channels=in_channels, num_classes=num_classes)


def batch_norm(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    layers = (nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
    return _convolutions(*layers, in_channels=in_channels, num_classes=num_classes)


def layer_norm(*, in_features: int = 64, num_classes: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_features, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, num_classes)
    )


class Shares(nn.Module):
    """The head is written first, and what it gives is normalised: no layer makes the output itself."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(16, num_classes)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features = functional.relu(self.conv2(functional.relu(self.conv1(image))))
        return functional.log_softmax(self.head(features.mean(dim=(2, 3))), dim=-1)


def shares(*, in_channels: int = 1, num_classes: int = 16) -> nn.Module:
    return Shares(in_channels, num_classes)


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, in_features)
        self.second = nn.Linear(in_features, in_features)
        self.second.weight = self.first.weight
        self.head = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(x.flatten(1)).relu()))
        return logits


def tied(*, in_features: int = 64, num_classes: int = 4) -> nn.Module:
    return Tied(in_features, num_classes)


class Windowed(nn.Module):
    """Keeps sizes in a nested tuple, and pads by them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.windows = ((1, 1), (2, 2))
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Linear(16, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        assert all(isinstance(window, tuple) for window in self.windows)
        padded = functional.pad(image, self.windows[0] + self.windows[1])
        logits: Tensor = self.head(self.pool(padded).flatten(1))
        return logits


def windowed(*, num_classes: int = 4) -> nn.Module:
    return Windowed(num_classes)


class Baked(nn.Module):
    """Works for the batch size that it was written for, and for no other."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.reshape(8, -1))
        return logits


def baked(*, in_features: int = 64, num_classes: int = 4) -> nn.Module:
    return Baked(in_features, num_classes)


class Stateful(nn.Module):
    """Computes with a number that is neither parameter nor buffer nor size."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, num_classes)
        self.gain = float(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1)) * self.gain
        return logits


def stateful(*, in_features: int = 64, num_classes: int = 4) -> nn.Module:
    return Stateful(in_features, num_classes)


class Twin(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(5, 4)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.left(a), self.right(b)
        return left + right, left - right


def twin() -> nn.Module:
    return Twin()


class Named(nn.Module):
    """Gives a dictionary, as models of other libraries do."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(x.flatten(1))}


def named(*, in_features: int = 64, num_classes: int = 4) -> nn.Module:
    return Named(in_features, num_classes)


def no_model() -> str:
    return "not a module"


class _Bessel(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images)


class Outlandish(nn.Module):
    """A layer inside computes what no engine has an operator for."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.inner = _Bessel()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.inner(image).mean(dim=(2, 3)))
        return logits


def bessel(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    return Outlandish(in_channels, num_classes)


class Rigid(nn.Module):
    """The number of samples becomes a constant, because Python counts them."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        pooled = torch.stack([sample.mean(dim=(1, 2)) for sample in image])
        logits: Tensor = self.head(pooled)
        return logits


def fixed_batch(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    return Rigid(in_channels, num_classes)


class CachedDecoder(nn.Module):
    """One step of a decoder: a token, and the keys and values of those before it; gives all three anew."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocab_size, width)
        self.projections = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, token: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        query, key, value = self.projections(self.embedding(token)).chunk(3, dim=-1)
        keys, values = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
        scores = query @ keys.transpose(1, 2) / self.width**0.5
        weights = scores.masked_fill(mask[:, None] == 0, -1e9).softmax(dim=-1)
        return self.head(weights @ values), keys, values


def cached_decoder(*, vocab_size: int = 16, width: int = 8) -> nn.Module:
    return CachedDecoder(vocab_size, width)
