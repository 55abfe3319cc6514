"""Data: where they come from, and four disjoint splits by the hash of each sample.

Nothing is calibrated or chosen on the split that it is reported on. A sample's split is decided by its
own hash, so that equal samples cannot stand on both sides and adding samples moves none.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lissom.artifact import PreprocessingStep, TensorSpec
from lissom.errors import DataError, ModelError
from lissom.registry import DATASETS, resolve
from lissom.runtime.preprocess import preprocess

SPLITS = ("train", "calibrate", "select", "report")
_SHARES = {"train": 0.60, "calibrate": 0.10, "select": 0.15, "report": 0.15}
_RESERVED = ("y", "split", "group")
# What NumPy and zipfile raise for files that are cut, damaged, or a single .npy.
_DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    TypeError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


@dataclass(frozen=True)
class Dataset:
    """Raw samples, as an application would send them.

    Attributes:
        inputs: Arrays of shape [samples, ...] by input name.
        labels: Class indices of shape [samples], or None.
        label_names: Name of each class.
        preprocessing: Steps from raw sample to tensor.
        split: `train`, `calibrate`, `select` or `report` for each sample, or None to cut by hash.
        group: Group of each sample, or None.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    preprocessing: tuple[PreprocessingStep, ...] = ()
    split: np.ndarray | None = None
    group: np.ndarray | None = None


@dataclass(frozen=True)
class Data:
    """A data set with its splits."""

    source: str
    dataset: Dataset
    _tensors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    @cached_property
    def sample_hashes(self) -> list[str]:
        """sha256 of the raw inputs of each sample."""
        arrays = [np.ascontiguousarray(self.dataset.inputs[name]) for name in sorted(self.dataset.inputs)]
        prefix = "".join(f"{array.dtype.str}{array.shape[1:]}" for array in arrays).encode()
        return [
            hashlib.sha256(prefix + b"".join(array[index].tobytes() for array in arrays)).hexdigest()
            for index in range(len(arrays[0]))
        ]

    @cached_property
    def indices(self) -> dict[str, np.ndarray]:
        """Positions of the samples of each split."""
        if self.dataset.labels is None:
            names = np.full(len(self.sample_hashes), "calibrate")
        elif self.dataset.split is not None:
            names = self.dataset.split
        else:
            names = np.array([split_of(digest) for digest in self._units])
        return {split: np.flatnonzero(names == split) for split in SPLITS}

    @cached_property
    def split_hashes(self) -> dict[str, str]:
        """Hash of each split: of its samples in order, their labels, and the preprocessing."""
        steps = "".join(step.model_dump_json() for step in self.dataset.preprocessing)
        steps += "\n".join(self.dataset.label_names)
        return {split: self._split_hash(index, steps) for split, index in self.indices.items()}

    def _split_hash(self, index: np.ndarray, steps: str) -> str:
        labels = self.dataset.labels
        lines = [f"{self.sample_hashes[i]} {labels[i] if labels is not None else ''}" for i in index]
        return hashlib.sha256("\n".join([steps, *lines]).encode()).hexdigest()

    def overlap(self) -> dict[str, int]:
        """Number of samples, else of groups, that two splits share, for every pair that shares any."""
        found: dict[str, int] = {}
        for units in (self.sample_hashes, self._units):
            members = {split: {units[i] for i in index} for split, index in self.indices.items()}
            for one, other in combinations(SPLITS, 2):
                if shared := members[one] & members[other]:
                    found.setdefault(f"{one}/{other}", len(shared))
        return found

    @cached_property
    def _units(self) -> list[str]:
        """What may not be torn apart: the hash of each sample's group, or of the sample itself."""
        if self.dataset.group is None:
            return self.sample_hashes
        return [hashlib.sha256(str(group).encode()).hexdigest() for group in self.dataset.group]

    def raw(self, split: str) -> dict[str, np.ndarray]:
        """Raw inputs of a split."""
        return {name: array[self.indices[split]] for name, array in self.dataset.inputs.items()}

    def tensors(self, split: str) -> dict[str, np.ndarray]:
        """Inputs of a split after preprocessing, float32.

        Raises:
            DataError: the split is empty, or holds NaN or infinity.
        """
        if split not in self._tensors:
            if not len(self.indices[split]):
                raise DataError(f"{self.source}: the {split} split is empty", hint=_split_hint(self.dataset))
            dtypes = {spec.name: spec.dtype for spec in self.input_specs}
            tensors = preprocess(self.raw(split), self.dataset.preprocessing, dtypes)
            _check_finite(tensors, self.source, split)
            self._tensors[split] = tensors
        return self._tensors[split]

    def labels(self, split: str) -> np.ndarray:
        """Class indices of a split, int64.

        Raises:
            DataError: the data have no labels.
        """
        if self.dataset.labels is None:
            raise DataError(f"{self.source} has no labels; an .npz holds them under the name y")
        return np.asarray(self.dataset.labels[self.indices[split]], dtype=np.int64)

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Signature of the inputs after preprocessing; the batch size may vary."""
        return tuple(
            TensorSpec(name=name, dtype="float32", shape=("batch", *array.shape[1:]))
            for name, array in self.dataset.inputs.items()
        )

    @property
    def num_classes(self) -> int:
        """Number of label names."""
        return len(self.dataset.label_names)


def split_of(sample_hash: str) -> str:
    """The split of a sample: its hash, as a number in [0, 1), against 60/10/15/15 shares.

    >>> split_of("00" * 32), split_of("ff" * 32)
    ('train', 'report')
    """
    place = int(sample_hash[:16], 16) / 2**64
    for split, share in _SHARES.items():
        if place < share:
            return split
        place -= share
    return "report"


def load_data(source: str) -> Data:
    """Load data by built-in name, `.npz` file, or `package.module:factory` that gives a `Dataset`.

    Raises:
        DataError: nothing is there, or it does not hold together.
    """
    if source.endswith(".npz"):
        return Data(source, checked(dataset_from_npz(Path(source)), source))
    if source not in DATASETS and Path(source).is_dir():
        raise DataError(
            f"{source} is a folder; give an .npz file with arrays, labels under y, and optional split"
        )
    try:
        dataset = resolve(source, known=DATASETS)()
    except ModelError as exc:
        raise DataError(str(exc).replace("unknown name", "unknown data"), hint=exc.hint) from exc
    if not isinstance(dataset, Dataset):
        raise DataError(f"{source} gave a {type(dataset).__name__}, not a lissom.Dataset")
    return Data(source, checked(dataset, source))


def digits() -> Dataset:
    """Handwritten digits: 1,797 real scans of 8x8 pixels, values 0 to 16, ten classes.

    E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998; the copy that scikit-learn ships.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Dataset(
        inputs={"image": bunch.images[:, None].astype(np.float32)},
        labels=bunch.target,
        label_names=tuple(str(name) for name in bunch.target_names),
        preprocessing=(PreprocessingStep(input="image", mean=(0.0,), std=(16.0,)),),
    )


def dataset_from_npz(path: Path) -> Dataset:
    """One array per input name, labels `y`, optional `split` and `group`; nothing is unpickled.

    Raises:
        DataError: the file is missing, damaged, or holds objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as exc:
        raise DataError(f"no data at {path}") from exc
    except _DAMAGE as exc:
        raise DataError(f"{path} cannot be read as .npz: {exc or type(exc).__name__}") from exc
    inputs = {name: array for name, array in arrays.items() if name not in _RESERVED}
    labels = arrays.get("y")
    if labels is None:
        return Dataset(inputs, split=arrays.get("split"), group=arrays.get("group"))
    if labels.dtype.kind == "f":
        raise DataError(f"{path}: the labels y are {labels.dtype}; classes are integers or strings")
    names, positions = np.unique(labels, return_inverse=True)
    label_names = tuple(str(name) for name in names)
    return Dataset(inputs, positions, label_names, split=arrays.get("split"), group=arrays.get("group"))


def checked(dataset: Dataset, source: str) -> Dataset:
    """The data set with arrays in the place of lists, when it holds together.

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
    lengths = {name: len(array) for name, array in found.items()}
    if not dataset.inputs or 0 in lengths.values():
        raise DataError(f"{source} holds no samples")
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"{source}: arrays differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}"
        )
    if dataset.split is not None and (unknown := sorted(set(map(str, dataset.split)) - set(SPLITS))):
        raise DataError(f"{source}: unknown split {unknown[0]!r}; known: {', '.join(SPLITS)}")
    if dataset.labels is not None:
        _check_labels(dataset.labels, len(dataset.label_names), source)
    return dataset


def _with_arrays(dataset: Dataset) -> Dataset:
    def array(values: Any) -> Any:
        return None if values is None else np.asarray(values)

    return replace(
        dataset,
        inputs={name: np.asarray(values) for name, values in dataset.inputs.items()},
        labels=array(dataset.labels),
        split=array(dataset.split),
        group=array(dataset.group),
    )


def _check_labels(labels: np.ndarray, num_classes: int, source: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{source}: labels are integers of shape [samples], found {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"{source}: labels lie between {labels.min()} and {labels.max()}, with {num_classes} names"
        )


def _check_finite(tensors: Mapping[str, np.ndarray], source: str, split: str) -> None:
    for name, array in tensors.items():
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if len(bad):
            raise DataError(
                f"{source}: input {name!r} of sample {bad[0]} of the {split} split holds NaN or infinity"
            )


def _split_hint(dataset: Dataset) -> str:
    if dataset.labels is None:
        return "without labels every sample is calibration data"
    return "give more samples" if dataset.split is None else f"name every split: {', '.join(SPLITS)}"
