"""Files and folders in the formats that data sets are published in, told apart by their names.

    x.npz                                  one array an input, labels y or ?labels=KEY, optional split, group
    x.csv, x.parquet                       columns of numbers, one label column
    train-images-idx3-ubyte[.gz], ...      MNIST and its kin (IDX), images and labels in pairs
    data_batch_1.bin or train.bin, ...     CIFAR-10 or CIFAR-100, the binary version
    dataset_dict.json or state.json, ...   Hugging Face datasets, as saved to disk
    cat/1.jpg or Training/cat/1.jpg, ...   one subfolder a class, perhaps inside train, val and test

Nothing is unpickled. What is cut or mislabelled is refused by the name of its file and record.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lissom.errors import DataError, near, near_files
from lissom.models.dataset import Dataset
from lissom.models.hugging_face import dataset_from_hugging_face
from lissom.models.image_formats import dataset_from_cifar, dataset_from_idx, dataset_from_image_folder
from lissom.models.preparation import with_names
from lissom.models.table_formats import dataset_from_table
from lissom.registry import DATA_SUFFIXES

Reader = Callable[..., Dataset]
DAMAGE = (
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
"""What NumPy and zipfile raise for files that are cut, damaged, or a single .npy."""
RESERVED = ("y", "split", "group")
"""Arrays of an .npz that are no inputs, unless the model has an input of the name."""
_LAYOUTS = (
    "known files: .npz, .csv, .parquet; known folders: one subfolder of images a class, train/ and test/ of"
    " such subfolders, CIFAR binary (data_batch_1.bin or train.bin), IDX (train-images-idx3-ubyte),"
    " Hugging Face datasets saved to disk (dataset_info.json)"
)


def reader_of(place: str) -> Reader | None:
    """The reader of a file or folder, or None for what is a name or a factory.

    Raises:
        DataError: nothing is there, or nothing that is known.
    """
    path = Path(place)
    if path.is_dir():
        return _reader_of_folder(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return dataset_from_npz
    if suffix in DATA_SUFFIXES:
        return dataset_from_table
    if path.is_file():
        raise DataError(f"{place} is a file of an unknown format", hint=_LAYOUTS)
    if "/" in place and ":" not in place:
        raise DataError(f"no data at {place}", hint=f"{near_files(place)}; {_LAYOUTS}")
    return None


def _reader_of_folder(path: Path) -> Reader:
    files = _files_in(path)
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if reader := _reader_of_names(path, files):
        return reader
    for folder in folders:
        if _reader_of_names(path / folder, _files_in(path / folder)):
            raise DataError(
                f"{path} holds no data itself, but {folder} in it does", hint=f"name it: {path / folder}"
            )
    if folders:
        return dataset_from_image_folder
    found = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
    raise DataError(f"{path} is a folder of an unknown layout; it holds {found or 'nothing'}", hint=_LAYOUTS)


def _files_in(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_file())


def _reader_of_names(path: Path, files: Sequence[str]) -> Reader | None:
    """The reader of a folder whose files have the names of a published data set, or None."""
    if any(Path(name).match("*_batch*.bin") or name in ("train.bin", "test.bin") for name in files):
        return dataset_from_cifar
    if any(Path(name).match("data_batch_[1-5]") for name in files) or {"train", "test", "meta"} <= set(files):
        raise DataError(
            f"{path} holds CIFAR as Python pickles, which can run code when they are read",
            hint="take the binary version: cifar-10-binary.tar.gz or cifar-100-binary.tar.gz",
        )
    if any("idx3-ubyte" in name or "idx1-ubyte" in name for name in files):
        return dataset_from_idx
    if {"dataset_dict.json", "dataset_info.json", "state.json"} & set(files):
        return dataset_from_hugging_face
    return None


def dataset_from_npz(
    path: Path,
    *,
    labels: str | None = None,
    split: str | None = None,
    group: str | None = None,
    inputs: str | Sequence[str] | None = None,
    standardize: bool = True,
) -> Dataset:
    """One array per input name, labels `y`, optional `split` and `group`; nothing is unpickled.

    Floats `y` are values to be predicted, integers [samples, length] tokens, all else names of classes.

    Args:
        path: File.
        labels: Name of the array of labels; default: y, unless that is an input.
        split: Name of the array of splits; default: split.
        group: Name of the array of groups; default: group.
        inputs: Names of the arrays that are inputs, separated by commas; default: all the others.
        standardize: Whether a model trained from scratch gets tables of mean 0 and deviation 1 a column.

    Raises:
        DataError: the file is missing, damaged, or holds objects, or has no array of a name.
    """
    arrays = _arrays(path)
    named = inputs.split(",") if isinstance(inputs, str) else inputs
    roles = {"y": labels, "split": split, "group": group}
    for name in (*(named or ()), *filter(None, roles.values())):
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}", hint=near(name, arrays))
    taken = {role: name or role for role, name in roles.items() if name or role not in (named or ())}
    found = {role: arrays.get(name) for role, name in taken.items()}
    others = [name for name in arrays if name not in taken.values()] if named is None else named
    values = found.get("y")
    names: tuple[str, ...] = ()
    if values is not None and values.dtype.kind != "f" and values.ndim == 1:
        values, names = with_names(values)
    kept = {name: arrays[name] for name in others}
    return Dataset(
        kept,
        values,
        names,
        split=found.get("split"),
        group=found.get("group"),
        standardize=standardize,
    )


def reserved_names(path: Path, options: Mapping[str, object], declared: Sequence[str]) -> dict[str, object]:
    """Options by which an array called y, split or group is read as the input that a model has of this name.

    Empty where there is none, or where the options say themselves what the array is.
    """
    given = {options.get("labels"), options.get("split"), options.get("group")}
    if "inputs" in options or not [name for name in declared if name in RESERVED and name not in given]:
        return {}
    with _opened(path) as file:
        names = list(file.files)
    others = [name for name in names if name not in given and (name not in RESERVED or name in declared)]
    return {"inputs": others} if {*declared} & {*names} & {*RESERVED} else {}


def has_reserved(source: str) -> bool:
    """True for an .npz of which an array may be an input or the labels, as only the model can tell."""
    place, _, query = source.partition("?")
    if Path(place).suffix.lower() != ".npz" or query or not Path(place).is_file():
        return False
    with _opened(Path(place)) as file:
        return bool({*RESERVED} & {*file.files})


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz by name, in the order in which they were written."""
    with _opened(path) as file:
        return {name: file[name] for name in file.files}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An .npz; nothing is unpickled.

    Raises:
        DataError: it is not there, or damaged, also where that shows while it is read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError as exc:
        raise DataError(f"no data at {path}", hint=near_files(path)) from exc
    except DAMAGE as exc:
        raise DataError(f"{path} cannot be read as .npz: {exc or type(exc).__name__}") from exc
