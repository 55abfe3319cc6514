"""Losses against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lissom.errors import RecipeError
from lissom.models.losses import LOSSES, loss_for, penalty
from lissom.models.tasks import Classification, Regression, Task
from lissom.recipe import TrainConfig

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
LABELS = torch.tensor([0, 2])


def config(**fields: object) -> TrainConfig:
    return TrainConfig.model_validate(fields)


def test_cross_entropy_is_torchs_own_with_smoothing() -> None:
    found = LOSSES["cross-entropy"](LOGITS, LABELS, config(label_smoothing=0.1))
    assert found.item() == pytest.approx(functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1).item())


def test_focal_without_a_discount_is_cross_entropy() -> None:
    found = LOSSES["focal"](LOGITS, LABELS, config(focal_gamma=0))
    assert found.item() == pytest.approx(functional.cross_entropy(LOGITS, LABELS).item())


def test_focal_discounts_what_is_already_right() -> None:
    shares = functional.softmax(LOGITS, dim=-1)[torch.arange(2), LABELS]
    wanted = (-((1 - shares) ** 2) * shares.log()).mean()
    assert LOSSES["focal"](LOGITS, LABELS, config()).item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("name", ["cross-entropy", "focal"])
def test_shares_of_one_class_are_labels(name: str) -> None:
    shares = functional.one_hot(LABELS, 3).float()
    assert LOSSES[name](LOGITS, shares, config()).item() == pytest.approx(
        LOSSES[name](LOGITS, LABELS, config()).item()
    )


@pytest.mark.parametrize("name", ["cross-entropy", "focal"])
def test_positions_that_do_not_count_change_nothing(name: str) -> None:
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, -100, -100], [3, 4, 0, -100]])
    counted = tokens != -100
    found = LOSSES[name](logits, tokens, config())
    assert found.item() == pytest.approx(LOSSES[name](logits[counted], tokens[counted], config()).item())


@pytest.mark.parametrize(("name", "wanted"), [("mse", 2.5), ("mae", 1.5), ("huber", 1.0)])
def test_regression_losses_take_labels_without_their_last_axis(name: str, wanted: float) -> None:
    found = LOSSES[name](torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0]), config())
    assert found.item() == pytest.approx(wanted)


def test_a_penalty_leaves_biases_and_norms_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    assert penalty(model, config(l1=0.5)).item() == pytest.approx(0.5 * 4 * 3)
    assert penalty(model, config(l2=0.5)).item() == pytest.approx(0.25 * 4 * 9)
    assert penalty(model, config()) == 0.0


def test_a_loss_must_fit_the_task() -> None:
    with pytest.raises(RecipeError, match="'mse' does not fit Classification"):
        loss_for(Classification(), config(loss="mse"))
    assert loss_for(Regression(), config())(torch.zeros(2, 1), torch.ones(2)).item() == 1.0


def test_a_task_of_ones_own_brings_its_own_loss() -> None:
    class Own(Task):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return outputs.sum() * 7

        predict = score = lambda self, *arrays: arrays[0]  # type: ignore[assignment]

    assert loss_for(Own(), config())(torch.ones(2), torch.zeros(2)).item() == 14
    with pytest.raises(RecipeError) as caught:
        loss_for(Own(), config(loss="mse"))
    assert "a loss of its own" in caught.value.hint


def test_smoothing_reaches_focal_as_it_does_cross_entropy() -> None:
    wanted = functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.3)
    found = LOSSES["focal"](LOGITS, LABELS, config(focal_gamma=0, label_smoothing=0.3))
    assert found.item() == pytest.approx(wanted.item())


def test_smoothing_is_refused_where_there_are_no_classes() -> None:
    with pytest.raises(RecipeError, match="label_smoothing"):
        loss_for(Regression(), config(label_smoothing=0.1))


@pytest.mark.parametrize("name", ["cross-entropy", "focal"])
def test_a_batch_in_which_no_position_counts_loses_nothing(name: str) -> None:
    found = LOSSES[name](torch.randn(2, 3, 4), torch.full((2, 3), -100), config())
    assert found.item() == 0.0
