"""Stock models at the size of their papers, with seeded random weights, and samples of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SIZES: dict[str, dict[str, Any]] = {
    "resnet-50": {},
    "vit-b-16": {},
    "bert-base": {},
    "gpt-2-small": {"use_cache": False},
}
TINY: dict[str, dict[str, Any]] = {
    "resnet-50": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "vit-b-16": {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
    },
    "bert-base": {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 100,
    },
    "gpt-2-small": {"use_cache": False, "n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": 100},
}
"""The same architectures, small enough for one core."""


def build(name: str, *, tiny: bool) -> nn.Module:
    """The model on the CPU, in float32, for inference."""
    import transformers
    from untrained_models import FirstOutput

    kwargs = (TINY if tiny else SIZES)[name]
    makers: dict[str, Callable[[], nn.Module]] = {
        "resnet-50": lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(num_labels=1000, **kwargs)
        ),
        "vit-b-16": lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(num_labels=1000, **kwargs)
        ),
        "bert-base": lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(num_labels=4, **kwargs)
        ),
        "gpt-2-small": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**kwargs)),
    }
    torch.manual_seed(0)
    return FirstOutput(makers[name]()).eval().requires_grad_(False)


def inputs_of(name: str, batch: int, *, tiny: bool) -> Tensor:
    """One batch: images of shape [batch, 3, size, size] or tokens of shape [batch, 128]."""
    generator = torch.Generator().manual_seed(1)
    if name in ("resnet-50", "vit-b-16"):
        size = 32 if tiny else 224
        return torch.randn(batch, 3, size, size, generator=generator)
    vocabulary, length = (100, 8) if tiny else (30_000, 128)
    return torch.randint(0, vocabulary, (batch, length), generator=generator)
