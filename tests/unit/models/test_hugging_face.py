"""Datasets as `save_to_disk` of Hugging Face datasets 5.2 writes them: Arrow streams beside JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lissom.errors import DataError
from lissom.models.data_sources import load_data

RNG = np.random.default_rng(0)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CAT_OR_DOG = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


def saved(folder: Path, table: pa.Table, features: dict[str, Any] | None = None, *, shards: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{index:05}-of-{shards:05}.arrow" for index in range(shards)]
    length = -(-table.num_rows // shards)
    for index, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(index * length, length), max_chunksize=5)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


def png(size: tuple[int, int] = (6, 4)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()


def images(count: int = 40, *, labels: list[Any] | None = None, content: bytes | None = None) -> pa.Table:
    cells = [{"bytes": png(), "path": None} for _ in range(count)]
    if content is not None:
        cells[7]["bytes"] = content
    labels = labels or [index % 2 for index in range(count)]
    return pa.table({"image": pa.array(cells, IMAGE), "label": pa.array(labels, pa.int64())})


def test_images_and_the_names_of_their_classes_are_read(tmp_path: Path) -> None:
    data = load_data(str(saved(tmp_path, images(), CAT_OR_DOG, shards=3)))
    assert data.dataset.inputs["image"].shape == (40, 3, 4, 6)
    assert data.dataset.label_names == ("cat", "dog")
    assert data.dataset.labels is not None
    assert data.dataset.labels.tolist() == [index % 2 for index in range(40)]
    assert data.tensors("train")["image"].mean(axis=(0, 2, 3)) == pytest.approx(0, abs=1e-4)


def test_parts_of_a_dict_are_kept(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    saved(tmp_path / "train", images(), CAT_OR_DOG)
    saved(tmp_path / "test", images(9), CAT_OR_DOG)
    data = load_data(f"{tmp_path}?image_size=4")
    assert len(data.indices["report"]) == 9
    assert data.dataset.inputs["image"].shape == (49, 3, 4, 4)


def test_files_of_the_cache_tell_their_part(tmp_path: Path) -> None:
    saved(tmp_path, images(), CAT_OR_DOG, shards=2)
    (tmp_path / "state.json").unlink()
    (tmp_path / "data-00000-of-00002.arrow").rename(tmp_path / "pets-train-00000-of-00001.arrow")
    (tmp_path / "data-00001-of-00002.arrow").rename(tmp_path / "pets-test.arrow")
    assert len(load_data(str(tmp_path)).indices["report"]) == 20


def test_tokens_stay_integers_and_text_is_skipped(tmp_path: Path) -> None:
    columns = {
        "text": ["some text"] * 40,
        "idx": range(40),
        "input_ids": pa.array([[index, 2, 3] for index in range(40)], pa.list_(pa.int32())),
        "attention_mask": pa.array([[1, 1, 0]] * 40, pa.list_(pa.int8())),
        "labels": [[index, 3, -100] for index in range(40)],
    }
    folder = saved(tmp_path, pa.table(columns), shards=3)
    data = load_data(str(folder))
    assert {spec.name: spec.dtype for spec in data.input_specs} == {"input_ids": "int64"}
    assert data.kind == "tokens"
    assert data.dataset.labels is not None
    assert data.dataset.labels[39].tolist() == [39, 3, -100]
    both = load_data(f"{folder}?inputs=attention_mask,input_ids").input_specs
    assert {spec.name: spec.dtype for spec in both} == {"attention_mask": "int64", "input_ids": "int64"}


@pytest.mark.parametrize(
    ("labels", "kind"), [([0.5] * 40, "values"), (["a", "b"] * 20, "classes"), ([3, 7] * 20, "classes")]
)
def test_arrays_are_features_and_the_label_column_says_its_kind(
    tmp_path: Path, labels: list[Any], kind: str
) -> None:
    array = RNG.random((40, 2, 3)).astype(np.float32)
    columns = {"x": pa.array(array.tolist(), pa.list_(pa.list_(pa.float32(), 3))), "target": labels}
    data = load_data(f"{saved(tmp_path, pa.table(columns))}?label=target")
    assert np.array_equal(data.dataset.inputs["x"], array)
    assert data.kind == kind


def test_without_a_label_column_every_sample_calibrates(tmp_path: Path) -> None:
    data = load_data(str(saved(tmp_path, pa.table({"x": [[1.0, 2.0]] * 5}))))
    assert len(data.indices["calibrate"]) == 5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (images(labels=[0, 1, 2] + [0] * 37), r"of-00001\.arrow: record 2 has label 2; there are 2 names"),
        (images(labels=[0, -1] + [0] * 38), r"of-00001\.arrow: record 1 has label -1"),
        (images(labels=[0, None] + [0] * 38), r"of-00001\.arrow: record 1 has label None"),
        (images(content=b"no image"), "image of record 7 cannot be read as an image"),
        (images(content=png((3, 3))), r"image of record 0 has 6x4 pixels, .* image of record 7 3x3"),
        (
            pa.table({"x": [[1], [1, 2]], "label": [0, 1]}),
            "x differs in length: 1 in record 0, 2 in record 1",
        ),
        (pa.table({"x": [[1], None], "label": [0, 1]}), "x of record 1 is missing"),
        (pa.table({"x": [[1, 2], [3, None]], "label": [0, 1]}), "x of record 1 is missing"),
        (pa.table({"text": ["a", "b"], "label": [0, 1]}), r"no column of images, arrays .* text \(string\)"),
        (pa.table({"x": [[1]], "label": [0]}).slice(0, 0), "holds no records"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_record(tmp_path: Path, table: pa.Table, message: str) -> None:
    features = CAT_OR_DOG if "image" in table.column_names else None
    with pytest.raises(DataError, match=message):
        load_data(str(saved(tmp_path, table, features)))


def test_a_file_that_is_cut_is_named_with_its_record(tmp_path: Path) -> None:
    file = saved(tmp_path, images(), CAT_OR_DOG) / "data-00000-of-00001.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"of-00001\.arrow is cut or damaged after record \d+"):
        load_data(str(tmp_path))
    for content in (b"", b"no arrow file"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="is cut or damaged after record 0"):
            load_data(str(tmp_path))
    file.unlink()
    with pytest.raises(DataError, match=r"state\.json names data-00000-of-00001\.arrow"):
        load_data(str(tmp_path))


def test_parts_and_json_that_are_wrong_are_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match="names train, and there is no such folder"):
        load_data(str(tmp_path))
    (tmp_path / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_dict\.json is no JSON"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("label=lable", "no label column 'lable'; its columns are image, label"),
        ("inputs=img", "column 'img'"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path: Path, query: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(f"{saved(tmp_path, images(), CAT_OR_DOG)}?{query}")


def tokens(folder: Path, labels: list[Any], *, padding: int = 0) -> Path:
    columns = {
        "input_ids": [[index + 1, 2, padding] for index in range(len(labels))],
        "token_type_ids": [[0, 0, 0]] * len(labels),
        "attention_mask": [[1, 1, 0]] * len(labels),
        "label": labels,
    }
    features = {"label": {"names": ["no", "yes"]}} if isinstance(labels[0], int) else {}
    return saved(folder, pa.table(columns), features, shards=2)


@pytest.mark.parametrize("kind", [int, float])
def test_a_part_whose_labels_are_hidden_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: type
) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "Validation", "test"]}')
    tokens(tmp_path / "train", [kind(index % 2) for index in range(40)])
    tokens(tmp_path / "Validation", [kind(index % 2) for index in range(10)])
    tokens(tmp_path / "test", [kind(-1)] * 8)
    data = load_data(str(tmp_path))
    assert len(data.dataset.inputs["input_ids"]) == 50
    assert len(data.indices["report"]) == 10
    assert "test: the part test is left out: every label of it is -1" in caplog.text


def test_data_of_hidden_labels_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 0 has label -1; there are 2 names"):
        load_data(str(tokens(tmp_path, [-1] * 8)))


def test_masks_beside_tokens_are_left_out_with_a_word_where_padding_is_not_0(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(load_data(str(tokens(tmp_path / "a", [0, 1] * 4))).dataset.inputs) == ["input_ids"]
    assert caplog.text == ""
    load_data(str(tokens(tmp_path / "b", [0, 1] * 4, padding=7)))
    assert "attention_mask hides the token 7, but only 0 is padding" in caplog.text
