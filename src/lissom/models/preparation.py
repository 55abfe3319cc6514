"""What readers of data sets have in common: class names, the publisher's parts, normalization, options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lissom.artifact import PreprocessingStep
from lissom.errors import DataError, near
from lissom.models.data import Data, split_of
from lissom.models.dataset import Dataset

# Of the part for training where the publisher names the test part, which becomes `report`.
_SHARES_BESIDE_TEST = {"train": 0.70, "calibrate": 0.10, "select": 0.20}
_SPLIT_OF_PART = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "select"),
    **dict.fromkeys(("test", "testing", "t10k"), "report"),
}
_CONSTANT = 2.0
"""Deviation, in steps of float32 at the largest value, below which a column varies by its rounding alone."""
PARTS = tuple(_SPLIT_OF_PART)
"""Names under which publishers give the parts of a data set, whatever their case."""


def is_part(name: str) -> bool:
    """Whether publishers give a part of a data set this name."""
    return name.lower() in _SPLIT_OF_PART


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
        parts: For each sample, a name such as `train`, `validation` or `Testing`.

    Raises:
        DataError: a name is unknown.
    """
    for name in sorted(set(parts)):
        if not is_part(name):
            raise DataError(f"unknown part {name!r}; {near(name, _SPLIT_OF_PART)}")
    names = [_SPLIT_OF_PART[part.lower()] for part in parts]
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


def with_standardization(data: Data) -> Data:
    """The data with a step that gives each column of a table mean 0 and deviation 1 on the train split.

    A table is an input of floats [samples, columns] without a step of its own. Columns that do not vary
    become 0; inputs with infinity are masks, and stay as they are.
    """
    done = {step.input for step in data.dataset.preprocessing}
    floats = {spec.name for spec in data.input_specs if np.dtype(spec.dtype).kind == "f"}
    steps = []
    for name, array in data.dataset.inputs.items():
        rows = array[data.indices["train"]]
        if name in done or name not in floats or array.ndim != 2 or not len(rows) or np.isinf(rows).any():
            continue
        mean, std = moments(rows)
        steps.append(PreprocessingStep(input=name, mean=tuple(mean.tolist()), std=tuple(std.tolist())))
    if not steps or not data.dataset.standardize:
        return data
    return data.with_preprocessing((*data.dataset.preprocessing, *steps))


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column of the finite values, float64; 1 for what does not vary.

    >>> moments(np.array([[1.0, 5.0], [3.0, 5.0]]))[1].tolist()
    [1.0, 1.0]
    """
    columns = values.reshape(len(values), -1).astype(np.float64)
    finite = np.isfinite(columns)
    count = np.maximum(finite.sum(axis=0), 1)
    mean = np.where(finite, columns, 0.0).sum(axis=0) / count
    std = np.sqrt(np.square(np.where(finite, columns - mean, 0.0)).sum(axis=0) / count)
    largest = np.abs(np.where(finite, columns, 0.0)).max(axis=0, initial=0.0)
    rounding = _CONSTANT * float(np.finfo(np.float32).eps) * largest
    return mean, np.where(std > rounding, std, 1.0)


def values_from_classes(dataset: Dataset, source: str) -> Dataset:
    """The data set with the numbers that its classes are named by as labels: float32 [samples], no names.

    Raises:
        DataError: the labels are no classes, or a class has a name that is no finite number.
    """
    labels = _single_labels(dataset, source, wanted="values")
    numbers = [_number(name) for name in dataset.label_names]
    for name, number in zip(dataset.label_names, numbers, strict=True):
        if number is None:
            raise DataError(
                f"{source}: the class {name!r} is no number, so that its labels cannot be values",
                hint="values to be predicted are floats: y.astype('float32')",
            )
    return replace(dataset, labels=np.array(numbers, dtype=np.float32)[labels], label_names=())


def classes_from_values(dataset: Dataset, source: str) -> Dataset:
    """The data set with whole numbers as classes: int64 [samples], named by them in numerical order.

    Raises:
        DataError: the labels are no values, several a sample, or no whole numbers.
    """
    labels = _single_labels(dataset, source, wanted="classes")
    if len(broken := np.flatnonzero(labels != np.round(labels))):
        raise DataError(
            f"{source}: the label of sample {broken[0]} is {labels[broken[0]]:g}; classes are whole numbers",
            hint="values that are cut into classes: np.digitize(y, edges)",
        )
    values, positions = np.unique(labels, return_inverse=True)
    return replace(dataset, labels=positions, label_names=tuple(str(int(value)) for value in values))


def _single_labels(dataset: Dataset, source: str, *, wanted: str) -> np.ndarray:
    """Labels [samples], classes where values are wanted and the other way round."""
    labels = dataset.labels
    if labels is None:
        raise DataError(f"{source} has no labels; an .npz holds them under the name y")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        kind = "values" if labels.dtype.kind == "f" else "tokens"
        raise DataError(f"{source}: labels of shape {labels.shape} are {kind}, and cannot be {wanted}")
    return labels


def _number(name: str) -> float | None:
    """The finite number that a class is named by, in float32, or None."""
    try:
        number = float(name) if "_" not in name else np.nan  # Python reads 1_000 as a number
    except ValueError:
        return None
    return number if abs(number) <= np.finfo(np.float32).max else None


def require_whole(name: str, value: object, *, minimum: int) -> None:
    """Refuse an option that is no whole number of at least `minimum`.

    Raises:
        DataError: naming the option and what it is.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise DataError(f"the option {name} is {value!r}; it must be a whole number of at least {minimum}")
