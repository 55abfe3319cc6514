"""Residual convolutional networks for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut.

    He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385; the shortcut is a 1x1
    convolution wherever the shape changes (option B).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, height, width] to [batch, out_channels, height / stride, width / stride]."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        joined: Tensor = self.relu(y + self.shortcut(x))
        return joined


class ResNet(nn.Module):
    """A 3x3 stem, stages of residual blocks, global average pooling, one linear layer."""

    def __init__(
        self, in_channels: int, num_classes: int, widths: Sequence[int], blocks: Sequence[int]
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        channels = widths[0]
        stages: list[nn.Module] = []
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            for stride in strides:
                stages.append(BasicBlock(channels, width, stride=stride))
                channels = width
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """[batch, in_channels, height, width] to logits [batch, num_classes]."""
        features = self.pool(self.blocks(self.stem(image)))
        logits: Tensor = self.head(features.flatten(1))
        return logits


def resnet(
    *,
    in_channels: int = 3,
    num_classes: int = 10,
    widths: Sequence[int] = (16, 32, 64),
    blocks: Sequence[int] = (3, 3, 3),
) -> nn.Module:
    """A residual network for images of shape [batch, in_channels, height, width]; gives [batch, num_classes].

    Every stage but the first halves height and width. The defaults are the CIFAR ResNet-20 of
    arXiv 1512.03385, section 4.2, with convolutional shortcuts.

    Args:
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        widths: Channels of each stage.
        blocks: Residual blocks of each stage.

    Raises:
        ValueError: `widths` and `blocks` differ in length.
    """
    model = ResNet(in_channels, num_classes, widths, blocks)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
