"""Tiny models that the tests name by path."""

from __future__ import annotations

import torch
from torch import nn


class Broken(nn.Module):
    """Gives NaN where the first pixel is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        flat = image.flatten(1)
        return torch.where(flat[:, :1] > 0, self.linear(flat) * float("nan"), self.linear(flat))


def broken() -> nn.Module:
    return Broken()


def build() -> nn.Module:
    """Logits of the next token from the token alone."""
    return nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
