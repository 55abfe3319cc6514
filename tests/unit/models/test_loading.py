"""Weights come from files that run no code, and fit or are refused."""

from __future__ import annotations

import os
import pickle
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.unit.small import TOYS, blobs
from torch import nn

from lissom.errors import ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.loading import factory_for, start
from lissom.recipe import ModelConfig

DATA = blobs(40)
KWARGS = {"hidden": [8]}


def model_with(weights: Path | str | None, **kwargs: Any) -> nn.Module:
    config = ModelConfig(source="mlp", kwargs=KWARGS | kwargs, weights=str(weights) if weights else None)
    return start(config, DATA)[0]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_channels_features_and_classes_come_from_the_data() -> None:
    assert factory_for(ModelConfig(source="resnet"), DATA).kwargs == {"in_channels": 1, "num_classes": 4}
    assert factory_for(ModelConfig(source="mlp"), DATA).kwargs == {"in_features": 64, "num_classes": 4}
    assert factory_for(ModelConfig(source=f"{TOYS}:twin"), DATA).kwargs == {}
    unlabelled = Data("plain", Dataset(DATA.dataset.inputs))
    assert factory_for(ModelConfig(source="mlp"), unlabelled).kwargs == {"in_features": 64}


def test_what_the_recipe_says_goes_before_the_data() -> None:
    config = ModelConfig(source="resnet", kwargs={"num_classes": 7, "widths": [8], "blocks": [1]})
    assert factory_for(config, DATA).kwargs == {
        "in_channels": 1,
        "num_classes": 7,
        "widths": [8],
        "blocks": [1],
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_are_loaded_from_a_file(tmp_path: Path, suffix: str) -> None:
    source, path = model_with(None), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path)
    assert not same(model_with(None), source)
    assert same(model_with(path), source)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_weights_are_found_inside_a_checkpoint(tmp_path: Path, key: str) -> None:
    source, path = model_with(None), tmp_path / "last.ckpt"
    torch.save({key: source.state_dict(), "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    assert same(model_with(path), source)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["module", "bomb", "plain pickle"])
def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    path, mark = tmp_path / "weights.pt", tmp_path / "mark"
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save(model_with(None) if kind == "module" else Bomb(mark), path)
    with pytest.raises(ModelError, match=r"weights\.pt") as caught:
        model_with(path)
    assert "refused" in caught.value.message
    assert "state_dict" in caught.value.hint
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_another_architecture_name_the_first_tensors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = model_with(None, hidden=[16]).state_dict()
    if suffix == ".pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    with pytest.raises(ModelError, match=r"3 tensors; first: 1\.weight: model \(8, ") as caught:
        model_with(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "model.kwargs" in caught.value.hint


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(("prefix", "writer"), [("module.", "DataParallel"), ("_orig_mod.", "torch.compile")])
def test_a_prefix_of_every_name_is_dropped_by_the_command_of_the_hint(
    tmp_path: Path, suffix: str, prefix: str, writer: str
) -> None:
    source, path = model_with(None), tmp_path / f"weights{suffix}"
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    if suffix == ".pt":
        torch.save({"model": state}, path)
    else:
        safetensors.torch.save_file(state, path)
    with pytest.raises(ModelError, match="do not fit the model") as caught:
        model_with(path)
    assert f"every name begins with {prefix!r}, as {writer} writes them" in caught.value.hint
    _, command, rest = caught.value.hint.splitlines()
    exec(shlex.split(command)[2], {})
    assert same(model_with(rest.rpartition(" ")[2]), source)


def test_a_misspelt_argument_is_offered_the_right_one() -> None:
    with pytest.raises(
        ModelError, match="mlp cannot be built with 'hiden': it has no such argument"
    ) as caught:
        model_with(None, hiden=[8])
    assert caught.value.hint == "did you mean hidden?"
    with pytest.raises(ModelError, match="no such argument") as caught:
        factory_for(ModelConfig(source=f"{TOYS}:twin", kwargs={"x": 1}), DATA)
    assert caught.value.hint == "it has no arguments"


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([torch.zeros(2)], "holds no dictionary of tensors"),
        ({"epoch": 3}, "holds no dictionary of tensors"),
        ({}, "do not fit the model"),
        (torch.zeros(2), "holds no dictionary of tensors"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, saved: Any, message: str) -> None:
    torch.save(saved, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=message) as caught:
        model_with(tmp_path / "weights.pt")
    assert str(tmp_path / "weights.pt") in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 garbage", b"\x80\x02garbage"])
def test_a_damaged_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="weights"):
        model_with(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(model_with(None).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError, match="is not a file of torch weights"):
        model_with(path)


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights at"):
        model_with(tmp_path / "none.pt")


def test_a_model_without_weights_starts_from_the_random_numbers_of_torch() -> None:
    torch.manual_seed(5)
    one = model_with(None)
    torch.manual_seed(5)
    assert same(model_with(None), one)


def test_the_shape_of_a_sample_without_axes_counts_as_one_feature() -> None:
    data = Data("numbers", Dataset({"x": np.arange(6.0)}, np.arange(6) % 2, ("a", "b")))
    assert factory_for(ModelConfig(source="mlp"), data).kwargs == {"in_features": 1, "num_classes": 2}
