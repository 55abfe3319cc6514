"""Recurrent classifiers of token sequences.

Tokens are embedded, read by stacked recurrent layers in one or both directions, and the states over the
positions that hold a token are averaged. Token 0 is padding. No packed sequences: they make the graph
depend on the data, and ONNX has none. The price: a bidirectional layer reads the padding at the end before
the text, so its answer depends, a little, on how much padding there is; pad to one fixed length.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn

from lissom.models.layers import check_positive

PADDING = 0

_LAYERS: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentClassifier(nn.Module):
    """Embedding, recurrent layers, the mean of the states at tokens, one linear layer."""

    def __init__(
        self,
        kind: Literal["rnn", "lstm", "gru"],
        *,
        vocab_size: int,
        num_classes: int,
        embedding: int,
        hidden: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        check_positive(vocab_size=vocab_size, num_classes=num_classes, embedding=embedding)
        check_positive(hidden=hidden, num_layers=num_layers)
        layer = cast("Any", _LAYERS[kind])
        self.embedding = nn.Embedding(vocab_size, embedding, padding_idx=PADDING)
        self.recurrent: nn.RNNBase = layer(
            embedding,
            hidden,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,  # torch has it between layers only, and warns
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden * (2 if bidirectional else 1), num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, length] to logits [batch, num_classes]."""
        states, _ = self.recurrent(self.embedding(tokens))
        logits: Tensor = self.head(self.dropout(mean_over_tokens(states, tokens)))
        return logits


def mean_over_tokens(states: Tensor, tokens: Tensor) -> Tensor:
    """Mean of states [batch, length, width] where tokens [batch, length] are no padding; zeros if all are."""
    weights = (tokens != PADDING).unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def rnn(
    *,
    vocab_size: int = 1000,
    num_classes: int = 10,
    embedding: int = 64,
    hidden: int = 128,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.1,
) -> nn.Module:
    """An Elman network for token ids int64 [batch, length], 0 is padding; gives [batch, num_classes].

    h_t = tanh(W x_t + U h_(t-1) + b). Elman, Finding Structure in Time, 1990. Only for short sequences:
    gradients vanish, and the ONNX graph has nodes for every position (torch has no ONNX form of this layer).

    Args:
        vocab_size: Tokens, padding included.
        num_classes: Classes, one logit each.
        embedding: Width of a token's embedding.
        hidden: Width of the state of one direction.
        num_layers: Recurrent layers, each reading the states of the one before.
        bidirectional: Read in both directions; doubles the width of the states.
        dropout: Share set to zero in training, between the layers and before the head, in [0, 1).
    """
    return RecurrentClassifier(
        "rnn",
        vocab_size=vocab_size,
        num_classes=num_classes,
        embedding=embedding,
        hidden=hidden,
        num_layers=num_layers,
        bidirectional=bidirectional,
        dropout=dropout,
    )


def lstm(
    *,
    vocab_size: int = 1000,
    num_classes: int = 10,
    embedding: int = 64,
    hidden: int = 128,
    num_layers: int = 1,
    bidirectional: bool = True,
    dropout: float = 0.1,
) -> nn.Module:
    """A long short-term memory for token ids int64 [batch, length], 0 is padding; gives [batch, num_classes].

    Hochreiter and Schmidhuber 1997. The paper's size is the medium network of Zaremba et al., Recurrent
    Neural Network Regularization, arXiv 1409.2329: two layers of 650, 10,000 words, dropout 0.5.

    Args:
        vocab_size: Tokens, padding included.
        num_classes: Classes, one logit each.
        embedding: Width of a token's embedding.
        hidden: Width of the state of one direction.
        num_layers: Recurrent layers, each reading the states of the one before.
        bidirectional: Read in both directions; doubles the width of the states.
        dropout: Share set to zero in training, between the layers and before the head, in [0, 1).
    """
    return RecurrentClassifier(
        "lstm",
        vocab_size=vocab_size,
        num_classes=num_classes,
        embedding=embedding,
        hidden=hidden,
        num_layers=num_layers,
        bidirectional=bidirectional,
        dropout=dropout,
    )


def gru(
    *,
    vocab_size: int = 1000,
    num_classes: int = 10,
    embedding: int = 64,
    hidden: int = 128,
    num_layers: int = 1,
    bidirectional: bool = True,
    dropout: float = 0.1,
) -> nn.Module:
    """A gated recurrent unit for token ids int64 [batch, length], 0 is padding; gives [batch, num_classes].

    Cho et al., arXiv 1406.1078. The paper's size is the encoder of Bahdanau et al., arXiv 1409.0473: 1000
    units in each direction, embeddings of 620, 30,000 words.

    Args:
        vocab_size: Tokens, padding included.
        num_classes: Classes, one logit each.
        embedding: Width of a token's embedding.
        hidden: Width of the state of one direction.
        num_layers: Recurrent layers, each reading the states of the one before.
        bidirectional: Read in both directions; doubles the width of the states.
        dropout: Share set to zero in training, between the layers and before the head, in [0, 1).
    """
    return RecurrentClassifier(
        "gru",
        vocab_size=vocab_size,
        num_classes=num_classes,
        embedding=embedding,
        hidden=hidden,
        num_layers=num_layers,
        bidirectional=bidirectional,
        dropout=dropout,
    )
