"""Optimisers and learning rate schedules by name, all torch's own."""

from __future__ import annotations

import math

import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from lissom.logs import log
from lissom.recipe import Optimization

_WARMUP_START = 1e-3
"""Share of the learning rate at which warm-up begins."""

_MOMENTUM_SWING = 0.05
"""How far one-cycle takes the momentum down while the rate rises, and up while it falls."""
_FEW_STEPS = 4


def optimizer_for(model: nn.Module, config: Optimization) -> optim.Optimizer:
    """The optimiser of a recipe over the parameters that are trained."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adam":
        return optim.Adam(parameters, lr=rate, weight_decay=decay)
    if config.optimizer == "adamw":
        return optim.AdamW(parameters, lr=rate, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return optim.RMSprop(parameters, lr=rate, momentum=config.momentum, weight_decay=decay)
    nesterov = config.momentum > 0
    return optim.SGD(parameters, lr=rate, momentum=config.momentum, nesterov=nesterov, weight_decay=decay)


def schedule_for(
    optimizer: optim.Optimizer, config: Optimization, *, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    """The schedule of a recipe, to be stepped after every step of the optimiser.

    `plateau` is constant here: `plateau_for` lowers the rate between epochs.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(math.ceil(config.warmup_epochs * steps_per_epoch), total - 1)
    if not warmup:
        return _main_schedule(optimizer, config, total, steps_per_epoch)
    rise = lr_scheduler.LinearLR(optimizer, start_factor=_WARMUP_START, total_iters=warmup)
    if config.schedule in ("plateau", "constant"):
        return rise  # which leaves the rate alone once it has risen
    main = _main_schedule(optimizer, config, total - warmup, steps_per_epoch)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[warmup])


def plateau_for(optimizer: optim.Optimizer, config: Optimization) -> lr_scheduler.ReduceLROnPlateau | None:
    """Lowers the rate when the score on the select split, by which it is stepped, stops rising."""
    if config.schedule != "plateau":
        return None
    return lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=config.step_factor,
        patience=config.step_epochs,
        threshold=1e-4,
        threshold_mode="abs",  # a share of a negative score would count as better than it
    )


@torch.no_grad()
def normalize_gradients(model: nn.Module) -> None:
    """Scale all gradients together to norm 1, so that the learning rate alone decides how far a step goes."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    for gradient in gradients:
        gradient.div_(norm.clamp(min=1e-12))


def _main_schedule(
    optimizer: optim.Optimizer, config: Optimization, num_steps: int, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    if config.schedule == "one-cycle":
        if num_steps < _FEW_STEPS:
            log.warning(
                "one-cycle over %d steps hardly trains: the rate is near zero; take more epochs", num_steps
            )
        middle = config.momentum if config.optimizer == "sgd" else 0.9
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=config.learning_rate,
            total_steps=num_steps,
            cycle_momentum=middle > 0 and config.optimizer != "rmsprop",
            base_momentum=max(0.0, middle - _MOMENTUM_SWING),
            max_momentum=min(0.999, middle + _MOMENTUM_SWING),
        )
    if config.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)
    if config.schedule == "step":
        every = config.step_epochs * steps_per_epoch
        return lr_scheduler.StepLR(optimizer, step_size=every, gamma=config.step_factor)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)
