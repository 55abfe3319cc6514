"""Teachers answer once, together, and only what is sound."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.unit.report import samples
from tests.unit.small import KWARGS, blobs, context, load, make, next_tokens
from torch import Tensor, nn

from lissom.artifact import TEACHERS_NAME, Artifact, canonical_json
from lissom.compress import teachers
from lissom.compress.teachers import averaged, fingerprints
from lissom.errors import ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.loop import Batch
from lissom.models.training import fit
from lissom.pipeline import clean
from lissom.recipe import ModelConfig, TrainConfig
from lissom.structure import WEIGHTS_FILE, load_model

MODELS = "tests.unit.compress.taught_models"
DATA = blobs(noise=1.5)
VARIED: dict[str, Any] = {"augment": {"crop": 1, "flip": 0.5}}
MIXED: dict[str, Any] = {"augment": {"crop": 1, "mixup": 0.4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("taught")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Artifact:
    model = ModelConfig(source="mlp", kwargs={"hidden": [32]})
    return make(folder / "teacher", DATA, "train", model=model, epochs=3)


@pytest.fixture(scope="module")
def student(folder: Path) -> Artifact:
    return load(folder / "student", DATA, "mlp", hidden=[8])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that any teacher was asked about."""
    sizes: list[int] = []

    def counting(artifact: Artifact, *, plain: bool = False) -> nn.Module:
        model = load_model(artifact, plain=plain)
        model.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(inputs[0])))
        return model

    monkeypatch.setattr(teachers, "load_model", counting)
    return sizes


def taught(path: Path, student: Artifact, *others: Artifact, data: Data = DATA, **fields: Any) -> Artifact:
    """The student, taught by the others."""
    names = [other.name for other in others]
    roles = ["teacher"] if len(names) == 1 else [f"teacher-{place}" for place in range(1, len(names) + 1)]
    parents = {"input": student, **dict(zip(roles, others, strict=True))}
    options = {"teacher": names, "epochs": 2, "baseline": False, "batch_size": 32, **fields}
    return make(path, data, "distill", parents=parents, **options)


def weights(artifact: Artifact) -> bytes:
    return artifact.file(WEIGHTS_FILE).read_bytes()


def kept(folder: Path) -> list[Path]:
    return sorted((folder / TEACHERS_NAME).glob("*.safetensors"))


def test_several_teachers_answer_with_the_mean_of_their_softened_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = [torch.randn(5, 4, generator=generator) * 3 for _ in range(3)]
    found = averaged(answers, (1.0, 2.0, 5.0), 4.0)
    shares = [torch.softmax(logits / 4.0, dim=1) for logits in answers]
    wanted = (shares[0] + 2 * shares[1] + 5 * shares[2]) / 8
    assert torch.allclose(torch.softmax(found / 4.0, dim=1), wanted, atol=1e-6)


def test_one_teacher_answers_as_it_is_and_values_are_averaged_as_they_are() -> None:
    one, other = torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [0.0]])
    assert averaged([one], (7.0,), 4.0) is one
    assert averaged([one, other], (1.0, 3.0), None).tolist() == [[3.25], [0.5]]


def test_a_fingerprint_tells_moved_pixels_and_single_bits_apart() -> None:
    images = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    nudged = images.clone()
    nudged[2, 1, 3, 3] = torch.nextafter(nudged[2, 1, 3, 3], torch.tensor(9.0))
    first = fingerprints(images)
    assert torch.equal(first, fingerprints(images.clone()))
    assert torch.equal(first, fingerprints(images.to(memory_format=torch.channels_last)))
    assert not (first == fingerprints(images.flip(-1))).any()
    assert (first != fingerprints(nudged)).tolist() == [False, False, True, False, False, False]
    assert len(set(first.tolist())) == 6


def images_of(folder: Path, model: nn.Module, seed: int, epochs: int = 2, **fields: Any) -> list[Tensor]:
    """Every batch of a training as the loss gets it."""
    seen: list[Tensor] = []

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        seen.append(batch.inputs[0].clone())
        return outputs.square().mean()

    config = TrainConfig.model_validate({"name": "seen", "batch_size": 32, "epochs": epochs, **fields})
    fit(model, context(folder / "seen", DATA, config, seed=seed), config, loss=loss)
    return seen


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


@pytest.mark.parametrize("varied", [VARIED, MIXED])
def test_a_seed_gives_the_same_augmented_images_whatever_is_trained(
    tmp_path: Path, varied: dict[str, Any]
) -> None:
    one = images_of(tmp_path / "one", linear(), 3, **varied)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 4))
    two = images_of(tmp_path / "two", other, 3, **varied)
    third = images_of(tmp_path / "three", linear(), 4, **varied)
    half = len(one) // 2
    assert all(torch.equal(*batches) for batches in zip(one, two, strict=True))
    assert not any(torch.equal(*batches) for batches in zip(one, third, strict=True))
    assert not any(torch.equal(*batches) for batches in zip(one[:half], one[half:], strict=True))


@pytest.mark.parametrize("varied", [{}, VARIED, MIXED])
def test_another_student_in_the_same_folder_does_not_ask_the_teacher_again(
    tmp_path: Path, student: Artifact, teacher: Artifact, asked: list[int], varied: dict[str, Any]
) -> None:
    first = taught(tmp_path / "first", student, teacher, **varied)
    num_asked, num_train = sum(asked), len(DATA.indices["train"])
    assert num_asked == num_train * (2 if varied else 1)
    again = taught(tmp_path / "again", student, teacher, **varied)
    wide = load(tmp_path / "wide", DATA, "mlp", hidden=[24])
    taught(tmp_path / "other", wide, teacher, **varied)
    assert sum(asked) == num_asked
    assert weights(again) == weights(first)
    assert len(kept(tmp_path)) == 1


def test_what_is_kept_are_the_answers_of_the_teacher(
    tmp_path: Path, student: Artifact, teacher: Artifact
) -> None:
    taught(tmp_path / "made", student, teacher)
    tensors = safetensors.torch.load(kept(tmp_path)[0].read_bytes())
    model = load_model(teacher)
    with torch.no_grad():
        wanted = model(torch.from_numpy(DATA.tensors("train")["image"]))
    assert torch.allclose(tensors["answers"], wanted, atol=1e-5)


def test_a_longer_training_asks_only_about_the_epochs_that_are_new(
    tmp_path: Path, student: Artifact, teacher: Artifact, asked: list[int]
) -> None:
    taught(tmp_path / "short", student, teacher, **VARIED)
    before = sum(asked)
    taught(tmp_path / "long", student, teacher, **VARIED | {"epochs": 3})
    assert sum(asked) - before == len(DATA.indices["train"])
    taught(tmp_path / "seeded", student, teacher, **VARIED | {"batch_size": 16})
    assert len(kept(tmp_path)) == 2


def test_images_that_differ_by_dropout_are_asked_about_and_never_taken_for_others(
    tmp_path: Path, student: Artifact, teacher: Artifact, asked: list[int]
) -> None:
    alone = taught(
        tmp_path / "alone" / "made", load(tmp_path / "f", DATA, f"{MODELS}:forgetful"), teacher, **VARIED
    )
    before = sum(asked)
    taught(tmp_path / "plain", student, teacher, **VARIED)
    beside = taught(tmp_path / "made", load(tmp_path / "g", DATA, f"{MODELS}:forgetful"), teacher, **VARIED)
    assert weights(beside) == weights(alone)
    assert sum(asked) > before + 2 * len(DATA.indices["train"])


@pytest.mark.parametrize("varied", [{}, VARIED])
@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_damaged_answers_are_asked_for_again_with_a_warning(
    tmp_path: Path,
    student: Artifact,
    teacher: Artifact,
    asked: list[int],
    caplog: pytest.LogCaptureFixture,
    damage: str,
    varied: dict[str, Any],
) -> None:
    first = taught(tmp_path / "first", student, teacher, **varied)
    num_asked, (file,) = sum(asked), kept(tmp_path)
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x40
    file.write_bytes({"flip": bytes(content), "cut": bytes(content[:200]), "other": b"{}"}[damage])
    with caplog.at_level(logging.WARNING, logger="lissom"):
        again = taught(tmp_path / "again", student, teacher, **varied)
    assert "is damaged" in caplog.text
    assert sum(asked) == 2 * num_asked
    assert weights(again) == weights(first)
    taught(tmp_path / "third", student, teacher, **varied)
    assert sum(asked) == 2 * num_asked


@pytest.mark.parametrize("varied", [{}, VARIED])
def test_answers_beyond_the_limit_are_not_kept(
    tmp_path: Path,
    student: Artifact,
    teacher: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    varied: dict[str, Any],
) -> None:
    small = taught(tmp_path / "small", student, teacher, **varied)
    (tmp_path / "large").mkdir()
    monkeypatch.setattr(teachers, "MAX_BYTES", 100)
    large = taught(tmp_path / "large" / "made", student, teacher, **varied)
    assert not kept(tmp_path / "large")
    one, other = (safetensors.torch.load(weights(artifact)) for artifact in (small, large))
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


def test_answers_of_a_language_model_are_kept_where_they_are_small(tmp_path: Path, asked: list[int]) -> None:
    data = next_tokens(40)
    model = load(tmp_path / "gpt", data, "gpt", **KWARGS["gpt"])
    taught(tmp_path / "made", model, model, data=data, epochs=1)
    tensors = safetensors.torch.load(kept(tmp_path)[0].read_bytes())
    assert tensors["answers"].shape == (len(data.indices["train"]), 12, 16)
    assert sum(asked) == len(data.indices["train"])


def test_several_teachers_teach_more_than_the_last_of_them(
    tmp_path: Path, student: Artifact, teacher: Artifact
) -> None:
    other = make(
        tmp_path / "other", DATA, "train", model=ModelConfig(source="mlp", kwargs={"hidden": [16]}), epochs=3
    )
    both = taught(tmp_path / "both", student, teacher, other)
    assert [parent.role for parent in both.manifest.parents] == ["input", "teacher-1", "teacher-2"]
    assert len(kept(tmp_path)) == 2
    alone = [weights(taught(tmp_path / each.name[0], student, each)) for each in (teacher, other)]
    heavy = taught(tmp_path / "heavy", student, teacher, other, teacher_weights=[1.0, 1e-9])
    assert weights(both) not in alone
    one, two = (safetensors.torch.load(content) for content in (weights(heavy), alone[0]))
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)


def unsteady_data() -> tuple[Data, int]:
    """Samples of which one train sample has a large first pixel, and its number."""
    dataset = blobs(noise=0.1).dataset
    images = dataset.inputs["image"].clip(-1, 1)
    index = int(Data("b", Dataset({"image": images}, dataset.labels)).indices["train"][5])
    split = np.full(len(images), "select", dtype=object)
    split[:] = [
        ("train", "train", "select", "report", "calibrate")[place % 5] for place in range(len(images))
    ]
    split[index] = "train"
    images[index, 0, 0, 0] = 9.0
    odd = Dataset({"image": images}, dataset.labels, dataset.label_names, split=split.astype(str))
    return Data("odd", odd), index


@pytest.mark.parametrize("varied", [{}, {"augment": {"crop": 1}}])
def test_a_teacher_that_answers_with_nan_is_refused_and_the_sample_named(
    tmp_path: Path, varied: dict[str, Any]
) -> None:
    data, index = unsteady_data()
    nan = load(tmp_path / "nan", data, f"{MODELS}:unsteady")
    pupil = load(tmp_path / "pupil", data, "mlp", hidden=[8])
    with pytest.raises(ModelError, match=rf"the teacher 'nan' answers sample {index} of odd with NaN"):
        taught(tmp_path / "made", pupil, nan, data=data, epochs=30, **varied)


def test_a_teacher_with_another_number_of_outputs_is_refused(tmp_path: Path, student: Artifact) -> None:
    pair = load(tmp_path / "pair", DATA, f"{MODELS}:pair")
    with pytest.raises(ModelError, match=r"the teacher 'pair' gives 2 outputs, the student 1"):
        taught(tmp_path / "made", student, pair)


def relabelled(names: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Data:
    dataset = DATA.dataset
    return Data("other", Dataset(dataset.inputs, dataset.labels, names(dataset.label_names)))


def test_a_teacher_whose_classes_stand_in_another_order_is_refused(tmp_path: Path, student: Artifact) -> None:
    turned = make(
        tmp_path / "turned",
        relabelled(lambda names: names[::-1]),
        "train",
        model=ModelConfig(source="mlp", kwargs={"hidden": [8]}),
        epochs=1,
    )
    message = r"'{}' knows 4 classes, which are not the 4 .* class 0 is 'class 3' to it, 'class 0' here"
    with pytest.raises(ModelError, match=message.format("turned")):
        taught(tmp_path / "made", student, turned)
    loaded = make(tmp_path / "loaded", DATA, "load", model=ModelConfig(source=str(turned.path)))
    with pytest.raises(ModelError, match=message.format("loaded")):
        taught(tmp_path / "made", student, loaded)


def test_a_teacher_of_another_task_is_refused(tmp_path: Path, student: Artifact) -> None:
    values = np.asarray(DATA.dataset.labels, dtype=np.float32)
    other = load(tmp_path / "other", Data("values", Dataset(DATA.dataset.inputs, values)), "mlp", hidden=[8])
    with pytest.raises(ModelError, match="was made for regression, the student is for classification"):
        taught(tmp_path / "made", student, other)


def test_cleaning_a_run_removes_what_teachers_answered(tmp_path: Path) -> None:
    report = samples.typical(stages=()).model_dump(mode="json", by_alias=True)
    (tmp_path / "report.json").write_bytes(canonical_json(report))
    (tmp_path / TEACHERS_NAME).mkdir()
    (tmp_path / TEACHERS_NAME / "some.safetensors").write_bytes(b"x")
    (tmp_path / TEACHERS_NAME / ".writing-some.safetensors-1").write_bytes(b"x")
    assert [path.name for path in clean(tmp_path, dry_run=True)] == [TEACHERS_NAME]
    assert len(list((tmp_path / TEACHERS_NAME).iterdir())) == 2
    clean(tmp_path)
    assert not (tmp_path / TEACHERS_NAME).exists()
