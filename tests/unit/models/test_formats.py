"""Which file or folder is read by which reader, and what is said about those that are not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lissom.errors import DataError
from lissom.models.data_sources import load_data
from lissom.models.formats import reader_of
from lissom.registry import DATASETS


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "reader"),
    [
        (["data_batch_1.bin", "test_batch.bin"], "dataset_from_cifar"),
        (["train.bin", "fine_label_names.txt"], "dataset_from_cifar"),
        (["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"], "dataset_from_idx"),
        (["train-images.idx3-ubyte"], "dataset_from_idx"),
        (["dataset_dict.json", "train/state.json"], "dataset_from_hugging_face"),
        (["dataset_info.json", "x-train.arrow"], "dataset_from_hugging_face"),
        (["cat/1.png", "dog/1.png", "README.md"], "dataset_from_image_folder"),
        (["train/cat/1.png", "test/cat/1.png"], "dataset_from_image_folder"),
    ],
)
def test_a_folder_is_told_by_its_names(tmp_path: Path, names: list[str], reader: str) -> None:
    found = reader_of(str(filled(tmp_path, *names)))
    assert found is not None
    assert found.__name__ == reader


@pytest.mark.parametrize("name", ["x.npz", "x.csv", "x.parquet", "x.CSV", "x.NPZ"])
def test_a_file_is_told_by_its_suffix_before_it_is_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"no data at .*{name}"):
        load_data(str(tmp_path / name))


@pytest.mark.parametrize("place", [*DATASETS, "package.module:data", "folder/file.py:data", "unknown"])
def test_names_and_factories_are_no_files(place: str) -> None:
    assert reader_of(place) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is a folder of an unknown layout; it holds nothing"),
        (["a.txt", "b.txt"], "it holds a.txt, b.txt"),
        ([f"{i}.txt" for i in range(7)], "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more"),
        ([".hidden/1.png"], "it holds nothing"),
    ],
)
def test_an_unknown_folder_is_refused_with_what_it_holds(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(str(filled(tmp_path, *names)))
    assert "known folders: one subfolder of images a class" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["cifar-10-batches-bin/data_batch_1.bin", "raw/train-images-idx3-ubyte", "saved/dataset_dict.json"],
)
def test_the_folder_above_a_data_set_is_told_from_images_of_classes(tmp_path: Path, name: str) -> None:
    inner = name.partition("/")[0]
    with pytest.raises(DataError, match=f"holds no data itself, but {inner} in it does") as caught:
        load_data(str(filled(tmp_path, name, "other/readme.html")))
    assert caught.value.hint == f"name it: {tmp_path / inner}"


@pytest.mark.parametrize("names", [["data_batch_1", "test_batch"], ["train", "test", "meta"]])
def test_pickles_are_never_read(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(DataError, match="CIFAR as Python pickles") as caught:
        load_data(str(filled(tmp_path, *names)))
    assert "binary version" in caught.value.hint


def test_a_file_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"table\.xlsx is a file of an unknown format") as caught:
        load_data(str(filled(tmp_path, "table.xlsx") / "table.xlsx"))
    assert ".npz, .csv, .parquet" in caught.value.hint


def test_a_folder_that_is_not_there_is_no_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at .*photos/"):
        load_data(f"{tmp_path}/photos/?image_size=64")


def test_a_built_in_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(filled(tmp_path, "digits/cat/1.png"))
    assert load_data("digits").num_classes == 10


def test_an_unknown_option_of_an_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)))
    with pytest.raises(DataError, match="unknown option 'label'; did you mean labels"):
        load_data(f"{tmp_path / 'x.npz'}?label=y")
