"""Data: what is read, what is refused, and splits that hold still."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.small import blobs

from lissom.artifact import PreprocessingStep, TensorSpec
from lissom.errors import DataError
from lissom.models.data import Data, split_of
from lissom.models.data_sources import load_data
from lissom.models.dataset import SPLITS, Dataset, checked

IMAGES = np.random.default_rng(0).random((40, 1, 4, 4), dtype=np.float32)
LABELS = np.arange(40) % 4


def npz(folder: Path, **arrays: Any) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return str(path)


def members(data: Data) -> dict[str, str]:
    """The split of each sample, by its hash."""
    return {data.sample_hashes[i]: split for split, index in data.indices.items() for i in index}


@given(st.integers(0, 2**256 - 1))
def test_a_hash_falls_into_the_split_of_its_place(number: int) -> None:
    place = (number >> 192) / 2**64
    bounds = {"train": (0.0, 0.6), "calibrate": (0.6, 0.7), "select": (0.7, 0.85), "report": (0.85, 1.01)}
    low, high = bounds[split_of(f"{number:064x}")]
    assert low - 1e-9 <= place < high + 1e-9


def test_samples_are_cut_60_10_15_15() -> None:
    data = Data(
        "noise",
        Dataset({"x": np.arange(20_000, dtype=np.float32)[:, None]}, np.zeros(20_000, dtype=int), ("a",)),
    )
    shares = {split: len(index) / 20_000 for split, index in data.indices.items()}
    assert shares == pytest.approx(
        {"train": 0.60, "calibrate": 0.10, "select": 0.15, "report": 0.15}, abs=0.015
    )
    assert list(data.indices) == list(SPLITS)
    assert sorted(np.concatenate(list(data.indices.values())).tolist()) == list(range(20_000))
    assert data.overlap() == {}


def test_equal_samples_land_in_the_same_split() -> None:
    images = np.concatenate([IMAGES, IMAGES[::-1], IMAGES[:7]])
    data = Data("twice", Dataset({"x": images}, np.zeros(len(images), dtype=int), ("a",)))
    assert data.overlap() == {}
    names = np.empty(len(images), dtype=object)
    for split, index in data.indices.items():
        names[index] = split
    assert (names[:40] == names[40:80][::-1]).all()
    assert (names[:7] == names[80:]).all()


@given(st.integers(1, 39), st.permutations(range(40)))
def test_adding_samples_or_changing_their_order_moves_none(num_known: int, order: list[int]) -> None:
    dataset = Dataset({"x": IMAGES}, LABELS, tuple("abcd"))
    whole = members(Data("whole", dataset))
    part = Data("part", Dataset({"x": IMAGES[order][:num_known]}, LABELS[order][:num_known], tuple("abcd")))
    assert all(whole[digest] == split for digest, split in members(part).items())


def test_labels_and_preprocessing_do_not_decide_the_split_but_its_hash() -> None:
    plain = Data("a", Dataset({"x": IMAGES}, LABELS, tuple("abcd")))
    other = Data("a", Dataset({"x": IMAGES}, LABELS[::-1], tuple("abcd")))
    step = PreprocessingStep(input="x", mean=(0.5,), std=(2.0,))
    scaled = Data("a", Dataset({"x": IMAGES}, LABELS, tuple("abcd"), (step,)))
    assert members(plain) == members(other) == members(scaled)
    assert len({found.split_hashes["train"] for found in (plain, other, scaled)}) == 3
    assert Data("b", plain.dataset).split_hashes == plain.split_hashes


def test_every_input_dtype_and_shape_decides_the_hash_of_a_sample() -> None:
    two = Data("a", Dataset({"x": IMAGES, "w": IMAGES}))
    assert two.sample_hashes == Data("a", Dataset({"w": IMAGES, "x": IMAGES})).sample_hashes
    kinds = [
        {"x": IMAGES},
        {"x": IMAGES.astype(np.float64)},
        {"x": IMAGES.reshape(40, 16)},
        two.dataset.inputs,
    ]
    assert len({Data("a", Dataset(inputs)).sample_hashes[0] for inputs in kinds}) == 4


def test_a_split_that_is_given_is_kept_and_what_stands_in_two_is_counted(tmp_path: Path) -> None:
    split = np.array(["train"] * 20 + ["calibrate"] * 5 + ["select"] * 5 + ["report"] * 10)
    images = IMAGES.copy()
    images[30:33] = images[:3]
    data = load_data(npz(tmp_path, image=images, y=LABELS, split=split))
    assert {name: len(index) for name, index in data.indices.items()} == {
        "train": 20,
        "calibrate": 5,
        "select": 5,
        "report": 10,
    }
    assert data.overlap() == {"train/report": 3}
    assert np.array_equal(data.raw("select")["image"], images[25:30])


def test_an_npz_has_an_array_for_each_input(tmp_path: Path) -> None:
    data = load_data(npz(tmp_path, image=IMAGES, y=LABELS + 5, weight=np.ones((40, 2))))
    assert data.input_specs == (
        TensorSpec(name="image", dtype="float32", shape=("batch", 1, 4, 4)),
        TensorSpec(name="weight", dtype="float32", shape=("batch", 2)),
    )
    assert data.dataset.label_names == ("5", "6", "7", "8")
    assert data.num_classes == 4
    assert data.labels("train").dtype == np.int64
    assert set(data.labels("train").tolist()) <= {0, 1, 2, 3}
    tensors = data.tensors("train")
    assert {array.dtype.name for array in tensors.values()} == {"float32"}
    assert data.tensors("train") is tensors


def test_words_are_labels_in_alphabetical_order(tmp_path: Path) -> None:
    words = np.array(["owl", "cat", "dog", "cat"] * 10)
    data = load_data(npz(tmp_path, image=IMAGES, y=words))
    assert data.dataset.label_names == ("cat", "dog", "owl")
    labels = np.concatenate([data.labels(split) for split in SPLITS])
    index = np.concatenate(list(data.indices.values()))
    assert [data.dataset.label_names[label] for label in labels] == words[index].tolist()


def test_without_labels_every_sample_calibrates(tmp_path: Path) -> None:
    data = load_data(npz(tmp_path, image=IMAGES))
    assert {split: len(index) for split, index in data.indices.items()} == {
        "train": 0,
        "calibrate": 40,
        "select": 0,
        "report": 0,
    }
    assert data.num_classes == 0
    with pytest.raises(DataError, match=r"has no labels; an \.npz holds them under the name y"):
        data.labels("calibrate")
    with pytest.raises(DataError, match="the select split is empty") as caught:
        data.tensors("select")
    assert "every sample is calibration data" in caught.value.hint


def test_preprocessing_is_applied_to_tensors_and_not_to_raw_samples() -> None:
    data = load_data("digits")
    assert data.raw("train")["image"].max() == 16
    assert data.tensors("train")["image"].max() == 1
    assert len(data.dataset.inputs["image"]) == 1797


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": IMAGES, "y": LABELS[:-1]}, "arrays differ in length: image 40, y 39"),
        ({"image": IMAGES[:0], "y": LABELS[:0]}, "holds no samples"),
        ({"y": LABELS}, "holds no samples"),
        ({"image": IMAGES, "y": LABELS[:, None]}, r"labels of shape \(40, 1\) could be classes or tokens"),
        ({"image": IMAGES, "y": np.where(LABELS == 3, np.nan, 1.0)}, "label of sample 3 is NaN or infinity"),
        (
            {"image": IMAGES, "y": np.full((40, 6), -7)},
            "token label of sample 0 is negative; only -100 may be",
        ),
        (
            {"image": IMAGES, "y": LABELS, "split": np.array(["tran"] * 40)},
            "unknown split 'tran'; known: train",
        ),
        ({"image": IMAGES, "y": LABELS, "group": np.arange(3)}, "arrays differ in length"),
        ({"image": np.array([{}] * 40, dtype=object), "y": LABELS}, "cannot be read as .npz"),
        ({"image": IMAGES, "y": np.array([{}] * 40, dtype=object)}, "cannot be read as .npz"),
        ({"image": IMAGES, "y": np.array(3)}, "y"),
        ({"image": IMAGES, "gain": np.array(3.0), "y": LABELS}, "gain"),
    ],
)
def test_arrays_that_do_not_hold_together_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(npz(tmp_path, **arrays))


def test_words_cannot_be_an_input(tmp_path: Path) -> None:
    path = npz(tmp_path, image=IMAGES, title=np.array(["one"] * 40), y=LABELS)
    with pytest.raises(DataError, match="title"):
        load_data(path).tensors("train")


def test_a_sample_that_is_not_a_number_is_refused_where_it_stands() -> None:
    images = IMAGES.copy()
    images[5, 0, 0, 0] = np.nan
    images[9, 0, 3, 3] = np.inf
    split = np.array(["train"] * 4 + ["select"] * 36)
    data = Data("spoiled", Dataset({"x": images}, LABELS, tuple("abcd"), split=split))
    assert len(data.tensors("train")["x"]) == 4
    with pytest.raises(DataError, match=r"input 'x' of sample 5 \(select split\) holds NaN or infinity"):
        data.tensors("select")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 damaged"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_data(str(path))


def test_one_array_under_the_name_of_many_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", IMAGES)
    path = (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_data(str(path))


def test_a_damaged_npz_is_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, image=IMAGES[:8], y=LABELS[:8])
    whole = path.read_bytes()
    wrong = []
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            load_data(str(path))
        except DataError:
            pass
        except Exception as exc:
            wrong.append(f"byte {place}: {type(exc).__name__}: {exc}")
    assert wrong == []


def test_data_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at"):
        load_data(str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match=r"unknown data 'digit'; did you mean digits\?"):
        load_data("digit")
    with pytest.raises(DataError, match="no data at") as caught:
        load_data(str(tmp_path / "photos/"))
    assert "known folders: one subfolder of images a class" in caught.value.hint


def test_data_come_from_a_function_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "from lissom import Dataset\n"
        "def data():\n"
        "    return Dataset({'x': np.ones((6, 2))}, np.array([0, 1] * 3), ('no', 'yes'))\n"
        "def wrong():\n"
        "    return [1, 2]\n"
    )
    assert load_data(f"{path}:data").dataset.label_names == ("no", "yes")
    with pytest.raises(DataError, match=r"gave a list, not a lissom\.Dataset"):
        load_data(f"{path}:wrong")
    with pytest.raises(DataError, match="has no 'date'"):
        load_data(f"{path}:date")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (LABELS, ("a", "b", "c"), "labels lie between 0 and 3, with 3 names"),
        (LABELS - 1, ("a", "b", "c", "d"), "labels lie between -1 and 2"),
        (LABELS.astype(np.float32), ("a", "b", "c", "d"), "1 columns of values, with 4 names"),
        (np.ones((40, 3)), ("a", "b"), "3 columns of values, with 2 names"),
        (np.ones((40, 3), int), ("a",), "token labels reach 1, with 1 names"),
        (np.ones((40, 3, 2), int), (), "labels are integers of shape"),
        (LABELS.astype(str), ("a", "b"), "labels are integers"),
    ],
)
def test_labels_that_have_no_name_are_refused(
    labels: np.ndarray, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        checked(Dataset({"x": IMAGES}, labels, names), "mine")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 8, 6, 3), (40, 28, 28, 1)])
def test_images_with_their_channels_last_are_refused(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(DataError, match=r"input 'x' of shape .* looks like images with") as caught:
        checked(Dataset({"x": np.ones(shape, dtype)}, LABELS, tuple("abcd")), "mine")
    assert caught.value.hint == "x.transpose(0, 3, 1, 2)"


@pytest.mark.parametrize("shape", [(40, 3, 8, 3), (40, 1, 8, 1), (40, 4, 9, 3), (40, 16, 1, 1), (40, 8, 3)])
def test_other_shapes_are_not_taken_for_channels_last(shape: tuple[int, ...]) -> None:
    assert checked(Dataset({"x": np.ones(shape)}), "mine").inputs["x"].shape == shape


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_negative_tokens_are_named_with_their_sample(dtype: type) -> None:
    tokens: np.ndarray = np.ones((40, 5), dtype)
    tokens[7, 2] = -100
    with pytest.raises(DataError, match=r"token ids must be >= 0; input 'x' .* holds -100 in sample 7"):
        checked(Dataset({"x": tokens}, LABELS, tuple("abcd")), "mine")
    assert checked(Dataset({"x": tokens.astype(np.float32)}), "mine").labels is None


@pytest.mark.parametrize("names", [(), tuple("abcd")])
def test_one_hot_labels_are_no_tokens(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"labels of shape \(40, 4\) are one-hot") as caught:
        checked(Dataset({"x": IMAGES}, np.eye(4, dtype=int)[LABELS], names), "mine")
    assert caught.value.hint.endswith("y.argmax(axis=1)")
    tokens = np.eye(4, dtype=int)[LABELS]
    tokens[0] = [1, 1, 0, 0]
    assert Data("mine", checked(Dataset({"x": IMAGES}, tokens, names), "mine")).kind == "tokens"


@pytest.mark.parametrize("split", [None, np.array(["train"] * 30 + ["report"] * 10)])
def test_classes_named_by_numbers_become_values_and_come_back(split: np.ndarray | None) -> None:
    names = ("-3", "0", "10", "250")
    data = Data("mine", Dataset({"x": IMAGES}, LABELS, names, split=split))
    values = data.with_values()
    assert (values.kind, values.num_classes, values.source) == ("values", 0, "mine")
    assert values.labels("train").tolist() == [float(names[i]) for i in data.labels("train")]
    classes = values.with_classes()
    assert classes.split_hashes == data.split_hashes
    assert classes.dataset.label_names == names
    for one in (values, classes):
        assert all(np.array_equal(one.indices[name], index) for name, index in data.indices.items())
    assert values.with_values() is values
    assert data.with_classes() is data


@pytest.mark.parametrize(
    ("labels", "names", "verb", "message"),
    [
        (LABELS, ("1", "2", "cat", "4"), "with_values", "the class 'cat' is no number"),
        (LABELS, ("1", "2", "nan", "4"), "with_values", "the class 'nan' is no number"),
        (LABELS, ("1", "2", "1_000", "4"), "with_values", "the class '1_000' is no number"),
        (LABELS / 4, (), "with_classes", "the label of sample 1 is 0.25; classes are whole numbers"),
        (np.ones((40, 2)), (), "with_classes", r"of shape \(40, 2\) are values, and cannot be classes"),
        (np.full((40, 2), 5), (), "with_values", r"of shape \(40, 2\) are tokens, and cannot be values"),
        (None, (), "with_values", "has no labels"),
        (None, (), "with_classes", "has no labels"),
    ],
)
def test_labels_that_cannot_change_their_kind_are_named(
    labels: np.ndarray | None, names: tuple[str, ...], verb: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        getattr(Data("mine", Dataset({"x": IMAGES}, labels, names)), verb)()


@pytest.mark.parametrize("field", ["inputs", "labels", "split"])
def test_lists_in_the_place_of_arrays_are_taken_or_refused_but_never_misread(field: str) -> None:
    split = np.array(["train"] * 20 + ["select"] * 20)
    fields: dict[str, Any] = {"inputs": {"x": IMAGES}, "labels": LABELS, "split": split}
    wanted = Data("mine", checked(Dataset(label_names=tuple("abcd"), **fields), "mine"))
    fields[field] = {"x": IMAGES.tolist()} if field == "inputs" else fields[field].tolist()
    try:
        found = Data("mine", checked(Dataset(label_names=tuple("abcd"), **fields), "mine"))
    except DataError:  # said before any work is done
        found = wanted
    assert len(found.tensors("select")["x"]) == 20
    assert np.array_equal(found.labels("train"), wanted.labels("train"))


def test_the_data_of_the_tests_have_every_split() -> None:
    assert min(len(index) for index in blobs().indices.values()) >= 8


def test_indices_stay_integers_and_every_other_number_becomes_float32() -> None:
    kinds = (np.int32, np.int64, np.uint8, np.int8, np.int16, np.float16, np.float64, np.bool_)
    inputs = {np.dtype(kind).name: np.ones((40, 3), kind) for kind in kinds}
    data = Data("mine", checked(Dataset(inputs, LABELS, tuple("abcd")), "mine"))
    wanted = {name: "int64" if name in ("int32", "int64") else "float32" for name in inputs}
    assert {spec.name: spec.dtype for spec in data.input_specs} == wanted
    assert {name: array.dtype.name for name, array in data.tensors("train").items()} == wanted


def test_the_labels_say_what_they_are(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 50, (40, 5))
    tokens[:, 0] = -100
    kinds: dict[str, Any] = {
        "classes": {"y": LABELS},
        "values": {"y": np.linspace(0, 1, 40)},
        "tokens": {"y": tokens},
        "none": {},
    }
    found = {kind: load_data(npz(tmp_path, x=IMAGES, **arrays)) for kind, arrays in kinds.items()}
    assert [data.kind for data in found.values()] == list(kinds)
    assert found["values"].labels("train").dtype == np.float32
    assert found["tokens"].labels("train").dtype == np.int64
    assert found["tokens"].labels("train").shape[1] == 5
    assert found["values"].num_classes == found["tokens"].num_classes == 0


def test_several_values_a_sample_may_have_names() -> None:
    dataset = checked(Dataset({"x": IMAGES}, np.ones((40, 2)), ("width", "height")), "mine")
    assert Data("mine", dataset).labels("train").shape[1] == 2


def test_every_token_label_decides_the_hash_of_its_split() -> None:
    tokens = np.zeros((40, 2000), dtype=np.int64)
    changed = tokens.copy()
    changed[:, 1000] = 1
    one, other = (Data("a", Dataset({"x": IMAGES}, labels)) for labels in (tokens, changed))
    assert one.split_hashes["train"] != other.split_hashes["train"]


def test_a_class_without_samples_in_a_split_is_named() -> None:
    split = np.array(["train"] * 20 + ["select"] * 10 + ["report"] * 10)
    labels = LABELS.copy()
    labels[20:30] = 0
    data = Data("mine", Dataset({"x": IMAGES}, labels, ("ant", "bee", "cat", "dog"), split=split))
    data.check_classes(["train", "report"])
    message = r"mine: the select split \(10 samples\) has no sample of class 'bee', 'cat', 'dog'"
    with pytest.raises(DataError, match=message) as caught:
        data.check_classes(["train", "select"])
    assert caught.value.hint == "give the select split samples of class 'bee', 'cat', 'dog'"


def test_a_class_that_a_cut_by_hash_leaves_out_needs_more_samples() -> None:
    data = Data(
        "mine", Dataset({"x": IMAGES}, LABELS, ("ant", "bee", "cat", "dog", "eel", "fly", "gnu", "hen"))
    )
    with pytest.raises(DataError, match=r"class 'eel', 'fly', 'gnu' and 1 more$") as caught:
        data.check_classes(["train"])
    assert caught.value.hint == "give more samples"


def test_a_split_without_a_class_can_be_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    split = np.repeat(["train", "select", "report", "calibrate"], 10)
    labels = LABELS.copy()
    labels[20:30] = 1
    data = Data("mine", Dataset({"x": IMAGES}, labels, ("ant", "bee", "cat", "dog"), split=split))
    data.warn_of_missing_classes(["select", "report"])
    assert caplog.messages == [
        "mine: the report split (10 samples) has no sample of class 'ant', 'cat', 'dog'; what is measured"
        " there says nothing about it"
    ]


def test_labels_that_are_no_classes_miss_none() -> None:
    data = Data("mine", Dataset({"x": IMAGES}, np.zeros(40)))
    data.check_classes(SPLITS)
    assert data.kind == "values"


@pytest.mark.parametrize(
    ("steps", "message"),
    [("tokens", "holds indices"), ("pixels", "preprocessing of unknown input 'pixels'")],
)
def test_preprocessing_that_cannot_be_applied_is_refused(steps: str, message: str) -> None:
    step = PreprocessingStep(input=steps, mean=(0.0,), std=(1.0,))
    dataset = Dataset({"tokens": np.ones((40, 3), int)}, LABELS, tuple("abcd"), (step,))
    with pytest.raises(DataError, match=message):
        checked(dataset, "mine")


FACTORY = """
import numpy as np
from lissom import Dataset
seen = []
def data(size=2, *, name="a", share=0.5):
    seen.append((size, name, share))
    return Dataset({"x": np.ones((6, size))})
def plain():
    return Dataset({"x": np.ones((6, 2))})
def free(**options):
    return Dataset({"x": np.ones((6, options["size"]))})
def needy(size):
    return Dataset({"x": np.ones((6, size))})
"""


@pytest.fixture
def factories(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    return str(path)


def test_options_follow_a_question_mark_and_are_yaml(factories: str) -> None:
    data = load_data(f"{factories}:data?size=3&name=two%26three&share=1e-1")
    assert data.source.endswith(":data?size=3&name=two%26three&share=1e-1")
    assert data.raw("calibrate")["x"].shape == (6, 3)
    assert load_data(f"{factories}:free?size=5").raw("calibrate")["x"].shape == (6, 5)


@pytest.mark.parametrize(
    ("query", "message", "hint"),
    [
        ("data?sise=3", r"unknown option 'sise'; did you mean size\?", "options: size, name, share"),
        ("plain?size=3", "unknown option 'size'; these data have none", "mine.py:plain"),
        ("needy", "missing a required argument: 'size'", r"source\?key=value"),
        ("data?size", "'size' is not an option", r"source\?key=value&key=value"),
        ("data?size=1&size=2", "given twice", r"source\?key=value&key=value"),
        ("data?size=[", "no YAML", ""),
    ],
)
def test_options_that_are_not_known_are_refused(factories: str, query: str, message: str, hint: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(f"{factories}:{query}")
    assert re.search(hint, caught.value.hint)


def test_built_in_data_refuse_what_is_not_theirs() -> None:
    with pytest.raises(DataError, match=r"digits.*unknown option 'samples'; these data have none"):
        load_data("digits?samples=3")
