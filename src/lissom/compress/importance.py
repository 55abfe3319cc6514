"""How much each unit of a group matters.

With W the weights of a unit in one module of the group, and G the gradient of the loss there,

    l1, l2       sum |W|, sum W^2                                  Li et al., arXiv 1608.08710
    batch-norm   |scale| of the batch normalisation                Liu et al., arXiv 1708.06519
    lamp         sum W^2 over that of all units not smaller        Lee et al., arXiv 2010.07611
    taylor       (sum W G)^2, mean over batches                    Molchanov et al., arXiv 1906.10771
    activation   mean |output| of the unit

each averaged over the modules of the group (Fang et al., arXiv 2301.12900), and divided by its mean over the
units, so that groups can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lissom.compress.groups import Group
from lissom.compress.parts import Part
from lissom.compress.samples import Samples
from lissom.errors import ModelError

Score = Callable[[Group], Tensor | None]
"""A group to the importance of its units, shape [units]; None where it cannot be told."""


def importances(
    groups: Sequence[Group], model: nn.Module, kind: str, samples: Samples
) -> list[Tensor | None]:
    """Importance of every unit of every group, mean 1; None for a group that `kind` says nothing about.

    Raises:
        ModelError: no group has what `kind` looks at, or a weight is not finite.
        DataError: there is no data to look at.
    """
    check_finite(model)
    score = _SCORES[kind](groups, model, samples)
    found = [score(group) for group in groups]
    if groups and all(scores is None for scores in found):
        raise ModelError(
            f"importance {kind!r} finds nothing to look at in this model", hint="use importance: l2"
        )
    return [None if scores is None else scores / scores.mean().clamp(min=1e-30) for scores in found]


def check_finite(model: nn.Module) -> None:
    """Refuse weights that are not finite.

    Raises:
        ModelError: naming the first.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"the weight {name!r} has values that are NaN or infinite",
                hint="go back to a checkpoint from before the training diverged",
            )


def _magnitude(power: int) -> Callable[..., Score]:
    def prepared(groups: Sequence[Group], model: nn.Module, samples: Samples) -> Score:
        return lambda group: _mean(
            rows.abs().pow(power).sum(dim=1) for part in group.parts if (rows := _weights(part)) is not None
        )

    return prepared


def _batch_norm(groups: Sequence[Group], model: nn.Module, samples: Samples) -> Score:
    return lambda group: _mean(
        rows.abs().sum(dim=1)
        for part in group.parts
        if isinstance(part.module, nn.modules.batchnorm._BatchNorm) and (rows := _weights(part)) is not None
    )


def _lamp(groups: Sequence[Group], model: nn.Module, samples: Samples) -> Score:
    def relative(squares: Tensor) -> Tensor:
        """Each over the sum of all that are not smaller."""
        order = squares.argsort()
        not_smaller = squares[order].flip(0).cumsum(0).flip(0).clamp(min=1e-30)
        return torch.empty_like(squares).index_copy_(0, order, squares[order] / not_smaller)

    plain = _magnitude(2)(groups, model, samples)
    return lambda group: None if (squares := plain(group)) is None else relative(squares)


def _taylor(groups: Sequence[Group], model: nn.Module, samples: Samples) -> Score:
    totals: list[list[Tensor]] = [[] for _ in groups]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for inputs, targets in samples.labelled_batches():
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            outputs = model(*inputs)
            first = outputs[0] if isinstance(outputs, tuple | list) else outputs
            torch.autograd.backward(samples.loss(first, targets))
        for group, found in zip(groups, totals, strict=True):
            if (scores := _mean(_slopes(group))) is not None:
                found.append(scores)
    for parameter in trainable:
        parameter.grad = None
    by_name = {group.name: found for group, found in zip(groups, totals, strict=True)}
    return lambda group: torch.stack(by_name[group.name]).mean(dim=0) if by_name[group.name] else None


def _slopes(group: Group) -> Any:
    """`(sum W G)^2` of every part of a group."""
    for part in group.parts:
        weights, slopes = _weights(part), part.rows(lambda parameter: parameter.grad)
        if weights is not None and slopes is not None:
            yield (weights * slopes).sum(dim=1).square()


def _activation(groups: Sequence[Group], model: nn.Module, samples: Samples) -> Score:
    sums: dict[int, list[Tensor]] = {}

    def note(module: nn.Module, inputs: Any, outputs: Any) -> None:
        tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        axis = 1 if isinstance(module, nn.modules.conv._ConvNd) else tensor.dim() - 1
        others = [number for number in range(tensor.dim()) if number != axis]
        sums.setdefault(id(module), []).append(tensor.abs().mean(dim=others))

    watched = {
        part.module
        for group in groups
        for part in group.parts
        if part.gives and not part.norm and isinstance(part.module, nn.Module)
    }
    handles = [module.register_forward_hook(note) for module in watched]
    try:
        with torch.no_grad():
            for inputs in samples.batches():
                model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return lambda group: _mean(
        torch.stack(sums[id(part.module)]).mean(dim=0)[part.channels].mean(dim=1)
        for part in group.parts
        if id(part.module) in sums and part.gives and bool((part.channels >= 0).all())
    )


def _weights(part: Part) -> Tensor | None:
    return part.rows(lambda parameter: parameter.detach())


def _mean(scores: Any) -> Tensor | None:
    found = list(scores)
    return torch.stack(found).mean(dim=0) if found else None


_SCORES: dict[str, Callable[..., Score]] = {
    "l1": _magnitude(1),
    "l2": _magnitude(2),
    "batch-norm": _batch_norm,
    "lamp": _lamp,
    "taylor": _taylor,
    "activation": _activation,
}
