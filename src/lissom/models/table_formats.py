"""Readers of tables: CSV and Parquet, through pyarrow. Columns of numbers become one input, `features`."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lissom.errors import DataError, near_files
from lissom.models.dataset import Dataset
from lissom.models.preparation import with_names
from lissom.optional import require


def dataset_from_table(path: Path, *, label: str = "y", standardize: bool = True) -> Dataset:
    """Every column but those of label, split and group is a feature: float32 [rows, columns].

    Labels that are integers or text are classes, floats are values to be predicted. Rows are counted from
    1, without the header.

    Args:
        path: A `.csv` file (UTF-8, a header; commas, semicolons or tabs between cells) or a `.parquet` file.
        label: Name of the label column.
        standardize: Whether a model trained from scratch gets columns of mean 0 and deviation 1.

    Raises:
        DataError: naming the row and column of a cell that is missing or no number, or the line that is no
            UTF-8.
        MissingExtra: pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(f"no data at {path}", hint=near_files(path))
    columns = _csv_columns(path) if path.suffix.lower() == ".csv" else _parquet_columns(path)
    label = str(label).strip()  # an option is YAML: a column named 3 comes as a number
    if label not in columns:
        raise DataError(
            f"{path} has no label column {label!r}; its columns are {', '.join(columns)}",
            hint=f"{path}?label={_near_column(label, columns)}",
        )
    reserved = {name: columns.pop(name) for name in (label, "split", "group") if name in columns}
    if not columns:
        raise DataError(f"{path} has no column beside the label {label!r}")
    features = np.stack([_numbers(path, name, cells) for name, cells in columns.items()], axis=1)
    _check_missing(path, reserved)
    labels, names = _labels(path, label, reserved[label])
    others = {name: np.array([str(cell) for cell in reserved[name]]) for name in reserved if name != label}
    return Dataset(
        {"features": features},
        labels,
        names,
        split=others.get("split"),
        group=others.get("group"),
        standardize=standardize,
    )


def _near_column(label: str, columns: Iterable[str]) -> str:
    """The column that was probably meant: the nearest name, else the last, where labels often stand."""
    names = list(columns)
    return next(iter(difflib.get_close_matches(label, names, n=1)), names[-1])


def _csv_columns(path: Path) -> dict[str, list[Any]]:
    """Cells by column: numbers where all are, else text without outer blanks; None where empty."""
    reader, arrow = require("pyarrow.csv", extra="data"), require("pyarrow", extra="data")
    content = path.read_bytes()
    try:
        delimiter, names = _header(_text(path, content))
        _check_names(path, [name.strip() for name in names])
        # Text throughout: types guessed from the first block would fail without naming the row of a bad cell.
        table = reader.read_csv(
            arrow.BufferReader(content),
            reader.ReadOptions(use_threads=False),
            reader.ParseOptions(delimiter=delimiter),
            reader.ConvertOptions(column_types=dict.fromkeys(names, arrow.string())),
        )
    except (arrow.ArrowException, csv.Error) as exc:
        raise DataError(f"{path} cannot be read as CSV: {exc}") from exc
    texts = {name.strip(): table.column(name).to_pylist() for name in names}
    return {name: _parsed([cell.strip() or None for cell in cells]) for name, cells in texts.items()}


def _text(path: Path, content: bytes) -> str:
    """The content of a file in UTF-8, without the mark that may stand before it."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        found = f"line {line} holds the byte 0x{content[exc.start]:02x}, which is no UTF-8"
        encoding = "ISO-8859-1"
    else:
        if "\0" not in text[:1000]:
            return text
        found = "it holds zero bytes, which text in UTF-8 does not"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:1000]:
        found, encoding = f"it seems to be UTF-16: {found}", "UTF-16"
    raise DataError(
        f"{path} cannot be read as CSV: {found}",
        hint=f"save it as UTF-8: iconv -f {encoding} -t UTF-8 {path.name} > utf8.csv",
    )


def _header(text: str) -> tuple[str, list[str]]:
    """What stands between the cells, and the names of the columns: the reading with the most of them."""
    file = io.StringIO(text, newline="")
    readings = []
    for delimiter in ",;\t":
        file.seek(0)
        readings.append((delimiter, next(csv.reader(file, delimiter=delimiter), [])))
    return max(readings, key=lambda reading: len(reading[1]))


def _parsed(cells: list[str | None]) -> list[Any]:
    """The cells as integers, else as floats, when all that are there can be read so, else as they are."""
    if any("_" in cell for cell in cells if cell):  # Python reads 1_000 as a number, tables do not
        return cells
    for read in (int, float):
        try:
            return [None if cell is None else read(cell) for cell in cells]
        except ValueError:
            continue
    return cells


def _parquet_columns(path: Path) -> dict[str, list[Any]]:
    """Cells by column; a missing cell is None."""
    parquet, arrow = require("pyarrow.parquet", extra="data"), require("pyarrow", extra="data")
    try:
        # One file: pyarrow would read partitions from the names of the folders above.
        table = parquet.ParquetFile(path).read()
    except (arrow.ArrowException, OSError) as exc:
        raise DataError(f"{path} cannot be read as Parquet: {exc}") from exc
    names = [name.strip() for name in table.column_names]
    _check_names(path, names)
    return {name: column.to_pylist() for name, column in zip(names, table.columns, strict=True)}


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}")


def _check_missing(path: Path, columns: dict[str, list[Any]]) -> None:
    for name, cells in columns.items():
        if None in cells:
            raise DataError(f"{path}: row {cells.index(None) + 1} has nothing in column {name!r}")


def _numbers(path: Path, name: str, cells: list[Any]) -> np.ndarray:
    """A column as float32, refused at the first cell that is missing or no finite number."""
    _check_missing(path, {name: cells})
    if all(type(cell) in (int, float) for cell in cells):
        with np.errstate(over="ignore"):
            numbers = np.array(cells, dtype=np.float64).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if not len(bad):
            return numbers
        row = int(bad[0])
    else:
        row = next((row for row, cell in enumerate(cells) if not _reads_as_number(cell)), 0)
    raise DataError(
        f"{path}: row {row + 1} has {cells[row]!r} in column {name!r}, which is no finite number",
        hint="features are numbers: encode text and truth values as numbers, fill or drop missing cells",
    )


def _reads_as_number(cell: object) -> bool:
    if not isinstance(cell, str):
        return type(cell) in (int, float)
    try:
        return bool(np.isfinite(float(cell))) and "_" not in cell
    except ValueError:
        return False


def _labels(path: Path, name: str, cells: list[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes when the cells are integers or text, values when they are floats."""
    if any(isinstance(cell, float) for cell in cells):
        return _numbers(path, name, cells), ()
    if all(isinstance(cell, int | str) for cell in cells):
        return with_names(np.array(cells))
    odd = next(cell for cell in cells if not isinstance(cell, int | str))
    raise DataError(
        f"{path}: column {name!r} holds {type(odd).__name__}; labels are integers, text or floats"
    )
