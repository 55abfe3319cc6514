"""Zeros stay zero while a model trains, and are counted again."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.small import blobs, context, load, make
from torch import nn

from lissom.artifact import Artifact
from lissom.models.loop import Batch
from lissom.models.masks import count_zeros, is_sparse, keep_zeros, recount_zeros
from lissom.models.training import fit
from lissom.recipe import TrainConfig
from lissom.structure import load_model, weights_bytes

DATA = blobs()


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("sparse")
    whole = load(folder / "whole", DATA, "mlp", hidden=[32, 16])
    return make(folder / "sparse", DATA, "prune", parents={"input": whole}, method="magnitude", ratio=0.6)


def places(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor == 0 for name, tensor in model.state_dict().items() if tensor.dim() == 2}


def same(one: nn.Module, other: nn.Module) -> bool:
    found = places(other)
    return all(torch.equal(zeros, found[name]) for name, zeros in places(one).items())


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in model:
            layer.weight[:, :2] = 0
    return model


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        {"ema": 0.9},
        {"keep": "best"},
        {"accumulate": 2, "clip_norm": 1.0},
    ],
)
def test_the_same_weights_are_zero_after_a_training(
    tmp_path: Path, sparse: Artifact, fields: dict[str, Any]
) -> None:
    trained = make(tmp_path / "train", DATA, "train", parents={"input": sparse}, epochs=2, **fields)
    before, after = load_model(sparse), load_model(trained)
    assert same(before, after)
    assert not torch.equal(before.state_dict()["1.weight"], after.state_dict()["1.weight"])
    note, old = trained.manifest.notes["sparsity"], sparse.manifest.notes["sparsity"]
    assert {key: note[key] for key in ("pattern", "share", "layers", "raw_bytes")} == {
        key: old[key] for key in ("pattern", "share", "layers", "raw_bytes")
    }
    assert note["compressed_bytes"] == len(zlib.compress(weights_bytes(after), 6))
    assert len(trained.manifest.notes["history"]) == 2


@pytest.mark.parametrize(
    "fields", [{"kind": "kd"}, {"kind": "hint", "student_layer": "1", "teacher_layer": "1"}, {"ema": 0.9}]
)
def test_a_student_that_is_taught_keeps_its_zeros(
    tmp_path: Path, sparse: Artifact, fields: dict[str, Any]
) -> None:
    teacher = load(tmp_path / "teacher", DATA, "mlp", hidden=[32, 16])
    parents = {"input": sparse, "teacher": teacher}
    taught = make(
        tmp_path / "distill", DATA, "distill", parents=parents, teacher="teacher", epochs=2, **fields
    )
    assert same(load_model(sparse), load_model(taught))
    assert taught.manifest.notes["sparsity"]["layers"] == sparse.manifest.notes["sparsity"]["layers"]


def test_a_sparse_artifact_that_is_loaded_says_so_again(tmp_path: Path, sparse: Artifact) -> None:
    loaded = load(tmp_path / "load", DATA, str(sparse.path))
    assert loaded.manifest.notes["sparsity"] == sparse.manifest.notes["sparsity"]


def test_a_training_that_was_interrupted_keeps_the_zeros_too(tmp_path: Path, sparse: Artifact) -> None:
    calls = [0]

    def interrupted(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, batch.targets)

    config = TrainConfig(name="cut", epochs=3, batch_size=50, momentum=0.9)
    notes = sparse.manifest.notes
    for _ in range(2):
        model = load_model(sparse)
        place = context(tmp_path / "cut", DATA, config)
        try:
            history = fit(model, place, config, loss=interrupted, after_step=keep_zeros(model, notes))
        except KeyboardInterrupt:
            assert (tmp_path / ".training-cut" / "last.ckpt").exists()
    assert len(history) == 3
    assert same(load_model(sparse), model)


def test_a_dense_model_trains_all_its_weights(tmp_path: Path) -> None:
    whole = load(tmp_path / "whole", DATA, "mlp", hidden=[8])
    trained = make(tmp_path / "train", DATA, "train", parents={"input": whole}, epochs=1)
    assert keep_zeros(load_model(whole), whole.manifest.notes) is None
    assert "sparsity" not in trained.manifest.notes
    assert not is_sparse(trained.manifest.notes)
    assert not any(zeros.any() for zeros in places(load_model(trained)).values())


def test_only_what_the_notes_name_is_kept() -> None:
    model = two_layers()
    keep = keep_zeros(model, {"sparsity": {"layers": {"0": 0.5, "gone": 0.5}}})
    assert keep is not None
    with torch.no_grad():
        for layer in model:
            layer.weight.sub_(1.0)
    keep()
    assert (model[0].weight[:, :2] == 0).all()
    assert not torch.signbit(model[0].weight[:, :2]).any()
    assert (model[0].weight[:, 2:] != 0).all()
    assert (model[1].weight != 0).all()


def test_zeros_are_counted_over_the_named_matrices_alone() -> None:
    model = two_layers()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    note = count_zeros(model, ["0"], "unstructured")
    assert note["layers"] == {"0": 0.5}
    assert note["share"] == 0.5
    assert count_zeros(model, ["0", "1"], "unstructured")["share"] == pytest.approx(8 / 24)
    assert note["raw_bytes"] == len(weights_bytes(model))


def test_a_matrix_of_another_name_than_weight_is_found() -> None:
    layer = nn.LSTM(4, 4)
    model = nn.ModuleDict({"lstm": layer})
    with torch.no_grad():
        layer.weight_hh_l0[::2] = 0
    assert count_zeros(model, ["lstm.weight_hh_l0"], "unstructured")["share"] == 0.5
    assert count_zeros(layer, ["weight_hh_l0"], "unstructured")["share"] == 0.5


@pytest.mark.parametrize(
    ("patterns", "asked", "found"),
    [
        (["2:4"], None, "2:4"),
        (["2:4"], "unstructured", "unstructured"),
        (["2:4", "unstructured"], None, "unstructured"),
        (["2:4", "2:4"], None, "2:4"),
    ],
)
def test_the_pattern_is_what_all_notes_say(patterns: list[str], asked: str | None, found: str) -> None:
    notes = [
        {"sparsity": {"pattern": pattern, "layers": {str(place): 0.5}}}
        for place, pattern in enumerate(patterns)
    ]
    note = recount_zeros(two_layers(), *notes, pattern=asked)["sparsity"]
    assert note["pattern"] == found
    assert note["layers"] == {str(place): 0.5 for place in range(len(patterns))}


def test_a_model_that_lost_its_sparse_layers_is_dense() -> None:
    notes = {"sparsity": {"pattern": "2:4", "layers": {"gone": 0.5}}}
    assert recount_zeros(two_layers(), notes) == {}
    assert recount_zeros(two_layers()) == {}
