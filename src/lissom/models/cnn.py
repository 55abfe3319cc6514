"""Residual convolutional networks for images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lissom.models.layers import check_name, check_positive

STEMS = ("cifar", "imagenet")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut.

    He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385; the shortcut is a 1x1
    convolution wherever the shape changes (option B).
    """

    expansion = 1

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


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch normalisation around a shortcut; gives 4 * `channels`.

    He et al., arXiv 1512.03385, figure 5. The stride is in the 3x3 convolution, as torchvision and everyone
    since has it; the paper has it in the first.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, height, width] to [batch, 4 * channels, height / stride, width / stride]."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        joined: Tensor = self.relu(y + self.shortcut(x))
        return joined


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling, one linear layer.

    The stem is one 3x3 convolution (`cifar`), or a 7x7 convolution and a 3x3 maximum, both of stride 2
    (`imagenet`).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        *,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        check_name("stem", stem, STEMS)
        kernel_size, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.stem = nn.Sequential(
            nn.Conv2d(
                in_channels, widths[0], kernel_size, stride=stride, padding=kernel_size // 2, bias=False
            ),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        if stem == "imagenet":
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        channels = widths[0]
        stages: list[nn.Module] = []
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            for stride in strides:
                stages.append(block(channels, width, stride=stride))
                channels = width * block.expansion
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
    return _drawn(ResNet(in_channels, num_classes, widths, blocks))


def resnet20(*, in_channels: int = 3, num_classes: int = 10, width: int = 16) -> nn.Module:
    """ResNet-20 for images [batch, in_channels, height, width] of about 32x32; gives [batch, num_classes].

    He et al., arXiv 1512.03385, section 4.2: three stages of three blocks, 0.27 M parameters.

    Args:
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        width: Channels of the first stage; each further stage has twice as many.
    """
    return _cifar_resnet(3, in_channels, num_classes, width)


def resnet32(*, in_channels: int = 3, num_classes: int = 10, width: int = 16) -> nn.Module:
    """ResNet-32 for images [batch, in_channels, height, width] of about 32x32; gives [batch, num_classes].

    He et al., arXiv 1512.03385, section 4.2: three stages of five blocks, 0.46 M parameters.

    Args:
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        width: Channels of the first stage; each further stage has twice as many.
    """
    return _cifar_resnet(5, in_channels, num_classes, width)


def resnet56(*, in_channels: int = 3, num_classes: int = 10, width: int = 16) -> nn.Module:
    """ResNet-56 for images [batch, in_channels, height, width] of about 32x32; gives [batch, num_classes].

    He et al., arXiv 1512.03385, section 4.2: three stages of nine blocks, 0.85 M parameters.

    Args:
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        width: Channels of the first stage; each further stage has twice as many.
    """
    return _cifar_resnet(9, in_channels, num_classes, width)


def resnet18(
    *, in_channels: int = 3, num_classes: int = 10, width: int = 16, stem: str = "cifar"
) -> nn.Module:
    """ResNet-18 for images [batch, in_channels, height, width]; gives [batch, num_classes].

    He et al., arXiv 1512.03385, table 1. The paper's size: width 64, stem imagenet, 1000 classes, 224x224
    pixels, 11.7 M parameters.

    Args:
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        width: Channels of the first stage; each further stage has twice as many.
        stem: imagenet (7x7 convolution and maximum, halving twice) or cifar (3x3, halving never).

    Raises:
        ValueError: no stem has this name.
    """
    return _imagenet_resnet((2, 2, 2, 2), BasicBlock, in_channels, num_classes, width, stem)


def resnet34(
    *, in_channels: int = 3, num_classes: int = 10, width: int = 8, stem: str = "cifar"
) -> nn.Module:
    """ResNet-34 for images [batch, in_channels, height, width]; gives [batch, num_classes].

    He et al., arXiv 1512.03385, table 1. The paper's size: width 64, stem imagenet, 1000 classes, 224x224
    pixels, 21.8 M parameters.

    Args:
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        width: Channels of the first stage; each further stage has twice as many.
        stem: imagenet (7x7 convolution and maximum, halving twice) or cifar (3x3, halving never).

    Raises:
        ValueError: no stem has this name.
    """
    return _imagenet_resnet((3, 4, 6, 3), BasicBlock, in_channels, num_classes, width, stem)


def resnet50(
    *, in_channels: int = 3, num_classes: int = 10, width: int = 8, stem: str = "cifar"
) -> nn.Module:
    """ResNet-50 of bottlenecks for images [batch, in_channels, height, width]; gives [batch, num_classes].

    He et al., arXiv 1512.03385, table 1. The paper's size: width 64, stem imagenet, 1000 classes, 224x224
    pixels, 25.6 M parameters.

    Args:
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        width: Inner channels of the first stage, which gives four times as many; each further stage has
            twice as many.
        stem: imagenet (7x7 convolution and maximum, halving twice) or cifar (3x3, halving never).

    Raises:
        ValueError: no stem has this name.
    """
    return _imagenet_resnet((3, 4, 6, 3), Bottleneck, in_channels, num_classes, width, stem)


def _cifar_resnet(num_blocks: int, in_channels: int, num_classes: int, width: int) -> nn.Module:
    check_positive(width=width)
    return resnet(
        in_channels=in_channels,
        num_classes=num_classes,
        widths=(width, 2 * width, 4 * width),
        blocks=(num_blocks,) * 3,
    )


def _imagenet_resnet(
    blocks: Sequence[int],
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    num_classes: int,
    width: int,
    stem: str,
) -> nn.Module:
    check_positive(width=width)
    widths = [width * 2**stage for stage in range(len(blocks))]
    return _drawn(ResNet(in_channels, num_classes, widths, blocks, block=block, stem=stem))


def _drawn(model: nn.Module) -> nn.Module:
    """The model with the convolutions initialised as He et al. have them (arXiv 1502.01852)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
