"""Layers become two thin ones where that loses little and saves work, and nowhere else."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.compress.scenes import built, outputs, samples, samples_for
from tests.unit.small import KWARGS, blobs, data_for, load, make, next_tokens, texts, toy
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lissom.artifact import Artifact
from lissom.compress.low_rank import find_layers, rank_factors
from lissom.compress.targets import macs
from lissom.compress.width import remove_channels
from lissom.errors import ModelError
from lissom.recipe import PruneConfig
from lissom.structure import load_model

DATA = blobs(60)
SAMPLES = samples_for(DATA)
SOURCES = ("resnet20", "mlp", "vit", "bert", "bert_mlm", "gpt", "lstm", "vgg")
HUGGING_FACE = {"resnet": DATA, "vit": DATA, "bert": texts(), "gpt2": next_tokens()}


class Conv1D(nn.Module):
    """A linear layer with a turned weight, as GPT-2 has it in transformers."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Reader(nn.Module):
    """Reads the weight of one layer, calls one, and never calls the last."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called, self.idle = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.called(x.flatten(1) @ self.read.weight)
        return states


class OnlyRead(nn.Module):
    """Reads the weight of its layer and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.layer.weight


class Attended(nn.Module):
    """Torch's own attention, which reads the weight of its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        states = x.flatten(1, 2)
        logits: Tensor = self.head(self.attention(states, states, states)[0].flatten(1))
        return logits


class Counted(nn.Module):
    """A forward that fails when a layer has become two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        assert not isinstance(self.layer, nn.Sequential)
        states: Tensor = self.layer(x.flatten(1))
        return states


def low_rank(**fields: Any) -> PruneConfig:
    return PruneConfig(method="low-rank", **{"round_to": 1, **fields})


def factorised(model: nn.Module, share: float, **fields: Any) -> dict[str, list[int]]:
    """Factorise `model` in one step; gives the full rank and the rank of every layer that changed."""
    config = low_rank(ratio=share, **fields)
    notes = rank_factors(model, copy.deepcopy(model), config, SAMPLES).apply(model, share)
    ranks: dict[str, list[int]] = notes["ranks"]
    return ranks


def alone(layer: nn.Module) -> nn.Sequential:
    """A model of one layer, which reads an image of one channel or its pixels."""
    flat = () if isinstance(layer, nn.Conv2d) else (nn.Flatten(1, 2),)
    flat = (nn.Flatten(),) if isinstance(layer, nn.Linear | Conv1D) else flat
    return nn.Sequential(*flat, layer).eval()


def with_rank(layer: Any, rank: int) -> Any:
    """The layer with weights of a low rank, whichever way they are unfolded."""
    with torch.no_grad():
        first, second = (torch.randn(size, rank) for size in (layer.weight[0].numel(), len(layer.weight)))
        layer.weight.copy_((second @ first.T).reshape(layer.weight.shape))
    return layer


def separable(rank: int, **settings: Any) -> nn.Conv2d:
    """A convolution that is the sum of `rank` vertical times horizontal ones."""
    layer = nn.Conv2d(1, 16, **{"kernel_size": 5, **settings})
    with torch.no_grad():
        height, width = layer.kernel_size
        vertical, horizontal = torch.randn(1, height, rank), torch.randn(16, width, rank)
        layer.weight.copy_(torch.einsum("iar,obr->oiab", vertical, horizontal))
    return layer


def distance(model: nn.Module, before: Tensor) -> float:
    return float((outputs(model, SAMPLES) - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("name", SOURCES)
def test_a_factorised_model_is_reloaded_and_pruned_again(name: str, tmp_path: Path) -> None:
    data = data_for(name)
    whole = load(tmp_path / "load", data, name, **KWARGS[name])
    fields = {"method": "low-rank", "ratio": 0.5, "round_to": 1}
    artifact = make(tmp_path / "prune", data, "prune", parents={"input": whole}, **fields)
    ranks = artifact.manifest.notes["ranks"]
    again = load_model(Artifact.open(artifact.path))
    assert ranks
    assert all(
        rank < full and len(list(again.get_submodule(layer))) == 2 for layer, (full, rank) in ranks.items()
    )  # type: ignore[call-overload]
    assert artifact.manifest.num_parameters < whole.manifest.num_parameters
    twice = make(tmp_path / "twice", data, "prune", parents={"input": artifact}, **{**fields, "ratio": 0.6})
    assert twice.manifest.num_parameters < artifact.manifest.num_parameters


def test_a_factorised_model_is_trained_and_exported(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "resnet", **KWARGS["resnet"])
    fields = {"method": "low-rank", "round_to": 4}
    artifact = make(tmp_path / "prune", DATA, "prune", parents={"input": whole}, **fields)
    trained = make(tmp_path / "train", DATA, "train", parents={"input": artifact}, epochs=1)
    exported = make(tmp_path / "export", DATA, "export", parents={"input": trained})
    assert exported.manifest.format == "onnx"
    before, after = load_model(artifact).state_dict(), load_model(trained).state_dict()
    name = f"{next(iter(artifact.manifest.notes['ranks']))}.0.weight"
    assert before[name].shape == after[name].shape
    assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_layers_of_transformers_are_factorised(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    data, source = HUGGING_FACE[name], f"tests.unit.compress.hugging_face:{name}"
    whole = load(tmp_path / "load", data, source)
    fields = {"method": "low-rank", "ratio": 0.6, "round_to": 1}
    artifact = make(tmp_path / "prune", data, "prune", parents={"input": whole}, **fields)
    assert len(artifact.manifest.notes["ranks"]) >= 6
    assert not any("lm_head" in layer for layer in artifact.manifest.notes["ranks"])
    assert artifact.manifest.num_parameters < 0.8 * whole.manifest.num_parameters


@given(st.integers(4, 24), st.integers(4, 24), st.floats(0.05, 0.95))
@settings(max_examples=25)
def test_the_squared_error_is_the_sum_of_the_squares_that_were_cut(
    inputs: int, outputs_: int, share: float
) -> None:
    torch.manual_seed(inputs)
    layer = nn.Linear(inputs, outputs_)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, inputs), layer).eval()
    config = low_rank(ratio=share, exclude=("1",))
    values = torch.linalg.svdvals(layer.weight.detach())
    try:
        notes = rank_factors(model, model, config, SAMPLES).apply(model, share)
    except ModelError as exc:
        assert "nothing was factorised" in exc.message  # noqa: PT017  (either is right)
        return
    (full, rank) = notes["ranks"]["2"]
    first, second = model[2]  # type: ignore[misc]
    lost = float((second.weight @ first.weight - layer.weight).detach().square().sum())
    assert lost == pytest.approx(float(values[rank:].square().sum()), rel=1e-3, abs=1e-5)
    assert lost <= share * float(values.square().sum()) + 1e-5
    assert full == min(inputs, outputs_)
    assert rank * (inputs + outputs_) < inputs * outputs_
    assert first.weight.norm().item() == pytest.approx(second.weight.norm().item(), rel=1e-3)


def test_the_rank_is_the_smallest_that_keeps_the_rest_rounded_up() -> None:
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([8.0] * 4 + [1.0] * 60)))
    kept = 4 * 64 / (4 * 64 + 60)
    assert factorised(alone(copy.deepcopy(layer)), 1 - kept + 0.001) == {"1": [64, 4]}
    assert factorised(alone(copy.deepcopy(layer)), 1 - kept - 0.001) == {"1": [64, 5]}
    assert factorised(alone(copy.deepcopy(layer)), 1 - kept - 0.001, round_to=8) == {"1": [64, 8]}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(64, 48),
        nn.Linear(64, 48, bias=False),
        nn.Conv1d(8, 12, 1),
        nn.Conv1d(8, 12, 3, stride=2, padding=1, dilation=2, bias=False),
    ],
    ids=lambda layer: f"{type(layer).__name__}-{layer.bias is not None}",
)
def test_a_layer_of_low_rank_gives_the_same_outputs_as_two(layer: Any) -> None:
    torch.manual_seed(0)
    model = alone(with_rank(copy.deepcopy(layer), 3))
    before = outputs(model, SAMPLES)
    assert [rank for _, rank in factorised(model, 1e-6).values()] == [3]
    assert distance(model, before) < 1e-4


def test_a_turned_layer_of_low_rank_gives_the_same_outputs_as_two() -> None:
    torch.manual_seed(0)
    model = alone(with_rank(Conv1D(48, 64), 3))
    before = outputs(model, SAMPLES)
    assert factorised(model, 1e-6) == {"1": [48, 3]}
    assert [type(layer) for layer in model[1].children()] == [nn.Linear, nn.Linear]
    assert distance(model, before) < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"padding": 2},
        {"padding": (1, 2), "stride": (2, 1)},
        {"padding": 2, "stride": 2, "bias": False},
        {"kernel_size": 3, "dilation": (1, 2), "padding": "same"},
        {"kernel_size": (5, 3), "padding": "valid"},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": (2, 1), "padding_mode": "circular"},
    ],
    ids=str,
)
def test_a_separable_convolution_becomes_a_vertical_and_a_horizontal_one(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = alone(separable(1, **settings))
    height, width = model[0].kernel_size
    before = outputs(model, SAMPLES)
    assert [rank for _, rank in factorised(model, 1e-6).values()] == [1]
    first, second = model[0]  # type: ignore[misc]
    assert (first.kernel_size, second.kernel_size) == ((height, 1), (1, width))
    assert first.bias is None
    assert distance(model, before) < 1e-4


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1)])
def test_a_convolution_one_wide_makes_its_stride_before_the_channels_grow(kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    wide = nn.Conv2d(1, 16, 1)
    layer = with_rank(nn.Conv2d(16, 24, kernel, stride=2, padding_mode="reflect"), 2)
    model = nn.Sequential(wide, layer).eval()
    before = outputs(model, SAMPLES)
    assert [rank for _, rank in factorised(model, 1e-6, exclude=("0",)).values()] == [2]
    first, second = model[1]  # type: ignore[misc]
    assert (first.kernel_size, first.stride) == (kernel, (2, 2))
    assert (second.kernel_size, second.stride) == ((1, 1), (1, 1))
    assert distance(model, before) < 1e-4


@pytest.mark.parametrize("name", ["resnet", "mlp", "vit"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_multiply_adds_fall_with_every_layer_that_is_replaced(name: str, share: float) -> None:
    model, found = built(name), samples(name)
    config = low_rank(ratio=share)
    reduction = rank_factors(model, copy.deepcopy(model), config, found)
    changed = copy.deepcopy(model)
    ranks = reduction.apply(changed, share)["ranks"]
    for layer in ranks:
        one = copy.deepcopy(model)
        one.set_submodule(layer, changed.get_submodule(layer))
        assert macs(one, found.example) < macs(model, found.example), layer
    assert ranks


@pytest.mark.parametrize("name", ["resnet20", "mlp", "gpt"])
def test_ratio_zero_is_the_identity(name: str) -> None:
    model, found = built(name), samples(name)
    before = outputs(model, found)
    assert rank_factors(model, copy.deepcopy(model), low_rank(ratio=0.0), found).apply(model, 0.0) == {
        "ranks": {}
    }
    assert torch.equal(outputs(model, found), before)


def test_a_share_at_which_nothing_is_saved_is_refused() -> None:
    model = built("mlp")
    with pytest.raises(
        ModelError, match=r"nothing was factorised: at a share of 0\.01 .*: 1 \(rank "
    ) as caught:
        factorised(model, 0.01, round_to=8)
    assert caught.value.hint == "raise the ratio, or lower round_to"


def test_ranks_of_several_steps_follow_from_the_whole_model_and_their_content_from_the_trained_one() -> None:
    torch.manual_seed(0)
    model = built("mlp")
    whole, config = copy.deepcopy(model), low_rank(ratio=0.6)
    once = rank_factors(model, whole, config, SAMPLES).apply(copy.deepcopy(model), 0.6)["ranks"]
    first = rank_factors(model, whole, config, SAMPLES).apply(model, 0.4)["ranks"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    trained = copy.deepcopy(model)
    second = rank_factors(model, whole, config, SAMPLES).apply(model, 0.6)["ranks"]
    assert second == once
    assert all(rank <= first[name][1] for name, (_, rank) in second.items() if name in first)
    name = next(iter(first))
    pair, before = (one.get_submodule(name) for one in (model, trained))
    product, wanted = (one[1].weight @ one[0].weight for one in (pair, before))  # type: ignore[index]
    rest = torch.linalg.svdvals(wanted)[second[name][1] :]
    assert (product - wanted).norm().item() == pytest.approx(rest.norm().item(), rel=1e-3, abs=1e-4)
    assert torch.equal(pair[1].bias, before[1].bias)  # type: ignore[index]


def test_the_first_of_several_steps_may_save_nothing() -> None:
    model = built("mlp")
    config = low_rank(ratio=0.6, steps=2, tune={"epochs": 1}, round_to=8)
    assert rank_factors(model, model, config, SAMPLES).apply(model, 0.01) == {"ranks": {}}


def test_what_shares_a_weight_or_has_it_read_or_is_never_called_is_left_alone(tmp_path: Path) -> None:
    shares = load_model(toy(tmp_path / "tied", DATA, "tied"))
    assert list(find_layers(shares, low_rank(), SAMPLES.example)) == ["head"]
    assert list(find_layers(Reader().eval(), low_rank(), SAMPLES.example)) == ["called"]
    assert list(find_layers(Attended().eval(), low_rank(), SAMPLES.example)) == ["head"]


def test_what_computes_its_weight_or_has_groups_is_left_alone() -> None:
    computed = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(64, 8)),
        parametrizations.spectral_norm(nn.Linear(8, 8)),
    )
    assert list(find_layers(computed.eval(), low_rank(), SAMPLES.example)) == ["0"]


def test_layers_of_torchs_transformer_are_factorised_only_where_it_still_runs() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=32, batch_first=True)
    model = nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(64, 64))
    ranks = factorised(model.eval(), 0.7)
    assert "3" in ranks
    assert not any("out_proj" in name for name in ranks)
    assert outputs(model, SAMPLES).shape == (2, 64)


@pytest.mark.parametrize("exclude", [("1",), ("1", "3")])
def test_excluded_layers_stay_as_they_are(exclude: tuple[str, ...]) -> None:
    model = built("mlp")
    weights = {name: model.get_submodule(name).weight for name in exclude}
    assert not set(factorised(model, 0.6, exclude=exclude)) & set(exclude)
    assert all(model.get_submodule(name).weight is weight for name, weight in weights.items())


def test_the_layers_of_an_excluded_module_stay_too_and_an_unknown_name_is_refused() -> None:
    model = built("vit")
    with pytest.raises(ModelError, match="nothing to prune: the model has no layer") as caught:
        rank_factors(model, model, low_rank(exclude=("blocks", "head", "patches")), samples("vit"))
    assert "exclude less" in caught.value.hint
    with pytest.raises(ModelError, match="exclude names 'heads'"):
        rank_factors(model, model, low_rank(exclude=("heads",)), samples("vit"))


def test_a_model_in_which_nothing_can_be_factorised_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, groups=1), nn.ReLU()).eval()
    with pytest.raises(
        ModelError, match="nothing to prune: the model has no layer that can be factorised"
    ) as caught:
        factorised(model, 0.5, exclude=("0",))
    assert "prune by width or depth instead" in caught.value.hint
    with pytest.raises(ModelError, match="looked at layer, whose weights are read by others"):
        factorised(OnlyRead().eval(), 0.5)


def test_a_forward_that_fails_afterwards_names_what_to_exclude() -> None:
    model = nn.Sequential(Counted(), nn.Linear(64, 64)).eval()
    with pytest.raises(
        ModelError, match="the model does not work without what was removed from it"
    ) as caught:
        factorised(model, 0.5)
    assert "AssertionError" in caught.value.message
    assert "assert not isinstance" in caught.value.message
    assert caught.value.hint.startswith("prune.exclude one of 0.layer, 1; ")
    other = nn.Sequential(Counted(), nn.Linear(64, 64)).eval()
    assert list(factorised(other, 0.5, exclude=("0.layer",))) == ["1"]


def test_a_weight_that_holds_nan_is_named() -> None:
    model = built("mlp")
    with torch.no_grad():
        model.get_submodule("3").weight[0, 0] = float("nan")  # type: ignore[index, operator]
    with pytest.raises(ModelError, match="the weight of 3 holds NaN or infinity"):
        factorised(model, 0.5)


def test_channels_of_the_two_layers_are_pruned_by_width() -> None:
    model = built("resnet")
    ranks = factorised(model, 0.3)
    size = sum(parameter.numel() for parameter in model.parameters())
    shape = outputs(model, SAMPLES).shape
    changed = remove_channels(model, PruneConfig(round_to=2), SAMPLES)
    assert any(name.rpartition(".")[0] in ranks for name in changed)
    assert sum(parameter.numel() for parameter in model.parameters()) < size
    assert outputs(model, SAMPLES).shape == shape


def test_frozen_layers_and_other_types_stay_what_they_are() -> None:
    model = built("mlp").double().requires_grad_(False)
    example = [tensor.double() for tensor in SAMPLES.example]
    reduction = rank_factors(model, model, low_rank(), replace(SAMPLES, example=example))
    reduction.apply(model, 0.5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_factorising_draws_no_random_numbers() -> None:
    model = built("mlp")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    factorised(model, 0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_number_of_multiply_adds_is_met(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "resnet", **KWARGS["resnet"])
    fields = {"method": "low-rank", "of": "macs", "ratio": 0.5, "round_to": 1}
    artifact = make(tmp_path / "prune", DATA, "prune", parents={"input": whole}, **fields)
    before, after = artifact.manifest.notes["macs"]
    assert 0.35 * before < after <= 0.5 * before
