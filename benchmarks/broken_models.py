"""Models that plain int8 breaks: outliers in single channels, which change no output in float32.

Behind a layer one channel in eight is many times larger, and the weights that read it are as many times
smaller. One scale for the whole tensor then leaves a few steps to all other channels, as in trained
transformers and in depthwise networks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from torch import Tensor, nn

from lissom.artifact import Artifact
from lissom.compress.quantizing.rescaling import rescaled
from lissom.compress.quantizing.static import prepared

_EVERY = 8


class Separable(nn.Module):
    """Depthwise and pointwise convolutions, with batch norms that an export folds away."""

    def __init__(self, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        convolutions = (
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, width, 1),
        )
        blocks = [nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU()) for layer in convolutions]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(image).mean(dim=(2, 3)))
        return logits


def separable(*, in_channels: int = 1, num_classes: int = 10, width: int = 32) -> nn.Module:
    return Separable(in_channels, num_classes, width)


def write_broken(exported: Artifact, factor: float, path: Path) -> None:
    """Write the ONNX model of an artifact with outliers `factor` times as large as they were."""

    def factors(number: int) -> np.ndarray:
        return np.where(np.arange(number) % _EVERY == 0, 1 / factor, 1.0)

    onnx.save(rescaled(prepared(exported.file("model.onnx")), factors), path)
