"""Losses by name, each a function (outputs, targets, config) to a scalar.

Focal loss: `-(1 - p)^gamma log p` of the probability p of the right class, so that samples which are
already right count less (Lin et al., arXiv 1708.02002). Huber: half the squared error up to `delta`,
beyond it linear.

The losses of classes take logits. A model that gives probabilities has the loss of their logarithms, which
are logits: cross-entropy is then -log p. One that gives a sigmoid for each class has binary cross-entropy,
the sum of -t log p - (1 - t) log(1 - p) over the classes, whose gradients are as large as those of
cross-entropy, and the focal loss of each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.errors import RecipeError, near
from lissom.models.dataset import IGNORED
from lissom.models.score_tensors import class_columns, class_logits, log_of
from lissom.models.tasks import Task
from lissom.recipe import Optimization

TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) to a scalar."""


def loss_for(task: Task, config: Optimization) -> TaskLoss:
    """The loss that the recipe names, else the task's own or its first.

    Raises:
        RecipeError: the loss does not fit the task.
    """
    if config.loss is None and not task.losses:
        return task.loss
    name = config.loss or task.losses[0]
    if name not in task.losses:
        raise RecipeError(
            f"the loss {name!r} does not fit {type(task).__name__}",
            hint=near(name, task.losses) if task.losses else "this task has a loss of its own; name none",
        )
    if config.label_smoothing and name not in CLASS_LOSSES:
        raise RecipeError(
            f"label_smoothing spreads a target over classes, which {name!r} does not have",
            hint="leave label_smoothing out",
        )
    function, kind = LOSSES[name], task.scores
    if name not in CLASS_LOSSES:
        return lambda outputs, targets: function(outputs, targets, config)
    if kind == "sigmoids":
        return lambda outputs, targets: binary(outputs, targets, config, focal=name == "focal")
    if kind == "logits":
        return lambda outputs, targets: function(_columns(outputs), targets, config)
    return lambda outputs, targets: function(class_logits(outputs, kind), targets, config)


def cross_entropy(outputs: Tensor, targets: Tensor, config: Optimization) -> Tensor:
    """Logits [..., classes] against class indices [...] or, when samples are mixed, shares [..., classes]."""
    logits, wanted = _flat(outputs, targets)
    smoothing = config.label_smoothing
    if outputs.ndim <= 2:
        return functional.cross_entropy(logits, wanted, label_smoothing=smoothing)
    total = functional.cross_entropy(
        logits, wanted, label_smoothing=smoothing, ignore_index=IGNORED, reduction="sum"
    )
    return total / (wanted != IGNORED).sum().clamp(min=1)  # a batch in which nothing counts loses nothing


def focal(outputs: Tensor, targets: Tensor, config: Optimization) -> Tensor:
    """Focal loss of logits [..., classes]; with gamma 0 it is cross-entropy."""
    logits, wanted = _flat(outputs, targets)
    log_shares = functional.log_softmax(logits, dim=-1)
    discounted = (1 - log_shares.exp()) ** config.focal_gamma * log_shares
    shares, counted = _shares(wanted, logits.shape[-1], config)
    return -((shares * discounted).sum(dim=-1) * counted).sum() / counted.sum().clamp(min=1)


def binary(outputs: Tensor, targets: Tensor, config: Optimization, *, focal: bool = False) -> Tensor:
    """Binary cross-entropy, or its focal loss, of sigmoids [..., classes], each class by itself.

    Of a single column it is the cross-entropy of two classes.
    """
    shares, wanted = _flat(class_columns(outputs, "sigmoids"), targets)
    known, counted = _shares(wanted, shares.shape[-1], config)
    present, absent = log_of(shares), log_of(1 - shares)
    if focal:
        present = (1 - shares) ** config.focal_gamma * present
        absent = shares**config.focal_gamma * absent
    losses = -(known * present + (1 - known) * absent).sum(dim=-1)
    if outputs.ndim < 2 or outputs.shape[-1] == 1:  # both columns say the same
        losses = losses / 2
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def mse(outputs: Tensor, targets: Tensor, config: Optimization) -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(outputs, targets.reshape(outputs.shape))


def mae(outputs: Tensor, targets: Tensor, config: Optimization) -> Tensor:
    """Mean absolute error."""
    return functional.l1_loss(outputs, targets.reshape(outputs.shape))


def huber(outputs: Tensor, targets: Tensor, config: Optimization) -> Tensor:
    """Huber loss."""
    return functional.huber_loss(outputs, targets.reshape(outputs.shape), delta=config.huber_delta)


def penalty(model: nn.Module, config: Optimization) -> Tensor | float:
    """`l1 sum |w| + l2 / 2 sum w^2` over weights; biases and norms, which have one axis, are free."""
    if not config.l1 and not config.l2:
        return 0.0
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    absolute = torch.stack([weight.abs().sum() for weight in weights]).sum() if config.l1 else 0.0
    squared = torch.stack([weight.square().sum() for weight in weights]).sum() if config.l2 else 0.0
    return config.l1 * absolute + config.l2 / 2 * squared


def _columns(outputs: Tensor) -> Tensor:
    """Logits with a column a class; in the precision of the model where it gives so many."""
    return outputs if outputs.ndim > 1 and outputs.shape[-1] > 1 else class_columns(outputs, "logits")


def _shares(wanted: Tensor, num_classes: int, config: Optimization) -> tuple[Tensor, Tensor]:
    """What each sample should be, as smoothed shares [samples, classes], and 1 for each that counts."""
    if wanted.is_floating_point():
        shares, counted = wanted, torch.ones_like(wanted[:, 0])
    else:
        shares = functional.one_hot(wanted.clamp(min=0), num_classes).float()
        counted = (wanted != IGNORED).float()
    return (1 - config.label_smoothing) * shares + config.label_smoothing / num_classes, counted


def _flat(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of a sequence count as samples."""
    if logits.ndim <= 2:
        return logits, targets
    flat = targets.reshape(-1, logits.shape[-1]) if targets.is_floating_point() else targets.reshape(-1)
    return logits.reshape(-1, logits.shape[-1]), flat


LOSSES: dict[str, Callable[[Tensor, Tensor, Optimization], Tensor]] = {
    "cross-entropy": cross_entropy,
    "focal": focal,
    "mse": mse,
    "mae": mae,
    "huber": huber,
}
CLASS_LOSSES = ("cross-entropy", "focal")
"""Those of classes."""
