"""Networks as people write them: patches, experts, recurrent cells, matrices and norms of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.foreign.test_pruning import IMAGES, VECTORS, Row, check, convolution, images, prune
from tests.foreign.zeroing import Net, kept_channels, with_own_numbers
from torch import Tensor, nn
from torch.nn import functional as fn

from lissom.errors import ModelError


def vectors(forward: Callable[[Any, Tensor], Any], reads: int = 32, **layers: nn.Module) -> Net:
    layers.setdefault("b", nn.Linear(reads, 4))
    layers.setdefault("a", nn.Linear(16, 32))
    return Net(forward, **layers)


def owning(net: Net, **parameters: tuple[int, ...]) -> Net:
    """A network with parameters of its own."""
    for name, shape in parameters.items():
        net.register_parameter(name, nn.Parameter(torch.randn(shape)))
    return net


def looped(cell: nn.Module, *, pair: bool = False) -> Net:
    def forward(s: Any, x: Tensor) -> Tensor:
        h: Any = x.new_zeros(len(x), 16)
        h = (h, h) if pair else h
        for _ in range(3):
            h = s.cell(fn.relu(s.a(x)), h)
        return s.b(h[0] if pair else h)

    return vectors(forward, reads=16, cell=cell)


class Adapted(nn.Module):
    """A low-rank adapter beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down = nn.Linear(32, 20), nn.Parameter(torch.randn(4, 32))
        self.up = nn.Parameter(torch.randn(20, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.t() @ self.up.t()


class Linear(nn.Module):
    """A linear layer of the user's own, which looks at its size."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.weight = 32, nn.Parameter(torch.randn(20, 32))

    def forward(self, x: Tensor) -> Tensor:
        return fn.linear(x.view(-1, self.in_features), self.weight)


def selected(s: Any, x: Tensor) -> Tensor:
    """Selective kernels: a softmax between two branches, channel by channel."""
    both = torch.stack([fn.relu(s.a(x)), fn.relu(s.other(x))], 1)
    squeezed = fn.relu(s.narrow(both.sum(1).mean((2, 3))))
    weights = s.wide(squeezed).view(len(x), 2, -1).softmax(1)
    return s.b((both * weights[..., None, None]).sum(1)).mean((2, 3))


def experts(s: Any, x: Tensor) -> Tensor:
    return s.b((torch.stack([fn.relu(e(x)) for e in s.experts], 1) * s.gate(x).softmax(1)[..., None]).sum(1))


def merged(s: Any, x: Tensor) -> Tensor:
    h = fn.relu(s.a(x))
    return s.b(torch.cat([h[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)).mean((2, 3))


def shuffled_norm(s: Any, x: Tensor) -> Tensor:
    return s.b(fn.relu(s.n(s.m(s.a(x))))).mean((2, 3))


ZEROED: dict[str, Row] = {
    "unfold and fold": (
        lambda: images(
            lambda s, x: s.b(fn.fold(fn.unfold(fn.relu(s.a(x)), 2, stride=2), (8, 8), 2, stride=2)).mean(
                (2, 3)
            )
        ),
        IMAGES,
        {"a": 16},
    ),
    "patches that overlap": (
        lambda: images(
            lambda s, x: s.b(fn.unfold(fn.relu(s.a(x)), 3, padding=1).transpose(1, 2)).mean(1),
            b=nn.Linear(288, 4),
        ),
        IMAGES,
        {"a": 16},
    ),
    "patches of an image transformer": (
        lambda: images(
            lambda s, x: s.b(
                fn.relu(s.a(x)).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)
            ).mean((1, 2)),
            b=nn.Linear(512, 4),
        ),
        IMAGES,
        {"a": 16},
    ),
    "merged patches": (lambda: images(merged, reads=128), IMAGES, {"a": 16}),
    "a border before a flatten": (
        lambda: images(
            lambda s, x: s.b(fn.avg_pool2d(fn.pad(fn.relu(s.a(x)), (1, 1, 1, 1)), 5).flatten(1)),
            b=nn.Linear(128, 4),
        ),
        IMAGES,
        {"a": 16},
    ),
    "a token of zeros": (
        lambda: images(
            lambda s, x: s.b(fn.pad(fn.relu(s.a(x)).flatten(2).transpose(1, 2), (0, 0, 1, 0)).flatten(1)),
            b=nn.Linear(65 * 32, 4),
        ),
        IMAGES,
        {"a": 16},
    ),
    "a shortcut filled with zeros": (
        lambda: images(
            lambda s, x: s.b(
                fn.relu(s.c(h := fn.relu(s.a(x)))) + torch.cat([h, torch.zeros_like(h)], 1)
            ).mean((2, 3)),
            reads=64,
            c=convolution(32, 64),
        ),
        IMAGES,
        {"a": 16, "c": 32},
    ),
    "a slope for each channel": (
        lambda: images(lambda s, x: s.b(s.p(s.a(x))).mean((2, 3)), p=nn.PReLU(32)),
        IMAGES,
        {"a": 16},
    ),
    "selective kernels": (
        lambda: images(selected, other=convolution(), narrow=nn.Linear(32, 8), wide=nn.Linear(8, 64)),
        IMAGES,
        {"a": 16, "other": 16, "narrow": 4, "wide": 32},
    ),
    "experts": (
        lambda: Net(
            experts,
            gate=nn.Linear(16, 4),
            experts=nn.ModuleList(nn.Linear(16, 32) for _ in range(4)),
            b=nn.Linear(32, 4),
        ),
        VECTORS,
        {f"experts.{index}": 16 for index in range(4)},
    ),
    "a gated recurrent cell": (lambda: looped(nn.GRUCell(32, 16)), VECTORS, {"a": 16}),
    "a cell of a long memory": (lambda: looped(nn.LSTMCell(32, 16), pair=True), VECTORS, {"a": 16}),
    "a plain cell": (lambda: looped(nn.RNNCell(32, 16)), VECTORS, {"a": 16}),
    "an adapter": (
        lambda: vectors(lambda s, x: s.b(s.o(fn.relu(s.a(x)))), reads=20, o=Adapted()),
        VECTORS,
        {"a": 16},
    ),
    "a linear layer of its own": (
        lambda: vectors(lambda s, x: s.b(s.o(fn.relu(s.a(x)))), reads=20, o=Linear()),
        VECTORS,
        {"a": 16},
    ),
    "a matrix that two layers meet": (
        lambda: owning(
            vectors(
                lambda s, x: s.b(fn.relu(fn.relu(s.a(x)) @ s.w) + fn.relu(s.c(x)) @ s.w),
                reads=20,
                c=nn.Linear(16, 32),
            ),
            w=(32, 20),
        ),
        VECTORS,
        {"a": 16, "c": 16},
    ),
    "einsum over images": (
        lambda: owning(
            images(
                lambda s, x: s.b(torch.einsum("bchw,oc->bohw", fn.relu(s.a(x)), s.w)).mean((2, 3)), reads=12
            ),
            w=(12, 32),
        ),
        IMAGES,
        {"a": 16},
    ),
    "einsum over experts": (
        lambda: owning(
            vectors(
                lambda s, x: s.b(fn.relu(torch.einsum("bi,eio->beo", fn.relu(s.a(x)), s.w)).sum(1)), reads=12
            ),
            w=(3, 32, 12),
        ),
        VECTORS,
        {"a": 16},
    ),
    "queries of its own": (
        lambda: owning(
            images(
                lambda s, x: s.b(
                    (s.q @ (h := fn.relu(s.a(x)).flatten(2)) / 6).softmax(-1) @ s.v(h).transpose(1, 2)
                ).mean(1),
                v=nn.Conv1d(32, 16, 1),
                b=nn.Linear(16, 4),
            ),
            q=(5, 32),
        ),
        IMAGES,
        {"a": 16},
    ),
    "a group norm behind a shuffle": (
        lambda: images(shuffled_norm, n=nn.GroupNorm(4, 32), m=nn.ChannelShuffle(2)),
        IMAGES,
        {"a": 16},
    ),
    "a group norm of each channel": (
        lambda: images(lambda s, x: s.b(fn.relu(s.n(s.a(x)))).mean((2, 3)), n=nn.GroupNorm(32, 32)),
        IMAGES,
        {"a": 16},
    ),
    "dense connections": (
        lambda: images(
            lambda s, x: s.b(
                torch.cat([h := fn.relu(s.a(x)), g := fn.relu(s.c(h)), fn.relu(s.d(torch.cat([h, g], 1)))], 1)
            ).mean((2, 3)),
            reads=56,
            c=convolution(32, 12),
            d=convolution(44, 12),
        ),
        IMAGES,
        {"a": 16, "c": 6, "d": 6},
    ),
    "two heads": (
        lambda: images(
            lambda s, x: s.b(h := fn.relu(s.a(x))).mean((2, 3)) + s.c(h.permute(0, 2, 3, 1).flatten(1)),
            c=nn.Linear(2048, 4),
        ),
        IMAGES,
        {"a": 16},
    ),
    "a reversible block": (
        lambda: vectors(
            lambda s, x: s.b(
                torch.cat(
                    [
                        u := (h := s.a(x).chunk(2, 1))[0] + fn.relu(s.c(h[1])),
                        h[1] + fn.relu(s.d(u)),
                    ],
                    1,
                )
            ),
            c=nn.Linear(16, 16),
            d=nn.Linear(16, 16),
        ),
        VECTORS,
        {"a": 16, "c": 8, "d": 8},
    ),
}


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize("name", ZEROED)
def test_pruned_is_the_original_with_those_channels_at_zero(name: str, ratio: float) -> None:
    build, shape, wanted = ZEROED[name]
    check(build(), shape, wanted if ratio == 0.5 else None, ratio=ratio)


class OwnGroupNorm(nn.Module):
    """Group norm as users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(x), 4, -1)
        rows = rows - rows.mean(-1, keepdim=True)
        rows = rows / (rows.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return rows.view_as(x) * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class ResponseNorm(nn.Module):
    """Global response normalisation of ConvNeXt V2; channels come last."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(dim=(1, 2), keepdim=True)
        return self.weight * (x * (size / (size.mean(-1, keepdim=True) + 1e-6))) + self.bias + x


def convolved(s: Any, h: Tensor, kept: Tensor) -> Tensor:
    """What the last convolution makes of the channels that stay."""
    return fn.conv2d(h, s.b.weight[:, kept], s.b.bias, padding=1).mean((2, 3))


def right_group_norm(s: Any, kept: Tensor, x: Tensor) -> Tensor:
    h = fn.group_norm(s.a(x)[:, kept], 4, s.n.weight[kept], s.n.bias[kept], 1e-5)
    return convolved(s, fn.relu(h), kept)


def right_response_norm(s: Any, kept: Tensor, x: Tensor) -> Tensor:
    h = fn.relu(s.a(x)).permute(0, 2, 3, 1)[..., kept]
    size = h.square().sum((1, 2), keepdim=True).sqrt()
    h = s.n.weight[kept] * h * size / (size.mean(-1, keepdim=True) + 1e-6) + s.n.bias[kept] + h
    return convolved(s, h.permute(0, 3, 1, 2), kept)


def right_statistics(s: Any, kept: Tensor, x: Tensor) -> Tensor:
    h = fn.relu(s.a(x))[:, kept]
    both = torch.cat([h, h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)
    return convolved(s, both, torch.cat([kept, torch.tensor([32, 33])]))


BY_HAND: dict[
    str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[Any, Tensor, Tensor], Tensor]]
] = {
    "own group norm": (
        lambda: images(lambda s, x: s.b(fn.relu(s.n(s.a(x)))).mean((2, 3)), n=OwnGroupNorm()),
        IMAGES,
        right_group_norm,
    ),
    "response norm": (
        lambda: images(
            lambda s, x: s.b(s.n(fn.relu(s.a(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean((2, 3)),
            n=ResponseNorm(),
        ),
        IMAGES,
        right_response_norm,
    ),
    "statistics beside the channels": (
        lambda: images(
            lambda s, x: s.b(
                torch.cat([h := fn.relu(s.a(x)), h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)
            ).mean((2, 3)),
            reads=34,
        ),
        IMAGES,
        right_statistics,
    ),
    "vectors of length one": (
        lambda: vectors(lambda s, x: s.b(fn.normalize(s.a(x)))),
        VECTORS,
        lambda s, kept, x: fn.normalize(s.a(x)[:, kept]) @ s.b.weight[:, kept].t() + s.b.bias,
    ),
    "cosines with a matrix": (
        lambda: owning(
            vectors(lambda s, x: s.b(fn.linear(fn.normalize(s.a(x)), fn.normalize(s.w))), reads=7), w=(7, 32)
        ),
        VECTORS,
        lambda s, kept, x: s.b(fn.normalize(s.a(x)[:, kept]) @ fn.normalize(s.w[:, kept]).t()),
    ),
    "distances from a matrix": (
        lambda: owning(
            vectors(lambda s, x: s.b((s.a(x)[:, None] - s.w).square().sum(-1)), reads=7), w=(7, 32)
        ),
        VECTORS,
        lambda s, kept, x: s.b((s.a(x)[:, None, kept] - s.w[:, kept]).square().sum(-1)),
    ),
    "positions that are learned": (
        lambda: owning(images(lambda s, x: s.b(fn.relu(s.a(x) + s.p)).mean((2, 3))), p=(1, 32, 8, 8)),
        IMAGES,
        lambda s, kept, x: convolved(s, fn.relu(s.a(x) + s.p)[:, kept], kept),
    ),
}


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", BY_HAND)
def test_statistics_are_those_of_the_channels_that_stay(name: str, ratio: float) -> None:
    build, shape, right = BY_HAND[name]
    whole = with_own_numbers(build())
    small, x = copy.deepcopy(whole), torch.randn(shape, dtype=torch.float64)
    prune(small, x, ratio=ratio)
    kept = kept_channels(whole, small)["a"]
    assert len(kept) == round(32 * (1 - ratio))
    with torch.no_grad():
        torch.testing.assert_close(small(x), right(whole, kept, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_each_block_of_a_group_norm_loses_as_many(ratio: float) -> None:
    for name, norm in (("own", OwnGroupNorm()), ("shuffled", nn.GroupNorm(4, 32))):
        net = images(
            shuffled_norm if name == "shuffled" else lambda s, x: s.b(fn.relu(s.n(s.a(x)))).mean((2, 3)),
            n=norm,
            m=nn.ChannelShuffle(2),
        )
        whole = with_own_numbers(net)
        small = copy.deepcopy(whole)
        prune(small, torch.randn(IMAGES, dtype=torch.float64), ratio=ratio)
        kept = kept_channels(whole, small)["n" if name == "shuffled" else "a"]
        assert [int((kept // 8 == block).sum()) for block in range(4)] == [round(8 * (1 - ratio))] * 4


WHOLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "neighbours": (
        lambda: images(lambda s, x: s.b(fn.local_response_norm(fn.relu(s.a(x)), 3)).mean((2, 3))),
        IMAGES,
        "a",
    ),
    "channels as depth": (
        lambda: images(
            lambda s, x: s.b(s.c(fn.relu(s.a(x))[:, None])[:, 0]).mean((2, 3)),
            c=nn.Conv3d(1, 1, 3, padding=1),
        ),
        IMAGES,
        "a",
    ),
    "three of each channel, added up": (
        lambda: images(
            lambda s, x: s.b(sum(s.d(fn.relu(s.a(x))).chunk(3, 1))).mean((2, 3)),
            d=convolution(32, 96, groups=32),
        ),
        IMAGES,
        "d",
    ),
    "a fixed order": (
        lambda: vectors(lambda s, x: s.b(fn.relu(s.a(x))[:, [*range(31, -1, -1)]])),
        VECTORS,
        "a",
    ),
    "a fixed size": (
        lambda: vectors(lambda s, x: s.b(s.a(x).view(-1, 4, 8).amax(1)), reads=8),
        VECTORS,
        "a",
    ),
    "numbers for each channel": (
        lambda: vectors(lambda s, x: s.b(torch.stack([c * i for i, c in enumerate(s.a(x).unbind(1))], 1))),
        VECTORS,
        "a",
    ),
    "a product of branches": (
        lambda: vectors(
            lambda s, x: s.b((s.a(x)[:, :, None] * s.c(x)[:, None]).flatten(1)), reads=128, c=nn.Linear(16, 4)
        ),
        VECTORS,
        "a",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_has_to_stay_is_named_with_the_reason_and_nothing_changes(name: str) -> None:
    build, shape, named = WHOLE[name]
    whole = with_own_numbers(build())
    small, x = copy.deepcopy(whole), torch.randn(shape, dtype=torch.float64)
    with pytest.raises(ModelError, match=rf"stay whole:.*\b{named} \(") as caught:
        prune(small, x)
    assert "ValueError" not in caught.value.message
    with torch.no_grad():
        assert torch.equal(small(x), whole(x))
