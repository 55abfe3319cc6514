"""A changed model, stored as data, comes back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.small import KWARGS, TOYS, blobs, data_for, load, make, toy
from torch import nn

from lissom.artifact import Artifact, Factory, canonical_json
from lissom.compress.pruning import remove_channels
from lissom.errors import ArtifactError, ModelError
from lissom.models.loading import factory_for
from lissom.recipe import ModelConfig, PruneConfig
from lissom.registry import MODELS, source_sha256
from lissom.structure import (
    STRUCTURE_FILE,
    build,
    check_state,
    factory_of,
    load_model,
    load_weights,
    rebuild,
    record,
    weights_bytes,
)

LAYERS = ("plain", "grouped", "depthwise", "group_norm", "layer_norm", "batch_norm")
RECURRENT = ("rnn", "lstm", "gru")
SOURCES = [*MODELS, *(f"{TOYS}:{name}" for name in LAYERS)]
PRUNABLE = [source for source in SOURCES if source not in RECURRENT]
DATA = blobs(40)


def factory(source: str, **kwargs: Any) -> Factory:
    config = ModelConfig(source=source, kwargs={**KWARGS.get(source, {}), **kwargs})
    return factory_for(config, data_for(source))


def example(source: str = "") -> torch.Tensor:
    (samples,) = data_for(source).dataset.inputs.values()
    return torch.from_numpy(samples[:3])


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def pruned(source: str) -> tuple[Factory, nn.Module]:
    """A model with random weights and statistics, half of its channels removed."""
    torch.manual_seed(1)
    made = factory(source)
    model = build(made).eval()
    for buffer in (buffer for buffer in model.buffers() if buffer.is_floating_point()):
        buffer.copy_(torch.rand_like(buffer) + 0.5)
    assert remove_channels(model, PruneConfig(ratio=0.5, round_to=2), [example(source)])
    return made, model


@pytest.mark.parametrize("source", PRUNABLE)
def test_a_pruned_model_comes_back_from_data_bit_for_bit(source: str) -> None:
    made, model = pruned(source)
    structure = json.loads(canonical_json(record(model, made)))
    again = load_weights(rebuild(made, structure), weights_bytes(model))
    assert shapes(again) == shapes(model) != shapes(build(made))
    assert not again.training
    with torch.inference_mode():
        assert torch.equal(again(example(source)), model(example(source)))


@pytest.mark.parametrize("source", PRUNABLE)
def test_a_model_that_came_back_can_be_pruned_and_stored_again(source: str) -> None:
    made, model = pruned(source)
    again = load_weights(rebuild(made, record(model, made)), weights_bytes(model))
    remove_channels(again, PruneConfig(ratio=0.5, round_to=1), [example(source)])
    third = load_weights(rebuild(made, json.loads(json.dumps(record(again, made)))), weights_bytes(again))
    with torch.inference_mode():
        assert torch.equal(third(example(source)), again(example(source)))
    assert sum(p.numel() for p in third.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("source", SOURCES)
def test_a_model_that_was_not_changed_has_no_changed_attributes(source: str) -> None:
    made = factory(source)
    structure = record(build(made), made)
    assert structure["attributes"] == {}
    assert shapes(rebuild(made, structure)) == shapes(build(made))


@pytest.mark.parametrize(
    ("source", "attributes"),
    [
        ("grouped", {"out_channels", "in_channels"}),
        ("depthwise", {"out_channels", "in_channels", "groups"}),
        ("group_norm", {"num_channels"}),
        ("layer_norm", {"normalized_shape", "out_features", "in_features"}),
        ("batch_norm", {"num_features", "out_channels", "in_channels"}),
    ],
)
def test_the_sizes_that_a_layer_keeps_are_recorded(source: str, attributes: set[str]) -> None:
    made, model = pruned(f"{TOYS}:{source}")
    changed = record(model, made)["attributes"]
    assert attributes <= {name for layer in changed.values() for name in layer}
    assert all("training" not in layer for layer in changed.values())


def test_a_rebuilt_parameter_trains_as_the_original_did() -> None:
    made, model = pruned(f"{TOYS}:batch_norm")
    again = rebuild(made, record(model, made))
    names = {name for name, _ in again.named_parameters()}
    assert names == {name for name, _ in model.named_parameters()}
    assert {name for name, _ in again.named_buffers()} == {name for name, _ in model.named_buffers()}
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_a_nested_tuple_of_sizes_comes_back_as_it_was() -> None:
    made = factory(f"{TOYS}:windowed")
    model = build(made).eval()
    model.windows = ((2, 1), (1, 0))
    again = load_weights(rebuild(made, json.loads(json.dumps(record(model, made)))), weights_bytes(model))
    assert again.windows == ((2, 1), (1, 0))
    with torch.inference_mode():
        assert torch.equal(again(example()), model(example()))


def test_weights_that_two_layers_share_are_stored() -> None:
    made = factory(f"{TOYS}:tied")
    model = build(made).eval()
    again = load_weights(rebuild(made, record(model, made)), weights_bytes(model))
    with torch.inference_mode():
        assert torch.equal(again(example()), model(example()))
    assert again.first.weight is again.second.weight


def test_modules_that_were_added_are_refused() -> None:
    made = factory("mlp")
    model = build(made)
    model.append(nn.Linear(4, 4))
    with pytest.raises(ModelError, match="the modules of the model are not those of mlp: "):
        record(model, made)


def test_modules_that_were_removed_are_refused() -> None:
    made = factory("mlp")
    model = build(made)
    del model[1]
    with pytest.raises(ModelError, match="the modules of the model are not those of mlp"):
        record(model, made)


def test_weights_that_do_not_fit_name_the_first_tensors() -> None:
    wide, narrow = build(factory("mlp", hidden=[32, 32])), build(factory("mlp", hidden=[16, 32]))
    with pytest.raises(ModelError) as caught:
        load_weights(wide, weights_bytes(narrow))
    assert caught.value.message == (
        "the weights do not fit the model in 3 tensors; first: 1.weight: model (32, 64), file (16, 64); "
        "1.bias: model (32,), file (16,); 3.weight: model (32, 32), file (32, 16)"
    )


def test_weights_of_another_architecture_name_what_is_absent() -> None:
    with pytest.raises(ModelError, match=r"1\.bias: model \(32,\), file absent"):
        check_state(build(factory("mlp")), {})
    state = build(factory("mlp")).state_dict() | {"0.extra": torch.zeros(2)}
    with pytest.raises(ModelError, match=r"in 1 tensors; first: 0\.extra: model absent, file \(2,\)"):
        check_state(build(factory("mlp")), state)


def test_what_differs_is_named_in_the_order_of_the_model_and_what_it_does_not_have_last() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(11)))
    state = {"0.extra": torch.zeros(2)} | {f"{index}.weight": torch.zeros(2, 2) for index in range(11)}
    state |= {"10.weight": torch.zeros(3, 2), "2.weight": torch.zeros(3, 2)}
    with pytest.raises(ModelError, match=r"first: 2\.weight: .*; 10\.weight: .*; 0\.extra: model absent"):
        check_state(model, state)


def test_a_file_that_is_no_safetensors_is_refused() -> None:
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_weights(build(factory("mlp")), b"garbage")


@pytest.mark.parametrize(
    "structure",
    [
        {"attributes": {}, "shapes": {"9.weight": [4, 4]}},
        {"attributes": {}, "shapes": {"1.gain": [4]}},
        {"attributes": {"9": {"out_features": 4}}, "shapes": {}},
    ],
)
def test_a_structure_of_another_factory_is_refused(structure: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="recorded structure"):
        rebuild(factory("mlp"), structure)


@pytest.mark.parametrize(
    ("source", "kwargs", "message"),
    [
        (f"{TOYS}:no_model", {}, "gave a str, not a torch.nn.Module"),
        ("mlp", {"depth": 3}, "mlp cannot be built with"),
        ("resnet", {"widths": [8, 8], "blocks": [1]}, "resnet cannot be built with"),
        ("resnet", {"widths": [], "blocks": []}, "resnet cannot be built with"),
        ("mlp", {"hidden": [-1]}, "mlp cannot be built with"),
    ],
)
def test_a_factory_that_cannot_build_says_what_it_was_asked(
    source: str, kwargs: dict[str, Any], message: str
) -> None:
    made = Factory(source=source, kwargs=kwargs, sha256=source_sha256(source, known=MODELS))
    with pytest.raises(ModelError, match=message):
        build(made)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """A resnet, and what pruning made of it."""
    folder = tmp_path_factory.mktemp("stored")
    whole = load(folder / "load", DATA, "resnet", widths=[8, 16], blocks=[1, 1])
    return whole, make(folder / "prune", DATA, "prune", parents={"input": whole}, round_to=4)


def test_an_artifact_gives_its_model_back(stored: tuple[Artifact, Artifact]) -> None:
    for artifact in stored:
        model = load_model(Artifact.open(artifact.path))
        assert sum(p.numel() for p in model.parameters()) == artifact.manifest.num_parameters
        assert factory_of(artifact).source == "resnet"
    whole, small = stored
    assert small.manifest.num_parameters < whole.manifest.num_parameters
    assert factory_of(small) == factory_of(whole)


def test_an_artifact_whose_factory_was_edited_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "net.py"
    source.write_text((Path(__file__).with_name("toys.py")).read_text())
    artifact = load(tmp_path / "load", DATA, f"{source}:plain")
    assert isinstance(load_model(artifact), nn.Module)
    source.write_text(source.read_text().replace("ReLU()", "GELU()"))
    with pytest.raises(ArtifactError, match="has changed since load was made"):
        load_model(artifact)


def test_an_onnx_artifact_has_no_torch_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has the format onnx; a torch model was asked for"):
        load_model(tiny_onnx_artifact(tmp_path / "tiny"))


def test_the_structure_file_is_plain_data(stored: tuple[Artifact, Artifact]) -> None:
    structure = json.loads(stored[1].file(STRUCTURE_FILE).read_bytes())
    assert set(structure) == {"attributes", "shapes"}
    assert structure["shapes"]["head.weight"] == [4, 8]
    assert structure["attributes"]["stem.0"] == {"out_channels": 4}


def test_state_outside_parameters_and_sizes_is_noticed_before_it_is_lost(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the reloaded model differs") as caught:
        toy(tmp_path / "load", DATA, "stateful")
    assert "buffer" in caught.value.hint
    assert not (tmp_path / "load").exists()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_bits_in_the_file(kind: torch.dtype) -> None:
    model = build(factory("mlp")).to(kind)
    again = load_weights(build(factory("mlp")).to(kind), weights_bytes(model))
    pairs: Callable[[nn.Module], list[torch.Tensor]] = lambda module: list(module.state_dict().values())  # noqa: E731
    assert all(torch.equal(one, other) for one, other in zip(pairs(model), pairs(again), strict=True))


def test_weights_are_taken_as_they_are_named_and_not_by_order() -> None:
    model = build(factory("mlp", hidden=[4])).eval()
    tensors = {
        name: np.full(tensor.shape, 0.5, dtype=np.float32) for name, tensor in model.state_dict().items()
    }
    load_weights(model, save(dict(reversed(tensors.items()))))
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.5)) for tensor in model.state_dict().values())
