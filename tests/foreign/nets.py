"""Small torch models for the tests of this folder, built by a factory that an artifact can name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Ending = Callable[[Tensor], Tensor]
NAME = "tests.foreign.nets"

ENDINGS: dict[str, Ending] = {
    "logits": lambda z: z,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "nearly constant": lambda z: 1e-3 * z + 0.5,
    "absolute": torch.abs,
    "unit length": lambda z: functional.normalize(z, dim=-1),
    "softmax": lambda z: z.softmax(-1),
    "softmax by hand": lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
    "softmax of a temperature": lambda z: (z / 3).softmax(-1),
    "mean of two softmaxes": lambda z: (z.softmax(-1) + (z / 2).softmax(-1)) / 2,
    "shares of a sum": lambda z: (
        (functional.softplus(z) + 1e-3) / (functional.softplus(z) + 1e-3).sum(-1, keepdim=True)
    ),
    "log_softmax": lambda z: z.log_softmax(-1),
    "logarithm of softmax": lambda z: z.softmax(-1).clamp_min(1e-9).log(),
    "less the logsumexp": lambda z: z - z.logsumexp(-1, keepdim=True),
    "logarithm of sigmoid": functional.logsigmoid,
    "less a softplus": lambda z: -functional.softplus(-z),
    "sigmoid": torch.sigmoid,
    "sigmoid by hand": lambda z: 1 / (1 + torch.exp(-z)),
    "half of tanh": lambda z: (torch.tanh(z) + 1) / 2,
    "hardsigmoid": functional.hardsigmoid,
}
"""What may follow the last layer of a classifier."""
KINDS = {
    **dict.fromkeys(("logits", "relu", "tanh", "nearly constant", "absolute", "unit length"), "logits"),
    **dict.fromkeys(("softmax", "softmax by hand", "softmax of a temperature"), "probabilities"),
    **dict.fromkeys(("mean of two softmaxes", "shares of a sum"), "probabilities"),
    **dict.fromkeys(("log_softmax", "logarithm of softmax", "less the logsumexp"), "log_probabilities"),
    # Of several classes no sum is one; of two classes one number tells both.
    **dict.fromkeys(("logarithm of sigmoid", "less a softplus"), "logits"),
    **dict.fromkeys(("sigmoid", "sigmoid by hand", "half of tanh", "hardsigmoid"), "sigmoids"),
}


class Ended(nn.Module):
    """Two layers, and what follows them."""

    def __init__(self, ending: str, in_features: int, num_outputs: int, norm: bool, squeezed: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_features) if norm else nn.Identity()
        self.hidden = nn.Linear(in_features, 32)
        self.head = nn.Linear(32, num_outputs)
        self.ending, self.squeezed = ending, squeezed

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(functional.relu(self.hidden(self.norm(x))))
        return ENDINGS[self.ending](z[:, 0] if self.squeezed else z)

    def logits(self, x: Tensor) -> Tensor:
        """What the ending is applied to."""
        found: Tensor = self.head(functional.relu(self.hidden(self.norm(x))))
        return found


def ended(
    *,
    ending: str = "logits",
    in_features: int = 16,
    num_outputs: int = 4,
    norm: bool = False,
    zero: bool = False,
    squeezed: bool = False,
) -> nn.Module:
    """A classifier of vectors; `zero` begins with a head of zeros, `squeezed` gives one number a sample."""
    torch.manual_seed(0)
    net = Ended(ending, in_features, num_outputs, norm, squeezed)
    if zero:
        nn.init.zeros_(net.head.weight)
        nn.init.zeros_(net.head.bias)
    return net


class Laid(nn.Module):
    """One product, whose output is a view that lies in memory in another way."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(4, 16))
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = x @ self.weight.T
        return LAYOUTS[self.layout](plain)


LAYOUTS: dict[str, Ending] = {
    "transposed": lambda y: y.T.contiguous().T,
    "strided": lambda y: y.repeat_interleave(2, dim=1)[:, ::2],
    "part of a larger one": lambda y: torch.cat([y, -y], dim=1)[:, :4],
    "repeated": lambda y: y[:, :1].expand(-1, 4),
    "rows from a larger one": lambda y: torch.cat([y.new_full((3, 4), 9.0), y])[3:],
    "permuted": lambda y: y.reshape(len(y), 2, 2).permute(0, 2, 1),
}
"""How an output may lie in memory; what its values are."""


def laid(*, layout: str) -> nn.Module:
    """A linear model whose output lies in memory as the layout says."""
    torch.manual_seed(0)
    return Laid(layout)


class Positive(nn.Module):
    """Ends in a softplus, whose outputs are above 0 in the unit of the targets."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.softplus(self.layers(x))


def positive(*, in_features: int) -> nn.Module:
    """A model of values above 0."""
    return Positive(in_features)


class Tied(nn.Module):
    """The last layer is used twice, so that nothing may be folded into it."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, 1)
        self.last = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.last(self.first(x))))
        return found


def tied(*, in_features: int) -> nn.Module:
    """A model of values whose last layer is called twice."""
    return Tied(in_features)


def flat(*, in_features: int) -> nn.Module:
    """One number a sample, without an axis of length one."""
    hidden = nn.Sequential(nn.Linear(in_features, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    return hidden


def rowwise(*, sizes: list[int], tokens: bool = False) -> nn.Module:
    """One product of rows, or of the vector of each token."""
    torch.manual_seed(0)
    return nn.Embedding(*sizes) if tokens else nn.Linear(*sizes)
