"""A data set with four disjoint splits by the hash of each sample.

Nothing is calibrated or chosen on the split that it is reported on. A sample's split is decided by its
own hash, so that equal samples cannot stand on both sides and adding samples moves none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from lissom.artifact import PreprocessingStep, TensorSpec
from lissom.errors import DataError, RequestError
from lissom.logs import log
from lissom.models.dataset import SPLITS, Dataset, Kind, kind_of, usual_dtype
from lissom.models.matching import match_inputs
from lissom.runtime.arrays import plain
from lissom.runtime.conversion import roundings
from lissom.runtime.finiteness import is_finite
from lissom.runtime.preprocess import preprocess

_SHARES = {"train": 0.60, "calibrate": 0.10, "select": 0.15, "report": 0.15}


@dataclass(frozen=True)
class Data:
    """A data set with its splits.

    Attributes:
        source: Where it comes from, as DATA was written.
        dataset: Raw samples, with the names and in the order of the model's inputs once it is known.
        taken: What a model takes them as, see `taken_by`; empty where nothing is known of one.
        tolerant: Inputs whose NaN and infinity the model is made for, see `accepting`.
    """

    source: str
    dataset: Dataset
    taken: tuple[TensorSpec, ...] = ()
    tolerant: frozenset[str] = frozenset()
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
        if self.dataset.split is not None:
            names = self.dataset.split
        elif self.dataset.labels is None:
            names = np.full(len(self.sample_hashes), "calibrate")
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
        tolerant = frozenset(back.get(name, name) for name in self.tolerant)
        found = replace(self, dataset=dataset, taken=tuple(specs), tolerant=tolerant, _tensors={})
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
            strict = {name: array for name, array in tensors.items() if name not in self.tolerant}
            _check_finite(strict, self.source, split, self.indices[split])
            self._tensors[split] = tensors
        return self._tensors[split]

    def rows(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of some samples after preprocessing, whatever they hold."""
        dtypes = {spec.name: spec.dtype for spec in self.input_specs}
        return self._converted({name: array[index] for name, array in self.dataset.inputs.items()}, dtypes)

    def accepting(self, names: Iterable[str]) -> Data:
        """The same data, with inputs whose NaN and infinity are taken as they are."""
        return replace(self, tolerant=self.tolerant | {*names}, _tensors={})

    @property
    def nonfinite_inputs(self) -> set[str]:
        """Inputs that hold NaN or infinity; minus infinity alone is that of a mask."""
        return {name for name, array in self.dataset.inputs.items() if _gaps(array).any()}

    @property
    def has_gap(self) -> np.ndarray:
        """Which samples hold NaN or infinity, bool [samples]."""
        found: np.ndarray = np.logical_or.reduce([_gaps(array) for array in self.dataset.inputs.values()])
        return found

    def _converted(self, raw: Mapping[str, np.ndarray], dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Raw arrays after preprocessing; that floats lose digits is said where the model asked for it."""
        try:
            tensors = preprocess(raw, self.dataset.preprocessing, dtypes)
        except RequestError as exc:
            raise DataError(f"{self.source}: {exc.message}", hint=exc.hint) from exc
        for text in roundings({spec.name: raw[spec.name] for spec in self.taken}, dtypes):
            log.warning("%s: %s", self.source, text)
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
        return kind_of(self.dataset.labels)

    @property
    def num_values(self) -> int:
        """Values to be predicted of a sample; 0 without labels."""
        labels = self.dataset.labels
        return 0 if labels is None else labels[:1].size

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


def _label_text(labels: np.ndarray | None, index: int) -> str:
    """What stands for a label in the hash of its split."""
    if labels is None:
        return ""
    return str(labels[index]) if labels.ndim == 1 else plain(labels[index]).tobytes().hex()


def _check_finite(tensors: Mapping[str, np.ndarray], source: str, split: str, indices: np.ndarray) -> None:
    """Refuse NaN and infinity in the tensors of a split, whose samples stand at `indices` in the source.

    Minus infinity is let through: in a mask that is added to attention it is what the model takes.
    """
    for name, array in tensors.items():
        bad = np.flatnonzero(_gaps(array))
        if len(bad):
            raise DataError(
                f"{source}: input {name!r} of sample {indices[bad[0]]} ({split} split) holds NaN or infinity"
                f", like {len(bad) / len(array):.1%} of the samples there",
                hint="leave such samples out, or fill what is missing, as with the mean of its column; a "
                "model that fills it itself may have it",
            )


def _gaps(array: np.ndarray) -> np.ndarray:
    """Which samples hold NaN or infinity, bool [samples]."""
    if array.dtype.kind != "f" or is_finite(array):
        return np.zeros(len(array), dtype=bool)
    broken = np.isnan(array) | (array == np.inf)
    found: np.ndarray = broken.any(axis=tuple(range(1, array.ndim)))
    return found


def _split_hint(dataset: Dataset) -> str:
    if dataset.labels is None and dataset.split is None:
        return "without labels every sample is calibration data"
    return "give more samples" if dataset.split is None else f"name every split: {', '.join(SPLITS)}"
