"""Every loss is the formula of its paper, evaluated another way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lissom.compress.distillation_losses import SOFT_LOSSES, correlation_loss, decoupled_loss, soft_loss
from lissom.recipe import DistillConfig

logits = st.lists(st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3), min_size=2, max_size=5)
LAYERS = {"student_layer": "a", "teacher_layer": "b"}


def shares(rows: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(rows / temperature - (rows / temperature).max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) of two distributions."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    if np.ptp(one) < 1e-6 * np.abs(one).max() or np.ptp(other) < 1e-6 * np.abs(other).max():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def pair(num_samples: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(0, 3, (2, num_samples, num_classes))
    return student, teacher, generator.integers(0, num_classes, num_samples)


def config_of(kind: str, **fields: Any) -> DistillConfig:
    layers = LAYERS if kind == "hint" else {}
    return DistillConfig.model_validate({"teacher": "teacher", "kind": kind, **layers, **fields})


def loss_of(kind: str, student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    return SOFT_LOSSES[kind](student, teacher, targets, config_of(kind))


@given(logits, st.integers(0, 2**31), st.floats(0.5, 20))
def test_the_soft_loss_is_the_formula(rows: list[list[float]], seed: int, temperature: float) -> None:
    one = np.array(rows, dtype=np.float32)
    other = np.random.default_rng(seed).normal(0, 5, one.shape).astype(np.float32)
    found = float(soft_loss(torch.from_numpy(one), torch.from_numpy(other), temperature))
    p, q = (shares(answers.astype(np.float64), temperature) for answers in (other, one))
    wanted = temperature**2 * np.mean([divergence(*each) for each in zip(p, q, strict=True)])
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert found >= -1e-4


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_decoupled_loss_is_the_formula(num_classes: int, temperature: float) -> None:
    student, teacher, targets = pair(6, num_classes, seed=num_classes)
    p, q = shares(teacher, temperature), shares(student, temperature)
    target_parts, other_parts = [], []
    for row, right in enumerate(targets):
        b = [np.array([found[row, right], 1 - found[row, right]]) for found in (p, q)]
        target_parts.append(divergence(*b))
        rest = [np.delete(found[row], right) / (1 - found[row, right]) for found in (p, q)]
        other_parts.append(divergence(*rest))
    wanted = temperature**2 * (0.5 * np.mean(target_parts) + 8.0 * np.mean(other_parts))
    found = decoupled_loss(
        *(torch.from_numpy(array) for array in (student, teacher, targets)),
        temperature,
        target_weight=0.5,
        non_target_weight=8.0,
    )
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_kd_is_the_decoupled_loss_with_others_weighted_by_what_the_teacher_leaves_them() -> None:
    student, teacher, targets = (torch.from_numpy(array) for array in pair(1, 5, seed=3))
    left = 1 - float(torch.softmax(teacher / 4, dim=1)[0, targets[0]])
    found = decoupled_loss(student, teacher, targets, 4.0, target_weight=1.0, non_target_weight=left)
    assert float(found) == pytest.approx(float(soft_loss(student, teacher, 4.0)), rel=1e-9)


def test_the_decoupled_loss_stays_finite_where_the_teacher_is_sure() -> None:
    teacher = torch.tensor([[200.0, 1.0, 0.0]])
    student = torch.zeros(1, 3, requires_grad=True)
    found = decoupled_loss(student, teacher, torch.tensor([0]), 1.0, target_weight=1.0, non_target_weight=1.0)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(student.grad).all()
    assert float(student.grad[0, 1]) < float(student.grad[0, 2]) - 0.1  # the others are still told apart


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_correlation_loss_is_the_formula(temperature: float) -> None:
    student, teacher, _ = pair(7, 4, seed=1)
    p, q = shares(teacher, temperature), shares(student, temperature)
    inter = 1 - np.mean([pearson(q[row], p[row]) for row in range(7)])
    intra = 1 - np.mean([pearson(q[:, column], p[:, column]) for column in range(4)])
    found = correlation_loss(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        temperature,
        inter_weight=2.0,
        intra_weight=0.5,
    )
    assert float(found) == pytest.approx(temperature**2 * (2.0 * inter + 0.5 * intra), rel=1e-9)


@given(st.floats(0.05, 1.0), st.integers(0, 2**31))
def test_the_correlation_loss_does_not_mind_shares_that_are_less_extreme(scale: float, seed: int) -> None:
    _, teacher, _ = pair(5, 4, seed)
    softer = np.log(scale * shares(teacher, 1.0) + (1 - scale) / 4)
    found = correlation_loss(
        torch.from_numpy(softer), torch.from_numpy(teacher), 1.0, inter_weight=1.0, intra_weight=1.0
    )
    assert float(found) == pytest.approx(0.0, abs=1e-9)


def test_a_student_that_says_the_same_to_everything_gets_no_gradient_from_a_correlation() -> None:
    student = torch.zeros(4, 5, requires_grad=True)
    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    found = correlation_loss(student, teacher, 4.0, inter_weight=1.0, intra_weight=1.0)
    found.backward()
    assert found.item() == pytest.approx(2 * 16)
    assert torch.isfinite(student.grad).all()
    assert not student.grad.any()


@pytest.mark.parametrize("kind", SOFT_LOSSES)
@given(rows=logits, shift=st.floats(-5, 5))
def test_a_loss_is_nothing_when_both_answer_alike(kind: str, rows: list[list[float]], shift: float) -> None:
    answers = torch.tensor(rows, dtype=torch.float64)
    found = float(loss_of(kind, answers + shift, answers, torch.zeros(len(rows), dtype=torch.int64)))
    constant = min(np.ptp(shares(answers.numpy(), 4.0), axis=axis).min() for axis in (0, 1)) < 1e-6
    assert (kind == "dist" and constant) or found == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("kind", SOFT_LOSSES)
def test_going_down_the_gradient_brings_the_student_to_its_teacher(kind: str) -> None:
    start, teacher, targets = (torch.from_numpy(array) for array in pair(8, 5, seed=5))
    student = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([student], lr=0.1)
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        value = loss_of(kind, student, teacher, targets)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.02 * values[0]
    assert torch.equal(student.argmax(dim=1), teacher.argmax(dim=1))
    assert not torch.equal(start.argmax(dim=1), teacher.argmax(dim=1))


def test_the_other_classes_teach_nothing_about_the_right_one() -> None:
    student, teacher, targets = (torch.from_numpy(array) for array in pair(6, 5, seed=2))
    student.requires_grad_(True)
    decoupled_loss(student, teacher, targets, 4.0, target_weight=0.0, non_target_weight=1.0).backward()
    right = student.grad.gather(1, targets[:, None])
    assert float(right.abs().max()) < 1e-12
    assert float(student.grad.abs().max()) > 1e-3


@pytest.mark.parametrize(("kind", "growth"), [("kd", 1.0), ("dkd", 1.0), ("dist", 16.0)])
def test_what_a_higher_temperature_does_to_the_gradient(kind: str, growth: float) -> None:
    teacher, targets = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]]), torch.tensor([0, 1])
    sizes = []
    for temperature in (10.0, 40.0):
        student = torch.tensor([[0.5, -0.5, 0.0], [1.0, 0.0, -1.0]], requires_grad=True)
        SOFT_LOSSES[kind](student, teacher, targets, config_of(kind, temperature=temperature)).backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0] * growth, rel=0.2)
