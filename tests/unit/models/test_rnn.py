"""Recurrent classifiers: padding is not read as text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lissom.models.rnn import gru, lstm, mean_over_tokens, rnn

FACTORIES = [rnn, lstm, gru]
SMALL: dict[str, Any] = {"vocab_size": 12, "num_classes": 3, "embedding": 4, "hidden": 5}


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_tokens_become_one_logit_for_each_class(
    factory: Callable[..., nn.Module], num_layers: int, bidirectional: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = factory(**SMALL, num_layers=num_layers, bidirectional=bidirectional, dropout=0.1)
    logits = model(torch.randint(0, 12, (4, 7)))
    assert logits.shape == (4, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_sample_that_is_all_padding_gives_what_the_head_makes_of_zeros(
    factory: Callable[..., nn.Module],
) -> None:
    model = factory(**SMALL).eval()
    found = model(torch.zeros(2, 6, dtype=torch.int64))
    assert torch.allclose(found, model.get_submodule("head").get_parameter("bias").expand(2, 3))


@pytest.mark.parametrize("factory", FACTORIES)
def test_more_padding_at_the_end_changes_nothing_when_read_forwards(
    factory: Callable[..., nn.Module],
) -> None:
    model = factory(**SMALL, bidirectional=False, num_layers=2).eval()
    tokens = torch.randint(1, 12, (3, 5))
    padded = nn.functional.pad(tokens, (0, 4))
    assert torch.allclose(model(padded), model(tokens), atol=1e-6)


def test_the_mean_is_over_tokens_only() -> None:
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[1.0], [2.0], [6.0]], [[7.0], [7.0], [7.0]]])
    tokens = torch.tensor([[4, 4, 0], [1, 2, 3], [0, 0, 0]])
    assert mean_over_tokens(states, tokens).tolist() == [[2.0], [3.0], [0.0]]


@pytest.mark.parametrize("name", ["vocab_size", "num_classes", "embedding", "hidden", "num_layers"])
def test_a_size_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        lstm(**{**SMALL, name: 0})
