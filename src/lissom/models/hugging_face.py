"""Reader of Hugging Face datasets that were saved to disk: Arrow files and JSON, without their library."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissom.errors import DataError, near
from lissom.logs import log
from lissom.models.dataset import Dataset
from lissom.models.image_formats import Picture, images_of
from lissom.models.preparation import (
    PARTS,
    is_part,
    require_whole,
    with_names,
    with_normalization,
    with_parts,
)
from lissom.optional import require

_LABELS = ("label", "labels", "y")
_PART_OF_FILE = re.compile(rf".*?-?({'|'.join(PARTS)})(-\d+-of-\d+)?\.arrow", re.IGNORECASE)
_BESIDE_TOKENS = ("attention_mask", "token_type_ids", "special_tokens_mask")
"""What tokenizers write beside `input_ids`, and models that read 0 as padding do without."""


class Shard(NamedTuple):
    """The records of a file, and the part of the data set that it belongs to."""

    file: Path
    part: str
    table: Any


def dataset_from_hugging_face(
    path: Path, *, label: str | None = None, inputs: str | None = None, image_size: int | None = None
) -> Dataset:
    """Images, arrays and lists of one length are inputs; the column label, labels or y holds the labels.

    Signed integers in lists, such as `input_ids`, are tokens (int64). Beside `input_ids`, where 0 is padding,
    `attention_mask`, `token_type_ids` and `special_tokens_mask` are inputs only where they are asked for.
    Text and single numbers are skipped. A part in which every label is -1, as in the test part of GLUE, has
    none and is left out.

    Args:
        path: A folder written by `save_to_disk`, or one of the cache with `dataset_info.json`.
        label: Name of the label column.
        inputs: Names of the input columns, separated by commas; without it, all that can be inputs but
            the masks beside `input_ids`.
        image_size: Side in pixels to which every image is cropped at its centre and resized.

    Raises:
        DataError: naming the file and record that is cut or mislabelled, or the column that cannot be used.
        MissingExtra: pyarrow is not installed.
    """
    if image_size is not None:
        require_whole("image_size", image_size, minimum=1)
    folders = _folders(path)
    info = next(filter(None, (_json(folder / "dataset_info.json") for folder in folders)), {})
    shards = [Shard(file, part, _table(file)) for folder in folders for file, part in _arrow_files(folder)]
    shards = _labelled(shards, _label_column(path, label, shards[0].table.column_names))
    for shard in shards:
        _check_class_labels(shard.table, info, shard.file)
    parts = [shard.part for shard in shards for _ in range(shard.table.num_rows)]
    arrow = require("pyarrow", extra="data")
    try:
        table = arrow.concat_tables([shard.table for shard in shards])
    except arrow.ArrowException as exc:
        raise DataError(f"{path}: the files hold different columns: {exc}") from exc
    if not table.num_rows:
        raise DataError(f"{path} holds no records")
    name = _label_column(path, label, table.column_names)
    arrays = _inputs(path, table, name, inputs, image_size)
    labels, names = _labels(path, table, name, info) if name else (None, ())
    dataset = Dataset(arrays, labels, names)
    dataset = with_parts(dataset, parts) if labels is not None else dataset
    for column, array in arrays.items():
        if _is_image(table, column) and array.dtype == np.uint8:
            dataset = with_normalization(dataset, column)
    return dataset


def _folders(path: Path) -> list[Path]:
    """Folders with Arrow files: those of each part, or the folder itself."""
    if not (path / "dataset_dict.json").is_file():
        return [path]
    folders = [path / str(part) for part in _json(path / "dataset_dict.json").get("splits", [])]
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{path}/dataset_dict.json names {folder.name}, and there is no such folder")
    if not folders:
        raise DataError(f"{path}/dataset_dict.json names no splits")
    return folders


def _arrow_files(folder: Path) -> list[tuple[Path, str]]:
    """Files in order, each with the name of its part."""
    if (folder / "state.json").is_file():
        listed = _json(folder / "state.json").get("_data_files") or []
        files = [folder / str(entry["filename"]) for entry in listed]
    else:
        files = sorted(folder.glob("*.arrow"))
    for file in files:
        if not file.is_file():
            raise DataError(f"{folder}/state.json names {file.name}, and there is no such file")
    if not files:
        raise DataError(f"{folder} holds no .arrow files")
    found = [(file, _PART_OF_FILE.fullmatch(file.name)) for file in files]
    default = folder.name if is_part(folder.name) else "train"
    return [(file, match[1] if match else default) for file, match in found]


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as exc:
        raise DataError(f"{file} is no JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}, not an object")
    return content


def _table(file: Path) -> Any:
    """The records of one file, which is an Arrow stream."""
    arrow, ipc = require("pyarrow", extra="data"), require("pyarrow.ipc", extra="data")
    batches: list[Any] = []
    try:
        with file.open("rb") as opened, ipc.open_stream(opened) as stream:
            batches.extend(stream)
            table = arrow.Table.from_batches(batches, stream.schema)
    except (arrow.ArrowException, OSError, EOFError) as exc:
        count = sum(batch.num_rows for batch in batches)
        raise DataError(f"{file} is cut or damaged after record {count}: {exc}") from exc
    for index, field in enumerate(table.schema):
        if isinstance(field.type, arrow.BaseExtensionType):  # where the library itself has been imported
            chunks = [chunk.storage for chunk in table.column(index).chunks]
            column = arrow.chunked_array(chunks, field.type.storage_type)
            table = table.set_column(index, field.name, column)
    return table


def _label_column(path: Path, label: str | None, columns: list[str]) -> str | None:
    if label is None:
        return next((name for name in _LABELS if name in columns), None)
    label = str(label)  # an option is YAML: a column named 3 comes as a number
    if label not in columns:
        raise DataError(f"{path} has no label column {label!r}; its columns are {', '.join(columns)}")
    return label


def _labelled(shards: list[Shard], label: str | None) -> list[Shard]:
    """Without the parts in which every label is -1; all where no part has others."""
    parts: dict[tuple[Path, str], list[Shard]] = {}
    for shard in shards:
        parts.setdefault((shard.file.parent, shard.part), []).append(shard)
    hidden = [key for key, part in parts.items() if all(_is_hidden(shard.table, label) for shard in part)]
    if len(hidden) == len(parts):
        return shards
    for folder, part in hidden:
        log.warning("%s: the part %s is left out: every label of it is -1", folder, part)
    return [shard for shard in shards if (shard.file.parent, shard.part) not in hidden]


def _is_hidden(table: Any, label: str | None) -> bool:
    """Whether every label is -1, in the place of one that the publisher keeps."""
    if label not in table.column_names:
        return False
    compute, types = require("pyarrow.compute", extra="data"), require("pyarrow", extra="data").types
    column = table.column(label)
    if column.null_count or not (types.is_integer(column.type) or types.is_floating(column.type)):
        return False
    return bool(compute.all(compute.equal(column, -1)).as_py())


def _class_names(info: dict[str, Any], column: str) -> tuple[str, ...]:
    """Names of a column of the type ClassLabel, else nothing."""
    feature = (info.get("features") or {}).get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _check_class_labels(table: Any, info: dict[str, Any], file: Path) -> None:
    for column in table.column_names:
        if names := _class_names(info, column):
            values = table.column(column).to_pylist()
            for record, value in enumerate(values):
                if not isinstance(value, int) or not 0 <= value < len(names):
                    raise DataError(
                        f"{file}: record {record} has {column} {value}; there are {len(names)} names in"
                        " dataset_info.json"
                    )


def _labels(path: Path, table: Any, name: str, info: dict[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    values = _dense(path, table, name)
    names = _class_names(info, name)
    if names or values.dtype.kind == "f" or values.ndim > 1:
        return values, names
    return with_names(values)


def _inputs(
    path: Path, table: Any, label: str | None, wanted: str | None, image_size: int | None
) -> dict[str, np.ndarray]:
    usable = [
        name
        for name in table.column_names
        if name != label and (_is_image(table, name) or _is_list(table, name))
    ]
    names = [name.strip() for name in str(wanted).split(",")] if wanted else usable
    if not wanted and "input_ids" in usable:
        names = _without_masks(path, table, usable)
    found = ", ".join(f"{name} ({table.schema.field(name).type})" for name in table.column_names)
    for name in names:
        if name not in usable:
            raise DataError(f"{path}: column {name!r} cannot be an input; {near(name, usable)}")
    if not names:
        raise DataError(
            f"{path} has no column of images, arrays or lists of numbers; it has {found}",
            hint="text is turned into tokens first: dataset.map(tokenizer).save_to_disk(...)",
        )
    return {
        name: _images(path, table, name, image_size) if _is_image(table, name) else _dense(path, table, name)
        for name in names
    }


def _without_masks(path: Path, table: Any, usable: list[str]) -> list[str]:
    """The columns but for the masks beside `input_ids`, with a word where these hide what is not 0."""
    names = [name for name in usable if name not in _BESIDE_TOKENS]
    if left_out := [name for name in usable if name not in names]:
        log.info("%s: %s left out; ?inputs=%s takes all", path, ", ".join(left_out), ",".join(usable))
    if "attention_mask" in left_out:
        tokens, mask = _dense(path, table, "input_ids"), _dense(path, table, "attention_mask")
        hidden = tokens[mask == 0] if tokens.shape == mask.shape else tokens[:0]
        if hidden.any():
            padding = hidden[hidden != 0][0]
            log.warning("%s: attention_mask hides the token %d, but only 0 is padding", path, padding)
    return names


def _is_image(table: Any, name: str) -> bool:
    kind = table.schema.field(name).type
    types = require("pyarrow", extra="data").types
    return bool(types.is_struct(kind)) and {field.name for field in kind} == {"bytes", "path"}


def _is_list(table: Any, name: str) -> bool:
    types = require("pyarrow", extra="data").types
    kind = table.schema.field(name).type
    if not _is_any_list(kind):
        return False
    while _is_any_list(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _is_any_list(kind: Any) -> bool:
    types = require("pyarrow", extra="data").types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _images(path: Path, table: Any, name: str, image_size: int | None) -> np.ndarray:
    pictures = []
    for record, cell in enumerate(table.column(name).to_pylist()):
        title = f"{path}: {name} of record {record}"
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise DataError(f"{title} is missing")
        content = cell["bytes"]
        if content is None:
            file = path / cell["path"]
            if not file.is_file():
                raise DataError(f"{title} is the file {file}, which is not there")
            content = file.read_bytes()
        pictures.append(Picture(title, content))
    return images_of(pictures, image_size, str(path))


def _dense(path: Path, table: Any, name: str) -> np.ndarray:
    """A column of numbers, or of lists of one length, as an array; signed integers in lists become int64."""
    compute = require("pyarrow.compute", extra="data")
    column, shape = table.column(name).combine_chunks(), [table.num_rows]
    while True:
        if column.null_count:
            record = column.is_null().to_pylist().index(True) // max(1, int(np.prod(shape[1:])))
            raise DataError(f"{path}: {name} of record {record} is missing")
        if not _is_any_list(column.type):
            break
        lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
        other = np.flatnonzero(lengths != lengths[0])
        if len(other):
            record = other[0] // max(1, int(np.prod(shape[1:])))
            raise DataError(
                f"{path}: {name} differs in length: {lengths[0]} in record 0, {lengths[other[0]]} in record"
                f" {record}",
                hint="pad to one length before saving",
            )
        shape.append(int(lengths[0]))
        column = column.flatten()
    try:
        values: np.ndarray = column.to_numpy(zero_copy_only=False).reshape(shape)
    except ValueError as exc:
        raise DataError(f"{path}: column {name!r} ({column.type}) cannot be an array: {exc}") from exc
    if values.dtype.kind not in "iuf" and len(shape) > 1:
        raise DataError(f"{path}: column {name!r} holds {column.type}, not numbers")
    return values.astype(np.int64) if values.dtype.kind == "i" and len(shape) > 1 else values
