"""Factories of models that are awkward to distil."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Unsteady(nn.Module):
    """Answers with NaN whenever the first pixel is large."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        flat = image.flatten(1)
        large = (flat[:, :1] > 2.0).expand(-1, self.head.out_features)
        return torch.where(large, torch.nan, self.head(flat))


def unsteady(*, num_classes: int = 4) -> nn.Module:
    return Unsteady(num_classes)


def forgetful(*, num_classes: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, num_classes)
    )


class Pair(nn.Module):
    """Two outputs, of which the first are logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(image.flatten(1))
        return logits, logits.sum(dim=1, keepdim=True)


def pair(*, num_classes: int = 4) -> nn.Module:
    return Pair(num_classes)


class Layered(nn.Module):
    """Features of an image at a size and width of its own, and a layer that is never called."""

    def __init__(self, width: int, stride: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, width, 3, stride=stride, padding=1)
        self.rows = nn.Flatten(2)
        self.head = nn.Linear(width, num_classes)
        self.spare = nn.Linear(2, 2)

    def forward(self, image: Tensor) -> Tensor:
        features = self.features(image).relu()
        logits: Tensor = self.head(self.rows(features).mean(dim=2))
        return logits


def layered(*, width: int = 4, stride: int = 1, num_classes: int = 4) -> nn.Module:
    return Layered(width, stride, num_classes)
