"""A student is taught what the formula says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.small import blobs, load, make

from lissom.artifact import Artifact
from lissom.compress.distillation import soft_loss
from lissom.errors import ModelError
from lissom.models.data import Data, Dataset
from lissom.recipe import ModelConfig
from lissom.runtime.base import open_runtime
from lissom.structure import WEIGHTS_FILE

DATA = blobs(noise=1.5)
logits = st.lists(st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    model = ModelConfig(source="mlp", kwargs={"hidden": [32]})
    return make(tmp_path_factory.mktemp("teacher") / "teacher", DATA, "train", model=model, epochs=12)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return load(tmp_path_factory.mktemp("student") / "student", DATA, "mlp", hidden=[8])


def by_hand(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """`T^2 KL(teacher || student)` in float64, summed over classes and averaged over samples."""

    def shares(rows: np.ndarray) -> np.ndarray:
        powers = np.exp(rows / temperature - (rows / temperature).max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    p, q = shares(teacher.astype(np.float64)), shares(student.astype(np.float64))
    terms = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))), 0.0)
    return float(temperature**2 * terms.sum(axis=1).mean())


@given(logits, st.integers(0, 2**31), st.floats(0.5, 20))
def test_the_soft_loss_is_the_formula(rows: list[list[float]], seed: int, temperature: float) -> None:
    one = np.array(rows, dtype=np.float32)
    other = np.random.default_rng(seed).normal(0, 5, one.shape).astype(np.float32)
    found = float(soft_loss(torch.from_numpy(one), torch.from_numpy(other), temperature))
    assert found == pytest.approx(by_hand(one, other, temperature), rel=1e-3, abs=1e-3)
    assert found >= -1e-4


@given(logits, st.floats(0.5, 20), st.floats(-5, 5))
def test_the_soft_loss_is_nothing_when_both_answer_alike(
    rows: list[list[float]], temperature: float, shift: float
) -> None:
    answers = torch.tensor(rows)
    assert float(soft_loss(answers, answers + shift, temperature)) == pytest.approx(0.0, abs=1e-3)


def test_the_gradient_keeps_its_size_when_the_temperature_grows() -> None:
    teacher = torch.tensor([[1.0, 0.0, -1.0]])
    sizes = []
    for temperature in (10.0, 40.0):
        student = torch.zeros(1, 3, requires_grad=True)
        soft_loss(student, teacher, temperature).backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(artifact.file(WEIGHTS_FILE).read_bytes())


def test_with_alpha_zero_it_is_plain_training(tmp_path: Path, student: Artifact, teacher: Artifact) -> None:
    fields: dict[str, Any] = {"epochs": 2, "learning_rate": 0.05, "label_smoothing": 0.1}
    parents = {"input": student, "teacher": teacher}
    taught = make(
        tmp_path / "distill", DATA, "distill", parents=parents, teacher="teacher", alpha=0.0, **fields
    )
    trained = make(tmp_path / "train", DATA, "train", parents={"input": student}, **fields)
    one, other = weights(taught), weights(trained)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_with_alpha_one_the_labels_do_not_matter(
    tmp_path: Path, student: Artifact, teacher: Artifact
) -> None:
    parents = {"input": student, "teacher": teacher}
    fields = {"teacher": "teacher", "alpha": 1.0, "epochs": 1}
    one = make(tmp_path / "one", DATA, "distill", parents=parents, **fields)
    other = make(tmp_path / "other", DATA, "distill", parents=parents, label_smoothing=0.5, **fields)
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_a_student_comes_to_answer_as_its_teacher(
    tmp_path: Path, student: Artifact, teacher: Artifact
) -> None:
    parents = {"input": student, "teacher": teacher}
    taught = make(
        tmp_path / "distill", DATA, "distill", parents=parents, teacher="teacher", epochs=10, alpha=1.0
    )
    inputs = DATA.tensors("train")
    answers = []
    for artifact in (teacher, student, taught):
        with open_runtime(artifact, "torch") as runtime:
            answers.append(torch.from_numpy(runtime.infer(inputs)["logits"]))
    wanted, before, after = answers
    assert float(soft_loss(after, wanted, 4.0)) < 0.2 * float(soft_loss(before, wanted, 4.0))
    assert taught.manifest.factory == student.manifest.factory
    assert [parent.role for parent in taught.manifest.parents] == ["input", "teacher"]
    assert len(taught.manifest.notes["history"]) == 10


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path, student: Artifact) -> None:
    other = load(tmp_path / "other", DATA, "mlp", num_classes=7)
    with pytest.raises(
        ModelError, match=r"the teacher 'other' answers with shape \[7\], the student with \[4\]"
    ):
        make(
            tmp_path / "distill",
            DATA,
            "distill",
            parents={"input": student, "teacher": other},
            teacher="other",
        )
    assert not (tmp_path / "distill").exists()


def test_values_are_taught_by_their_distance(tmp_path: Path) -> None:
    inputs = np.random.default_rng(2).random((80, 5)).astype(np.float32)
    data = Data("values", Dataset({"x": inputs}, inputs.sum(axis=1)))
    model = ModelConfig(source="mlp", kwargs={"hidden": [16]})
    options = {"optimizer": "adamw", "learning_rate": 0.02}
    taught = make(tmp_path / "teacher", data, "train", model=model, epochs=20, **options)
    pupil = make(tmp_path / "pupil", data, "train", model=model, epochs=1, seed=5, learning_rate=1e-6)
    made = make(
        tmp_path / "made",
        data,
        "distill",
        parents={"input": pupil, "teacher": taught},
        teacher="teacher",
        alpha=1.0,
        epochs=20,
        **options,
    )

    def distance(artifact: Artifact) -> float:
        tensors = data.tensors("report")
        with open_runtime(artifact, "torch") as one, open_runtime(taught, "torch") as other:
            return float(np.abs(one.infer(tensors)["values"] - other.infer(tensors)["values"]).mean())

    assert distance(made) < distance(pupil) / 4


def test_a_language_model_is_taught_where_its_tokens_count(tmp_path: Path) -> None:
    tokens = np.random.default_rng(3).integers(1, 9, (60, 6))
    labels = np.where(np.arange(6) < 3, np.roll(tokens, -1, axis=1), -100)
    data = Data("tokens", Dataset({"t": tokens}, labels))
    kwargs = {"width": 16, "depth": 1, "num_heads": 2, "dropout": 0.0}
    model = ModelConfig(source="gpt", kwargs=kwargs)
    taught = make(tmp_path / "teacher", data, "train", model=model, epochs=1)
    made = make(
        tmp_path / "made",
        data,
        "distill",
        parents={"input": taught, "teacher": taught},
        teacher="teacher",
        alpha=1.0,
        epochs=1,
        learning_rate=1e-6,
        weight_decay=0.0,
    )
    assert made.manifest.notes["history"][0]["loss"] == pytest.approx(0.0, abs=1e-6)
