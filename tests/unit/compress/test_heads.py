"""Heads are found by what a call shows, and removed only where that is proven."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.unit.compress.scenes import built, outputs, samples
from torch import Tensor, nn
from torch.nn import functional

from lissom.compress.groups import find_groups
from lissom.compress.heads import Attention, attentions_of
from lissom.compress.proof import settle
from lissom.compress.tracing import read_graph

TRANSFORMERS = ["vit", "bert", "bert_mlm", "gpt"]


def found_in(model: nn.Module, example: list[Tensor]) -> list[Attention]:
    return attentions_of(model, read_graph(model, example))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_attention_of_a_built_in_transformer_is_found_with_its_heads(name: str) -> None:
    model = built(name, num_heads=4)
    found = found_in(model, samples(name).example)
    assert [(attention.num_heads, attention.head_dim) for attention in found] == [(4, 4)] * 2
    first = model.get_submodule("encoder.blocks.0" if name.startswith("bert") else "blocks.0").attention
    assert found[0].layers == (first.q, first.k, first.v, first.out)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_heads_that_nothing_reads_leave_no_trace(name: str) -> None:
    model, given = built(name, num_heads=4), samples(name)
    for attention in found_in(model, given.example):
        with torch.no_grad():
            attention.mixer.weight[:, 4:12] = 0
    before = outputs(model, given)
    for attention in found_in(model, given.example):
        attention.keep([0, 3])
    torch.testing.assert_close(outputs(model, given), before)
    layer = model.get_submodule("encoder.blocks.1" if name.startswith("bert") else "blocks.1").attention
    assert (layer.num_heads, layer.q.weight.shape[0], layer.out.weight.shape[1]) == (2, 8, 8)


class Fused(nn.Module):
    """Queries, keys and values from one layer; `order` says how they lie in it."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order, self.num_heads = order, 4
        self.embed, self.joint, self.out = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        made = self.joint(self.embed(x))
        if self.order == "blocks":
            parts = made.reshape(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        else:
            parts = made.reshape(*x.shape[:2], self.num_heads, 3, -1).permute(3, 0, 2, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        given: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return given


def test_queries_keys_and_values_of_one_layer_lose_heads_together() -> None:
    torch.manual_seed(0)
    model, example = Fused("blocks").eval(), [torch.randn(2, 5, 8)]
    with torch.no_grad():
        model.out.weight[:, 8:] = 0
        before = model(*example)
    (attention,) = found_in(model, example)
    attention.keep([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(model(*example), before)
    assert model.joint.weight.shape == (24, 16)


def test_an_attention_whose_heads_lie_otherwise_is_left_alone() -> None:
    torch.manual_seed(0)
    model, example = Fused("heads first").eval(), [torch.randn(2, 5, 8)]
    whole = copy.deepcopy(model)
    groups = settle(model, find_groups(model, example), example)
    assert not any(group.attention for group in groups.groups)
    assert "heads cannot be told" in groups.left["joint"]
    with torch.no_grad():
        assert torch.equal(model(*example), whole(*example))
