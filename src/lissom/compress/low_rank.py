"""Low rank: a layer whose matrix is nearly of low rank becomes two thin ones.

The singular value decomposition M = U diag(s) V^T, cut after r values, is the closest matrix of rank r, and
the squared distance is the sum of the squares that were cut (Eckart and Young, The Approximation of One
Matrix by Another of Lower Rank, 1936):

    |M - M_r|^2 = s_{r+1}^2 + ... + s_n^2

The share of the squares that may go decides the rank of each layer, rounded up to a multiple of `round_to`;
at a share of 0 nothing is touched. M depends on the layer:

    linear         [inputs, outputs]
    convolution    [inputs * height, outputs * width] of the kernel: a vertical convolution to r channels and
                   a horizontal one from there (Jaderberg et al., arXiv 1405.3866); where the kernel is one
                   wide, or has one axis, the whole window is in the first, and the second is 1x1

The first layer gets U diag(sqrt s), the second diag(sqrt s) V^T and the bias: with the values split evenly
both have the same norm, so that one learning rate and weight decay suit both when they are trained again.

A layer is replaced only where that saves multiply-adds. Left alone are grouped convolutions, recurrent
layers, layers that share a weight, and layers that are never called, or whose weight another module reads,
as torch's attention does. The ranks of several steps follow from the weights before the first one; what the
factors hold, from the weights as they are.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lissom.compress.double import TOLERANCE, prove_equal
from lissom.compress.groups import few
from lissom.compress.naming import excluded
from lissom.compress.outputs import check_outputs, output_shapes
from lissom.compress.samples import Samples
from lissom.compress.targets import Reduction
from lissom.compress.tracing import is_turned
from lissom.errors import ModelError
from lissom.recipe import PruneConfig

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_WINDOW = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
"""Settings of a convolution's window, and the value that leaves an axis as it is."""


class _Parts(NamedTuple):
    """A layer as the sum of matrices of rank one.

    Attributes:
        energies: Squared singular values before the first step, falling.
        left: U of the matrix as it is, [rows, number].
        values: Its singular values, falling.
        right: V^T, [number, columns].
        highest: Above this rank nothing is saved.
    """

    energies: Tensor
    left: Tensor
    values: Tensor
    right: Tensor
    highest: int


def rank_factors(model: nn.Module, whole: nn.Module, config: PruneConfig, samples: Samples) -> Reduction:
    """The singular values of every layer that can be factorised.

    Raises:
        ModelError: the model does not run, nothing can be factorised, a weight holds NaN, or an excluded name
            is unknown.
    """
    parts: dict[str, _Parts] = {}
    for name, stretch in find_layers(whole, config, samples.example).items():
        before, now = _matrix(whole.get_submodule(name)), _matrix(model.get_submodule(name))
        if not torch.isfinite(now).all():
            raise ModelError(f"the weight of {name} holds NaN or infinity", hint="train the model again")
        left, values, right = torch.linalg.svd(now, full_matrices=False)
        energies = values.square() if torch.equal(before, now) else torch.linalg.svdvals(before).square()
        cost = before.shape[0] * stretch + before.shape[1]  # of a rank, where the matrix costs its elements
        parts[name] = _Parts(energies, left, values, right, math.ceil(before.numel() / cost) - 1)
    return _Factors(whole, parts, config, samples.example)


class _Factors(NamedTuple):
    whole: nn.Module
    parts: Mapping[str, _Parts]
    config: PruneConfig
    example: list[Tensor]

    def apply(self, model: nn.Module, share: float) -> dict[str, Any]:
        ranks = {name: self._rank(part, share) for name, part in self.parts.items()} if share > 0 else {}
        lower = {name: rank for name, rank in ranks.items() if rank <= self.parts[name].highest}
        # The first of several steps may be too small; the last may not.
        if ranks and not lower and (share >= self.config.ratio or self.config.of != "parts"):
            tried = ", ".join(f"{name} (rank {rank})" for name, rank in list(ranks.items())[:5])
            raise ModelError(
                f"nothing was factorised: at a share of {share:.3g} no layer saves multiply-adds: {tried}",
                hint="raise the ratio, or lower round_to",
            )
        wanted = output_shapes(model, self.example)
        before = copy.deepcopy(model)
        for name, rank in lower.items():
            now, layer = model.get_submodule(name), self.whole.get_submodule(name)
            model.set_submodule(name, _factorised(now, layer, self.parts[name], rank))
            before.set_submodule(name, _multiplied(model.get_submodule(name), layer))
        check_outputs(model, self.example, wanted, list(lower))
        if not lower:
            return {"ranks": {}}
        problem = "with two layers for one the model is not what it is with their product"
        error = prove_equal(before, model, few(self.example), list(lower), problem)
        spans = {name: [len(self.parts[name].energies), rank] for name, rank in lower.items()}
        return {"ranks": spans, "proof": {"error": error, "tolerance": TOLERANCE, "left": {}}}

    def _rank(self, part: _Parts, share: float) -> int:
        """The smallest rank that keeps all but the share of the squares, rounded up."""
        kept = part.energies.double().cumsum(0)
        rank = int((kept >= (1 - share) * kept[-1]).int().argmax()) + 1
        step = self.config.round_to
        return min(-(-rank // step) * step, len(part.energies))


def find_layers(model: nn.Module, config: PruneConfig, example: list[Tensor]) -> dict[str, float]:
    """Names of the layers that can be factorised; how much wider a row is between the two than after both.

    Raises:
        ModelError: the model does not run, there is none, or an excluded name is unknown.
    """
    kept = {module for outer in excluded(model, config.exclude) for module in outer.modules()}
    output_shapes(model, example)
    holders = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    names = [
        name
        for name, module in model.named_modules()
        if name and _is_factorisable(module) and holders[id(module.weight)] == 1 and module not in kept
    ]
    found = _called(model, names, example)
    if not found:
        looked = f"; looked at {', '.join(names[:5])}, whose weights are read by others" if names else ""
        raise ModelError(
            f"nothing to prune: the model has no layer that can be factorised{looked}",
            hint="low-rank splits linear layers and convolutions without groups that the forward calls; "
            "prune by width or depth instead" + (", or exclude less" if kept else ""),
        )
    return found


def _is_factorisable(module: Any) -> bool:
    """False for what computes its weight, by a hook or a parametrization."""
    if type(module) not in (nn.Linear, *_CONVOLUTIONS) and not is_turned(module):
        return False
    plain = set(module._parameters) == {"weight", "bias"} and not module._forward_pre_hooks
    return plain and getattr(module, "groups", 1) == 1 and module.weight.is_floating_point()


class _Seen(nn.Module):
    """Calls a layer, and notes under its name how much wider its input is than its output.

    It has no weight, so that a module that reads the weight of the layer fails.
    """

    def __init__(self, layer: nn.Module, name: str, stretches: dict[str, float]) -> None:
        super().__init__()
        self.layer, self.name, self.stretches = layer, name, stretches

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        horizontal = isinstance(self.layer, nn.Conv2d) and self.layer.kernel_size[1] > 1
        self.stretches[self.name] = x.shape[-1] / y.shape[-1] if horizontal else 1.0
        return y


def _called(model: nn.Module, names: Iterable[str], example: list[Tensor]) -> dict[str, float]:
    """Of these layers those that are called, and whose weight only they read; see `_Seen`."""
    trial, names = copy.deepcopy(model), list(names)
    layers = {name: trial.get_submodule(name) for name in names}
    stretches: dict[str, float] = {}

    def runs(tried: Iterable[str]) -> bool:
        for name in tried:
            trial.set_submodule(name, _Seen(layers[name], name, stretches))
        try:
            output_shapes(trial, example)
        except ModelError:
            return False
        finally:
            for name in tried:
                trial.set_submodule(name, layers[name])
        return True

    if not runs(names):
        alone = [name for name in names if runs([name])]
        stretches.clear()
        runs(alone)
    return {name: stretches[name] for name in names if name in stretches}


def _matrix(module: Any) -> Tensor:
    """[rows, columns]: what a layer, or the two in its place, multiplies with; see the top of the file."""
    if isinstance(module, nn.Sequential):
        pair: Any = module
        first, second = (layer.weight.detach().float() for layer in pair)
        product: Tensor = first.flatten(1).T @ second.transpose(0, 1).flatten(1)
        return product
    weight: Tensor = module.weight.detach().float()
    if is_turned(module):
        return weight
    if isinstance(module, nn.Conv2d):
        return weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    return weight.flatten(1).T


def _multiplied(pair: Any, layer: nn.Module) -> nn.Module:
    """The layer as it was, with the product of two as its weight, in float64."""
    single: Any = copy.deepcopy(layer).double()
    first, second = (half.weight.detach().double() for half in pair)
    product = first.flatten(1).T @ second.transpose(0, 1).flatten(1)
    if isinstance(layer, nn.Conv2d):
        sizes = single.weight.shape
        product = product.reshape(sizes[1], sizes[2], sizes[0], sizes[3]).permute(2, 0, 1, 3)
    elif not is_turned(layer):
        product = product.T.reshape(single.weight.shape)
    with torch.no_grad():
        single.weight.copy_(product)
        if single.bias is not None:
            single.bias.copy_(pair[1].bias)
    return single  # type: ignore[no-any-return]


def _factorised(now: nn.Module, layer: nn.Module, parts: _Parts, rank: int) -> nn.Sequential:
    """Two layers in the place of `now`, which is `layer` or the two that were put in its place before."""
    old: Any = now[-1] if isinstance(now, nn.Sequential) else now
    first, second = _thin_layers(layer, rank, bias=old.bias is not None, like=old.weight)
    roots = parts.values[:rank].sqrt()
    rows, columns = parts.left[:, :rank] * roots, roots[:, None] * parts.right[:rank]
    with torch.no_grad():
        first.weight.copy_(rows.T.reshape(first.weight.shape))
        sizes = second.weight.shape
        second.weight.copy_(columns.reshape(rank, sizes[0], *sizes[2:]).transpose(0, 1))
        if old.bias is not None:
            second.bias.copy_(old.bias)
    pair = nn.Sequential(first, second).train(now.training)
    return pair.requires_grad_(old.weight.requires_grad)


def _thin_layers(layer: Any, rank: int, *, bias: bool, like: Tensor) -> tuple[Any, Any]:
    """Two layers of the kind of one, by way of `rank` channels; their weights are still to be set."""
    kind: Any = type(layer) if isinstance(layer, _CONVOLUTIONS) else nn.Linear
    make = partial(skip_init, kind, device=like.device, dtype=like.dtype)
    if kind is nn.Linear:
        inputs, outputs = layer.weight.shape if is_turned(layer) else reversed(layer.weight.shape)
        return make(inputs, rank, bias=False), make(rank, outputs, bias=bias)
    vertical: dict[str, Any] = {name: getattr(layer, name) for name in _WINDOW}
    horizontal: dict[str, Any] = {"kernel_size": 1}
    mode = {"padding_mode": layer.padding_mode}
    if kind is nn.Conv2d and layer.kernel_size[1] > 1:
        horizontal = {name: _along(value, 1, _WINDOW[name]) for name, value in vertical.items()} | mode
        vertical = {name: _along(value, 0, _WINDOW[name]) for name, value in vertical.items()}
    return (
        make(layer.in_channels, rank, **vertical, **mode, bias=False),
        make(rank, layer.out_channels, **horizontal, bias=bias),
    )


def _along(value: Any, axis: int, neutral: int) -> Any:
    """A setting of a window for one of its axes alone; a padding by name serves both."""
    if isinstance(value, str):
        return value
    return tuple(size if index == axis else neutral for index, size in enumerate(value))
