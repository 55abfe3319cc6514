"""Models that write into what they are given, or give what they write into again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

NAME = "tests.foreign.memory_nets"
Way = Callable[["Writing", Tensor], Tensor]


class Writing(nn.Module):
    """A linear layer with something before or behind it."""

    def __init__(self, way: str, num_outputs: int) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(16, num_outputs)
        self.offsets = nn.Parameter(torch.arange(float(num_outputs)) / 2)
        self.kept: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        return WAYS[self.way](self, x)


def _scaled(net: Writing, x: Tensor) -> Tensor:
    x.mul_(2.0)
    return net.layer(x)


def _normalised(net: Writing, x: Tensor) -> Tensor:
    x -= 0.25
    x /= 0.5
    return net.layer(x)


def _column(net: Writing, x: Tensor) -> Tensor:
    x[:, 0] = 0
    return net.layer(x)


def _reused(net: Writing, x: Tensor) -> Tensor:
    found = net.kept.setdefault(0, torch.empty(4096, net.layer.out_features))[: len(x)]
    found.copy_(net.layer(x))
    return found


WAYS: dict[str, Way] = {
    "scaled in place": _scaled,
    "normalised in place": _normalised,
    "rectified in place": lambda net, x: net.layer(functional.relu(x, inplace=True)),
    "a column written": _column,
    "a buffer used again": _reused,
    "a parameter": lambda net, x: net.offsets.expand(len(x), -1),
    "bfloat16": lambda net, x: net.layer(x).to(torch.bfloat16),
    "a part of the input": lambda net, x: x[:, : net.layer.out_features],
}


def writing(*, way: str, num_outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return Writing(way, num_outputs)
