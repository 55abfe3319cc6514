"""Training is decided by its seed, and stops with a reason when it cannot go on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.unit.small import TOYS, blobs, load, make
from torch import nn
from torch.nn import functional

from lissom.artifact import Artifact
from lissom.errors import DataError, LissomError, ModelError
from lissom.logs import NoProgress
from lissom.models.data import Data, Dataset
from lissom.models.training import fit
from lissom.recipe import ModelConfig, TrainConfig
from lissom.structure import WEIGHTS_FILE

DATA = blobs()
SMALL = ModelConfig(source="mlp", kwargs={"hidden": [16]})


def train(
    folder: Path, data: Data = DATA, model: ModelConfig = SMALL, *, seed: int = 0, **fields: Any
) -> Artifact:
    return make(folder, data, "train", model=model, seed=seed, **{"epochs": 2, **fields})


def weights(artifact: Artifact) -> bytes:
    return artifact.file(WEIGHTS_FILE).read_bytes()


def small_mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def fitted(model: nn.Module, data: Data = DATA, *, seed: int = 0, **fields: Any) -> list[dict[str, float]]:
    config = TrainConfig.model_validate({"epochs": 2, **fields})
    return fit(
        model,
        data,
        config,
        loss=lambda outputs, labels, positions: functional.cross_entropy(outputs, labels),
        seed=seed,
        progress=NoProgress(),
        description="train",
    )


@pytest.mark.parametrize("source", ["mlp", "resnet"])
def test_one_seed_gives_the_same_bits(tmp_path: Path, source: str) -> None:
    kwargs = {"hidden": [16]} if source == "mlp" else {"widths": [8], "blocks": [1]}
    model = ModelConfig(source=source, kwargs=kwargs)
    one = train(tmp_path / "one", model=model)
    torch.manual_seed(99)
    torch.rand(7)
    other = train(tmp_path / "other", model=model)
    assert weights(one) == weights(other)
    assert one.manifest.notes == other.manifest.notes
    assert weights(train(tmp_path / "third", model=model, seed=1)) != weights(one)


def test_training_leaves_the_random_numbers_of_the_caller_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(tmp_path / "one")
    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns_and_tells_loss_and_accuracy_of_every_epoch(tmp_path: Path) -> None:
    artifact = train(tmp_path / "one", epochs=8)
    history = artifact.manifest.notes["history"]
    assert [set(figures) for figures in history] == [{"loss", "accuracy"}] * 8
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["accuracy"] > 0.9


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_every_optimiser_goes_with_every_schedule(optimizer: str, schedule: str) -> None:
    model = small_mlp()
    history = fitted(model, optimizer=optimizer, schedule=schedule, learning_rate=0.01, epochs=3)
    assert history[-1]["loss"] < history[0]["loss"]
    assert not model.training


def test_training_goes_on_from_a_parent(tmp_path: Path) -> None:
    first = train(tmp_path / "first")
    again = make(tmp_path / "again", DATA, "train", parents={"input": first}, epochs=1, learning_rate=1e-6)
    old, new = (safetensors.torch.load(weights(artifact)) for artifact in (first, again))
    assert 0 < max(float((old[name] - new[name]).abs().max()) for name in old) < 1e-3
    assert again.manifest.factory == first.manifest.factory


@pytest.mark.parametrize(
    ("num_train", "batch_size"), [(65, 64), (33, 16), (17, 4), (3, 2), (2, 64), (64, 64)]
)
def test_a_batch_of_one_is_never_left_over(num_train: int, batch_size: int) -> None:
    split = np.array(["train"] * num_train + ["select"] * (160 - num_train))
    data = Data(
        "some", Dataset(DATA.dataset.inputs, DATA.dataset.labels, DATA.dataset.label_names, split=split)
    )
    model, sizes = small_mlp(), []
    model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    fitted(model, data, batch_size=batch_size, epochs=2)
    trained = [size for size in sizes[1:] if size]
    assert 1 not in trained
    assert sum(trained) == 2 * (num_train - (num_train % batch_size == 1))


def test_every_sample_is_seen_once_in_an_epoch_in_an_order_that_changes() -> None:
    seen: list[list[int]] = []

    def loss(outputs: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        seen.append(positions.tolist())
        assert labels.tolist() == DATA.labels("train")[positions].tolist()
        return functional.cross_entropy(outputs, labels)

    config = TrainConfig(epochs=2, batch_size=32)
    fit(small_mlp(), DATA, config, loss=loss, seed=0, progress=NoProgress(), description="train")
    num_train = len(DATA.indices["train"])
    flat = [position for batch in seen for position in batch]
    assert sorted(flat[:num_train]) == sorted(flat[num_train:]) == list(range(num_train))
    assert flat[:num_train] != flat[num_train:]


def test_a_loss_that_is_not_a_number_names_epoch_and_step() -> None:
    calls = []

    def loss(outputs: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        calls.append(len(labels))
        value = functional.cross_entropy(outputs, labels)
        return value * float("nan") if len(calls) == 6 else value

    config = TrainConfig(epochs=3, batch_size=25)
    assert len(DATA.indices["train"]) == 100
    with pytest.raises(DataError, match="the loss is nan in epoch 2, step 2") as caught:
        fit(small_mlp(), DATA, config, loss=loss, seed=0, progress=NoProgress(), description="train")
    assert "learning_rate" in caught.value.hint


def test_extreme_values_in_the_data_end_with_a_reason(tmp_path: Path) -> None:
    images = DATA.dataset.inputs["image"] * np.float32(1e30)
    data = Data("extreme", Dataset({"image": images}, DATA.dataset.labels, DATA.dataset.label_names))
    with pytest.raises(DataError, match=r"the loss is (nan|inf) in epoch 1, step [12]"):
        train(tmp_path / "one", data, learning_rate=10.0)
    assert list(tmp_path.iterdir()) == []


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    split = np.array(["train"] + ["select"] * 159)
    data = Data(
        "few", Dataset(DATA.dataset.inputs, DATA.dataset.labels, DATA.dataset.label_names, split=split)
    )
    with pytest.raises(DataError, match="few: 1 training samples are too few"):
        train(tmp_path / "one", data)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    labels = np.zeros(160, dtype=int)
    data = Data("one class", Dataset(DATA.dataset.inputs, labels, ("only",)))
    with pytest.raises(LissomError, match="class"):
        train(tmp_path / "one", data)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig(source="resnet", kwargs={"in_channels": 3}), "does not take the samples of blobs"),
        (ModelConfig(source="mlp", kwargs={"in_features": 3}), "does not take the samples of blobs"),
        (ModelConfig(source="mlp", kwargs={"num_classes": 3}), "gives 3 outputs, but blobs has 4 classes"),
        (ModelConfig(source=f"{TOYS}:named"), "dict"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(
    tmp_path: Path, model: ModelConfig, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        train(tmp_path / "one", model=model)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_one_input_is_refused_for_data_of_two(tmp_path: Path) -> None:
    images = DATA.dataset.inputs["image"]
    data = Data("pairs", Dataset({"a": images, "b": images}, DATA.dataset.labels, DATA.dataset.label_names))
    with pytest.raises(ModelError, match="pairs"):
        train(tmp_path / "one", data)


def test_a_model_of_two_outputs_is_refused_for_a_loss_of_one(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((60, 8), dtype=np.float32)
    data = Data("twin", Dataset({"a": rows[:, :3], "b": rows[:, 3:]}, np.arange(60) % 4, tuple("abcd")))
    parent = load(tmp_path / "load", data, f"{TOYS}:twin")
    with pytest.raises(ModelError, match="output"):
        make(tmp_path / "train", data, "train", parents={"input": parent}, epochs=1)


def test_training_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path / "one")
    assert capfd.readouterr() == ("", "")


def test_interrupting_the_loop_is_an_interrupt() -> None:
    def loss(outputs: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(small_mlp(), DATA, TrainConfig(), loss=loss, seed=0, progress=NoProgress(), description="train")
