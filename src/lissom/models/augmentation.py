"""Augmentation of image batches by kornia, on the device of the batch, drawn from torch's seeded generator.

Kornia's colour operations expect values in [0, 1], while a batch comes preprocessed. Each channel is
therefore scaled by its range on the train split, varied, and scaled back; a shifted image is filled with
the lowest value of the channel, which is black.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.errors import DataError
from lissom.models.data import Data
from lissom.recipe import AugmentConfig
from lissom.runtime.arrays import tensor_of


class Augmenter:
    """Varies a batch of images, and mixes its samples and labels when asked to.

    Args:
        config: What is varied.
        data: Data with one input of shape [samples, channels, height, width].

    Raises:
        DataError: the data are no images, smaller than the shift, or labels cannot be mixed.
    """

    def __init__(self, config: AugmentConfig, data: Data) -> None:
        spec = data.input_specs[0]
        if len(data.input_specs) != 1 or len(spec.shape) != 4 or spec.dtype != "float32":
            raise DataError(
                f"augment varies images; {data.source} gives {spec.name} of shape {list(spec.shape[1:])}",
                hint="leave augment out, or give one input of shape [channels, height, width]",
            )
        side = min(int(length) for length in spec.shape[2:])
        if config.crop >= side:
            raise DataError(
                f"augment.crop is {config.crop}, but the images of {data.source} are {side} pixels wide or"
                " high: nothing would be left of some",
                hint=f"shift by less, such as crop: {max(1, side // 8)}",
            )
        if config.mixes and data.kind != "classes":
            raise DataError(f"mixup and cutmix mix classes; the labels of {data.source} are {data.kind}")
        self.num_classes = data.num_classes
        self._offset, self._scale = _unit_range(data)
        self._varies = nn.Sequential(*_variations(config, channels=int(spec.shape[1]), size=spec.shape[2:]))
        self._mixtures = [
            partial(mix, alpha=alpha)
            for mix, alpha in ((mixup, config.mixup), (cutmix, config.cutmix))
            if alpha
        ]

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images as varied; labels as they are, or as shares [batch, classes] when samples were mixed."""
        offset, scale = (part.to(images.device) for part in (self._offset, self._scale))
        unit = self._varies((images - offset) / scale)
        if self._mixtures:
            chosen = int(torch.randint(len(self._mixtures), ()))
            unit, other, share = self._mixtures[chosen](unit, labels)
            labels = self._shares(labels, other, share)
        return unit * scale + offset, labels

    def _shares(self, labels: Tensor, other: Tensor, share: Tensor) -> Tensor:
        """Shares of the classes, where `share` [batch] of each sample is of the class `other`."""
        first, second = (functional.one_hot(part.long(), self.num_classes) for part in (labels, other))
        shares: Tensor = first * (1 - share[:, None]) + second * share[:, None]
        return shares


def mixup(images: Tensor, labels: Tensor, *, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Blend each image with another; gives images, the other's labels, and the share of the other.

    The share is one for the batch, drawn from Beta(alpha, alpha) as in the paper; kornia draws it evenly.
    """
    import kornia.augmentation as kornia

    share = float(torch.distributions.Beta(alpha, alpha).sample())
    mix = kornia.RandomMixUpV2(lambda_val=(share, share), p=1.0, data_keys=["input", "class"])
    blended, mixed = mix(images, labels)
    return blended, mixed[:, 1], mixed[:, 2]


def cutmix(images: Tensor, labels: Tensor, *, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Paste a patch of another image; gives images, the other's labels, and the share of the other."""
    import kornia.augmentation as kornia

    mix = kornia.RandomCutMixV2(beta=alpha, p=1.0, use_correct_lambda=True, data_keys=["input", "class"])
    pasted, mixed = mix(images, labels)
    return pasted, mixed[0, :, 1], 1 - mixed[0, :, 2]  # with the corrected lambda, the third is the own share


def _variations(config: AugmentConfig, *, channels: int, size: Sequence[Any]) -> list[nn.Module]:
    import kornia.augmentation as kornia

    steps: list[nn.Module] = []
    if config.crop:
        steps.append(kornia.RandomCrop(tuple(size), padding=config.crop))
    if config.flip:
        steps.append(kornia.RandomHorizontalFlip(p=config.flip))
    if config.colour and channels == 3:
        strength = config.colour
        steps.append(kornia.ColorJitter(strength, strength, strength, strength / 4, p=1.0))
    elif config.colour:
        steps += [
            kornia.RandomBrightness((1 - config.colour, 1 + config.colour), p=1.0),
            kornia.RandomContrast((1 - config.colour, 1 + config.colour), p=1.0),
        ]
    if config.rand_augment:
        if channels != 3:
            raise DataError(f"rand_augment needs 3 channels, the images have {channels}")
        from kornia.augmentation.auto import RandAugment

        steps.append(RandAugment(n=config.rand_augment, m=config.magnitude))
    return steps


def _unit_range(data: Data) -> tuple[Tensor, Tensor]:
    """What maps preprocessed values to [0, 1]: (x - offset) / scale, one value a channel."""
    images = next(iter(data.tensors("train").values()))
    low, high = (bound(axis=(0, 2, 3), keepdims=True) for bound in (images.min, images.max))
    return tensor_of(low), tensor_of((high - low).clip(min=1e-6))
