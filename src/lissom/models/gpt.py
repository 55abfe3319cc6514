"""GPT-2: a causal language model that generates text token by token.

Radford et al., Language Models are Unsupervised Multitask Learners, 2019. Pre-norm blocks, learned
positions, GELU by its tanh form, output layer shared with the token embeddings, and the layers that write
into the shortcut drawn smaller by 1 / sqrt(2 * depth), so that its variance does not grow with depth.

There is no padding token: a position sees only those before it, so that padding at the end changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.models.attention import EncoderBlock, KeyValueCache
from lissom.models.layers import check_positive, initialise


class Gpt(nn.Module):
    """Embeddings of tokens and positions, causal blocks, scores by the embeddings of the tokens."""

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int,
        width: int,
        depth: int,
        num_heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_positive(vocab_size=vocab_size, max_length=max_length, depth=depth, hidden=hidden)
        self.max_length = max_length
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_length, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                width,
                num_heads,
                hidden=hidden,
                activation=nn.GELU(approximate="tanh"),
                dropout=dropout,
                causal=True,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, length] to logits [batch, length, vocab_size] of the token after each.

        Raises:
            ValueError: the sequence is longer than max_length.
        """
        return self._logits(self._states(tokens, [None] * len(self.blocks), num_before=0))

    def generate(self, tokens: Tensor, num_new: int, *, temperature: float = 0.0, seed: int = 0) -> Tensor:
        """Continue sequences; keys and values of the tokens before are kept, not computed again.

        Args:
            tokens: int64 [batch, length], at least one token.
            num_new: Tokens to add to each sequence.
            temperature: 0 takes the most likely token; 1 draws from the model's distribution, less
                sharpens it.
            seed: Of the draws.

        Returns:
            int64 [batch, length + num_new].

        Raises:
            ValueError: there is no token to begin with, a number is negative, or length + num_new is more
                than max_length.
        """
        length = tokens.shape[1]
        if length < 1 or num_new < 0 or temperature < 0:
            raise ValueError(
                f"{length} tokens, {num_new} new, temperature {temperature}: give at least one token, and no "
                "number below zero"
            )
        self._check_length(length + num_new)
        generator = torch.Generator(tokens.device).manual_seed(seed)
        caches = [KeyValueCache() for _ in self.blocks]
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                new = tokens
                for num_before in range(length, length + num_new):
                    states = self._states(new, caches, num_before=num_before - new.shape[1])
                    new = _drawn(self._logits(states[:, -1]), temperature, generator)
                    tokens = torch.cat([tokens, new], dim=1)
        finally:
            self.train(was_training)
        return tokens

    def _states(self, tokens: Tensor, caches: Sequence[KeyValueCache | None], *, num_before: int) -> Tensor:
        """[batch, length, width] of tokens that stand after `num_before` others."""
        last = num_before + tokens.shape[1]
        self._check_length(last)
        x = self.tokens(tokens) + self.positions(torch.arange(num_before, last, device=tokens.device))
        x = self.dropout(x)
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, cache=cache)
        states: Tensor = self.norm(x)
        return states

    def _logits(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.tokens.weight)

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise ValueError(f"{length} tokens are more than max_length {self.max_length}")


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One token [batch, 1] of logits [batch, vocab_size]."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)


def gpt(
    *,
    vocab_size: int = 256,
    max_length: int = 128,
    width: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    mlp_ratio: float = 4.0,
    dropout: float = 0.1,
) -> nn.Module:
    """A GPT-2 for token ids: int64 [batch, length] to [batch, length, vocab_size]; `generate` continues them.

    Radford et al. 2019. The default reads bytes. The paper's size is GPT-2 small: 50,257 tokens, length 1024,
    width 768, depth 12, 12 heads, 124 M parameters.

    Args:
        vocab_size: Tokens.
        max_length: Tokens of the longest sequence.
        width: Width of the embeddings; num_heads divides it.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Width of the feed-forward network over `width`.
        dropout: Share set to zero in training, in [0, 1).

    Raises:
        ValueError: num_heads does not divide width.
    """
    model = Gpt(
        vocab_size=vocab_size,
        max_length=max_length,
        width=width,
        depth=depth,
        num_heads=num_heads,
        hidden=int(width * mlp_ratio),
        dropout=dropout,
    )
    initialise(model, "normal")
    for name, parameter in model.named_parameters():
        if name.endswith(("attention.out.weight", "contract.weight")):
            nn.init.normal_(parameter, std=0.02 * (2 * depth) ** -0.5)
    return model
