"""Raw samples as an application would send them, and the checks that they hold together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lissom.artifact import PreprocessingStep
from lissom.errors import DataError, near
from lissom.runtime.arrays import plain

SPLITS = ("train", "calibrate", "select", "report")
IGNORED = -100
"""Token label of a position that does not count."""
Kind = Literal["classes", "values", "tokens", "none"]


@dataclass(frozen=True)
class Dataset:
    """Raw samples, as an application would send them.

    Attributes:
        inputs: Arrays of shape [samples, ...] by input name, images as [samples, channels, height, width].
            They reach the model in the dtypes that it takes. Where nothing is known of a model, int32 and
            int64 are indices, such as tokens, and int64; every other type of number is float32.
        labels: Class indices [samples]; or values to be predicted, floats [samples] or [samples, columns];
            or token indices [samples, length], where -100 marks a position that does not count; or None.
        label_names: Name of each class; of each column of values, or none; of each token, or none.
        preprocessing: Steps from raw sample to tensor.
        split: `train`, `calibrate`, `select` or `report` for each sample, or None to cut by hash.
        group: Group of each sample, or None.
        standardize: Whether a model that is trained from scratch gets tables, inputs of floats [samples,
            columns] without a step in `preprocessing`, with mean 0 and deviation 1 a column.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    preprocessing: tuple[PreprocessingStep, ...] = ()
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    standardize: bool = True


def checked(dataset: Dataset, source: str, *, declared: bool = False) -> Dataset:
    """The data set with arrays in the place of lists, when it holds together.

    Args:
        dataset: Data.
        source: Where they come from.
        declared: True where the model says itself what it takes: images with their channels last and
            negative integers are then nothing unusual.

    Raises:
        DataError: it is empty, lengths differ, or an input, split or label cannot be used.
    """
    dataset = _with_arrays(dataset)
    others = {"y": dataset.labels, "split": dataset.split, "group": dataset.group}
    arrays: dict[str, np.ndarray | None] = {**dataset.inputs, **others}
    found = {name: array for name, array in arrays.items() if array is not None}
    for name, array in found.items():
        if array.ndim == 0:
            raise DataError(f"{source}: {name} is a single value; every array begins with an axis of samples")
    for name, array in dataset.inputs.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{source}: input {name!r} holds {array.dtype}, not numbers")
        if not declared:
            _check_layout(name, array, source)
    lengths = {name: len(array) for name, array in found.items()}
    if not dataset.inputs or 0 in lengths.values():
        raise DataError(f"{source} holds no samples")
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"{source}: arrays differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}"
        )
    if dataset.split is not None and (unknown := sorted(set(map(str, dataset.split)) - set(SPLITS))):
        raise DataError(f"{source}: unknown split {unknown[0]!r}; known: {', '.join(SPLITS)}")
    if not declared:
        _check_indices(dataset, source)
    _check_labels(dataset, source)
    _check_preprocessing(dataset, source)
    return dataset


def kind_of(labels: np.ndarray | None) -> Kind:
    """What labels are, by their dtype and their axes."""
    if labels is None:
        return "none"
    if labels.dtype.kind == "f":
        return "values"
    return "tokens" if labels.ndim == 2 else "classes"


def usual_dtype(array: np.ndarray) -> str:
    """The dtype in which models take an array unless they say otherwise: int64 for indices, else float32."""
    return "int64" if _is_index(array) else "float32"


def _is_index(array: np.ndarray) -> bool:
    return array.dtype in (np.int32, np.int64)


def _with_arrays(dataset: Dataset) -> Dataset:
    def array(values: Any) -> Any:
        return None if values is None else plain(values)

    labels = array(dataset.labels)
    return replace(
        dataset,
        inputs={name: plain(values) for name, values in dataset.inputs.items()},
        labels=labels.astype(np.int64) if labels is not None and labels.dtype == bool else labels,
        split=array(dataset.split),
        group=array(dataset.group),
    )


def _check_layout(name: str, array: np.ndarray, source: str) -> None:
    """Refuse what looks like [samples, height, width, channels]."""
    if array.ndim != 4 or not (array.dtype.kind == "f" or array.dtype == np.uint8):
        return
    height, width, channels = array.shape[1:]
    if channels in (1, 3) and height not in (1, 3, 4) and width > channels:
        raise DataError(
            f"{source}: input {name!r} of shape {array.shape} looks like images with their channels last;"
            " lissom takes [samples, channels, height, width]",
            hint=f"{name}.transpose(0, 3, 1, 2)",
        )


def _check_indices(dataset: Dataset, source: str) -> None:
    for name, array in dataset.inputs.items():
        if not _is_index(array) or not array.size or array.min() >= 0:
            continue
        sample = np.flatnonzero((array.reshape(len(array), -1) < 0).any(axis=1))[0]
        raise DataError(
            f"{source}: token ids must be >= 0; input {name!r} ({array.dtype}) holds"
            f" {array[sample].min()} in sample {sample}",
            hint=f"padding is 0; numbers that are no tokens are floats: {name}.astype('float32')",
        )


def _check_labels(dataset: Dataset, source: str) -> None:
    labels, names = dataset.labels, dataset.label_names
    if labels is None:
        return
    if labels.dtype.kind not in "iuf" or labels.ndim > 2:
        raise DataError(
            f"{source}: labels are integers of shape [samples] (classes) or [samples, length] (tokens), or"
            f" floats of shape [samples] or [samples, columns] (values); found {labels.dtype} {labels.shape}"
        )
    if kind_of(labels) == "values":
        _check_values(labels, names, source)
    elif kind_of(labels) == "tokens":
        _check_tokens(labels, names, source)
    elif labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"{source}: labels lie between {labels.min()} and {labels.max()}, with {len(names)} names",
            hint="classes count from 0, and label_names has a name for each; values to be predicted are "
            "floats: y.astype('float32')",
        )


def _check_values(labels: np.ndarray, names: tuple[str, ...], source: str) -> None:
    columns = labels.reshape(len(labels), -1)
    if names and len(names) != columns.shape[1]:
        raise DataError(f"{source}: {columns.shape[1]} columns of values, with {len(names)} names")
    bad = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if len(bad):
        raise DataError(
            f"{source}: the label of sample {bad[0]} is NaN or infinity",
            hint="leave such samples out; what is to be predicted has to be known",
        )


def _check_tokens(labels: np.ndarray, names: tuple[str, ...], source: str) -> None:
    if labels.shape[1] == 1:
        raise DataError(
            f"{source}: labels of shape {labels.shape} could be classes or tokens",
            hint="classes have the shape [samples]: y[:, 0]",
        )
    if _is_one_hot(labels) and len(names) in (0, labels.shape[1]):
        raise DataError(
            f"{source}: labels of shape {labels.shape} are one-hot, a single 1 in each row; integers of two"
            " axes would be tokens",
            hint="classes have the shape [samples]: y.argmax(axis=1)",
        )
    bad = np.flatnonzero(((labels < 0) & (labels != IGNORED)).any(axis=1))
    if len(bad):
        raise DataError(
            f"{source}: a token label of sample {bad[0]} is negative; only {IGNORED} may be, for a position"
            " that does not count"
        )
    if names and labels.max() >= len(names):
        raise DataError(f"{source}: token labels reach {labels.max()}, with {len(names)} names")


def _is_one_hot(labels: np.ndarray) -> bool:
    return bool(labels.size and labels.min() == 0 and labels.max() == 1 and (labels.sum(axis=1) == 1).all())


def _check_preprocessing(dataset: Dataset, source: str) -> None:
    for step in dataset.preprocessing:
        if step.input not in dataset.inputs:
            raise DataError(
                f"{source}: preprocessing of unknown input {step.input!r}; {near(step.input, dataset.inputs)}"
            )
        if _is_index(dataset.inputs[step.input]):
            raise DataError(
                f"{source}: input {step.input!r} holds indices ({dataset.inputs[step.input].dtype}), which"
                " cannot be normalized",
                hint=f"numbers to be normalized are floats or uint8: {step.input}.astype('float32')",
            )
