"""Random networks, composed of what a forward can do with channels, for tests of pruning."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Step = Callable[[Any, Tensor], Tensor]
"""The network, which may be a copy, and what flows."""


class Size(NamedTuple):
    """Channels of what flows, and its height and width; 0 where it is [samples, channels]."""

    channels: int
    side: int


class Composition(nn.Module):
    """A network drawn by a seed: every layer has a bias, and every norm a scale, by which a channel is known.

    Attributes:
        words: What was drawn, in order.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self.words: list[str] = []
        self.layers = nn.ModuleList()
        torch.manual_seed(seed)
        self.images = self._random.random() < 0.6
        size = Size(3, 8) if self.images else Size(12, 0)
        self.steps: list[Step] = []
        size = self._draw(size, "convolution" if self.images else "linear")
        for _ in range(self._random.randint(3, 7)):
            size = self._draw(size, self._random.choice(_DRAWN if size.side else _DRAWN_FLAT))
        if size.side:
            size = self._draw(size, self._random.choice(["pool all", "flatten", "flatten last"]))
        self._layer(nn.Linear(size.channels, 5))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(self, x)
        return x

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input."""
        return (2, 3, 8, 8) if self.images else (2, 12)

    def _draw(self, size: Size, word: str) -> Size:
        self.words.append(word)
        drawn: Size = _WORDS[word](self, size)
        return drawn

    def _layer(self, layer: nn.Module) -> None:
        number = self.add(layer)
        self.steps.append(lambda net, x: net.layers[number](x))

    def add(self, layer: nn.Module) -> int:
        """The number of a new layer."""
        self.layers.append(layer)
        return len(self.layers) - 1

    def _step(self, step: Step) -> None:
        self.steps.append(step)

    def number(self) -> int:
        """A width that chunks of two, three and four divide."""
        return self._random.choice([12, 24])


def _body(net: Composition, size: Size, channels: int) -> int:
    layer: nn.Module = (
        nn.Conv2d(size.channels, channels, 3, padding=1) if size.side else nn.Linear(size.channels, channels)
    )
    return net.add(layer)


def _mixing(net: Composition, size: Size) -> Size:
    channels = net.number()
    layer = _body(net, size, channels)
    net._step(lambda own, x: functional.relu(own.layers[layer](x)))
    return Size(channels, size.side)


def _grouped(net: Composition, size: Size) -> Size:
    groups = net._random.choice([2, 3, 4, size.channels])
    groups = groups if size.channels % groups == 0 else 1
    channels = size.channels if groups == size.channels else net.number()
    layer = nn.Conv2d(size.channels, channels, 3, padding=1, groups=groups)
    net._layer(layer)
    net._step(lambda own, x: functional.relu(x))
    return Size(channels, size.side)


def _transposed(net: Composition, size: Size) -> Size:
    if size.side > 8:
        return _mixing(net, size)
    groups = net._random.choice([1, 1, 2, 3])
    groups = groups if size.channels % groups == 0 else 1
    channels = net.number()
    net._layer(nn.ConvTranspose2d(size.channels, channels, 2, 2, groups=groups))
    net._step(lambda own, x: functional.relu(x))
    return Size(channels, size.side * 2)


def _norm(net: Composition, size: Size) -> Size:
    if size.side:
        net._layer(nn.BatchNorm2d(size.channels))
    else:
        net._layer(nn.BatchNorm1d(size.channels))
    net._step(lambda own, x: functional.relu(x))
    return size


def _residual(net: Composition, size: Size) -> Size:
    first = _body(net, size, size.channels)
    second = _body(net, size, size.channels)
    net._step(lambda own, x: functional.relu(x + own.layers[second](functional.gelu(own.layers[first](x)))))
    return size


def _branches(net: Composition, size: Size) -> Size:
    left, right = _body(net, size, 12), _body(net, size, 24)
    net._step(
        lambda own, x: torch.cat([functional.relu(own.layers[left](x)), own.layers[right](x).tanh()], 1)
    )
    return Size(36, size.side)


def _gate(net: Composition, size: Size) -> Size:
    channels = net.number()
    layer = _body(net, size, 2 * channels)
    kind = net._random.choice(["glu", "chunk", "interleaved"])

    def step(own: Any, x: Tensor) -> Tensor:
        h = own.layers[layer](x)
        if kind == "glu":
            return functional.glu(h, 1)
        one, other = h.chunk(2, 1) if kind == "chunk" else (h[:, ::2], h[:, 1::2])
        return functional.silu(one) * other

    net._step(step)
    return Size(channels, size.side)


def _sum_of_parts(net: Composition, size: Size) -> Size:
    parts = net._random.choice([2, 3])
    if size.channels % parts:
        return size
    net._step(lambda own, x: torch.stack(x.chunk(parts, 1)).sum(0))
    return Size(size.channels // parts, size.side)


def _reordered(net: Composition, size: Size) -> Size:
    parts = net._random.choice([2, 3, 4])
    if size.channels % parts:
        return size
    net._step(lambda own, x: torch.cat(x.chunk(parts, 1)[::-1], 1))
    return size


def _split(net: Composition, size: Size) -> Size:
    if size.channels % 2:
        return size
    half = Size(size.channels // 2, size.side)
    left, right = _body(net, half, half.channels), _body(net, half, 12)

    def step(own: Any, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        return torch.cat([own.layers[left](one), functional.relu(own.layers[right](other))], 1)

    net._step(step)
    return Size(half.channels + 12, size.side)


def _shuffle(net: Composition, size: Size) -> Size:
    groups = net._random.choice([2, 3, 4])
    if size.channels % groups:
        return size

    def step(own: Any, x: Tensor) -> Tensor:
        return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)

    net._step(step)
    return size


def _pixels(net: Composition, size: Size) -> Size:
    if size.channels % 4 or size.side > 8:
        return size
    net._step(lambda own, x: functional.pixel_shuffle(x, 2))
    return Size(size.channels // 4, size.side * 2)


def _excite(net: Composition, size: Size) -> Size:
    narrow, wide = net.add(nn.Linear(size.channels, 6)), net.add(nn.Linear(6, size.channels))

    def step(own: Any, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3)) if x.dim() > 2 else x
        gate = own.layers[wide](functional.relu(own.layers[narrow](pooled))).tanh()
        return x * (gate[..., None, None] if x.dim() > 2 else gate)

    net._step(step)
    return size


def _moved(change: Callable[[Tensor], Tensor]) -> Callable[[Composition, Size], Size]:
    def draw(net: Composition, size: Size) -> Size:
        net._step(lambda own, x: change(x))
        return size

    return draw


def _padded(net: Composition, size: Size) -> Size:
    net._step(lambda own, x: functional.pad(x, (*[0] * (2 * (x.dim() - 2)), 2, 1)))
    return Size(size.channels + 3, size.side)


def _pooled(net: Composition, size: Size) -> Size:
    if size.side < 4:
        return size
    net._step(lambda own, x: functional.max_pool2d(x, 2))
    return Size(size.channels, size.side // 2)


def _whole_pool(net: Composition, size: Size) -> Size:
    net._step(lambda own, x: x.mean((2, 3)))
    return Size(size.channels, 0)


def _flatten(last: bool) -> Callable[[Composition, Size], Size]:
    def draw(net: Composition, size: Size) -> Size:
        net._step(lambda own, x: functional.adaptive_avg_pool2d(x, 2))
        net._step(lambda own, x: (x.permute(0, 2, 3, 1) if last else x).flatten(1))
        return Size(size.channels * 4, 0)

    return draw


def _sequence(net: Composition, size: Size) -> Size:
    """A linear layer over channels, which come last for it."""
    channels = net.number()
    layer = net.add(nn.Linear(size.channels, channels))
    net._step(lambda own, x: functional.relu(own.layers[layer](x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2))
    return Size(channels, size.side)


_WORDS: dict[str, Callable[[Composition, Size], Size]] = {
    "convolution": _mixing,
    "linear": _mixing,
    "grouped": _grouped,
    "transposed": _transposed,
    "norm": _norm,
    "residual": _residual,
    "concat": _branches,
    "gate": _gate,
    "sum of parts": _sum_of_parts,
    "reordered": _reordered,
    "split": _split,
    "shuffle": _shuffle,
    "pixel shuffle": _pixels,
    "excite": _excite,
    "flip": _moved(lambda x: x.flip(1)),
    "roll": _moved(lambda x: x.roll(3, 1)),
    "padded": _padded,
    "pooled": _pooled,
    "pool all": _whole_pool,
    "flatten": _flatten(last=False),
    "flatten last": _flatten(last=True),
    "channels last": _sequence,
}
_FLAT_ONLY = {"linear"}
_IMAGES_ONLY = {
    "convolution",
    "grouped",
    "transposed",
    "pixel shuffle",
    "pooled",
    "pool all",
    "flatten",
    "flatten last",
    "channels last",
}
_DRAWN = [word for word in _WORDS if word not in _FLAT_ONLY | {"pool all", "flatten", "flatten last"}]
_DRAWN_FLAT = [word for word in _WORDS if word not in _IMAGES_ONLY]
