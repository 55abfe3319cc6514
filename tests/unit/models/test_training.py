"""Training is decided by its seed, and stops with a reason when it cannot go on."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.unit.small import TOYS, blobs, context, load, make
from torch import nn
from torch.nn import functional

from lissom.artifact import Artifact
from lissom.errors import DataError, LissomError, MachineError, ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.loop import Batch, BatchLoss
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


def small_mlp(num_classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes))
    return nn.Sequential(nn.Flatten(), *layers)


def fitted(
    folder: Path,
    model: nn.Module,
    data: Data = DATA,
    *,
    seed: int = 0,
    loss: BatchLoss | None = None,
    **fields: Any,
) -> list[dict[str, float]]:
    """The figures of every epoch of a training without a stage around it."""
    config = TrainConfig.model_validate({"name": "fitted", "epochs": 2, **fields})
    return fit(model, context(folder / "fitted", data, config, seed=seed), config, loss=loss)


def cross_entropy(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    return functional.cross_entropy(outputs, batch.targets)


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
    watched = {"gradient_norm", "gradient_norm_max", "exploding", "vanishing", "dead_units"}
    figures = {"loss", "score", "select_loss", "select_score", "learning_rate"}
    assert [set(epoch) for epoch in history] == [figures | watched] * 8
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["score"] > 0.9
    assert history[-1]["select_score"] > 0.9


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step", "plateau", "constant"])
@pytest.mark.parametrize("warmup_epochs", [0, 1.5])
def test_every_optimiser_goes_with_every_schedule(
    tmp_path: Path, optimizer: str, schedule: str, warmup_epochs: float
) -> None:
    model = small_mlp()
    history = fitted(
        tmp_path,
        model,
        optimizer=optimizer,
        schedule=schedule,
        warmup_epochs=warmup_epochs,
        learning_rate=0.01,
        epochs=4,
    )
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
def test_a_batch_of_one_is_never_left_over(tmp_path: Path, num_train: int, batch_size: int) -> None:
    split = np.array(["train"] * num_train + ["report"] * (152 - num_train) + ["select"] * 8)
    two = blobs(num_classes=2).dataset
    data = Data("some", Dataset(two.inputs, two.labels, two.label_names, split=split))
    model, sizes = small_mlp(num_classes=2), []
    model.register_forward_hook(lambda module, args, output: sizes.append(len(output) * module.training))
    fitted(tmp_path, model, data, batch_size=batch_size, epochs=2)
    trained = [size for size in sizes if size]
    assert 1 not in trained
    assert sum(trained) == 2 * (num_train - (num_train % batch_size == 1))


def test_every_sample_is_seen_once_in_an_epoch_in_an_order_that_changes(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def loss(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        seen.append(batch.positions.tolist())
        assert batch.targets.tolist() == DATA.labels("train")[batch.positions].tolist()
        return cross_entropy(outputs, batch)

    fitted(tmp_path, small_mlp(), loss=loss, epochs=2, batch_size=32)
    num_train = len(DATA.indices["train"])
    flat = [position for batch in seen for position in batch]
    assert sorted(flat[:num_train]) == sorted(flat[num_train:]) == list(range(num_train))
    assert flat[:num_train] != flat[num_train:]


def test_a_loss_that_is_not_a_number_names_the_batch_and_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    calls: list[list[int]] = []

    def loss(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        calls.append(batch.positions.tolist())
        value = cross_entropy(outputs, batch)
        return value * float("nan") if len(calls) == 6 else value

    assert len(DATA.indices["train"]) == 100
    with pytest.raises(DataError, match="the loss is nan in epoch 2, step 2") as caught:
        fitted(tmp_path, small_mlp(), loss=loss, epochs=3, batch_size=25)
    in_the_source = DATA.indices["train"][calls[5][:5]].tolist()
    assert in_the_source != calls[5][:5]
    assert f"on samples {', '.join(map(str, in_the_source))}, ... (train split)" in caught.value.message
    assert "learning_rate" in caught.value.hint
    kept = torch.load(tmp_path / ".training-fitted" / "last.ckpt", weights_only=True)
    assert len(kept["lissom"]["history"]) == 1
    assert all(torch.isfinite(tensor).all() for tensor in kept["state_dict"].values())


def test_extreme_values_in_the_data_end_with_a_reason(tmp_path: Path) -> None:
    images = DATA.dataset.inputs["image"] * np.float32(1e30)
    data = Data("extreme", Dataset({"image": images}, DATA.dataset.labels, DATA.dataset.label_names))
    with pytest.raises(DataError, match=r"the loss is (nan|inf) in epoch 1, step [12]"):
        train(tmp_path / "one", data, learning_rate=10.0)
    assert not (tmp_path / "one").exists()


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
    with pytest.raises(DataError, match="pairs"):
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


def interrupted_at(step: int) -> BatchLoss:
    """Cross-entropy that ends as Ctrl-C does at this step."""
    calls: list[int] = []

    def loss(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return cross_entropy(outputs, batch) if batch.targets.ndim == 1 else soft(outputs, batch)

    def soft(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return functional.cross_entropy(outputs, batch.targets)

    return loss


def test_interrupting_the_loop_is_an_interrupt_and_leaves_the_handler_as_it_was(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, small_mlp(), loss=interrupted_at(1))
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 1, "ema": 0.9},
        {"schedule": "plateau", "step_epochs": 1, "optimizer": "rmsprop", "learning_rate": 0.01},
        {"early_stopping": {"patience": 2}, "epochs": 12},
        {"keep": "best", "accumulate": 2, "clip_norm": 1.0},
        {"augment": {"crop": 1, "flip": 0.5, "mixup": 0.4, "cutmix": 1.0}},
        {"precision": "bfloat16", "num_workers": 1, "l1": 1e-4},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
def test_a_training_that_was_interrupted_ends_with_the_same_bits(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    def dropping() -> nn.Module:
        return nn.Sequential(*small_mlp()[:-1], nn.Dropout(0.5), nn.Linear(8, 4))

    options = {"epochs": 5, "batch_size": 25, **fields}
    torch.manual_seed(1)
    whole, resumed = dropping(), dropping()
    resumed.load_state_dict(whole.state_dict())
    start = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    history = fitted(tmp_path / "whole", whole, loss=interrupted_at(-1), **options)
    for step in (11, 5):
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "cut", resumed, loss=interrupted_at(step), **options)
        torch.manual_seed(step)  # what the new process happens to have drawn before
        resumed.load_state_dict(start)
    assert fitted(tmp_path / "cut", resumed, loss=interrupted_at(-1), **options) == history
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_training_that_had_ended_is_not_run_again(tmp_path: Path) -> None:
    model = small_mlp()
    history = fitted(tmp_path, model, early_stopping={"patience": 1}, epochs=12)
    assert len(history) < 12
    again = small_mlp()
    found = fitted(tmp_path, again, early_stopping={"patience": 1}, epochs=12, loss=interrupted_at(1))
    assert found == history
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))


def test_a_damaged_checkpoint_is_set_aside_and_training_starts_anew(tmp_path: Path) -> None:
    model, again = small_mlp(), small_mlp()
    history = fitted(tmp_path, model)
    checkpoint = tmp_path / ".training-fitted" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    assert fitted(tmp_path, again) == history


def test_what_training_kept_goes_when_the_artifact_is_written(tmp_path: Path) -> None:
    train(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "one"]
    assert next((tmp_path / "logs" / "one").glob("events.out.tfevents.*")).stat().st_size > 0


def test_early_stopping_keeps_the_weights_of_the_best_epoch(tmp_path: Path) -> None:
    model = small_mlp()
    history = fitted(tmp_path, model, keep="best", epochs=4, learning_rate=1.0, schedule="constant")
    scores = [figures["select_score"] for figures in history]
    inputs = torch.from_numpy(DATA.tensors("select")["image"])
    found = float((model(inputs).argmax(1).numpy() == DATA.labels("select")).mean())
    assert found == pytest.approx(max(scores))


def test_float16_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MachineError, match="GPU"):
        fitted(tmp_path, small_mlp(), precision="float16")


def test_a_loss_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="huber"):
        train(tmp_path / "one", loss="huber")


def test_a_training_whose_folder_was_moved_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = {"epochs": 5, "batch_size": 25, "keep": "best", "learning_rate": 1.0, "schedule": "constant"}
    whole, moved = small_mlp(), small_mlp()
    fitted(tmp_path / "whole", whole, **options)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "before", moved, loss=interrupted_at(17), **options)
    (tmp_path / "before").rename(tmp_path / "after")
    fitted(tmp_path / "after", moved, **options)
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), moved.parameters(), strict=True))


def test_a_group_of_batches_that_is_not_full_takes_a_step_of_full_length(tmp_path: Path) -> None:
    def step(accumulate: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        before = model[1].weight.detach().clone()
        options = {"batch_size": 100, "epochs": 1, "schedule": "constant", "weight_decay": 0.0}
        fitted(tmp_path / str(accumulate), model, accumulate=accumulate, **options)
        return model[1].weight.detach() - before

    torch.testing.assert_close(step(8), step(1))


def test_momentum_matters_under_every_schedule(tmp_path: Path) -> None:
    def bias(momentum: float) -> torch.Tensor:
        model = small_mlp()
        fitted(tmp_path / str(momentum), model, momentum=momentum, batch_size=25)
        return model[-1].bias.detach()  # type: ignore[union-attr]

    assert not torch.equal(bias(0.5), bias(0.9))


def test_an_index_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(1, 8, (60, 6))
    tokens[20::5, 3] = 9
    data = Data("ids", Dataset({"t": tokens}, np.arange(60) % 2, ("a", "b")))
    model = ModelConfig(source="lstm", kwargs={"vocab_size": 9, "embedding": 4, "hidden": 4})
    with pytest.raises(ModelError, match="cannot look up an index") as caught:
        train(tmp_path / "one", data, model)
    assert "vocab_size" in caught.value.hint


def test_a_batch_of_one_is_refused_where_it_is_normalised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="batch normalisation needs two samples"):
        fitted(tmp_path, small_mlp(), batch_size=1)
    fitted(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), batch_size=1, epochs=1)


def test_a_model_that_diverges_in_its_last_step_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss on the select split is (nan|inf)"):
        train(tmp_path / "one", epochs=1, batch_size=100, learning_rate=100, schedule="constant", l2=1e36)


def test_mlflow_that_cannot_write_does_not_stop_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusal(Exception):
        pass

    class Logger:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            assert options["tracking_uri"] == f"sqlite:///{tmp_path / 'mlflow.db'}"

        @property
        def run_id(self) -> str:
            raise Refusal("no such database")

    exceptions = ModuleType("mlflow.exceptions")
    exceptions.MlflowException = Refusal  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", exceptions)
    monkeypatch.setattr("lightning.pytorch.loggers.MLFlowLogger", Logger)
    monkeypatch.setattr("lissom.models.training.is_installed", lambda name: name == "mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(tmp_path / "one", epochs=1)
    assert "no such database" in caplog.text
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
