"""Tables: what becomes a feature, what a label, and how a bad cell is named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lissom.errors import DataError, MissingExtra
from lissom.models.data_sources import load_data

HEADER = "width,height,species\n"


def csv(folder: Path, text: str | bytes) -> str:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def parquet_file(folder: Path, **columns: Any) -> str:
    path = folder / "table.parquet"
    parquet.write_table(pa.table(columns), path)
    return str(path)


def test_columns_of_numbers_are_features_and_words_are_classes(tmp_path: Path) -> None:
    rows = "".join(f"{i}, {i / 2}e0 ,{'owl' if i % 2 else 'cat'}\n" for i in range(40))
    data = load_data(csv(tmp_path, HEADER + rows) + "?label=species")
    features = data.dataset.inputs["features"]
    assert features.shape == (40, 2)
    assert features.dtype == np.float32
    assert features[3].tolist() == [3, 1.5]
    assert data.dataset.label_names == ("cat", "owl")
    assert data.dataset.labels is not None
    assert data.dataset.labels[:3].tolist() == [0, 1, 0]
    assert data.kind == "classes"


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (["3", "10", "3"], "classes", ("3", "10")),
        (["1.5", "2", "3"], "values", ()),
        (["1", "b", "2.5"], "classes", ("1", "2.5", "b")),
        (["true", "false", "true"], "classes", ("false", "true")),
    ],
)
def test_the_cells_say_what_the_labels_are(
    tmp_path: Path, labels: list[str], kind: str, names: tuple[str, ...]
) -> None:
    data = load_data(csv(tmp_path, "x,y\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels))))
    assert data.kind == kind
    assert data.dataset.label_names == names


def test_split_and_group_are_no_features(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 2},{'train' if i < 6 else 'report'},{i // 2}\n" for i in range(8))
    data = load_data(csv(tmp_path, "x,y,split,group\n" + rows))
    assert data.dataset.inputs["features"].shape == (8, 1)
    assert len(data.indices["report"]) == 2
    assert data.dataset.group is not None
    assert len(set(data.dataset.group.tolist())) == 4


def test_parquet_and_csv_give_the_same_samples(tmp_path: Path) -> None:
    table = {"a": [1.5, 2.0, 3.0], "b": [1, 2, 3], "y": ["no", "yes", "no"]}
    text = "a,b,y\n1.5,1,no\n2,2,yes\n3,3,no\n"
    one, other = load_data(csv(tmp_path, text)), load_data(parquet_file(tmp_path, **table))
    assert one.split_hashes == other.split_hashes


def test_parquet_takes_floats_as_values(tmp_path: Path) -> None:
    data = load_data(parquet_file(tmp_path, a=[1, 2], price=[0.5, 1.5]) + "?label=price")
    assert data.kind == "values"
    assert data.dataset.labels is not None
    assert data.dataset.labels.tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,2,cat\n3,,owl\n", "row 2 has nothing in column 'height'"),
        (HEADER + "1,2,cat\n3,tall,owl\n", "row 2 has 'tall' in column 'height', which is no finite number"),
        (HEADER + "1,nan,cat\n", "row 1 has nan in column 'height'"),
        (HEADER + "1,2,cat\n1,1_000,cat\n", "row 2 has '1_000' in column 'height'"),
        (HEADER + "1,true,cat\n", "row 1 has 'true' in column 'height'"),
        (HEADER + "1,2,cat\n3,4,\n", "row 2 has nothing in column 'species'"),
        (HEADER + "1,2,cat\n3,4\n", "cannot be read as CSV: .*Row #3"),
        ("", "cannot be read as CSV"),
        (HEADER, "holds no samples"),
        ("species\ncat\n", "has no column beside the label"),
        ("a,a,species\n1,2,cat\n", "has two columns 'a'"),
        (HEADER.encode() + b"1,\xff\xfe,cat\n", "cannot be read as CSV: line 2 holds the byte 0xff"),
    ],
)
def test_a_bad_cell_of_a_csv_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(csv(tmp_path, text) + "?label=species")


def test_a_bad_number_far_behind_good_ones_is_named(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i},cat\n" for i in range(300_000))
    with pytest.raises(DataError, match="row 300001 has 'x' in column 'width'"):
        load_data(csv(tmp_path, HEADER + rows + "x,1,cat\n") + "?label=species")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0, None], "y": [0, 1]}, "row 2 has nothing in column 'a'"),
        ({"a": ["1", "b"], "y": [0, 1]}, "row 2 has 'b' in column 'a'"),
        ({"a": ["1", "2"], "y": [0, 1]}, "row 1 has '1' in column 'a'"),
        ({"a": [1.0, 1e300], "y": [0, 1]}, r"row 2 has 1e\+300 in column 'a'"),
        ({"a": [True, False], "y": [0, 1]}, "row 1 has True in column 'a'"),
        ({"a": [[1], [2]], "y": [0, 1]}, r"row 1 has \[1\] in column 'a'"),
        ({"a": [1.0, 2.0], "y": [0, None]}, "row 2 has nothing in column 'y'"),
        ({"a": [1.0, 2.0], "y": [[0], [1]]}, "column 'y' holds list"),
        ({"a": [1.0, 2.0], "y": [0.5, float("nan")]}, "row 2 has nan in column 'y'"),
    ],
)
def test_a_bad_cell_of_a_parquet_file_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(parquet_file(tmp_path, **columns))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = Path(parquet_file(tmp_path, a=[1.0], y=[1]))
    for content in (path.read_bytes()[:-9], b"", b"no parquet"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"table\.parquet cannot be read as Parquet"):
            load_data(str(path))


def test_a_table_without_its_label_column_lists_the_others(tmp_path: Path) -> None:
    place = csv(tmp_path, HEADER + "1,2,cat\n")
    with pytest.raises(
        DataError, match="no label column 'y'; its columns are width, height, species"
    ) as caught:
        load_data(place)
    assert caught.value.hint == f"{place}?label=species"
    with pytest.raises(DataError, match="no label column 'widht'") as caught:
        load_data(place + "?label=widht")
    assert caught.value.hint == f"{place}?label=width"


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = csv(tmp_path, HEADER + "1,2,cat\n")
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    with pytest.raises(MissingExtra) as caught:
        load_data(place + "?label=species")
    assert "lissom[data]" in caught.value.hint


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_semicolons_and_tabs_are_read_like_commas(tmp_path: Path, delimiter: str) -> None:
    text = '"width, in cm",height,species\n1,2.5,cat\n3,4,"owl, eagle"\n'
    commas = load_data(csv(tmp_path, text) + "?label=species").dataset
    rows = [["width, in cm", "height", "species"], ["1", "2.5", "cat"], ["3", "4", "owl, eagle"]]
    lines = "".join(delimiter.join(row) + "\n" for row in rows)
    found = load_data(csv(tmp_path, lines) + "?label=species").dataset
    assert np.array_equal(found.inputs["features"], commas.inputs["features"])
    assert found.label_names == commas.label_names == ("cat", "owl, eagle")


def test_blanks_around_the_names_of_columns_do_not_count(tmp_path: Path) -> None:
    data = load_data(csv(tmp_path, "width, split , y\n1,train,a\n2,report,b\n"))
    assert data.dataset.inputs["features"].tolist() == [[1], [2]]
    assert len(data.indices["report"]) == 1
    columns: dict[str, Any] = {"a": [1.0, 2.0], " y ": [0, 1]}
    assert load_data(parquet_file(tmp_path, **columns)).dataset.label_names == ("0", "1")
    with pytest.raises(DataError, match="has two columns 'y'"):
        load_data(csv(tmp_path, "x,y, y\n1,2,3\n"))


@pytest.mark.parametrize(
    ("encoding", "message", "hint"),
    [
        (
            "latin-1",
            "line 3 holds the byte 0xe9, which is no UTF-8",
            "iconv -f ISO-8859-1 -t UTF-8 table.csv",
        ),
        ("utf-16", "it seems to be UTF-16", "iconv -f UTF-16 -t UTF-8 table.csv"),
        ("utf-16-le", "it seems to be UTF-16", "iconv -f UTF-16 -t UTF-8 table.csv"),
    ],
)
def test_text_that_is_no_utf8_is_named_with_its_encoding(
    tmp_path: Path, encoding: str, message: str, hint: str
) -> None:
    text = HEADER + "1,2,cat\n3,4,caf\xe9\n"
    with pytest.raises(DataError, match=rf"cannot be read as CSV: {message}") as caught:
        load_data(csv(tmp_path, text.encode(encoding)) + "?label=species")
    assert hint in caught.value.hint


def test_a_mark_of_utf8_before_the_header_is_no_part_of_a_name(tmp_path: Path) -> None:
    data = load_data(csv(tmp_path, "y,x\n1,2\n3,4\n".encode("utf-8-sig")))
    assert data.dataset.label_names == ("1", "3")
