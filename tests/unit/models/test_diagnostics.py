"""What the watcher sees: norms, vanishing and exploding gradients, dead units."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom.models.diagnostics import Watcher


def watched(
    model: nn.Module, inputs: torch.Tensor, *, scale: float = 1.0, steps: int = 1
) -> dict[str, float]:
    watcher = Watcher(model)
    for _ in range(steps):
        model.zero_grad()
        with watcher.activations():
            outputs = model(inputs)
        (scale * outputs).sum().backward()
        watcher.gradients()
    return watcher.figures()


def test_the_norm_is_that_of_all_gradients_together() -> None:
    model = nn.Linear(2, 1)
    figures = watched(model, torch.tensor([[3.0, 4.0]]))
    assert figures["gradient_norm"] == pytest.approx((9 + 16 + 1) ** 0.5)
    assert not figures["exploding"]


def test_units_that_never_answer_are_dead() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.fill_(0.0)
        model[0].bias.copy_(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    assert watched(model, torch.randn(5, 2))["dead_units"] == pytest.approx(0.5)


def test_a_channel_is_alive_when_one_pixel_of_one_image_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        model[0].bias.fill_(-1.0)
    images = torch.zeros(3, 1, 4, 4)
    images[2, 0, 1, 1] = 5.0
    assert watched(model, images)["dead_units"] == pytest.approx(0.5)


def test_a_rectifier_that_is_used_twice_is_seen_once_for_each_width() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.relu = nn.Linear(2, 3), nn.Linear(3, 5), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.relu(self.two(self.relu(self.one(x))))
            return hidden

    assert 0.0 <= watched(Twice(), torch.randn(4, 2))["dead_units"] <= 1.0


def test_gradients_that_do_not_reach_the_first_layer_vanish() -> None:
    deep = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(4, 4), nn.Sigmoid())])
    assert watched(deep, torch.randn(8, 4))["vanishing"] == 1.0
    assert watched(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(8, 4))["vanishing"] == 0.0


def test_one_norm_far_above_the_others_explodes() -> None:
    model = nn.Linear(2, 1)
    watcher = Watcher(model)
    for scale in (1.0, 1.0, 1.0, 1e4):
        model.zero_grad()
        (scale * model(torch.ones(1, 2))).sum().backward()
        watcher.gradients()
    assert watcher.figures()["exploding"] == 1.0
    watcher.begin()
    assert watcher.figures() == {}


def test_watching_leaves_no_hooks_behind() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    watched(model, torch.ones(1, 2))
    assert not model[1]._forward_hooks
