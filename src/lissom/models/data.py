"""Data: where they come from, and four disjoint splits by the hash of each sample.

Nothing is calibrated or chosen on the split that it is reported on. A sample's split is decided by its
own hash, so that equal samples cannot stand on both sides and adding samples moves none.
"""

from __future__ import annotations

import hashlib
import inspect
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from lissom.artifact import PreprocessingStep, TensorSpec
from lissom.errors import DataError, ModelError, RequestError, near
from lissom.logs import log
from lissom.models.matching import match_inputs
from lissom.registry import DATASETS, resolve
from lissom.runtime.arrays import plain
from lissom.runtime.conversion import is_rounded
from lissom.runtime.preprocess import preprocess

SPLITS = ("train", "calibrate", "select", "report")
IGNORED = -100
"""Token label of a position that does not count."""
Kind = Literal["classes", "values", "tokens", "none"]
_SHARES = {"train": 0.60, "calibrate": 0.10, "select": 0.15, "report": 0.15}


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


@dataclass(frozen=True)
class Data:
    """A data set with its splits.

    Attributes:
        source: Where it comes from, as DATA was written.
        dataset: Raw samples, with the names and in the order of the model's inputs once it is known.
        taken: What a model takes them as, see `taken_by`; empty where nothing is known of one.
    """

    source: str
    dataset: Dataset
    taken: tuple[TensorSpec, ...] = ()
    _tensors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    @cached_property
    def sample_hashes(self) -> list[str]:
        """sha256 of the raw inputs of each sample."""
        arrays = [plain(self.dataset.inputs[name]) for name in sorted(self.dataset.inputs)]
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
        lines = [f"{self.sample_hashes[i]} {_label_text(labels, i)}" for i in index]
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

    def taken_by(self, specs: Sequence[TensorSpec], optional: Collection[str] = ()) -> Data:
        """The same samples and splits as a model takes them: by its names, in its order and its dtypes.

        Args:
            specs: The inputs that a model declares; shapes are not compared.
            optional: Inputs that need no array: recurrent states, which start as zeros.

        Raises:
            DataError: the arrays have other names than the inputs.
        """
        specs = [spec for spec in specs if spec.name not in optional or spec.name in self.dataset.inputs]
        if self.taken == tuple(specs):
            return self
        arrays = {name: array.shape[1:] for name, array in self.dataset.inputs.items()}
        names = match_inputs({spec.name: spec.shape[1:] for spec in specs}, arrays, source=self.source)
        back = {found: wanted for wanted, found in names.items()}
        dataset = replace(
            self.dataset,
            inputs={wanted: self.dataset.inputs[found] for wanted, found in names.items()},
            preprocessing=tuple(
                step.model_copy(update={"input": back.get(step.input, step.input)})
                for step in self.dataset.preprocessing
            ),
        )
        found = replace(self, dataset=dataset, taken=tuple(specs), _tensors={})
        if "sample_hashes" in self.__dict__:  # of the raw arrays, which are the same
            found.__dict__["sample_hashes"] = self.sample_hashes
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
        """Inputs of a split after preprocessing, in the dtypes of `input_specs`.

        Raises:
            DataError: the split is empty, holds NaN or infinity, or a value that the dtype does not hold.
        """
        if split not in self._tensors:
            if not len(self.indices[split]):
                raise DataError(f"{self.source}: the {split} split is empty", hint=_split_hint(self.dataset))
            dtypes = {spec.name: spec.dtype for spec in self.input_specs}
            tensors = self._converted(self.raw(split), dtypes)
            _check_finite(tensors, self.source, split, self.indices[split])
            self._tensors[split] = tensors
        return self._tensors[split]

    def _converted(self, raw: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Raw arrays after preprocessing; that floats lose digits is said where the model asked for it."""
        try:
            tensors = preprocess(raw, self.dataset.preprocessing, dtypes)
        except RequestError as exc:
            raise DataError(f"{self.source}: {exc.message}", hint=exc.hint) from exc
        for name in [spec.name for spec in self.taken if is_rounded(raw[spec.name], spec.dtype)]:
            log.info("%s: %s is rounded from %s to %s", self.source, name, raw[name].dtype, dtypes[name])
        return tensors

    def labels(self, split: str) -> np.ndarray:
        """Labels of a split: float32 where they are values, else int64.

        Raises:
            DataError: the data have no labels.
        """
        if self.dataset.labels is None:
            raise DataError(f"{self.source} has no labels; an .npz holds them under the name y")
        dtype = np.float32 if self.kind == "values" else np.int64
        return np.asarray(self.dataset.labels[self.indices[split]], dtype=dtype)

    def with_preprocessing(self, steps: Sequence[PreprocessingStep]) -> Data:
        """The same samples and splits with other steps from raw sample to tensor."""
        dataset = replace(self.dataset, preprocessing=tuple(steps))
        found = replace(self, dataset=dataset, _tensors={})
        for kept in ("sample_hashes", "indices"):  # they are those of the raw samples
            if kept in self.__dict__:
                found.__dict__[kept] = self.__dict__[kept]
        return found

    def with_values(self) -> Data:
        """The same samples and splits with classes that are named by numbers as values, float32.

        Raises:
            DataError: the labels are neither classes nor values, or a class has a name that is no number.
        """
        from lissom.models.preparation import values_from_classes

        if self.kind == "values":
            return self
        return replace(self, dataset=values_from_classes(self.dataset, self.source))

    def with_classes(self) -> Data:
        """The same samples and splits with values that are whole numbers as classes, named by them.

        Raises:
            DataError: the labels are neither classes nor values, or a value is no whole number.
        """
        from lissom.models.preparation import classes_from_values

        if self.kind == "classes":
            return self
        return replace(self, dataset=classes_from_values(self.dataset, self.source))

    def check_classes(self, splits: Iterable[str]) -> None:
        """Refuse splits in which a class has no sample; labels that are no classes pass.

        Raises:
            DataError: naming the first such split and its missing classes.
        """
        for split in splits:
            if missing := self._missing_classes(split):
                advice = "give more samples"
                if self.dataset.split is not None:
                    advice = f"give the {split} split samples of {missing}"
                raise DataError(self._lacks(split, missing), hint=advice)

    def warn_of_missing_classes(self, splits: Iterable[str]) -> None:
        """Log a warning for each split in which a class has no sample, which then says nothing about it."""
        for told in self.missing_classes(splits):
            log.warning("%s", told)

    def missing_classes(self, splits: Iterable[str]) -> list[str]:
        """What to say of each split that has samples, but none of some class."""
        return [
            f"{self._lacks(split, missing)}; what is measured there says nothing about it"
            for split in splits
            if len(self.indices[split]) and (missing := self._missing_classes(split))
        ]

    def _lacks(self, split: str, missing: str) -> str:
        count = len(self.indices[split])
        return f"{self.source}: the {split} split ({count} samples) has no sample of {missing}"

    def _missing_classes(self, split: str) -> str:
        """The classes of which a split has no sample, at most three by name; empty where none is missing."""
        if self.kind != "classes":
            return ""
        counts = np.bincount(self.labels(split), minlength=self.num_classes)
        missing = [name for name, count in zip(self.dataset.label_names, counts, strict=True) if not count]
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return f"class {', '.join(map(repr, missing[:3]))}{more}" if missing else ""

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Signature of the inputs after preprocessing; the batch size may vary."""
        dtypes = {spec.name: spec.dtype for spec in self.taken}
        return tuple(
            TensorSpec(
                name=name,
                dtype=dtypes.get(name) or usual_dtype(array),
                shape=("batch", *array.shape[1:]),
            )
            for name, array in self.dataset.inputs.items()
        )

    @property
    def kind(self) -> Kind:
        """What the labels are."""
        return _kind(self.dataset.labels)

    @property
    def num_classes(self) -> int:
        """Number of label names."""
        return len(self.dataset.label_names)


def split_of(sample_hash: str, shares: Mapping[str, float] = _SHARES) -> str:
    """The split of a sample: its hash, as a number in [0, 1), against the shares, 60/10/15/15.

    >>> split_of("00" * 32), split_of("ff" * 32)
    ('train', 'report')
    """
    place = int(sample_hash[:16], 16) / 2**64
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return list(shares)[-1]


def load_data(source: str, declared: Sequence[TensorSpec] = (), optional: Collection[str] = ()) -> Data:
    """Load data by built-in name, file, folder, or `package.module:factory` that gives a `Dataset`.

    Options of the loader follow a question mark, as in `photos/?image_size=64` or
    `table.csv?label=species&...`; their values are YAML. Which files and folders are known is said in
    `lissom.models.formats`.

    Args:
        source: DATA.
        declared: What a model declares of its inputs, where that is known before the data are read. An array
            of an .npz that has the name of an input is that input, though it be called y; the data are then
            `taken_by` it, and are not held against the habits of models in general.
        optional: Inputs that need no array.

    Raises:
        DataError: nothing is there, it does not hold together, an option is unknown, or the arrays are not
            the inputs of the model.
    """
    from lissom.models.formats import dataset_from_npz, reader_of, reserved_names

    place, options = _parsed(source)
    reader = None if place in DATASETS else reader_of(place)
    if reader is dataset_from_npz and declared:
        options = reserved_names(Path(place), options, [spec.name for spec in declared]) | options
    if reader is not None:
        dataset = _called(reader, options, source, Path(place))
    else:
        dataset = _made(place, options, source)
    data = Data(source, checked(dataset, source, declared=bool(declared)))
    return data.taken_by(declared, optional) if declared else data


def _made(place: str, options: Mapping[str, Any], source: str) -> Dataset:
    """What a built-in data set or a factory of the user gives."""
    try:
        factory = resolve(place, known=DATASETS)
    except ModelError as exc:
        raise DataError(str(exc).replace("unknown name", "unknown data"), hint=exc.hint) from exc
    dataset = _called(factory, options, source)
    if not isinstance(dataset, Dataset):
        raise DataError(f"{source} gave a {type(dataset).__name__}, not a lissom.Dataset")
    return dataset


def _parsed(source: str) -> tuple[str, dict[str, Any]]:
    """The place, and the options after its question mark."""
    place, _, query = source.partition("?")
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, text = part.partition("=")
        try:
            value = yaml.safe_load(urllib.parse.unquote(text))
        except yaml.YAMLError as exc:
            raise DataError(f"{source}: the option {key} is no YAML: {text!r}") from exc
        if not equals or not key or key in options:
            raise DataError(
                f"{source}: {part!r} is not an option, or one that is given twice",
                hint="options are written source?key=value&key=value",
            )
        options[key] = value
    return place, options


def _called(factory: Callable[..., Any], options: Mapping[str, Any], source: str, *place: Path) -> Any:
    """What the loader gives for these options, once they are known to be its own."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a builtin has none
        return factory(*place, **options)
    parameters = list(signature.parameters.values())[len(place) :]
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in [key for key in options if key not in known]:
            offer = near(key, known) if known else "these data have none"
            raise DataError(
                f"{source}: unknown option {key!r}; {offer}",
                hint=f"options: {', '.join(known)}" if known else f"write {source.partition('?')[0]}",
            )
    try:
        signature.bind(*place, **options)
    except TypeError as exc:
        raise DataError(f"{source}: {exc}", hint="options are written source?key=value&key=value") from exc
    return factory(*place, **options)


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


def _with_arrays(dataset: Dataset) -> Dataset:
    def array(values: Any) -> Any:
        return None if values is None else plain(values)

    return replace(
        dataset,
        inputs={name: plain(values) for name, values in dataset.inputs.items()},
        labels=array(dataset.labels),
        split=array(dataset.split),
        group=array(dataset.group),
    )


def _kind(labels: np.ndarray | None) -> Kind:
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


def _label_text(labels: np.ndarray | None, index: int) -> str:
    """What stands for a label in the hash of its split."""
    if labels is None:
        return ""
    return str(labels[index]) if labels.ndim == 1 else plain(labels[index]).tobytes().hex()


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
    if _kind(labels) == "values":
        _check_values(labels, names, source)
    elif _kind(labels) == "tokens":
        _check_tokens(labels, names, source)
    elif labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"{source}: labels lie between {labels.min()} and {labels.max()}, with {len(names)} names"
        )


def _check_values(labels: np.ndarray, names: tuple[str, ...], source: str) -> None:
    columns = labels.reshape(len(labels), -1)
    if names and len(names) != columns.shape[1]:
        raise DataError(f"{source}: {columns.shape[1]} columns of values, with {len(names)} names")
    bad = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if len(bad):
        raise DataError(f"{source}: the label of sample {bad[0]} is NaN or infinity")


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


def _check_finite(tensors: Mapping[str, np.ndarray], source: str, split: str, indices: np.ndarray) -> None:
    """Refuse NaN and infinity in the tensors of a split, whose samples stand at `indices` in the source.

    Minus infinity is let through: in a mask that is added to attention it is what the model takes.
    """
    for name, array in tensors.items():
        broken = np.isnan(array) | (array == np.inf)
        bad = np.flatnonzero(broken.any(axis=tuple(range(1, array.ndim))))
        if len(bad):
            raise DataError(
                f"{source}: input {name!r} of sample {indices[bad[0]]} ({split} split) holds NaN or infinity"
            )


def _split_hint(dataset: Dataset) -> str:
    if dataset.labels is None:
        return "without labels every sample is calibration data"
    return "give more samples" if dataset.split is None else f"name every split: {', '.join(SPLITS)}"
