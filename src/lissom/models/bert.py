"""BERT: a bidirectional encoder of token sequences, to classify them or to fill masked tokens in.

Devlin et al., BERT, arXiv 1810.04805. Post-norm blocks, learned positions; token 0 is padding, to which no
position attends. Left out: segment embeddings and next-sentence prediction, which RoBERTa (arXiv
1907.11692) does without, and is better.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.models.attention import EncoderBlock
from lissom.models.layers import check_positive, initialise

PADDING = 0
_EPSILON = 1e-12


class Size(NamedTuple):
    """The size of an encoder."""

    vocab_size: int
    max_length: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: float
    dropout: float


class Encoder(nn.Module):
    """Embeddings of tokens and positions, normalised, and encoder blocks."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        check_positive(vocab_size=size.vocab_size, max_length=size.max_length, depth=size.depth)
        self.max_length = size.max_length
        self.tokens = nn.Embedding(size.vocab_size, size.width, padding_idx=PADDING)
        self.positions = nn.Embedding(size.max_length, size.width)
        self.norm = nn.LayerNorm(size.width, eps=_EPSILON)
        self.dropout = nn.Dropout(size.dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                size.width,
                size.num_heads,
                hidden=int(size.width * size.mlp_ratio),
                dropout=size.dropout,
                pre_norm=False,
                epsilon=_EPSILON,
            )
            for _ in range(size.depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, length] to states [batch, length, width].

        Raises:
            ValueError: the sequence is longer than max_length.
        """
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens are more than max_length {self.max_length}")
        x = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        x = self.dropout(self.norm(x))
        mask = (tokens != PADDING)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask=mask)
        states: Tensor = x
        return states


class BertClassifier(nn.Module):
    """The encoder; a linear layer and tanh on the first token's state (the pooler); one linear layer."""

    def __init__(self, size: Size, num_classes: int) -> None:
        super().__init__()
        check_positive(num_classes=num_classes)
        self.encoder = Encoder(size)
        self.pooler = nn.Linear(size.width, size.width)
        self.dropout = nn.Dropout(size.dropout)
        self.head = nn.Linear(size.width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, length] to logits [batch, num_classes]."""
        first = self.encoder(tokens)[:, 0]
        logits: Tensor = self.head(self.dropout(torch.tanh(self.pooler(first))))
        return logits


class BertMaskedLanguageModel(nn.Module):
    """The encoder; a linear layer, GELU and normalisation; scores by the embeddings of the tokens."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.encoder = Encoder(size)
        self.transform = nn.Linear(size.width, size.width)
        self.norm = nn.LayerNorm(size.width, eps=_EPSILON)
        self.bias = nn.Parameter(torch.zeros(size.vocab_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, length] to logits [batch, length, vocab_size]."""
        states = self.norm(functional.gelu(self.transform(self.encoder(tokens))))
        return functional.linear(states, self.encoder.tokens.weight, self.bias)


def bert(
    *,
    vocab_size: int = 1000,
    num_classes: int = 10,
    max_length: int = 128,
    width: int = 128,
    depth: int = 3,
    num_heads: int = 4,
    mlp_ratio: float = 4.0,
    dropout: float = 0.1,
) -> nn.Module:
    """A BERT classifier of token ids int64 [batch, length], 0 is padding; gives [batch, num_classes].

    Devlin et al., arXiv 1810.04805. The paper's size is BERT-base: 30,522 tokens, length 512, width 768,
    depth 12, 12 heads, 110 M parameters. A sequence begins with the token that is classified by, [CLS].

    Args:
        vocab_size: Tokens, padding included.
        num_classes: Classes, one logit each.
        max_length: Tokens of the longest sequence.
        width: Width of the embeddings; num_heads divides it.
        depth: Encoder blocks.
        num_heads: Attention heads.
        mlp_ratio: Width of the feed-forward network over `width`.
        dropout: Share set to zero in training, in [0, 1).

    Raises:
        ValueError: num_heads does not divide width.
    """
    size = Size(vocab_size, max_length, width, depth, num_heads, mlp_ratio, dropout)
    model = BertClassifier(size, num_classes)
    initialise(model, "normal")
    return model


def bert_mlm(
    *,
    vocab_size: int = 1000,
    max_length: int = 128,
    width: int = 128,
    depth: int = 3,
    num_heads: int = 4,
    mlp_ratio: float = 4.0,
    dropout: float = 0.1,
) -> nn.Module:
    """BERT as a masked language model: int64 [batch, length], 0 is padding, to [batch, length, vocab_size].

    Devlin et al., arXiv 1810.04805. The output layer shares the token embeddings. The paper's size is
    BERT-base: 30,522 tokens, length 512, width 768, depth 12, 12 heads, 110 M parameters.

    Args:
        vocab_size: Tokens, padding and mask included.
        max_length: Tokens of the longest sequence.
        width: Width of the embeddings; num_heads divides it.
        depth: Encoder blocks.
        num_heads: Attention heads.
        mlp_ratio: Width of the feed-forward network over `width`.
        dropout: Share set to zero in training, in [0, 1).

    Raises:
        ValueError: num_heads does not divide width.
    """
    model = BertMaskedLanguageModel(Size(vocab_size, max_length, width, depth, num_heads, mlp_ratio, dropout))
    initialise(model, "normal")
    return model
