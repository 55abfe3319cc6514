"""Plain stacks of 3x3 convolutions for images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lissom.models.layers import build_activation, build_normalisation, initialise


class Vgg(nn.Module):
    """Blocks of two 3x3 convolutions and a maximum, global average pooling, one linear layer."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int],
        *,
        activation: str,
        normalisation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths is empty; give the channels of each block")
        channels = in_channels
        layers: list[nn.Module] = []
        for width in widths:
            for inputs in (channels, width):
                layers.append(nn.Conv2d(inputs, width, 3, padding=1, bias=normalisation == "none"))
                if normalisation != "none":
                    layers.append(build_normalisation(normalisation, width))
                layers.append(build_activation(activation))
            layers.append(nn.MaxPool2d(2))
            channels = width
        self.blocks = nn.Sequential(*layers)
        self.dropout1 = nn.Dropout(dropout)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout2 = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """[batch, in_channels, height, width] to logits [batch, num_classes]."""
        features = self.pool(self.dropout1(self.blocks(image))).flatten(1)
        logits: Tensor = self.head(self.dropout2(features))
        return logits


def vgg(
    *,
    in_channels: int = 3,
    num_classes: int = 10,
    widths: Sequence[int] = (32, 64, 128),
    activation: str = "relu",
    normalisation: str = "batch",
    dropout: float = 0.1,
) -> nn.Module:
    """A VGG network for images [batch, in_channels, height, width]; gives [batch, num_classes].

    Blocks of two 3x3 convolutions and a maximum, Simonyan and Zisserman, arXiv 1409.1556, with batch
    normalisation, and global average pooling in the place of three linear layers (Lin et al., arXiv
    1312.4400). Every block halves height and width, so that an image needs 2 ** len(widths) pixels a side.
    The paper's size is configuration B (VGG-13): widths 64, 128, 256, 512, 512, 1000 classes, 224x224
    pixels; without its linear layers 9.9 M parameters.

    Args:
        in_channels: Channels of the image.
        num_classes: Classes, one logit each.
        widths: Channels of each block.
        activation: relu, leaky-relu, elu, silu, gelu or mish.
        normalisation: batch, layer, group, instance or none.
        dropout: Share set to zero in training, after the blocks and before the head, in [0, 1).

    Raises:
        ValueError: a name is not known, or there are no widths.
    """
    model = Vgg(
        in_channels, num_classes, widths, activation=activation, normalisation=normalisation, dropout=dropout
    )
    initialise(model, "he")
    return model
