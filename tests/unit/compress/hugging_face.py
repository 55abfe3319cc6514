"""Factories of small models of `transformers`, built from configs, that give logits alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Logits(nn.Module):
    """A model of transformers as the contract has it: a tensor in, a tensor out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x).logits
        return logits


_LAYERS: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def resnet(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=in_channels,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[2, 2],
        layer_type="basic",
        num_labels=num_classes,
    )
    return Logits(ResNetForImageClassification(config))


def vit(*, in_channels: int = 1, num_classes: int = 4) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        **_LAYERS,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=in_channels,
        num_labels=num_classes,
    )
    return Logits(ViTForImageClassification(config))


def bert(*, vocab_size: int = 16, num_classes: int = 4) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        **_LAYERS,
        intermediate_size=32,
        vocab_size=vocab_size,
        max_position_embeddings=12,
        num_labels=num_classes,
    )
    return Logits(BertForSequenceClassification(config))


def gpt2(*, vocab_size: int = 16) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=12,
        n_embd=16,
        n_layer=3,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Logits(GPT2LMHeadModel(config))
