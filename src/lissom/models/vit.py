"""The vision transformer: an image as a sequence of patches.

Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv 2010.11929. Pre-norm blocks, learned positions. The
default averages the patches for the head, which needs no class token and is as accurate (appendix D.3).

With the `conv` stem a few 3x3 convolutions embed the patches instead of one large one (Xiao et al., Early
Convolutions Help Transformers See Better, arXiv 2106.14881): without them a transformer takes very long to
learn from few images. Every halving has a strided and a plain convolution, so that a patch sees its
neighbours: where it sees little more than itself, training on few images stands still for ten epochs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lissom.models.attention import EncoderBlock
from lissom.models.layers import check_name, check_positive, initialise

POOLINGS = ("mean", "token")
STEMS = ("patch", "conv")


class VisionTransformer(nn.Module):
    """A stem that embeds patches, encoder blocks, mean or class token, one linear layer."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        in_channels: int,
        num_classes: int,
        width: int,
        depth: int,
        num_heads: int,
        hidden: int,
        dropout: float,
        pooling: str,
        stem: str,
    ) -> None:
        super().__init__()
        check_positive(image_size=image_size, patch_size=patch_size, depth=depth, hidden=hidden)
        check_name("pooling", pooling, POOLINGS)
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not divisible by patch_size {patch_size}")
        self.image_size = image_size
        has_token = pooling == "token"
        num_positions = (image_size // patch_size) ** 2 + has_token
        self.patches = _stem(stem, in_channels, width, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if has_token else None
        self.positions = nn.Parameter(torch.zeros(1, num_positions, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, num_heads, hidden=hidden, dropout=dropout, epsilon=1e-6) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """[batch, in_channels, image_size, image_size] to logits [batch, num_classes].

        Raises:
            ValueError: the image has another size.
        """
        height, width = image.shape[2:]
        if (height, width) != (self.image_size, self.image_size):
            size = self.image_size
            raise ValueError(f"the image is {height}x{width}; the model was built for {size}x{size}")
        x = self.patches(image).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.dropout(x + self.positions)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits: Tensor = self.head(x.mean(dim=1) if self.class_token is None else x[:, 0])
        return logits


def _stem(kind: str, in_channels: int, width: int, patch_size: int) -> nn.Module:
    """[batch, in_channels, size, size] to [batch, width, size / patch_size, size / patch_size]."""
    check_name("stem", kind, STEMS)
    if kind == "patch":
        return nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
    halvings = patch_size.bit_length() - 1
    if halvings < 1 or 1 << halvings != patch_size:
        raise ValueError(
            f"the conv stem halves the image; patch_size {patch_size} is no power of two above 1"
        )
    widths = [max(8, width >> index) for index in reversed(range(halvings))]
    layers = _convolution(in_channels, max(8, widths[0] // 2), stride=1)
    channels = max(8, widths[0] // 2)
    for wider in widths:
        layers += [*_convolution(channels, wider, stride=2), *_convolution(wider, wider, stride=1)]
        channels = wider
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


def _convolution(channels: int, wider: int, *, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, wider, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(wider), nn.ReLU()]


def vit(
    *,
    image_size: int = 32,
    patch_size: int = 4,
    in_channels: int = 3,
    num_classes: int = 10,
    width: int = 96,
    depth: int = 6,
    num_heads: int = 3,
    mlp_ratio: float = 4.0,
    dropout: float = 0.0,
    pooling: str = "mean",
    stem: str = "patch",
) -> nn.Module:
    """A vision transformer for [batch, in_channels, image_size, image_size]; gives [batch, num_classes].

    Dosovitskiy et al., arXiv 2010.11929. The paper's size is ViT-B/16: 224x224 pixels, patches of 16, width
    768, depth 12, 12 heads, a class token, 1000 classes, 86 M parameters.

    Args:
        image_size: Height and width of the image.
        patch_size: Height and width of a patch; divides image_size.
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        width: Width of the embeddings; num_heads divides it.
        depth: Encoder blocks.
        num_heads: Attention heads.
        mlp_ratio: Width of the feed-forward network over `width`.
        dropout: Share set to zero in training, in [0, 1).
        pooling: mean of the patches, or a class token.
        stem: patch, one convolution as in the paper; or conv, two 3x3 convolutions for each halving.

    Raises:
        ValueError: patch_size does not divide image_size, num_heads does not divide width, or patch_size is
            no power of two and the stem is conv.
    """
    model = VisionTransformer(
        image_size=image_size,
        patch_size=patch_size,
        in_channels=in_channels,
        num_classes=num_classes,
        width=width,
        depth=depth,
        num_heads=num_heads,
        hidden=int(width * mlp_ratio),
        dropout=dropout,
        pooling=pooling,
        stem=stem,
    )
    initialise(model, "normal")
    nn.init.normal_(model.positions, std=0.02)
    return model
