"""Augmentation keeps shapes and ranges, is decided by the seed, and mixes labels as it mixes images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.unit.small import blobs

from lissom.artifact import PreprocessingStep
from lissom.errors import DataError
from lissom.models.augmentation import Augmenter, cutmix, mixup
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.recipe import AugmentConfig

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (40, 3, 12, 12)).astype(np.uint8)
STEP = PreprocessingStep(input="image", mean=(120.0, 110.0, 100.0), std=(60.0, 61.0, 62.0))
COLOUR = Data("colour", Dataset({"image": IMAGES}, np.arange(40) % 4, tuple("abcd"), (STEP,)))
KINDS: list[dict[str, Any]] = [
    {"crop": 2},
    {"flip": 1.0},
    {"colour": 0.4},
    {"rand_augment": 2},
    {"mixup": 0.4},
    {"cutmix": 1.0},
    {"crop": 2, "flip": 0.5, "colour": 0.2, "mixup": 0.2, "cutmix": 1.0},
]


def varied(fields: dict[str, Any], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    augment = Augmenter(AugmentConfig.model_validate(fields), COLOUR)
    torch.manual_seed(seed)
    images = torch.from_numpy(COLOUR.tensors("train")["image"])
    return augment(images, torch.from_numpy(COLOUR.labels("train")))


@pytest.mark.parametrize("fields", KINDS, ids=lambda fields: "-".join(fields))
def test_every_kind_keeps_shape_and_range_and_follows_the_seed(fields: dict[str, Any]) -> None:
    images, labels = varied(fields)
    original = torch.from_numpy(COLOUR.tensors("train")["image"])
    assert images.shape == original.shape
    assert images.dtype == torch.float32
    assert not torch.equal(images, original)
    for channel in range(3):
        low, high = original[:, channel].min() - 1e-3, original[:, channel].max() + 1e-3
        assert low <= images[:, channel].min()
        assert images[:, channel].max() <= high
    again, same = varied(fields)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    if fields != {"flip": 1.0}:
        assert not torch.equal(images, varied(fields, seed=1)[0])


def test_a_flip_mirrors_and_leaves_values_alone() -> None:
    images, _ = varied({"flip": 1.0})
    original = torch.from_numpy(COLOUR.tensors("train")["image"])
    torch.testing.assert_close(images, original.flip(-1), atol=1e-5, rtol=0)


def test_mixed_labels_are_shares_that_sum_to_one() -> None:
    for fields in ({"mixup": 0.4}, {"cutmix": 1.0}):
        _, labels = varied(fields)
        assert labels.shape[1] == 4
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(len(labels)))


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_the_share_of_a_label_is_the_share_of_its_image(mix: Any) -> None:
    torch.manual_seed(3)
    labels = torch.arange(6)
    images = labels.float().reshape(-1, 1, 1, 1).expand(-1, 1, 16, 16).clone()
    blended, other, share = mix(images, labels, alpha=1.0)
    wanted = labels * (1 - share) + other * share
    torch.testing.assert_close(blended.mean(dim=(1, 2, 3)), wanted.float(), atol=1e-4, rtol=0)
    assert float(share.max()) > 0


def test_grey_images_may_change_in_brightness_but_have_no_colours_to_rotate() -> None:
    augment = Augmenter(AugmentConfig(colour=0.3), blobs(shape=(1, 8, 8)))
    images = torch.from_numpy(blobs(shape=(1, 8, 8)).tensors("train")["image"])
    assert augment(images, torch.zeros(len(images)))[0].shape == images.shape
    with pytest.raises(DataError, match="3 channels"):
        Augmenter(AugmentConfig(rand_augment=1), blobs(shape=(1, 8, 8)))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"augment varies images; blobs gives image of shape \[5\]"):
        Augmenter(AugmentConfig(flip=0.5), blobs(shape=(5,)))


def test_values_cannot_be_mixed_as_classes_are() -> None:
    dataset = Dataset({"image": IMAGES}, GENERATOR.random(40).astype(np.float32))
    with pytest.raises(DataError, match="mix classes"):
        Augmenter(AugmentConfig(mixup=0.2), Data("values", dataset))


@pytest.mark.parametrize("magnitude", [1, 29])
def test_every_magnitude_that_a_recipe_may_have_is_one_that_kornia_takes(magnitude: int) -> None:
    images, _ = varied({"rand_augment": 2, "magnitude": magnitude})
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("magnitude", [0, 30])
def test_a_magnitude_that_kornia_refuses_is_refused_by_the_recipe(magnitude: int) -> None:
    from kornia.augmentation.auto import RandAugment

    with pytest.raises(ValueError, match="Expect `m` in"):
        RandAugment(n=2, m=magnitude)
    with pytest.raises(ValidationError, match="magnitude"):
        AugmentConfig(magnitude=magnitude)


def test_a_shift_by_a_whole_image_is_refused_and_one_by_less_is_not() -> None:
    assert varied({"crop": 11})[0].shape[-2:] == (12, 12)
    with pytest.raises(
        DataError, match=r"augment\.crop is 12, but the images of colour are 12 pixels"
    ) as caught:
        varied({"crop": 12})
    assert caught.value.hint == "shift by less, such as crop: 1"
