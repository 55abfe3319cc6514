"""Pruning of models that lissom does not know: the pruned one is the original with those channels at zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from tests.foreign.compositions import Composition
from tests.foreign.zeroing import Net, kept_channels, with_own_numbers, zeroed
from tests.unit.small import blobs
from torch import Tensor, nn
from torch.nn import functional as fn

from lissom.artifact import Signature
from lissom.compress.samples import Samples
from lissom.compress.width import rank_channels
from lissom.errors import ModelError
from lissom.models.tasks import Classification
from lissom.recipe import PruneConfig

DATA = blobs(40)
SIGNATURE = Signature(inputs=DATA.input_specs, outputs=())
VECTORS, IMAGES = (3, 16), (3, 3, 8, 8)

Row = tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]
"""A model, the shape of its input, and the width of each layer at a ratio of one half."""


def prune(model: nn.Module, x: Tensor, **fields: Any) -> dict[str, Any]:
    """Prune in place; gives the notes."""
    config = PruneConfig.model_validate({"round_to": 1, **fields})
    reduction = rank_channels(model, model, config, Samples(DATA, Classification(), SIGNATURE, [x]))
    return reduction.apply(model, config.ratio)


def check(
    model: nn.Module,
    shape: tuple[int, ...],
    wanted: Mapping[str, int] | None = None,
    also: Mapping[str, str] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Prune, and compare with the original whose channels are silent."""
    whole = with_own_numbers(model)
    x = torch.randn(shape, dtype=torch.float64)
    small = copy.deepcopy(whole)
    notes = prune(small, x, **fields)
    kept = kept_channels(whole, small)
    if wanted is not None:
        assert {name: after for name, (_, after) in notes["channels"].items()} == wanted
        assert {name: len(index) for name, index in kept.items() if name in wanted} == wanted
    with torch.no_grad():
        found, right = small(x), zeroed(whole, kept, also)(x)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)
    assert notes["proof"]["error"] < notes["proof"]["tolerance"]
    return notes


def convolution(inputs: int = 3, outputs: int = 32, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def images(forward: Callable[[Any, Tensor], Tensor], reads: int = 32, **layers: nn.Module) -> Net:
    """A convolution of 32 channels, and one that reads what `forward` makes of them."""
    layers.setdefault("b", convolution(reads, 4))
    return Net(forward, a=convolution(), **layers)


def vectors(
    forward: Callable[[Any, Tensor], Tensor], reads: int = 32, gives: int = 32, **layers: nn.Module
) -> Net:
    return Net(forward, a=nn.Linear(16, gives), b=nn.Linear(reads, 4), **layers)


def shuffled(s: Any, x: Tensor) -> Tensor:
    h = fn.relu(s.a(x))
    h = h.view(len(h), 4, -1, *h.shape[2:]).transpose(1, 2).flatten(1, 2)
    return s.b(h).mean((2, 3))


class OverHeight(nn.Module):
    """A recurrent layer reads the rows of an image: channels and width are its features."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.r, self.b = convolution(3, 16), nn.LSTM(16 * 8, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = fn.relu(self.a(x)).permute(0, 2, 1, 3).flatten(2)
        return self.b(self.r(h)[0].mean(1))


MOVED: dict[str, Row] = {
    "viewed as a line": (
        lambda: images(lambda s, x: s.b(fn.relu(s.a(x)).view(len(x), -1)), b=nn.Linear(2048, 4)),
        IMAGES,
        {"a": 16},
    ),
    "viewed as a line and back": (
        lambda: images(lambda s, x: s.b(s.a(x).view(len(x), -1).relu().view(len(x), -1, 8, 8)).mean((2, 3))),
        IMAGES,
        {"a": 16},
    ),
    "turned and viewed as a line": (
        lambda: images(
            lambda s, x: s.b(s.a(x).permute(0, 2, 3, 1).contiguous().view(len(x), -1).relu()),
            b=nn.Linear(2048, 4),
        ),
        IMAGES,
        {"a": 16},
    ),
    "NHWC flatten": (
        lambda: images(
            lambda s, x: s.b(fn.relu(s.a(x)).permute(0, 2, 3, 1).flatten(1)), b=nn.Linear(2048, 4)
        ),
        IMAGES,
        {"a": 16},
    ),
    "pooled before an NHWC flatten": (
        lambda: images(
            lambda s, x: s.b(fn.max_pool2d(fn.relu(s.a(x)), 2).permute(0, 2, 3, 1).reshape(len(x), -1)),
            b=nn.Linear(512, 4),
        ),
        IMAGES,
        {"a": 16},
    ),
    "WCHN-like flatten": (
        lambda: images(lambda s, x: s.b(s.a(x).relu().permute(0, 3, 1, 2).flatten(1)), b=nn.Linear(2048, 4)),
        IMAGES,
        {"a": 16},
    ),
    "flip": (lambda: vectors(lambda s, x: s.b(fn.relu(s.a(x)).flip(1))), VECTORS, {"a": 16}),
    "roll": (lambda: vectors(lambda s, x: s.b(fn.relu(s.a(x)).roll(5, 1))), VECTORS, {"a": 16}),
    "channel shuffle": (lambda: images(shuffled), IMAGES, {"a": 16}),
    "channel shuffle of torch, depthwise and batch norm": (
        lambda: images(
            lambda s, x: s.b(fn.relu(s.n(s.d(s.m(fn.relu(s.a(x))))))).mean((2, 3)),
            m=nn.ChannelShuffle(4),
            d=convolution(32, 32, groups=32),
            n=nn.BatchNorm2d(32),
        ),
        IMAGES,
        {"a": 16, "d": 16},
    ),
    "chunks in another order": (
        lambda: vectors(lambda s, x: s.b(torch.cat(fn.relu(s.a(x)).chunk(4, 1)[::-1], 1))),
        VECTORS,
        {"a": 16},
    ),
    "every other channel first": (
        lambda: vectors(lambda s, x: s.b(torch.cat([(h := fn.relu(s.a(x)))[:, ::2], h[:, 1::2]], 1))),
        VECTORS,
        {"a": 16},
    ),
    "padded channels": (
        lambda: images(lambda s, x: s.b(fn.pad(fn.relu(s.a(x)), (0, 0, 0, 0, 3, 5))).mean((2, 3)), reads=40),
        IMAGES,
        {"a": 16},
    ),
    "pixel unshuffle": (
        lambda: images(
            lambda s, x: s.b(fn.pixel_unshuffle(fn.relu(s.a(x)), 2)).mean((2, 3)), b=convolution(128, 4)
        ),
        IMAGES,
        {"a": 16},
    ),
    "recurrent over the height": (OverHeight, IMAGES, {"a": 8, "r": 6}),
    "repeated": (
        lambda: vectors(lambda s, x: s.b(fn.relu(s.a(x)).repeat(1, 2)), reads=64),
        VECTORS,
        {"a": 16},
    ),
    "two copies, one turned": (
        lambda: vectors(lambda s, x: s.b(torch.cat([h := fn.relu(s.a(x)), h.flip(1)], 1)), reads=64),
        VECTORS,
        {"a": 16},
    ),
}

COUPLED: dict[str, Row] = {
    "sum of halves": (
        lambda: vectors(lambda s, x: s.b(sum(fn.relu(s.a(x)).chunk(2, 1))), reads=16),
        VECTORS,
        {"a": 16},
    ),
    "sum of thirds": (
        lambda: vectors(lambda s, x: s.b(sum(fn.relu(s.a(x)).chunk(3, 1))), reads=16, gives=48),
        VECTORS,
        {"a": 24},
    ),
    "maximum of halves": (
        lambda: vectors(lambda s, x: s.b(torch.maximum(*s.a(x).chunk(2, 1))), reads=16),
        VECTORS,
        {"a": 16},
    ),
    "maxout of neighbours": (
        lambda: vectors(lambda s, x: s.b(s.a(x).unflatten(1, (-1, 2)).amax(-1)), reads=16),
        VECTORS,
        {"a": 16},
    ),
    "fused gate": (
        lambda: vectors(lambda s, x: s.b(fn.silu((c := s.a(x).chunk(2, -1))[0]) * c[1]), reads=64, gives=128),
        VECTORS,
        {"a": 64},
    ),
    "interleaved gate": (
        lambda: vectors(lambda s, x: s.b((h := s.a(x))[:, ::2].tanh() * h[:, 1::2]), reads=16),
        VECTORS,
        {"a": 16},
    ),
    "three in one": (
        lambda: vectors(lambda s, x: s.b((c := s.a(x).chunk(3, -1))[0] * c[1] + c[2]), reads=16, gives=48),
        VECTORS,
        {"a": 24},
    ),
    "GLU": (lambda: vectors(lambda s, x: s.b(fn.glu(s.a(x), -1)), reads=16), VECTORS, {"a": 16}),
    "GLU of channels": (
        lambda: images(lambda s, x: s.b(s.g(s.a(x))).mean((2, 3)), reads=16, g=nn.GLU(dim=1)),
        IMAGES,
        {"a": 16},
    ),
    "pixel shuffle": (
        lambda: images(lambda s, x: s.b(fn.pixel_shuffle(fn.relu(s.a(x)), 2)).mean((2, 3)), reads=8),
        IMAGES,
        {"a": 16},
    ),
    "halves that go apart": (
        lambda: vectors(
            lambda s, x: s.b((c := fn.relu(s.a(x)).chunk(2, 1))[0]) + s.c(c[1]), reads=16, c=nn.Linear(16, 4)
        ),
        VECTORS,
        {"a": 16},
    ),
}


class OwnNorm(nn.Module):
    """Root mean square norms as users write them; `shift` 1 is that of Gemma."""

    def __init__(self, width: int, shift: float) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.rand(width)), shift

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (self.shift + self.weight)


class Standardised(nn.Conv2d):
    """A convolution whose weight has mean 0 and deviation 1 over its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


NORMS: dict[str, Row] = {
    "batch norm": (
        lambda: images(lambda s, x: s.b(fn.relu(s.n(s.a(x)))).mean((2, 3)), n=nn.BatchNorm2d(32)),
        IMAGES,
        {"a": 16},
    ),
    "group norm": (
        lambda: images(lambda s, x: s.b(fn.relu(s.n(s.a(x)))).mean((2, 3)), n=nn.GroupNorm(4, 32)),
        IMAGES,
        {"a": 16},
    ),
    "instance norm": (
        lambda: images(
            lambda s, x: s.b(fn.relu(s.n(s.a(x)))).mean((2, 3)), n=nn.InstanceNorm2d(32, affine=True)
        ),
        IMAGES,
        {"a": 16},
    ),
    "layer norm": (
        lambda: vectors(lambda s, x: s.b(fn.gelu(s.n(s.a(x)))), n=nn.LayerNorm(32)),
        VECTORS,
        {"a": 16},
    ),
    "layer norm of channels": (
        lambda: images(
            lambda s, x: s.b(s.n(s.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).relu()).mean((2, 3)),
            n=nn.LayerNorm(32),
        ),
        IMAGES,
        {"a": 16},
    ),
    "root mean square": (
        lambda: vectors(lambda s, x: s.b(fn.silu(s.n(s.a(x)))), n=nn.RMSNorm(32)),
        VECTORS,
        {"a": 16},
    ),
}


@pytest.mark.parametrize("name", [*MOVED, *COUPLED, *NORMS])
def test_pruned_is_the_original_with_those_channels_at_zero(name: str) -> None:
    build, shape, wanted = {**MOVED, **COUPLED, **NORMS}[name]
    notes = check(build(), shape, wanted)
    assert notes["proof"]["left"].keys() <= {"b", "c"}


@pytest.mark.parametrize("name", [*sorted({*MOVED} - {"recurrent over the height"}), "fused gate"])
def test_a_quarter_in_steps_of_eight_is_a_quarter(name: str) -> None:
    build, shape, wanted = {**MOVED, **COUPLED}[name]
    check(build(), shape, {layer: width * 3 // 2 for layer, width in wanted.items()}, ratio=0.25, round_to=8)


@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9, 0.99])
def test_no_part_is_emptied_and_all_parts_lose_as_many(ranking: str, ratio: float) -> None:
    for name in ("sum of halves", "fused gate", "three in one", "halves that go apart", "GLU"):
        build, shape, _ = COUPLED[name]
        model = with_own_numbers(build())
        whole = copy.deepcopy(model)
        prune(model, torch.randn(shape, dtype=torch.float64), ratio=ratio, ranking=ranking)
        before, after = whole.a.out_features, model.a.out_features
        parts = 3 if name == "three in one" else 2
        assert after >= parts
        assert after % parts == 0
        assert abs(after / before - (1 - ratio)) <= parts / before
        kept = kept_channels(whole, model)["a"]
        assert len({int((kept // (before // parts) == part).sum()) for part in range(parts)}) == 1


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_each_part_of_a_fused_layer_is_rounded_by_itself(parts: int) -> None:
    model = vectors(
        lambda s, x: s.b(torch.stack(s.a(x).chunk(parts, -1)).prod(0)), reads=40, gives=40 * parts
    ).eval()
    with torch.no_grad():
        prune(model, torch.randn(VECTORS), ratio=0.4, round_to=8)
    assert model.a.out_features == 24 * parts
    assert model.b.in_features == 24


DEAD = [*range(0, 20, 2), 21, 23, 25, 27, 29, 31]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in MOVED
        if name not in ("recurrent over the height", "channel shuffle of torch, depthwise and batch norm")
    ],
)
def test_dead_channels_go_and_nothing_changes(name: str) -> None:
    build, shape, _ = MOVED[name]
    torch.manual_seed(0)
    model = build().double().eval()
    with torch.no_grad():
        model.a.weight[DEAD] = 0
        model.a.bias[DEAD] = 0
        x = torch.randn(shape, dtype=torch.float64)
        before = model(x)
        prune(model, x)
        assert model.a.weight.shape[0] == 16
        torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize(
    "activation", [nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid(), nn.ELU(), nn.Softmax(dim=-1)]
)
def test_what_an_activation_makes_of_nothing_goes_too(activation: nn.Module) -> None:
    model = vectors(lambda s, x: s.b(s.f(s.a(x))), f=activation)
    if isinstance(activation, nn.Softmax):
        whole = with_own_numbers(model)
        small, x = copy.deepcopy(whole), torch.randn(VECTORS, dtype=torch.float64)
        prune(small, x)
        kept = kept_channels(whole, small)["a"]
        with torch.no_grad():
            right = whole.b.bias + whole.a(x)[:, kept].softmax(-1) @ whole.b.weight[:, kept].t()
            torch.testing.assert_close(small(x), right)
        return
    check(model, VECTORS, {"a": 16}, also={"f": "a"})


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_norms_of_users_keep_their_statistics_to_the_channels_that_stay(shift: float) -> None:
    whole = with_own_numbers(vectors(lambda s, x: s.b(s.n(s.a(x)).relu()), n=OwnNorm(32, shift)))
    small, x = copy.deepcopy(whole), torch.randn(VECTORS, dtype=torch.float64)
    prune(small, x)
    kept = kept_channels(whole, small)["a"]
    with torch.no_grad():
        h = whole.a(x)[:, kept]
        normal = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (shift + whole.n.weight[kept])
        right = whole.b.bias + normal.relu() @ whole.b.weight[:, kept].t()
        torch.testing.assert_close(small(x), right)
    assert len(kept) == 16


def test_a_standardised_convolution_takes_its_mean_over_the_inputs_that_stay() -> None:
    model = Net(
        lambda s, x: s.b(fn.relu(s.a(x))).mean((2, 3)), a=convolution(), b=Standardised(32, 4, 3, padding=1)
    )
    whole = with_own_numbers(model)
    small, x = copy.deepcopy(whole), torch.randn(IMAGES, dtype=torch.float64)
    prune(small, x)
    kept = kept_channels(whole, small)["a"]
    with torch.no_grad():
        weight = whole.b.weight[:, kept]
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        right = fn.conv2d(fn.relu(whole.a(x))[:, kept], weight, whole.b.bias, padding=1).mean((2, 3))
        torch.testing.assert_close(small(x), right)
    assert len(kept) == 16


class Mixer(nn.Module):
    """Layers over channels and over places, in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 2, 2)
        self.places_in, self.places_out = nn.Linear(16, 24), nn.Linear(24, 16)
        self.norm, self.wide, self.narrow = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.places_out(fn.gelu(self.places_in(x.transpose(1, 2)))).transpose(1, 2)
        x = x + self.narrow(fn.gelu(self.wide(self.norm(x))))
        return self.head(x.mean(1))


class Res2(nn.Module):
    """Quarters of a layer, each added to what was made of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = convolution(), convolution(32, 4)
        self.inner = nn.ModuleList(convolution(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = fn.relu(self.a(x)).chunk(4, 1)
        made = [parts[0]]
        for layer, part in zip(self.inner, parts[1:], strict=True):
            made.append(fn.relu(layer(part + made[-1])))
        return self.b(torch.cat(made, 1)).mean((2, 3))


def shuffle_block() -> nn.Module:
    return Net(
        lambda s, x: s.b(fn.relu(s.g2(s.d(s.m(fn.relu(s.g1(fn.relu(s.a(x))))))))).mean((2, 3)),
        a=convolution(),
        g1=nn.Conv2d(32, 32, 1, groups=4),
        m=nn.ChannelShuffle(4),
        d=convolution(32, 32, groups=32),
        g2=nn.Conv2d(32, 32, 1, groups=4),
        b=convolution(32, 4),
    )


def loop(cell: nn.Module) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 16, dtype=x.dtype)
        for _ in range(3):
            h = s.cell(s.a(x), h)
        return s.b(fn.relu(s.c(h)))

    return Net(forward, a=nn.Linear(16, 32), cell=cell, c=nn.Linear(16, 24), b=nn.Linear(24, 4))


def transposed(groups: int) -> nn.Module:
    layer = nn.ConvTranspose2d(32, 16, 2, 2, groups=groups)
    return images(lambda s, x: s.b(fn.relu(s.t(fn.relu(s.a(x))))).mean((2, 3)), reads=16, t=layer)


def tied() -> nn.Module:
    return Net(
        lambda s, x: s.c(fn.linear(fn.relu(s.b(fn.relu(s.a(x)))), s.a.weight.t())),
        a=nn.Linear(16, 32),
        b=nn.Linear(32, 32),
        c=nn.Linear(16, 4),
    )


def tied_within() -> nn.Module:
    """The middle is free; what the tied layer gives and reads is not."""
    return Net(
        lambda s, x: s.d(fn.linear(fn.relu(s.c(fn.relu(s.b(fn.relu(s.a(x)))))), s.a.weight.t())),
        a=nn.Linear(16, 32),
        b=nn.Linear(32, 24),
        c=nn.Linear(24, 32),
        d=nn.Linear(16, 4),
    )


FOREIGN: dict[str, Row] = {
    "grouped": (
        lambda: images(
            lambda s, x: s.b(s.g(s.a(x).relu()).relu()).mean((2, 3)), g=convolution(32, 32, groups=4)
        ),
        IMAGES,
        {"a": 16, "g": 16},
    ),
    "transposed": (lambda: transposed(1), IMAGES, {"a": 16, "t": 8}),
    "transposed in groups": (lambda: transposed(4), IMAGES, {"a": 16, "t": 8}),
    "transposed by channel": (
        lambda: images(
            lambda s, x: s.b(s.t(s.a(x).relu()).relu()).mean((2, 3)),
            t=nn.ConvTranspose2d(32, 32, 2, 2, groups=32),
        ),
        IMAGES,
        {"a": 16, "t": 16},
    ),
    "two for each channel": (
        lambda: images(
            lambda s, x: s.b(s.d(s.a(x).relu()).relu()).mean((2, 3)),
            reads=64,
            d=convolution(32, 64, groups=32),
        ),
        IMAGES,
        {"a": 16, "d": 32},
    ),
    "shuffle block": (shuffle_block, IMAGES, {"a": 16, "g1": 16, "d": 16, "g2": 16}),
    "mixer": (Mixer, IMAGES, {"places_in": 12, "wide": 16}),
    "quarters": (Res2, IMAGES, {"a": 16, "inner.0": 4, "inner.1": 4, "inner.2": 4}),
    "a tied layer": (tied_within, VECTORS, {"b": 12}),
    "a cell in a loop": (lambda: loop(nn.GRUCell(32, 16)), VECTORS, {"a": 16, "c": 12}),
    "a plain cell in a loop": (lambda: loop(nn.RNNCell(32, 16)), VECTORS, {"a": 16, "c": 12}),
    "a running sum over channels": (
        lambda: vectors(lambda s, x: s.b(fn.relu(s.c(s.a(x).cumsum(1)))), c=nn.Linear(32, 32)),
        VECTORS,
        {"c": 16},
    ),
    "sorted channels": (
        lambda: vectors(lambda s, x: s.b(fn.relu(s.c(s.a(x).sort(1).values))), c=nn.Linear(32, 32)),
        VECTORS,
        {"c": 16},
    ),
    "a spectrum of channels": (
        lambda: vectors(lambda s, x: s.b(fn.relu(s.c(torch.fft.rfft(s.a(x)).abs()))), c=nn.Linear(17, 32)),
        VECTORS,
        {"c": 16},
    ),
    "a residual from the input": (
        lambda: vectors(lambda s, x: s.b(fn.relu(s.c(x + s.a(x)))), gives=16, c=nn.Linear(16, 32)),
        VECTORS,
        {"c": 16},
    ),
    "pooled over channels": (
        lambda: vectors(
            lambda s, x: s.b(fn.relu(s.c(fn.max_pool1d(s.a(x)[:, None], 2)[:, 0]))), c=nn.Linear(16, 32)
        ),
        VECTORS,
        {"c": 16},
    ),
    "a cut at a fixed place": (
        lambda: vectors(
            lambda s, x: s.b((h := fn.relu(s.a(x)))[:, :20]) + s.c(h[:, 20:]), reads=20, c=nn.Linear(12, 4)
        ),
        VECTORS,
        {"a": 26},
    ),
    "squeeze and excite": (
        lambda: images(
            lambda s, x: s.b(
                (h := s.a(x).relu()) * s.e(s.r(h.mean((2, 3))).relu()).sigmoid()[..., None, None]
            ).mean((2, 3)),
            r=nn.Linear(32, 8),
            e=nn.Linear(8, 32),
        ),
        IMAGES,
        {"a": 16, "r": 4, "e": 16},
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_understood_stays_whole_and_the_rest_is_right(name: str) -> None:
    build, shape, wanted = FOREIGN[name]
    check(build(), shape, wanted)


HIDDEN_OUTPUT = {
    "tuple": lambda s, x: (s.b(h := fn.relu(s.a(x))), h),
    "dict": lambda s, x: {"logits": s.b(h := fn.relu(s.a(x))), "hidden": h},
    "moved": lambda s, x: (s.b(h := fn.relu(s.a(x))), h.flip(1)),
}


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (tied, "b"),
        (
            lambda: Net(
                lambda s, x: s.b(s.c(x, x.new_zeros(len(x), 32))), c=nn.GRUCell(16, 32), b=nn.Linear(32, 4)
            ),
            "c",
        ),
        *((lambda forward=forward: vectors(forward), "a") for forward in HIDDEN_OUTPUT.values()),
        (lambda: vectors(lambda s, x: s.b(s.a(x).cumsum(1))), "a"),
        (lambda: vectors(lambda s, x: s.b(s.a(x) + x), gives=16, reads=16), "a"),
    ],
)
def test_a_model_of_which_nothing_can_go_is_refused_with_the_layer_and_the_reason(
    build: Callable[[], nn.Module], named: str
) -> None:
    model = with_own_numbers(build())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=rf"nothing was pruned.*stay whole:.*\b{named} \(") as caught:
        prune(model, torch.randn(VECTORS, dtype=torch.float64))
    assert "importance" not in caught.value.hint
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("seed", [*range(40), 90])
def test_random_compositions_are_the_original_with_those_channels_at_zero(seed: int) -> None:
    whole = with_own_numbers(Composition(seed), seed)
    small, x = copy.deepcopy(whole), torch.randn(Composition(seed).shape, dtype=torch.float64)
    try:
        prune(small, x, round_to=(1, 2, 4)[seed % 3])
    except ModelError as exc:
        assert exc.message.startswith("nothing was pruned")  # noqa: PT017 - most seeds are pruned, a few refuse
    with torch.no_grad():
        right = zeroed(whole, kept_channels(whole, small))(x)
        torch.testing.assert_close(small(x), right, rtol=1e-8, atol=1e-8)
    assert all(layer.weight.shape[0] for layer in small.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
