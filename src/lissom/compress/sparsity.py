"""Sparsity: single weights become zero, and the model keeps its structure.

magnitude. The weights that are smallest in absolute value become zero (Han et al., arXiv 1506.02626): the
same share of every matrix (local), the smallest over all matrices (global), or over the matrices of one
shape (isomorphic).

2:4. Of every four neighbours along the inputs the two smallest become zero, the pattern that sparse tensor
cores skip (Mishra et al., arXiv 2104.08378). Neighbours are input channels; a convolution [out, in, k, k] is
seen as [out, k * k * in] with the channels innermost, as its kernels have it, so that four neighbours lie at
one place. Where the inputs are not a multiple of four the matrix is left as it is. On the way there, in
several steps, those of the weights that the pattern removes which are smallest go first.

Only the matrices of linear, convolutional and recurrent layers are pruned: biases, norms and embeddings never
are, nor is a matrix that an embedding shares. Zeros are numbers like others to most engines: they save no
time there, and no space until the file is compressed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissom.compress.naming import excluded
from lissom.compress.samples import Samples
from lissom.compress.targets import Reduction
from lissom.errors import ModelError
from lissom.models.masks import NOTE, count_zeros
from lissom.recipe import PruneConfig

_FOUR, _TWO = 4, 2


class Matrix(NamedTuple):
    """The weights of one layer.

    Attributes:
        weight: The parameter.
        axis: Axis of its input channels.
        num_inputs: Input channels that one output reads.
    """

    weight: nn.Parameter
    axis: int
    num_inputs: int


def rank_weights(model: nn.Module, whole: nn.Module, config: PruneConfig, samples: Samples) -> Reduction:
    """The single weights of a model, ranked by their absolute value.

    Raises:
        ModelError: no matrix can be pruned, or a weight is not finite.
    """
    found = _matrices(model, config)
    for name, matrix in found.items():
        if not bool(torch.isfinite(matrix.weight).all()):
            raise ModelError(
                f"the weights of {name} are not finite, so they cannot be ranked",
                hint="train with a lower learning_rate, or exclude the layer",
            )
    return _Weights(config, sum(_num_zeros(matrix) for matrix in _matrices(whole, config).values()))


class _Weights(NamedTuple):
    config: PruneConfig
    num_before: int
    """Zeros of the model before the first step."""

    def apply(self, model: nn.Module, share: float) -> dict[str, Any]:
        found = _matrices(model, self.config)
        with torch.no_grad():
            for group in _ranked_together(found, self.config):
                _zero_smallest(group, share, self.config)
        num_zeros = sum(_num_zeros(matrix) for matrix in found.values())
        if share >= self.config.ratio > 0 and num_zeros <= self.num_before:
            num_weights = sum(matrix.weight.numel() for matrix in found.values())
            raise ModelError(
                f"nothing was pruned: {num_zeros / num_weights:.1%} of the weights were zero already, and "
                f"{self.config.ratio:.1%} were to be",
                hint="raise ratio, or leave the stage out",
            )
        pattern = "2:4" if self.config.method == "2:4" else "unstructured"
        notes: dict[str, Any] = {NOTE: count_zeros(model, found, pattern)}
        left = _left(model, self.config)
        return notes | ({"left": left} if left else {})


def matrices(model: nn.Module) -> dict[str, Matrix]:
    """Every matrix of a linear, convolutional or recurrent layer, by name; one that is shared stands once.

    The name is that of the module where the matrix is its `weight`, else that of the parameter.
    """
    embedded = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    found: dict[str, Matrix] = {}
    seen = set(embedded)
    for place, module in model.named_modules():
        for leaf, weight in module.named_parameters(recurse=False):
            axis = _input_axis(module, leaf)
            if axis is None or id(weight) in seen or not weight.is_floating_point():
                continue
            seen.add(id(weight))
            groups = module.groups if axis == 0 and isinstance(module, nn.modules.conv._ConvNd) else 1
            name = ".".join(filter(None, (place, leaf))).removesuffix(".weight")
            found[name] = Matrix(weight, axis, weight.shape[axis] // groups)
    return found


def fits_two_of_four(matrix: Matrix) -> bool:
    """True where the inputs can be cut into fours."""
    return matrix.num_inputs % _FOUR == 0


def fours(matrix: Matrix) -> Tensor:
    """The weights as rows of four neighbours, shape [weights / 4, 4]."""
    return matrix.weight.detach().movedim(matrix.axis, -1).reshape(-1, _FOUR)


def _input_axis(module: nn.Module, leaf: str) -> int | None:
    """Axis of the input channels of a parameter, None where it is no matrix that is pruned."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return 1 if leaf.startswith("weight") else None
    if isinstance(module, nn.MultiheadAttention):
        return 1 if leaf.endswith("proj_weight") else None
    if leaf != "weight":
        return None
    if isinstance(module, nn.Linear):
        return 1
    if isinstance(module, nn.modules.conv._ConvNd):
        return 0 if module.transposed else 1
    # The linear layer of GPT-2 in transformers, which is not imported for it: [in, out].
    return 0 if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else None


def _matrices(model: nn.Module, config: PruneConfig) -> dict[str, Matrix]:
    """Those that the config prunes."""
    kept = {id(weight) for module in excluded(model, config.exclude) for weight in module.parameters()}
    found = {name: matrix for name, matrix in matrices(model).items() if id(matrix.weight) not in kept}
    if not found:
        raise ModelError(
            "nothing can be pruned: no layer that is not excluded has a matrix of floating-point weights",
            hint="exclude fewer layers; a model that was quantized is pruned before, not after",
        )
    if config.method != "2:4":
        return found
    fitting = {name: matrix for name, matrix in found.items() if fits_two_of_four(matrix)}
    if not fitting:
        sizes = ", ".join(f"{name} {matrix.num_inputs}" for name, matrix in list(found.items())[:5])
        raise ModelError(
            f"nothing can be pruned 2:4: no layer has inputs that are a multiple of 4 ({sizes})",
            hint="prune by method magnitude",
        )
    return fitting


def _left(model: nn.Module, config: PruneConfig) -> dict[str, str]:
    """Layers that do not fit the pattern, and why."""
    if config.method != "2:4":
        return {}
    kept = {id(weight) for module in excluded(model, config.exclude) for weight in module.parameters()}
    return {
        name: f"{matrix.num_inputs} inputs are not a multiple of 4"
        for name, matrix in matrices(model).items()
        if id(matrix.weight) not in kept and not fits_two_of_four(matrix)
    }


def _ranked_together(found: Mapping[str, Matrix], config: PruneConfig) -> Iterator[dict[str, Matrix]]:
    """Groups of matrices, each with one threshold."""
    groups: dict[Any, dict[str, Matrix]] = {}
    for name, matrix in found.items():
        key = {"local": name, "global": "", "isomorphic": tuple(matrix.weight.shape)}[config.ranking]
        groups.setdefault(key, {})[name] = matrix
    yield from groups.values()


def _zero_smallest(group: Mapping[str, Matrix], share: float, config: PruneConfig) -> None:
    """Set the share of a group that is smallest to zero.

    Raises:
        ModelError: no weight of a layer would be left.
    """
    scores = torch.cat([_scores(matrix, config).flatten() for matrix in group.values()])
    number = round(share * scores.numel())
    if len(group) == 1:
        number = min(number, scores.numel() - 1)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.topk(number, largest=False, sorted=False).indices] = True
    parts = torch.split(chosen, [matrix.weight.numel() for matrix in group.values()])
    for (name, matrix), part in zip(group.items(), parts, strict=True):
        if bool(part.all()) and bool(matrix.weight.any()):
            raise ModelError(
                f"a ratio of {config.ratio} leaves no weight of {name}",
                hint=f"lower ratio, exclude {name}, or rank within each layer: ranking local",
            )
        matrix.weight.masked_fill_(part.view_as(matrix.weight), 0.0)


def _scores(matrix: Matrix, config: PruneConfig) -> Tensor:
    """What ranks the weights, in their shape: the absolute value, infinite where a weight must stay."""
    sizes = matrix.weight.detach().abs()
    if config.method != "2:4":
        return sizes
    rows = fours(matrix).abs()
    stays = torch.ones_like(rows, dtype=torch.bool)
    stays.scatter_(1, rows.topk(_TWO, dim=1, largest=False).indices, False)
    moved = sizes.movedim(matrix.axis, -1)
    return sizes.masked_fill(stays.reshape(moved.shape).movedim(-1, matrix.axis), float("inf"))


def _num_zeros(matrix: Matrix) -> int:
    return int((matrix.weight == 0).sum())
