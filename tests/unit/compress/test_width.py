"""Channels are removed where it was asked, and nowhere else."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit import toys
from tests.unit.small import KWARGS, blobs, data_for, load, make, toy
from torch import nn
from torch.nn import functional

from lissom.artifact import Signature
from lissom.compress.samples import Samples
from lissom.compress.width import remove_channels as remove
from lissom.errors import ModelError
from lissom.models.cnn import resnet
from lissom.models.data import Data
from lissom.models.mlp import mlp
from lissom.models.tasks import Classification
from lissom.recipe import PruneConfig
from lissom.registry import MODELS, resolve
from lissom.structure import load_model

DATA = blobs(40)
SIGNATURE = Signature(inputs=DATA.input_specs, outputs=())
EXAMPLE = torch.from_numpy(DATA.dataset.inputs["image"][:2])


def remove_channels(
    model: nn.Module, config: PruneConfig, example: list[torch.Tensor], data: Data = DATA
) -> dict[str, list[int]]:
    return remove(model, config, Samples(data, Classification(), SIGNATURE, example))


def network(widths: Sequence[int] = (16, 32)) -> nn.Module:
    torch.manual_seed(0)
    return resnet(in_channels=1, num_classes=4, widths=widths, blocks=[1] * len(widths)).eval()


def perceptron(hidden: Sequence[int]) -> nn.Module:
    torch.manual_seed(0)
    return mlp(in_features=64, num_classes=4, hidden=hidden).eval()


def pruned(model: nn.Module, **fields: object) -> dict[str, list[int]]:
    return remove_channels(model, PruneConfig.model_validate(fields), [EXAMPLE])


def widths(model: nn.Module) -> dict[str, int]:
    return {
        name: module.weight.shape[0]
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def answers(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(EXAMPLE)
    return found


@pytest.mark.parametrize("round_to", [1, 8, 256])
@pytest.mark.parametrize("hidden", [(16, 12), (7,)])
def test_ratio_zero_is_the_identity(round_to: int, hidden: tuple[int, ...]) -> None:
    for model in (perceptron(hidden), network((12, 20))):
        before = copy.deepcopy(model)
        assert pruned(model, ratio=0.0, round_to=round_to) == {}
        assert torch.equal(answers(model), answers(before))


@pytest.mark.parametrize("importance", ["l1", "l2"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_widths_fall_to_multiples_and_the_model_runs(importance: str, ranking: str) -> None:
    model = network()
    before, size = widths(model), sum(p.numel() for p in model.parameters())
    changed = pruned(model, ratio=0.5, importance=importance, ranking=ranking)
    after = widths(model)
    assert changed == {name: [before[name], after[name]] for name in after if after[name] != before[name]}
    assert changed
    assert all(after[name] < before[name] and after[name] % 8 == 0 for name in changed)
    assert answers(model).shape == (2, 4)
    assert sum(p.numel() for p in model.parameters()) < 0.6 * size


@given(
    st.lists(st.integers(4, 40), min_size=1, max_size=3),
    st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]),
    st.sampled_from([1, 4, 8]),
)
@settings(max_examples=40)
def test_whatever_is_pruned_keeps_a_multiple_and_its_classes(
    hidden: list[int], ratio: float, round_to: int
) -> None:
    model = perceptron(hidden)
    refusal, changed = "", {}
    try:
        changed = pruned(model, ratio=ratio, round_to=round_to)
    except ModelError as exc:
        refusal = exc.message
    assert bool(changed) is not refusal.startswith("nothing was pruned")
    assert all(0 < after < before and after % round_to == 0 for before, after in changed.values())
    assert answers(model).shape == (2, 4)


@pytest.mark.parametrize("width", [16, 20, 24, 64])
def test_a_higher_ratio_never_keeps_more(width: int) -> None:
    kept = []
    for ratio in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        model = perceptron([width])
        try:
            pruned(model, ratio=ratio)
        except ModelError:
            kept.append(width)
        else:
            kept.append(widths(model)["1"])
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 8


def test_a_higher_ratio_never_keeps_more_when_all_layers_are_ranked_together() -> None:
    kept = []
    for ratio in (0.5, 0.8, 0.9, 0.95, 0.99):
        model = perceptron([16, 128])
        pruned(model, ratio=ratio, ranking="global")
        kept.append(sum(widths(model).values()))
    assert kept == sorted(kept, reverse=True)


def test_about_the_share_that_was_asked_for_is_removed() -> None:
    model = perceptron([100, 50])
    assert pruned(model, ratio=0.3, round_to=1) == {"1": [100, 70], "3": [50, 35]}


def test_the_least_important_channels_go() -> None:
    model = perceptron([16])
    first, last = model[1], model[3]
    weak = [1, 4, 6, 7, 9, 12, 13, 15]
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            tensor[weak] *= 1e-3
        last.weight[:, weak] *= 1e-3
    strong = [index for index in range(16) if index not in weak]
    rows, columns = first.weight[strong].clone(), last.weight[:, strong].clone()
    pruned(model, ratio=0.5)
    assert torch.equal(model[1].weight, rows)
    assert torch.equal(model[3].weight, columns)


def test_a_layer_that_is_excluded_keeps_its_width_and_so_does_all_that_is_added_to_it() -> None:
    model = network()
    changed = pruned(model, exclude=["blocks.1.conv2"])
    assert "blocks.1.conv2" not in changed
    assert "blocks.1.shortcut.0" not in changed
    assert changed["blocks.1.conv1"] == [32, 16]


def test_a_module_that_is_excluded_keeps_the_width_of_all_its_layers() -> None:
    model = network()
    changed = pruned(model, exclude=["blocks.0"])
    assert changed
    assert not [name for name in changed if name.startswith("blocks.0")]


def test_a_name_that_is_no_module_is_refused_with_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"exclude names 'blocks\.0\.conv', which is no module") as caught:
        pruned(network(), exclude=["blocks.0.conv"])
    assert "blocks.0.conv1" in caught.value.hint


@pytest.mark.parametrize("num_classes", [4, 16, 32])
@pytest.mark.parametrize("name", ["plain", "layer_norm", "shares"])
def test_the_classes_are_kept_whatever_follows_the_last_layer(name: str, num_classes: int) -> None:
    model = getattr(toys, name)(num_classes=num_classes).eval()
    changed = pruned(model, round_to=4)
    assert "head" not in changed
    assert answers(model).shape == (2, num_classes)


@pytest.mark.parametrize("frozen", ["", "3.weight", "3."])
def test_the_classes_are_kept_whatever_is_frozen(frozen: str) -> None:
    torch.manual_seed(0)
    model = mlp(in_features=64, num_classes=32, hidden=[32]).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    with contextlib.suppress(ModelError):  # what cannot be traced may be refused, but not cut
        pruned(model)
    assert answers(model).shape == (2, 32)


def test_the_classes_are_kept_when_the_model_runs_without_gradients() -> None:
    class Inference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 16)

        @torch.no_grad()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.body(x.flatten(1)).relu())
            return found

    model = Inference().eval()
    with contextlib.suppress(ModelError):
        pruned(model)
    assert answers(model).shape == (2, 16)


def test_what_comes_before_a_softmax_is_pruned_as_elsewhere() -> None:
    model = toys.shares().eval()
    assert pruned(model, round_to=4) == {"conv1": [16, 8], "conv2": [16, 8]}


def test_both_outputs_of_a_model_keep_their_width() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 32)
            self.left, self.right = nn.Linear(32, 16), nn.Linear(32, 24)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.body(x.flatten(1)).relu()
            return self.left(hidden), self.right(hidden)

    model = Forked().eval()
    assert pruned(model) == {"body": [32, 16]}
    assert [len(found[0]) for found in model(EXAMPLE)] == [16, 24]


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (perceptron([]), {}),
        (perceptron([8]), {}),
        (perceptron([16]), {"exclude": ["1"]}),
    ],
)
def test_nothing_to_prune_is_an_error_that_says_what_to_do(
    model: nn.Module, fields: dict[str, object]
) -> None:
    before = widths(model)
    with pytest.raises(ModelError, match="nothing was pruned: no layer can spare") as caught:
        pruned(model, **fields)
    assert caught.value.hint
    assert widths(model) == before


def test_a_model_that_cannot_be_traced_is_a_model_error() -> None:
    class Numpy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.second(torch.from_numpy(self.first(x.flatten(1)).numpy()))
            return found

    with pytest.raises(ModelError, match="cannot be traced for pruning"):
        pruned(Numpy().eval())


def test_two_prunings_in_a_row_do_not_touch_each_other() -> None:
    first, second, third = network(), network(), perceptron([16, 32])
    one = pruned(first, ratio=0.5, exclude=["blocks.0"])
    pruned(third, ratio=0.25)
    assert pruned(second, ratio=0.5, exclude=["blocks.0"]) == one
    assert torch.equal(answers(first), answers(second))
    again = pruned(first, ratio=0.5, round_to=4)
    assert again
    assert answers(first).shape == (2, 4)


@pytest.mark.parametrize("source", ["resnet", "mlp"])
def test_a_pruned_artifact_is_smaller_and_runs(tmp_path: Path, source: str) -> None:
    kwargs = {"widths": [16, 32], "blocks": [1, 1]} if source == "resnet" else {"hidden": [32, 32]}
    whole = load(tmp_path / "load", DATA, source, **kwargs)
    small = make(tmp_path / "prune", DATA, "prune", parents={"input": whole})
    assert small.size_bytes < whole.size_bytes
    assert small.manifest.num_parameters < whole.manifest.num_parameters
    assert small.manifest.signature == whole.manifest.signature
    assert set(small.manifest.notes["channels"]) <= set(widths(load_model(whole)))
    assert answers(load_model(small)).shape == (2, 4)


@pytest.mark.parametrize("name", ["grouped", "depthwise", "group_norm", "batch_norm", "layer_norm"])
def test_every_kind_of_layer_survives_as_an_artifact(tmp_path: Path, name: str) -> None:
    small = make(
        tmp_path / "prune", DATA, "prune", parents={"input": toy(tmp_path / "load", DATA, name)}, round_to=2
    )
    assert answers(load_model(small)).shape == (2, 4)
    assert all(after == before // 2 for before, after in small.manifest.notes["channels"].values())


def test_pruning_leaves_the_parent_as_it_was(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "mlp", hidden=[16])
    before = answers(load_model(whole))
    make(tmp_path / "prune", DATA, "prune", parents={"input": whole})
    assert torch.equal(answers(load_model(whole)), before)


def built(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    model = resolve(name, known=MODELS)(**{**KWARGS[name], **kwargs})
    assert isinstance(model, nn.Module)
    return model.eval()


def samples(name: str) -> torch.Tensor:
    (found,) = data_for(name).dataset.inputs.values()
    return torch.from_numpy(found[:2])


HEADS = ("attention.q", "attention.k", "attention.v")


@pytest.mark.parametrize("name", ["vit", "bert", "bert_mlm", "gpt"])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_a_transformer_loses_hidden_units_and_heads(name: str, ranking: str) -> None:
    model = built(name, **({"in_channels": 1} if name == "vit" else {}))
    with torch.inference_mode():
        shape = model(samples(name)).shape
    changed = remove_channels(model, PruneConfig(round_to=4, ranking=ranking), [samples(name)])
    assert [key for key in changed if key.endswith("feed_forward.expand")]
    spans = [span for key, span in changed.items() if key.endswith(HEADS)]
    assert spans == [[16, 8]] * (6 if ranking == "local" else len(spans))
    with torch.inference_mode():
        assert model(samples(name)).shape == shape


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_an_image_transformer_loses_width_with_its_positions(pooling: str) -> None:
    model = built("vit", in_channels=1, pooling=pooling)
    changed = remove_channels(model, PruneConfig(round_to=4), [samples("vit")])
    assert changed["patches"] == [16, 8]
    assert model.positions.shape[-1] == 8
    assert model.blocks[0].attention.q.weight.shape == (8, 8)


@pytest.mark.parametrize("name", ["bert_mlm", "gpt"])
def test_embeddings_that_are_the_output_layer_too_keep_their_width(name: str) -> None:
    model = built(name)
    changed = remove_channels(model, PruneConfig(round_to=4), [samples(name)])
    assert {key.rpartition(".")[2] for key in changed} == {"expand", "q", "k", "v"}


def test_a_classifier_of_text_loses_width_with_its_embeddings() -> None:
    model = built("bert")
    remove_channels(model, PruneConfig(round_to=4), [samples("bert")])
    assert model.encoder.tokens.weight.shape == (16, 8)
    assert model.encoder.positions.weight.shape == (12, 8)


@pytest.mark.parametrize("name", ["vgg", "resnet50"])
def test_a_deep_network_of_convolutions_loses_half_of_every_layer(name: str) -> None:
    model = built(name, in_channels=1)
    before = widths(model)
    changed = remove_channels(model, PruneConfig(round_to=4), [samples(name)])
    assert changed.keys() == before.keys() - {"head"}
    assert all(after == width // 2 for width, after in changed.values())
    assert answers(model).shape == (2, 10)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_recurrent_model_loses_units_and_width_of_its_embeddings(name: str) -> None:
    model = built(name)
    changed = remove_channels(model, PruneConfig(round_to=2), [samples(name)])
    assert changed == {"embedding": [8, 4], "recurrent": [16, 8]}
    with torch.inference_mode():
        assert model(samples(name)).shape == (2, 10)


class Sequence1d(nn.Module):
    """Convolutions that a recurrent layer reads, and linear layers after it."""

    def __init__(self, layer: nn.Module, *, last_state: bool) -> None:
        super().__init__()
        self.last_state = last_state
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 16)
        self.layer = layer
        self.third, self.head = nn.Linear(24, 32), nn.Linear(32, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(image[:, 0]).relu())
        states, last = self.layer(x)
        last = last[0] if isinstance(last, tuple) else last
        found: torch.Tensor = self.head(self.third(last[-1] if self.last_state else states[:, -1]).relu())
        return found


@pytest.mark.parametrize("last_state", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_what_surrounds_a_recurrent_layer_is_pruned(kind: type[nn.RNNBase], last_state: bool) -> None:
    torch.manual_seed(0)
    model = Sequence1d(kind(16, 24, batch_first=True), last_state=last_state).eval()
    changed = {"first": [32, 16], "second": [16, 8], "layer": [24, 12], "third": [32, 16]}
    assert pruned(model, round_to=4) == changed
    assert answers(model).shape == (2, 4)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_recurrent_layer_whose_inner_states_are_read_keeps_its_units(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    model = Sequence1d(kind(16, 24, num_layers=2, batch_first=True), last_state=True).eval()
    assert pruned(model) == {"first": [32, 16], "second": [16, 8], "third": [32, 16]}
    assert answers(model).shape == (2, 4)


def test_attention_of_torch_is_kept_and_the_rest_is_pruned() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention = nn.Linear(8, 16), nn.MultiheadAttention(16, 2, batch_first=True)
            self.expand, self.contract = nn.Linear(16, 64), nn.Linear(64, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.embed(image[:, 0])
            x = x + self.attention(x, x, x)[0]
            x = x + self.contract(self.expand(x).relu())
            found: torch.Tensor = self.head(x.mean(dim=1))
            return found

    model = Encoder().eval()
    assert pruned(model) == {"expand": [64, 32]}
    assert answers(model).shape == (2, 4)


class OwnAttention(nn.Module):
    """An attention by hand, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.embed = nn.Linear(8, 16)
        self.queries, self.keys, self.values = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image[:, 0])
        q, k, v = (layer(x).reshape(len(x), 8, 2, -1) for layer in (self.queries, self.keys, self.values))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.way == "fused":
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(2, 3)).softmax(dim=-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        found: torch.Tensor = self.head(self.hidden(x.mean(dim=1)).relu())
        return found


@pytest.mark.parametrize("way", ["fused", "by hand"])
def test_heads_of_a_users_own_attention_are_not_mixed(way: str) -> None:
    torch.manual_seed(0)
    model = OwnAttention(way).eval()
    changed = pruned(model)
    assert changed["hidden"] == [32, 16]
    assert not {"queries", "keys", "values"} & changed.keys()
    assert answers(model).shape == (2, 4)


def test_layers_whose_forward_breaks_after_pruning_stay_whole_and_are_named() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.side, self.head = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            side = self.side(x.flatten(1)).reshape(-1, 4, 8).flatten(1)
            found: torch.Tensor = self.head(self.body(x.flatten(1)).relu() * side)
            return found

    with pytest.raises(
        ModelError, match=r"nothing was pruned.*stay whole: body \(.*test_width\.py:"
    ) as caught:
        pruned(Fixed().eval())
    assert "method: low-rank or magnitude" in caught.value.hint
    model = Fixed().eval()
    with pytest.raises(ModelError, match="nothing was pruned"):
        pruned(model, exclude=["side"])


@pytest.mark.parametrize("name", ["vit", "bert", "gpt"])
def test_a_pruned_transformer_is_an_artifact_that_comes_back(tmp_path: Path, name: str) -> None:
    whole = load(tmp_path / "load", data_for(name), name, **KWARGS[name])
    small = make(tmp_path / "prune", data_for(name), "prune", parents={"input": whole}, round_to=4)
    assert small.manifest.num_parameters < whole.manifest.num_parameters
    assert small.manifest.signature == whole.manifest.signature
