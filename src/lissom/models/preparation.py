"""What readers of data sets have in common: class names, the publisher's parts, normalization, options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lissom.artifact import PreprocessingStep
from lissom.errors import DataError, near
from lissom.models.data import Data, Dataset, split_of

# Of the part for training where the publisher names the test part, which becomes `report`.
_SHARES_BESIDE_TEST = {"train": 0.70, "calibrate": 0.10, "select": 0.20}
_SPLIT_OF_PART = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation", "dev"), "select"),
    **dict.fromkeys(("test", "t10k"), "report"),
}
PARTS = tuple(_SPLIT_OF_PART)
"""Names under which publishers give the parts of a data set."""


def with_names(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Positions of the classes, and their names in alphabetical or numerical order."""
    names, positions = np.unique(labels, return_inverse=True)
    return positions, tuple(str(name) for name in names)


def with_parts(dataset: Dataset, parts: Sequence[str]) -> Dataset:
    """The data set with the parts that its publisher named: the test part becomes `report`.

    A validation part becomes `select`, or `report` where there is no test part. The part for training is cut
    by sample hash over what is left of train, calibrate and select, 70/10/20. Without a part for training,
    or with nothing else, the parts say nothing and everything is cut as usual.

    Args:
        dataset: Data without a split.
        parts: For each sample, a name such as `train`, `validation` or `test`.

    Raises:
        DataError: a name is unknown.
    """
    for name in set(parts) - set(_SPLIT_OF_PART):
        raise DataError(f"unknown part {name!r}; {near(name, _SPLIT_OF_PART)}")
    names = [_SPLIT_OF_PART[part] for part in parts]
    if "report" not in names:
        names = ["report" if name == "select" else name for name in names]
    if set(names) - {"train"} == set() or "train" not in names:
        return dataset
    left = {
        split: share for split, share in _SHARES_BESIDE_TEST.items() if split == "train" or split not in names
    }
    shares = {split: share / sum(left.values()) for split, share in left.items()}
    hashes = Data("", dataset).sample_hashes
    split = [
        split_of(digest, shares) if name == "train" else name
        for digest, name in zip(hashes, names, strict=True)
    ]
    return replace(dataset, split=np.array(split))


def with_normalization(dataset: Dataset, name: str) -> Dataset:
    """The data set with a step that gives a uint8 input mean 0 and deviation 1 a channel on the train split.

    Exact: the moments are those of a histogram of whole numbers.
    """
    indices = Data("", dataset).indices
    array = dataset.inputs[name]
    array = array[indices["train"]] if len(indices["train"]) else array
    values = np.arange(256)
    mean, std = [], []
    for channel in range(array.shape[1]):
        counts = np.bincount(array[:, channel].ravel(), minlength=256)
        mean.append(float(counts @ values / counts.sum()))
        std.append(float(np.sqrt(counts @ (values - mean[-1]) ** 2 / counts.sum())) or 1.0)
    step = PreprocessingStep(input=name, mean=tuple(mean), std=tuple(std))
    return replace(dataset, preprocessing=(*dataset.preprocessing, step))


def require_whole(name: str, value: object, *, minimum: int) -> None:
    """Refuse an option that is no whole number of at least `minimum`.

    Raises:
        DataError: naming the option and what it is.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise DataError(f"the option {name} is {value!r}; it must be a whole number of at least {minimum}")
