"""Architectures of transformers at their papers' size, with random weights: factories for quantization.py."""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor, nn


class FirstOutput(nn.Module):
    """A model of transformers that gives its first tensor alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, samples: Tensor) -> Tensor:
        found: Tensor = self.model(samples)[0]
        return found


def resnet_50() -> nn.Module:
    return FirstOutput(transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000)))


def vit_b() -> nn.Module:
    return FirstOutput(transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000)))


def bert_base() -> nn.Module:
    config: Any = transformers.BertConfig(num_labels=4)
    return FirstOutput(transformers.BertForSequenceClassification(config))


def gpt_2() -> nn.Module:
    config: Any = transformers.GPT2Config(use_cache=False)
    return FirstOutput(transformers.GPT2Model(config))


def mobilenet_v2() -> nn.Module:
    config = transformers.MobileNetV2Config(num_labels=1000)
    return FirstOutput(transformers.MobileNetV2ForImageClassification(config))


def vit_tiny() -> nn.Module:
    size: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    return FirstOutput(
        transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000, **size))
    )


def bert_tiny() -> nn.Module:
    size: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 512,
    }
    return FirstOutput(
        transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=4, **size))
    )
