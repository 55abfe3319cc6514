"""Files and folders in the formats that data sets are published in, told apart by their names.

    x.npz                                  one array an input, labels under y, optional split and group
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
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lissom.errors import DataError, near_files
from lissom.models.data import Dataset
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
_RESERVED = ("y", "split", "group")
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


def dataset_from_npz(path: Path) -> Dataset:
    """One array per input name, labels `y`, optional `split` and `group`; nothing is unpickled.

    Floats `y` are values to be predicted, integers [samples, length] tokens, all else names of classes.

    Raises:
        DataError: the file is missing, damaged, or holds objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as exc:
        raise DataError(f"no data at {path}", hint=near_files(path)) from exc
    except DAMAGE as exc:
        raise DataError(f"{path} cannot be read as .npz: {exc or type(exc).__name__}") from exc
    inputs = {name: array for name, array in arrays.items() if name not in _RESERVED}
    labels = arrays.get("y")
    names: tuple[str, ...] = ()
    if labels is not None and labels.dtype.kind != "f" and labels.ndim == 1:
        labels, names = with_names(labels)
    return Dataset(inputs, labels, names, split=arrays.get("split"), group=arrays.get("group"))
