"""A student is taught by one or several teachers, and compared with one that had none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from tests.unit.small import KWARGS, blobs, context, load, make, next_tokens

from lissom.artifact import Artifact
from lissom.bench.statistics import paired_drop
from lissom.compress.distillation import SCORES_FILE, distill
from lissom.compress.distillation_losses import soft_loss
from lissom.errors import ModelError, RecipeError
from lissom.logs import Advance
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.estimation import ModelCost, stage_cost
from lissom.recipe import DistillConfig, ModelConfig
from lissom.runtime.base import open_runtime
from lissom.structure import WEIGHTS_FILE
from lissom.verbs import recipe_of

DATA = blobs(noise=1.5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    model = ModelConfig(source="mlp", kwargs={"hidden": [32]})
    return make(tmp_path_factory.mktemp("teacher") / "teacher", DATA, "train", model=model, epochs=12)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return load(tmp_path_factory.mktemp("student") / "student", DATA, "mlp", hidden=[8])


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(artifact.file(WEIGHTS_FILE).read_bytes())


def test_with_alpha_zero_it_is_plain_training(tmp_path: Path, student: Artifact, teacher: Artifact) -> None:
    fields: dict[str, Any] = {"epochs": 2, "learning_rate": 0.05, "label_smoothing": 0.1}
    parents = {"input": student, "teacher": teacher}
    taught = make(
        tmp_path / "distill",
        DATA,
        "distill",
        parents=parents,
        teacher="teacher",
        alpha=0.0,
        baseline=False,
        **fields,
    )
    trained = make(tmp_path / "train", DATA, "train", parents={"input": student}, **fields)
    one, other = weights(taught), weights(trained)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_with_alpha_one_the_labels_do_not_matter(
    tmp_path: Path, student: Artifact, teacher: Artifact
) -> None:
    parents = {"input": student, "teacher": teacher}
    fields = {"teacher": "teacher", "alpha": 1.0, "epochs": 1, "baseline": False}
    one = make(tmp_path / "one", DATA, "distill", parents=parents, **fields)
    other = make(tmp_path / "other", DATA, "distill", parents=parents, label_smoothing=0.5, **fields)
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_a_student_comes_to_answer_as_its_teacher(
    tmp_path: Path, student: Artifact, teacher: Artifact
) -> None:
    parents = {"input": student, "teacher": teacher}
    taught = make(
        tmp_path / "distill",
        DATA,
        "distill",
        parents=parents,
        teacher="teacher",
        epochs=10,
        alpha=1.0,
        baseline=False,
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
        epochs=80,  # the pupil begins at the mean of the values, so that little is left to learn
        baseline=False,
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
        baseline=False,
    )
    assert made.manifest.notes["history"][0]["loss"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["kd", "dkd", "dist"])
def test_every_kind_teaches_classes_and_tokens(
    tmp_path: Path, student: Artifact, teacher: Artifact, kind: str
) -> None:
    fields = {"teacher": "teacher", "kind": kind, "alpha": 1.0, "epochs": 4, "baseline": False}
    parents = {"input": student, "teacher": teacher}
    made = make(tmp_path / "made", DATA, "distill", parents=parents, learning_rate=0.01, **fields)
    losses = [epoch["loss"] for epoch in made.manifest.notes["history"]]
    assert losses[-1] < losses[0]
    data = next_tokens(60)
    kwargs = KWARGS["gpt"] | {"dropout": 0.0}
    one, other = (load(tmp_path / name, data, "gpt", **kwargs) for name in ("one", "other"))
    fields |= {"epochs": 1, "learning_rate": 1e-6, "weight_decay": 0.0}
    same = make(tmp_path / "same", data, "distill", parents={"input": one, "teacher": other}, **fields)
    assert same.manifest.notes["history"][0]["loss"] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["dkd", "dist"])
def test_shares_of_classes_cannot_be_taught_where_there_are_values(tmp_path: Path, kind: str) -> None:
    inputs = np.random.default_rng(2).random((80, 5)).astype(np.float32)
    data = Data("heights", Dataset({"x": inputs}, inputs.sum(axis=1)))
    model = load(tmp_path / "model", data, "mlp", hidden=[4])
    with pytest.raises(RecipeError, match=f"kind {kind} teaches shares of classes; the labels of heights"):
        make(
            tmp_path / "made",
            data,
            "distill",
            parents={"input": model, "teacher": model},
            teacher="t",
            kind=kind,
        )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, student: Artifact, teacher: Artifact) -> Artifact:
    parents, folder = {"input": student, "teacher": teacher}, tmp_path_factory.mktemp("compared")
    return make(folder / "made", DATA, "distill", parents=parents, **COMPARED)


COMPARED: dict[str, Any] = {"teacher": "teacher", "epochs": 3, "label_smoothing": 0.1}


def test_the_baseline_is_the_same_training_without_a_teacher(
    tmp_path: Path, student: Artifact, compared: Artifact
) -> None:
    fields = {"epochs": 3, "learning_rate": 0.05, "label_smoothing": 0.1}
    trained = make(tmp_path / "train", DATA, "train", parents={"input": student}, **fields)
    notes = compared.manifest.notes
    assert notes["baseline"]["history"] == trained.manifest.notes["history"]
    assert notes["baseline"]["select"] == pytest.approx(trained.manifest.notes["history"][-1]["select_score"])
    with open_runtime(trained, "torch") as runtime:
        answers = runtime.infer(DATA.tensors("report"))["logits"].argmax(axis=1)
    right = answers == DATA.labels("report")
    assert notes["baseline"]["report"] == right.mean()
    scores = safetensors.numpy.load(compared.file(SCORES_FILE).read_bytes())
    assert (scores["baseline_report"] == right).all()


def test_the_gain_is_paired_over_the_stored_scores(compared: Artifact) -> None:
    notes = compared.manifest.notes
    scores = safetensors.numpy.load(compared.file(SCORES_FILE).read_bytes())
    assert {name: len(array) for name, array in scores.items()} == {
        f"{name}_{split}": len(DATA.indices[split])
        for name in ("taught", "baseline")
        for split in ("select", "report")
    }
    wanted = paired_drop(scores["taught_report"], scores["baseline_report"])
    assert notes["gain"] == pytest.approx(wanted._asdict())
    assert notes["gain"]["value"] == pytest.approx(notes["taught"]["report"] - notes["baseline"]["report"])


def test_a_baseline_changes_nothing_of_what_is_made(
    tmp_path: Path, student: Artifact, teacher: Artifact, compared: Artifact
) -> None:
    parents = {"input": student, "teacher": teacher}
    alone = make(tmp_path / "made", DATA, "distill", parents=parents, **COMPARED, baseline=False)
    assert alone.file(WEIGHTS_FILE).read_bytes() == compared.file(WEIGHTS_FILE).read_bytes()
    assert alone.manifest.notes == {"history": compared.manifest.notes["history"]}
    assert alone.size_bytes == compared.size_bytes


class Watched:
    """Names every task that makes a step, and interrupts one of them after so many steps."""

    def __init__(self, task: str = "", after: int = 0) -> None:
        self.steps: dict[str, int] = {}
        self._task, self._after = task, after

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        def advance(steps: int) -> None:
            self.steps[description] = self.steps.get(description, 0) + steps
            if description == self._task and self.steps[description] > self._after:
                raise KeyboardInterrupt

        yield advance


LAYERED = "tests.unit.compress.taught_models:layered"
HINT = {"kind": "hint", "student_layer": "features", "teacher_layer": "features"}


@pytest.mark.parametrize("fields", [{}, HINT, {"augment": {"crop": 1}}], ids=["kd", "hint", "augmented"])
@pytest.mark.parametrize(("task", "redone"), [("distill made", 2), ("distill made baseline", 0)])
def test_an_interrupted_distillation_goes_on_to_the_same_bits_and_repeats_no_finished_training(
    tmp_path: Path, fields: dict[str, Any], task: str, redone: int
) -> None:
    pupil = load(tmp_path / "pupil", DATA, LAYERED, width=4)
    parents = {"input": pupil, "teacher": load(tmp_path / "teacher", DATA, LAYERED, seed=1, width=8)}
    config = DistillConfig.model_validate(
        {"name": "made", "teacher": "teacher", "epochs": 3, "batch_size": 32, **fields}
    )
    steps = len(DATA.indices["train"]) // 32
    (tmp_path / "unbroken").mkdir()
    unbroken = distill(
        parents, config, context(tmp_path / "unbroken" / "made", DATA, config, parents=parents)
    )
    where = context(tmp_path / "made", DATA, config, parents=parents)
    with pytest.raises(KeyboardInterrupt):
        distill(parents, config, replace(where, progress=Watched(task, after=steps)))
    assert not (tmp_path / "made").exists()
    watched = Watched()
    made = distill(parents, config, replace(where, progress=watched))
    assert made.file(WEIGHTS_FILE).read_bytes() == unbroken.file(WEIGHTS_FILE).read_bytes()
    assert made.manifest.notes == unbroken.manifest.notes
    assert ("distill made" in watched.steps) == bool(redone)
    assert not list(tmp_path.glob(".training-*"))


def test_a_verb_takes_one_teacher_or_several_and_a_baseline_when_asked() -> None:
    options = {"epochs": 2, "runtimes": ["torch"]}
    one = recipe_of("distill", "mlp", "digits", options, teacher="resnet")
    several = recipe_of("distill", "mlp", "digits", options | {"baseline": True}, teacher=["resnet", "vgg"])
    assert [stage.name for stage in one.stages] == ["teacher", "student", "distill"]
    assert [stage.name for stage in several.stages] == ["teacher-1", "teacher-2", "student", "distill"]
    assert one.stages[-1].sources == {"input": "student", "teacher": "teacher"}
    assert several.stages[-1].sources == {
        "input": "student",
        "teacher-1": "teacher-1",
        "teacher-2": "teacher-2",
    }
    assert [getattr(recipe.stages[-1], "baseline", None) for recipe in (one, several)] == [False, True]


def test_an_estimate_counts_the_training_of_the_baseline() -> None:
    cost = ModelCost(size_bytes=1000, num_train=500, seconds_per_sample=0.01)
    both, alone = (
        stage_cost(DistillConfig(teacher="t", epochs=10, baseline=baseline), cost)
        for baseline in (True, False)
    )
    assert both[0] == pytest.approx(2 * alone[0])
    assert both[1] == alone[1]
