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
from lissom.compress.samples import Samples
from lissom.compress.width import remove_channels
from lissom.errors import ArtifactError, ModelError
from lissom.factories import build
from lissom.models.loading import factory_for
from lissom.recipe import ModelConfig, PruneConfig
from lissom.registry import MODELS, source_sha256
from lissom.structure import (
    STRUCTURE_FILE,
    Bypass,
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
DATA = blobs(40)


class Conv1D(nn.Module):
    """A linear layer with a turned weight, as GPT-2 has it in transformers."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.reshape(-1, self.nx) @ self.weight + self.bias).reshape(*x.shape[:-1], self.nf)


class TiedLanguageModel(nn.Module):
    """The output layer has the weight of the embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(6, width)
        self.head = nn.Linear(width, 6, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.tokens(tokens))
        return logits


def turned(*, hidden: int = 12) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Conv1D(hidden, 64), nn.GELU(), Conv1D(4, hidden))


def tied_tokens(*, width: int = 8) -> nn.Module:
    return TiedLanguageModel(width)


def stacked() -> nn.Module:
    """Two blocks in a row, of layers in a row."""
    block = lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.Linear(8, 8))  # noqa: E731
    return nn.Sequential(block(), block(), nn.Flatten(), nn.Linear(64, 4))


def reloaded(model: nn.Module, made: Factory) -> nn.Module:
    """The model as its record and its weights bring it back."""
    structure = json.loads(canonical_json(record(model.eval(), made)))
    return load_weights(rebuild(made, structure), weights_bytes(model))


def own(name: str, **kwargs: Any) -> Factory:
    """A factory of this file."""
    return Factory(source=f"{__name__}:{name}", kwargs=kwargs, sha256="")


def agree(one: nn.Module, other: nn.Module, given: torch.Tensor) -> bool:
    with torch.inference_mode():
        return torch.equal(one(given), other(given))


def factory(source: str, **kwargs: Any) -> Factory:
    config = ModelConfig(source=source, kwargs={**KWARGS.get(source, {}), **kwargs})
    return factory_for(config, data_for(source))


def example(source: str = "") -> torch.Tensor:
    (samples,) = data_for(source).dataset.inputs.values()
    return torch.from_numpy(samples[:3])


def samples(source: str) -> Samples:
    """For an importance that looks at weights alone."""
    return Samples(data_for(source), None, None, [example(source)])  # type: ignore[arg-type]


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def pruned(source: str) -> tuple[Factory, nn.Module]:
    """A model with random weights and statistics, half of its channels removed."""
    torch.manual_seed(1)
    made = factory(source)
    model = build(made).eval()
    for buffer in (buffer for buffer in model.buffers() if buffer.is_floating_point()):
        buffer.copy_(torch.rand_like(buffer) + 0.5)
    assert remove_channels(model, PruneConfig(ratio=0.5, round_to=2), samples(source))
    return made, model


@pytest.mark.parametrize("source", SOURCES)
def test_a_pruned_model_comes_back_from_data_bit_for_bit(source: str) -> None:
    made, model = pruned(source)
    structure = json.loads(canonical_json(record(model, made)))
    again = load_weights(rebuild(made, structure), weights_bytes(model))
    assert shapes(again) == shapes(model) != shapes(build(made))
    assert not again.training
    with torch.inference_mode():
        assert torch.equal(again(example(source)), model(example(source)))


@pytest.mark.parametrize("source", SOURCES)
def test_a_model_that_came_back_can_be_pruned_and_stored_again(source: str) -> None:
    made, model = pruned(source)
    again = load_weights(rebuild(made, record(model, made)), weights_bytes(model))
    remove_channels(again, PruneConfig(ratio=0.5, round_to=1), samples(source))
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


def test_parameters_that_modules_share_are_shared_again_at_another_size() -> None:
    model = TiedLanguageModel(4)
    again: Any = reloaded(model, own("tied_tokens", width=8))
    assert again.head.weight is again.tokens.weight
    assert again.head.weight.shape == (6, 4)
    assert agree(again, model, torch.arange(6)[None])


@pytest.mark.parametrize("source", ["gpt", "bert_mlm"])
def test_a_language_model_of_another_width_keeps_its_embeddings_as_output_layer(source: str) -> None:
    model = build(factory(source, width=8, num_heads=1)).eval()
    again = reloaded(model, factory(source, width=16, num_heads=2))
    assert shapes(again) == shapes(model)
    assert agree(again, model, example(source))


def test_parameters_that_are_no_longer_shared_are_refused() -> None:
    model = TiedLanguageModel(8)
    model.head.weight = nn.Parameter(model.tokens.weight.detach().clone())
    with pytest.raises(
        ModelError, match=r"tokens\.weight and head\.weight were one parameter and are two now"
    ):
        record(model, own("tied_tokens"))


def test_a_record_that_gives_shared_parameters_two_shapes_is_refused() -> None:
    structure = {"attributes": {}, "shapes": {"tokens.weight": [6, 4], "head.weight": [6, 2]}}
    with pytest.raises(ArtifactError, match=r"head\.weight has the recorded shape \[6, 2\], but"):
        rebuild(own("tied_tokens"), structure)


@pytest.mark.parametrize("source", RECURRENT)
def test_a_recurrent_layer_comes_back_with_fewer_units(source: str) -> None:
    kwargs = {"num_layers": 2, "bidirectional": True}
    model = build(factory(source, hidden=5, **kwargs)).eval()
    again: Any = reloaded(model, factory(source, hidden=16, **kwargs))
    assert again.recurrent.hidden_size == 5
    assert agree(again, model, example(source))
    again.train()(example(source)).sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_a_turned_layer_comes_back_with_fewer_units() -> None:
    model = turned(hidden=5).eval()
    again: Any = reloaded(model, own("turned", hidden=12))
    assert (again[1].nf, again[3].nx) == (5, 5)
    assert agree(again, model, example())


def test_modules_that_were_replaced_come_back_as_what_replaced_them() -> None:
    model: Any = build(own("stacked"))
    model[0] = Bypass()
    model[1][0] = nn.Sequential(
        nn.Conv2d(1, 2, (3, 1), padding=(1, 0), bias=False), nn.Conv2d(2, 1, (1, 3), padding="same")
    )
    model[3] = nn.Sequential(nn.Linear(64, 2, bias=False), nn.Linear(2, 4))
    structure = record(model, own("stacked"))
    assert structure["replaced"]["0"] == {"kind": "bypass", "places": 0}
    assert structure["replaced"]["3"]["layers"][0] == {
        "kind": "linear",
        "bias": False,
        "in_features": 64,
        "out_features": 2,
    }
    again: Any = reloaded(model, own("stacked"))
    assert [type(module) for module in again.modules()] == [type(module) for module in model.modules()]
    assert again[1][0][1].padding == "same"
    assert agree(again, model, example())
    assert not any(name.startswith("0.") for name in again.state_dict())


def test_a_module_that_was_replaced_and_replaced_again_is_told_against_the_factory() -> None:
    model: Any = build(own("stacked"))
    model[3] = nn.Sequential(nn.Linear(64, 4, bias=False), nn.Linear(4, 4))
    again: Any = reloaded(model, own("stacked"))
    again[3][0] = nn.Sequential(nn.Linear(64, 2, bias=False), nn.Linear(2, 3))
    again[3][1] = nn.Linear(3, 4)  # narrower
    again[1][2] = nn.Sequential(nn.Linear(8, 1), nn.Linear(1, 8))
    third: Any = reloaded(again, own("stacked"))
    assert agree(third, again, example())
    third[1] = Bypass()  # what was replaced inside is gone
    structure = record(third, own("stacked"))
    assert set(structure["replaced"]) == {"1", "3"}
    assert agree(reloaded(third, own("stacked")), third, example())


def test_a_bypass_gives_a_tuple_where_the_block_gave_one() -> None:
    given = torch.ones(2, 3)
    assert Bypass()(given, "mask") is given
    assert Bypass(1)(given) == (given,)
    assert Bypass(3)(hidden=given, mask=None) == (given, None, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_what_replaced_a_module_has_the_type_of_the_factory(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model: Any = build(own("stacked"))
        model[3] = nn.Sequential(nn.Linear(64, 2, bias=False), nn.Linear(2, 4))
        structure = record(model, own("stacked"))
        again: Any = rebuild(own("stacked"), structure)
    finally:
        torch.set_default_dtype(before)
    assert again[3][0].weight.dtype == dtype


def test_a_record_of_another_version_names_the_kinds_that_are_known() -> None:
    structure = {"attributes": {}, "shapes": {}, "replaced": {"3": {"kind": "lstm"}}}
    with pytest.raises(ArtifactError, match="a module of the kind 'lstm'") as caught:
        rebuild(own("stacked"), structure)
    assert "bypass" in caught.value.hint
    structure = {"attributes": {}, "shapes": {}, "replaced": {"9.conv": {"kind": "bypass", "places": 0}}}
    with pytest.raises(ArtifactError, match=r"has no 9\.conv, which the recorded structure names"):
        rebuild(own("stacked"), structure)


def test_a_module_of_another_class_that_cannot_be_described_is_refused() -> None:
    model: Any = build(own("stacked"))
    model[1][1] = nn.GELU()
    with pytest.raises(ModelError, match=r"the modules of the model are not those of .*: 1\.1"):
        record(model, own("stacked"))
    model[1] = nn.Sequential(nn.LSTM(8, 8))
    with pytest.raises(ModelError, match=r"the modules of the model are not those of .*"):
        record(model, own("stacked"))


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
