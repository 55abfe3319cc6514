"""Factories of small torch models as other people write them; each is deterministic, and takes 16 numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm


def _layers(change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Two layers that are changed, and a head that is not."""
    torch.manual_seed(0)
    first, second = change(nn.Linear(16, 32)), change(nn.Linear(32, 32))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(32, 4))


# Weights that are computed at each call.
def weight_norm_new() -> nn.Module:
    return _layers(parametrizations.weight_norm)


def weight_norm_old() -> nn.Module:
    return _layers(weight_norm)


def spectral_norm_new() -> nn.Module:
    return _layers(parametrizations.spectral_norm)


def spectral_norm_old() -> nn.Module:
    return _layers(spectral_norm)


def orthogonal() -> nn.Module:
    return _layers(parametrizations.orthogonal)


def masked() -> nn.Module:
    return _layers(lambda layer: prune.l1_unstructured(layer, "weight", amount=0.4))


class _Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return functional.softplus(weight) - 0.5


def own_class() -> nn.Module:
    def change(layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", _Positive())
        return parametrize.register_parametrization(layer, "bias", _Positive())

    return _layers(change)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = parametrizations.weight_norm(nn.LSTM(4, 16, batch_first=True), "weight_hh_l0")
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(x.view(-1, 4, 4))[0][:, -1])
        return logits


def weight_norm_in_lstm() -> nn.Module:
    torch.manual_seed(0)
    return _Recurrent()


def parametrized_and_tied() -> nn.Module:
    """One layer computes its weight from what the other has as it is."""
    torch.manual_seed(0)
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    parametrize.register_parametrization(second, "weight", _Positive())
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(16, 4))


# Layers that take their shapes from the first input.
def lazy_linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(4))


def lazy_convolution() -> nn.Module:
    torch.manual_seed(0)
    features = (nn.Unflatten(1, (1, 4, 4)), nn.LazyConv2d(16, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU())
    return nn.Sequential(*features, nn.Flatten(), nn.LazyLinear(4))


def lazy_sequence() -> nn.Module:
    torch.manual_seed(0)
    features = (nn.Unflatten(1, (2, 8)), nn.LazyConv1d(16, 3), nn.LazyInstanceNorm1d(affine=True), nn.ReLU())
    return nn.Sequential(*features, nn.Flatten(), nn.LazyLinear(4))


# What torch puts around a module.
def compiled() -> nn.Module:
    return torch.compile(_layers(lambda layer: layer))  # type: ignore[return-value]


def in_parallel() -> nn.Module:
    return nn.DataParallel(_layers(lambda layer: layer))


def compiled_in_parallel() -> nn.Module:
    return nn.DataParallel(compiled())


def scripted() -> nn.Module:
    return torch.jit.script(_layers(lambda layer: layer))


# Forwards.
class Base(nn.Module):
    """Sixteen numbers to hidden [32] and scores [4]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 4)

    def core(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.first(x))
        return hidden, self.second(hidden)


class AnyPositions(Base):
    def forward(self, *inputs: Tensor) -> Tensor:
        return self.core(inputs[0])[1]


class KeywordOnly(Base):
    def forward(self, *, x: Tensor) -> Tensor:
        return self.core(x)[1]


class AnyKeywords(Base):
    def forward(self, **inputs: Tensor) -> Tensor:
        return self.core(inputs["x"])[1]


class GapBefore(Base):
    """The second input stands behind one that is left out."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        x = x if scale is None else x * scale
        return self.core(x if shift is None else x + shift)[1]


class DictWithNone(Base):
    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden, logits = self.core(x)
        return {"loss": None, "hidden": hidden, "logits": logits, "steps": 3}


class DictOfTwo(Base):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden, scores = self.core(x)
        return {"hidden": hidden, "scores": scores}


class _Pair(NamedTuple):
    hidden: Tensor
    scores: Tensor


class NamedPair(Base):
    def forward(self, x: Tensor) -> _Pair:
        return _Pair(*self.core(x))


@dataclasses.dataclass
class _Answer:
    loss: Tensor | None
    scores: Tensor
    states: tuple[Tensor, dict[str, Tensor]]


class DataClass(Base):
    def forward(self, x: Tensor) -> _Answer:
        hidden, scores = self.core(x)
        return _Answer(None, scores, (hidden, {"double": hidden * 2}))


class Nested(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, scores = self.core(x)
        return scores, (hidden, hidden + 1)


class ModelOutput(Base):
    def forward(self, x: Tensor) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        hidden, scores = self.core(x)
        return SequenceClassifierOutput(logits=scores, hidden_states=(hidden,))


def double() -> nn.Module:
    return _layers(lambda layer: layer).double()


def brain_float() -> nn.Module:
    return _layers(lambda layer: layer).bfloat16()


class ComplexWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(9, 16, dtype=torch.complex64))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((torch.fft.rfft(x) @ self.weight).abs())
        return logits


# Models whose gradients get in the way.
class LearnedMask(nn.Module):
    """A learned bias as the mask of attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project, self.head = nn.Linear(4, 16), nn.Linear(16, 4)
        self.bias = nn.Parameter(torch.randn(1, 2, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        value = self.project(x.view(-1, 4, 4)).view(-1, 4, 2, 8).transpose(1, 2)
        seen = functional.scaled_dot_product_attention(value, value, value, attn_mask=self.bias)
        logits: Tensor = self.head(seen.transpose(1, 2).flatten(2).mean(1))
        return logits


class PartOfATable(nn.Module):
    """Reads a view of an embedding's table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.turn = nn.Embedding(10, 16), nn.Linear(16, 32)
        self.first, self.head = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        turned = self.turn(self.table.weight[:4].unsqueeze(0)).mean((0, 1))
        logits: Tensor = self.head(torch.relu(self.first(x) + turned))
        return logits


class TransposedTable(nn.Module):
    """A module is called with a transposed view of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.turn, self.head = (
            nn.Parameter(torch.randn(16, 8)),
            nn.Linear(16, 16),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x @ self.turn(self.table.t()).t())
        return logits


class ExpandedToken(nn.Module):
    """A learned token, expanded to the batch, goes through a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token, self.mix, self.head = (
            nn.Parameter(torch.randn(1, 16)),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x + self.mix(self.token.expand(len(x), -1)))
        return logits


# Models whose answers are not the same twice.
class FunctionalDropout(Base):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.core(x)[1], 0.5, training=True)


class StaysInTraining(Base):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.drop.train()
        dropped: Tensor = self.drop(self.core(x)[1])
        return dropped


class _Stubborn(nn.Dropout):
    def train(self, mode: bool = True) -> _Stubborn:
        return super().train(True)


def stubborn_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), _Stubborn(0.5), nn.Linear(32, 4))


class Noise(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.core(x + torch.randn_like(x))[1]


class MovingMean(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.core(x)[1]
        self.mean = 0.9 * self.mean + 0.1 * scores.mean(0)
        return scores - self.mean


class InAttribute(Base):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.core(x)[1] * self.calls


class CountsCalls(Base):
    """A buffer changes, and the answer does not hang on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.core(x)[1]


# Errors.
class WrongWidth(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.core(x[:, :7])[1]


class DecidesOnValues(Base):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.core(x)[1]
        return self.core(-x)[1]


class LoopsOverValues(Base):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.abs().sum()) % 3 + 1):
            x = torch.sin(x)
        return self.core(x)[1]


class AsksForAnItem(Base):
    def forward(self, x: Tensor) -> Tensor:
        if x.max().item() > 2:
            x = x / 2
        return self.core(x)[1]
