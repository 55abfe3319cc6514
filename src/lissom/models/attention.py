"""Multi-head attention, and the transformer blocks made of it.

For queries Q, keys K and values V of one head, each [length, head_dim],

    attention(Q, K, V) = softmax(Q K^T / sqrt(head_dim) + M) V

where M is 0 at the places that a query may see and minus infinity elsewhere; a query that may see nothing
gets zeros, where the formula would give NaN. The heads are computed side by side, joined and mixed by one
linear layer. Vaswani et al., Attention Is All You Need, arXiv 1706.03762.

The key has no bias: it adds the same number to every score of a query, which softmax cancels, so that it
would be a parameter without a gradient. `scale` is kept as the layer was built, so that a head from which
dimensions are removed keeps its scores. The cache holds keys and values of the self-attention only; those of
a decoder's memory are computed again at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.models.layers import build_activation, check_positive


class KeyValueCache:
    """Keys and values of the positions that a causal self-attention has seen, for one layer.

    Attributes:
        keys: [batch, num_heads, positions so far, head_dim], or None before the first.
        values: Of the same shape.
    """

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add [batch, num_heads, new positions, head_dim]; gives all positions."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class MultiHeadAttention(nn.Module):
    """Attention of `num_heads` heads of `head_dim` dimensions, with linear layers q, k, v and out."""

    def __init__(self, width: int, num_heads: int, *, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        check_positive(width=width, num_heads=num_heads)
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.scale = self.head_dim**-0.5
        self.dropout = dropout
        self.causal = causal
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Attend from every position of `x` to itself or to a memory.

        Args:
            x: [batch, queries, width].
            memory: [batch, keys, width], for cross-attention; `x` itself when None.
            mask: bool, of two to four axes, broadcastable to [batch, num_heads, queries, keys]; True where a
                query may attend.
            cache: Positions before `x`, to which those of `x` are added.

        Returns:
            [batch, queries, width].

        Raises:
            ValueError: a memory is given to a causal layer or together with a cache.
        """
        if memory is not None and (self.causal or cache is not None):
            raise ValueError("cross-attention to a memory goes with neither causal nor a cache")
        source = x if memory is None else memory
        queries, keys, values = (
            self._heads(layer(given)) for layer, given in ((self.q, x), (self.k, source), (self.v, source))
        )
        num_before = 0
        if cache is not None:
            num_before = len(cache)
            keys, values = cache.extend(keys, values)
        causal = self.causal and queries.shape[2] > 1  # a single new position may see all before it
        if causal and (mask is not None or num_before):
            mask, causal = _with_future_hidden(mask, queries, num_before), False
        found = self._attend(queries, keys, values, mask, causal=causal)
        joined: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return joined

    def _heads(self, projected: Tensor) -> Tensor:
        """[batch, length, num_heads * head_dim] to [batch, num_heads, length, head_dim]."""
        batch, length, _ = projected.shape
        return projected.reshape(batch, length, self.num_heads, self.head_dim).transpose(1, 2)

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, causal: bool
    ) -> Tensor:
        """[batch, num_heads, queries, head_dim] of values, weighted."""
        sees = None if mask is None else mask.any(dim=-1, keepdim=True)
        found = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            # Where nothing may be seen everything is, and the answer dropped: no kernel makes NaN of it.
            attn_mask=None if mask is None or sees is None else mask | ~sees,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            scale=self.scale,
        )
        return found if sees is None else found * sees.to(found.dtype)


def _with_future_hidden(mask: Tensor | None, queries: Tensor, num_before: int) -> Tensor:
    """A mask in which a query sees nothing after itself; `num_before` keys stand before the first query."""
    length = queries.shape[2]
    past = torch.ones(length, num_before + length, dtype=torch.bool, device=queries.device).tril(num_before)
    return past if mask is None else mask & past


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, for each position alone."""

    def __init__(self, width: int, hidden: int, *, activation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.activation = activation
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, width] to the same shape."""
        changed: Tensor = self.contract(self.dropout(self.activation(self.expand(x))))
        return changed


class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward network, each around a shortcut with layer normalisation.

    `pre_norm` normalises what enters a branch (GPT-2, ViT), else the sum is normalised (BERT). With `causal`
    it is a block of a decoder without memory, as GPT has.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        hidden: int,
        activation: nn.Module | None = None,
        dropout: float = 0.0,
        pre_norm: bool = True,
        causal: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        activation = build_activation("gelu") if activation is None else activation
        self.pre_norm = pre_norm
        self.attention = MultiHeadAttention(width, num_heads, dropout=dropout, causal=causal)
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.feed_forward = FeedForward(width, hidden, activation=activation, dropout=dropout)
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """[batch, length, width] to the same shape; mask and cache as in `MultiHeadAttention`."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.norm1(x), mask=mask, cache=cache))
            added: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
            return added
        x = self.norm1(x + self.dropout(self.attention(x, mask=mask, cache=cache)))
        normalised: Tensor = self.norm2(x + self.dropout(self.feed_forward(x)))
        return normalised


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to a memory, and a feed-forward network, each around a shortcut."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        hidden: int,
        activation: nn.Module | None = None,
        dropout: float = 0.0,
        pre_norm: bool = True,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        activation = build_activation("gelu") if activation is None else activation
        self.pre_norm = pre_norm
        self.attention = MultiHeadAttention(width, num_heads, dropout=dropout, causal=True)
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.cross_attention = MultiHeadAttention(width, num_heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.feed_forward = FeedForward(width, hidden, activation=activation, dropout=dropout)
        self.norm3 = nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """[batch, length, width] to the same shape.

        Args:
            x: [batch, length, width].
            memory: [batch, memory length, width], what an encoder gave.
            mask: bool, of the self-attention; True where a position may attend.
            memory_mask: bool, of the attention to the memory.
            cache: Of the self-attention.
        """
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.norm1(x), mask=mask, cache=cache))
            x = x + self.dropout(self.cross_attention(self.norm2(x), memory, mask=memory_mask))
            added: Tensor = x + self.dropout(self.feed_forward(self.norm3(x)))
            return added
        x = self.norm1(x + self.dropout(self.attention(x, mask=mask, cache=cache)))
        x = self.norm2(x + self.dropout(self.cross_attention(x, memory, mask=memory_mask)))
        normalised: Tensor = self.norm3(x + self.dropout(self.feed_forward(x)))
        return normalised
