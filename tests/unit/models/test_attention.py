"""Attention: equal to torch's own, zeros where nothing may be seen, and the same with a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lissom.models.attention import DecoderBlock, EncoderBlock, KeyValueCache, MultiHeadAttention

BATCH, LENGTH, WIDTH, HEADS = 3, 5, 12, 3


def layer(*, causal: bool = False, dropout: float = 0.0) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(WIDTH, HEADS, causal=causal, dropout=dropout).eval()


def samples(length: int = LENGTH, seed: int = 1) -> Tensor:
    return torch.randn(BATCH, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def by_torch(model: MultiHeadAttention, x: Tensor, memory: Tensor | None = None, **options: Any) -> Tensor:
    """The same by scaled_dot_product_attention."""
    source = x if memory is None else memory
    heads = [
        project(given).reshape(BATCH, -1, HEADS, WIDTH // HEADS).transpose(1, 2)
        for project, given in ((model.q, x), (model.k, source), (model.v, source))
    ]
    found = functional.scaled_dot_product_attention(*heads, **options)
    return model.out(found.transpose(1, 2).reshape(BATCH, -1, WIDTH))


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_is_that_of_torch(causal: bool) -> None:
    model, x = layer(causal=causal), samples()
    assert torch.allclose(model(x), by_torch(model, x, is_causal=causal), atol=1e-6)


def test_attention_is_its_formula() -> None:
    model, x = layer(), samples()
    q, k, v = (
        project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for project in (model.q, model.k, model.v)
    )
    weights = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
    assert torch.allclose(model(x), model.out((weights @ v).transpose(1, 2).flatten(2)), atol=1e-6)


@pytest.mark.parametrize("memory_length", [1, 2, 9])
def test_cross_attention_is_that_of_torch(memory_length: int) -> None:
    model, x, memory = layer(), samples(), samples(memory_length, seed=2)
    assert torch.allclose(model(x, memory), by_torch(model, x, memory), atol=1e-6)


@given(seed=st.integers(0, 2**31), share=st.floats(0.0, 1.0), causal=st.booleans())
def test_a_mask_hides_what_torch_hides_and_an_empty_row_gives_zeros(
    seed: int, share: float, causal: bool
) -> None:
    model, x = layer(causal=causal), samples()
    mask = torch.rand(BATCH, 1, LENGTH, LENGTH, generator=torch.Generator().manual_seed(seed)) < share
    seen = mask.tril() if causal else mask
    empty = ~seen.any(dim=-1)[:, 0]
    found, wanted = model(x, mask=mask), by_torch(model, x, attn_mask=seen)
    assert torch.allclose(found[~empty], wanted[~empty], atol=1e-6)
    assert torch.equal(found[empty], model.out.bias.expand(int(empty.sum()), WIDTH))


def test_the_gradient_of_a_masked_row_is_finite() -> None:
    model, x = layer(), samples().requires_grad_()
    model(x, mask=torch.zeros(BATCH, 1, 1, LENGTH, dtype=torch.bool)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("steps", [[5], [1, 1, 1, 1, 1], [2, 3], [3, 1, 1], [1, 4]])
def test_a_cache_gives_what_the_whole_sequence_gives(steps: list[int]) -> None:
    model, x, cache = layer(causal=True), samples(), KeyValueCache()
    parts = [model(part, cache=cache) for part in x.split(steps, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), model(x), atol=1e-6)
    assert len(cache) == LENGTH


def test_dropout_of_weights_is_for_training_only() -> None:
    model, x = layer(dropout=0.5), samples()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_heads_can_be_made_narrower() -> None:
    model, x = layer(), samples()
    model.head_dim = 2
    for name in ("q", "k", "v"):
        setattr(model, name, nn.Linear(WIDTH, HEADS * 2))
    model.out = nn.Linear(HEADS * 2, WIDTH)
    assert model(x).shape == x.shape


def test_dimensions_of_a_head_that_hold_nothing_can_be_removed() -> None:
    model, x = layer(), samples()
    kept = torch.arange(WIDTH).view(HEADS, -1)[:, :2].flatten()
    gone = torch.tensor([i for i in range(WIDTH) if i not in kept.tolist()])
    with torch.no_grad():
        for project in (model.q, model.k, model.v):
            project.weight[gone] = 0
            if project.bias is not None:
                project.bias[gone] = 0
        wanted = model(x)
        for project in (model.q, model.k, model.v):
            project.weight = nn.Parameter(project.weight[kept])
            if project.bias is not None:
                project.bias = nn.Parameter(project.bias[kept])
        model.out.weight = nn.Parameter(model.out.weight[:, kept])
        model.head_dim = 2
        assert torch.allclose(model(x), wanted, atol=1e-6)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="width 10 is not divisible by num_heads 3"):
        MultiHeadAttention(10, 3)
    with pytest.raises(ValueError, match="num_heads is 0"):
        MultiHeadAttention(10, 0)


def test_a_memory_goes_with_neither_causal_nor_a_cache() -> None:
    x = samples()
    with pytest.raises(ValueError, match="neither causal nor a cache"):
        layer(causal=True)(x, x)
    with pytest.raises(ValueError, match="neither causal nor a cache"):
        layer()(x, x, cache=KeyValueCache())


@pytest.mark.parametrize("pre_norm", [True, False])
def test_an_encoder_block_is_that_of_torch(pre_norm: bool) -> None:
    torch.manual_seed(0)
    ours = EncoderBlock(WIDTH, HEADS, hidden=20, pre_norm=pre_norm).eval()
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=pre_norm
    ).eval()
    one = ours.attention
    bias = torch.cat([one.q.bias, torch.zeros(WIDTH), one.v.bias])
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([one.q.weight, one.k.weight, one.v.weight]),
            "self_attn.in_proj_bias": bias,
            "self_attn.out_proj.weight": one.out.weight,
            "self_attn.out_proj.bias": one.out.bias,
            "linear1.weight": ours.feed_forward.expand.weight,
            "linear1.bias": ours.feed_forward.expand.bias,
            "linear2.weight": ours.feed_forward.contract.weight,
            "linear2.bias": ours.feed_forward.contract.bias,
            "norm1.weight": ours.norm1.weight,
            "norm1.bias": ours.norm1.bias,
            "norm2.weight": ours.norm2.weight,
            "norm2.bias": ours.norm2.bias,
        }
    )
    assert torch.allclose(ours(samples()), theirs(samples()), atol=1e-5)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_decoder_block_sees_the_past_and_the_memory(pre_norm: bool) -> None:
    torch.manual_seed(0)
    block = DecoderBlock(WIDTH, HEADS, hidden=20, pre_norm=pre_norm).eval()
    x, memory = samples(), samples(4, seed=2)
    before = block(x, memory)
    changed = x.clone()
    changed[:, 3:] += 1
    after = block(changed, memory)
    assert torch.allclose(after[:, :3], before[:, :3], atol=1e-6)
    assert not torch.allclose(after[:, 3:], before[:, 3:], atol=1e-2)
    assert not torch.allclose(block(x, memory + samples(4, seed=3)), before, atol=1e-2)
    mask = torch.tensor([[True, True, False, False]])
    assert torch.allclose(block(x, memory, memory_mask=mask), block(x, memory[:, :2]), atol=1e-6)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_decoder_block_with_a_cache_gives_what_the_whole_sequence_gives(pre_norm: bool) -> None:
    torch.manual_seed(0)
    block = DecoderBlock(WIDTH, HEADS, hidden=20, pre_norm=pre_norm).eval()
    x, memory, cache = samples(), samples(4, seed=2), KeyValueCache()
    parts = [block(part, memory, cache=cache) for part in x.split([2, 1, 2], dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), block(x, memory), atol=1e-5)
