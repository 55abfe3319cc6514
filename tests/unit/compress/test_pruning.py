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
from tests.unit.small import blobs, load, make, toy
from torch import nn

from lissom.compress.pruning import remove_channels
from lissom.errors import ModelError
from lissom.models.cnn import resnet
from lissom.models.mlp import mlp
from lissom.recipe import PruneConfig
from lissom.structure import load_model

DATA = blobs(40)
EXAMPLE = torch.from_numpy(DATA.dataset.inputs["image"][:2])


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
