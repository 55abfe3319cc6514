"""Learning rates over the steps, and gradients of norm one."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from lissom.models.optimization import normalize_gradients, optimizer_for, plateau_for, schedule_for
from lissom.recipe import TrainConfig


def rates(steps_per_epoch: int = 10, **fields: object) -> list[float]:
    """The learning rate of every step."""
    config = TrainConfig.model_validate({"epochs": 4, "learning_rate": 1.0, **fields})
    optimizer = optimizer_for(nn.Linear(2, 2), config)
    schedule = schedule_for(optimizer, config, steps_per_epoch=steps_per_epoch)
    found = []
    for _ in range(config.epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step", "plateau", "constant"])
@pytest.mark.parametrize("warmup_epochs", [0.0, 0.5, 1.0, 9.0])
def test_a_rate_is_never_above_its_peak_nor_negative(schedule: str, warmup_epochs: float) -> None:
    found = rates(schedule=schedule, warmup_epochs=warmup_epochs)
    assert all(0 <= rate <= 1.0 + 1e-9 for rate in found)


@pytest.mark.parametrize("schedule", ["cosine", "step", "plateau", "constant"])
def test_warm_up_rises_in_a_line_to_the_peak(schedule: str) -> None:
    found = rates(schedule=schedule, warmup_epochs=1)
    steps = [after - before for before, after in pairwise(found[:10])]
    assert found[0] == pytest.approx(1e-3)
    assert steps == pytest.approx([steps[0]] * 9)
    assert found[10] == pytest.approx(1.0)


def test_cosine_falls_by_its_formula_and_ends_near_zero() -> None:
    found = rates(schedule="cosine")
    assert found[0] == 1.0
    assert found[20] == pytest.approx(0.5)
    assert found[-1] < 0.01


def test_step_falls_at_its_epochs() -> None:
    found = rates(schedule="step", step_epochs=2, step_factor=0.5)
    assert found == pytest.approx([1.0] * 20 + [0.5] * 20)


def test_plateau_lowers_the_rate_when_the_score_stops_rising() -> None:
    config = TrainConfig(schedule="plateau", step_epochs=1, step_factor=0.5, learning_rate=1.0)
    optimizer = optimizer_for(nn.Linear(2, 2), config)
    plateau = plateau_for(optimizer, config)
    assert plateau is not None
    found = []
    for score in (0.1, 0.2, 0.2, 0.2, 0.3):
        plateau.step(score)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [1.0, 1.0, 1.0, 0.5, 0.5]


def test_a_normalised_gradient_has_norm_one_whether_small_or_large() -> None:
    model = nn.Linear(3, 2)
    for size in (1e-4, 1.0, 1e4):
        model.zero_grad()
        (size * model(torch.ones(1, 3))).sum().backward()
        normalize_gradients(model)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])  # type: ignore[misc]
        assert float(norm) == pytest.approx(1.0, rel=1e-5)


def test_frozen_parameters_are_left_alone() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = optimizer_for(model, TrainConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


def test_plateau_sees_a_negative_score_that_does_not_rise() -> None:
    config = TrainConfig(schedule="plateau", step_epochs=1, step_factor=0.5, learning_rate=1.0)
    optimizer = optimizer_for(nn.Linear(2, 2), config)
    plateau = plateau_for(optimizer, config)
    assert plateau is not None
    for _ in range(4):
        plateau.step(-3.0)
    assert optimizer.param_groups[0]["lr"] < 1.0


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_one_cycle_swings_about_the_momentum_that_was_asked_for(momentum: float) -> None:
    config = TrainConfig(momentum=momentum, learning_rate=1.0, epochs=4)
    optimizer = optimizer_for(nn.Linear(2, 2), config)
    schedule = schedule_for(optimizer, config, steps_per_epoch=10)
    found = []
    for _ in range(40):
        found.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        schedule.step()
    swing = 0.05 if momentum else 0.0
    assert (min(found), max(found)) == pytest.approx((momentum - swing, momentum + swing))


def test_a_cycle_of_very_few_steps_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    rates(steps_per_epoch=1, epochs=2)
    assert "hardly trains" in caplog.text
