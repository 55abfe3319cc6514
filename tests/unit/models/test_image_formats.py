"""Images in real formats, written byte by byte: what is read, and how what is wrong is named."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lissom.errors import DataError
from lissom.models.data_sources import load_data

RNG = np.random.default_rng(0)


def picture(path: Path, *, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """An image file of random pixels; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def idx(array: np.ndarray, *, magic: int | None = None) -> bytes:
    """An IDX file of unsigned bytes."""
    header = struct.pack(f">{array.ndim + 1}I", magic or 0x800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist(folder: Path, *, num_train: int = 60, packed: bool = False) -> Path:
    suffix, pack = (".gz", gzip.compress) if packed else ("", bytes)
    for part, count in {"train": num_train, "t10k": 20}.items():
        images = RNG.integers(0, 256, (count, 4, 5), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.arange(count) % 10)))
    return folder


def cifar(folder: Path, *, classes: int = 10) -> Path:
    files = ("data_batch_1", "data_batch_2", "test_batch") if classes == 10 else ("train", "test")
    for name in files:
        records = RNG.integers(0, 256, (40, 3072 + (1 if classes == 10 else 2)), dtype=np.uint8)
        records[:, -3073] = np.arange(40) % classes
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def test_a_subfolder_is_a_class(tmp_path: Path) -> None:
    for index in range(30):
        suffix = ("png", "bmp", "gif")[index % 3]
        picture(tmp_path / ("cat", "dog")[index % 2] / f"{index}.{suffix}")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"left behind")
    (tmp_path / "dog" / "Thumbs.db").write_bytes(b"left behind")
    data = load_data(str(tmp_path))
    assert data.dataset.inputs["image"].shape == (30, 3, 8, 8)
    assert data.dataset.inputs["image"].dtype == np.uint8
    assert data.dataset.label_names == ("cat", "dog")
    assert data.dataset.labels is not None
    assert np.bincount(data.dataset.labels).tolist() == [15, 15]
    assert data.tensors("train")["image"].mean(axis=(0, 2, 3)) == pytest.approx(0, abs=1e-4)
    assert data.tensors("train")["image"].std(axis=(0, 2, 3)) == pytest.approx(1, abs=1e-4)


def test_grey_images_keep_one_channel_unless_others_have_colour(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / "a" / f"{index}.png", mode="L")
    assert load_data(str(tmp_path)).dataset.inputs["image"].shape == (4, 1, 8, 8)
    picture(tmp_path / "b" / "0.png")
    assert load_data(str(tmp_path)).dataset.inputs["image"].shape == (5, 3, 8, 8)


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    image = load_data(str(tmp_path)).dataset.inputs["image"]
    assert np.array_equal(image[0], pixels.transpose(2, 0, 1))


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (16, 8)).save(tmp_path / "a" / "0.jpg", exif=exif)
    assert load_data(str(tmp_path)).dataset.inputs["image"].shape == (1, 3, 16, 8)


def test_images_of_different_sizes_need_one_size(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png", size=(8, 8))
    picture(tmp_path / "a" / "1.png", size=(12, 6))
    with pytest.raises(DataError, match=r"differ in size: .*0\.png has 8x8 pixels, .*1\.png 12x6") as caught:
        load_data(str(tmp_path))
    assert caught.value.hint == f"give one size to all: {tmp_path}?image_size=6"
    assert load_data(f"{tmp_path}?image_size=6").dataset.inputs["image"].shape == (2, 3, 6, 6)


def test_resizing_crops_at_the_centre(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    image = Image.new("L", (30, 10), 0)
    image.paste(200, (10, 0, 20, 10))
    image.save(tmp_path / "a" / "0.png")
    assert (load_data(f"{tmp_path}/?image_size=5").dataset.inputs["image"] == 200).all()


@pytest.mark.parametrize("query", ["image_size=0", "image_size=big", "image_sise=4"])
def test_options_of_an_image_folder_are_checked(tmp_path: Path, query: str) -> None:
    picture(tmp_path / "a" / "0.png")
    with pytest.raises(DataError, match="image_size"):
        load_data(f"{tmp_path}?{query}")


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        (["train", "test"], {"report"}),
        (["train", "val"], {"report"}),
        (["train", "val", "test"], {"select", "report"}),
    ],
)
def test_parts_that_are_published_are_kept(tmp_path: Path, parts: list[str], wanted: set[str]) -> None:
    for part in parts:
        for index in range(60 if part == "train" else 10):
            picture(tmp_path / part / ("cat", "dog")[index % 2] / f"{index}.png")
    data = load_data(str(tmp_path))
    sizes = {split: len(index) for split, index in data.indices.items()}
    assert {split for split in wanted if sizes[split] == 10} == wanted
    assert min(sizes.values()) > 0
    assert sum(sizes.values()) == 60 + 10 * len(wanted)
    assert sizes["train"] > 30
    assert data.dataset.label_names == ("cat", "dog")


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    picture(tmp_path / "test" / "0.png")
    picture(tmp_path / "exam" / "0.png")
    assert load_data(str(tmp_path)).dataset.label_names == ("exam", "test")


def cut_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()[:-700]


@pytest.mark.parametrize("content", [b"", b"no image at all", cut_png(), cut_png()[:20]])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "1.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a/1\.png cannot be read as an image: .") as caught:
        load_data(str(tmp_path))
    assert "BytesIO" not in str(caught.value)


def test_16_bits_of_grey_are_scaled_to_8(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pixels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(pixels).save(tmp_path / "a" / f"deep.{suffix}")
    image = load_data(str(tmp_path)).dataset.inputs["image"]
    assert image.shape == (2, 1, 1, 4)
    assert (image == [0, 1, 128, 255]).all()


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_more_than_16_bits_a_channel_are_refused(tmp_path: Path, dtype: type, mode: str) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.ones((4, 4), dtype=dtype)).save(tmp_path / "a" / "deep.tif")
    with pytest.raises(DataError, match=rf"deep\.tif has pixels of mode {mode};") as caught:
        load_data(str(tmp_path))
    assert "save them as uint8" in caught.value.hint


@pytest.mark.parametrize("parts", [("Training", "Testing"), ("TRAIN", "Valid"), ("train", "validation")])
def test_parts_are_known_in_any_case_and_by_their_other_names(tmp_path: Path, parts: tuple[str, str]) -> None:
    for part, count in zip(parts, (40, 10), strict=True):
        for index in range(count):
            picture(tmp_path / part / ("cat", "dog")[index % 2] / f"{index}.png")
    data = load_data(str(tmp_path))
    assert data.dataset.label_names == ("cat", "dog")
    assert len(data.indices["report"]) == 10


@pytest.mark.parametrize("odd", ["extra/cat/0.png", "bird/0.png", "annotations/0.xml"])
def test_a_folder_beside_the_parts_is_named_and_never_a_class(tmp_path: Path, odd: str) -> None:
    for part in ("train", "test"):
        picture(tmp_path / part / "cat" / "0.png")
    path = tmp_path / odd
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    name = odd.partition("/")[0]
    with pytest.raises(DataError, match=f"the folder {name} stands beside the parts test, train") as caught:
        load_data(str(tmp_path))
    assert "parts are called train, val and test" in caught.value.hint


def test_parts_without_one_for_training_are_no_classes(tmp_path: Path) -> None:
    for part in ("test", "val"):
        picture(tmp_path / part / "cat" / f"{part}.png")
    assert load_data(str(tmp_path)).dataset.label_names == ("cat",)


def test_a_part_without_class_folders_is_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(tmp_path / "train" / "cat" / "0.png")
    picture(tmp_path / "test" / "0.png")
    assert len(load_data(str(tmp_path)).dataset.inputs["image"]) == 1
    assert "test is left out: it has no subfolder for each class" in caplog.text


def test_a_part_for_training_without_class_folders_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "0.png")
    picture(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"train has no subfolder for each class, though .*test has"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    "left", [".ipynb_checkpoints/0.png", ".AppleDouble/0.png", "@eaDir/0.png/thumb.jpg", "a/.b/c/0.png"]
)
def test_what_programs_leave_behind_is_skipped(tmp_path: Path, left: str) -> None:
    picture(tmp_path / "cat" / "0.png")
    for place in (tmp_path / "cat" / left, *([] if left[0] == "a" else [tmp_path / left])):
        place.parent.mkdir(parents=True)
        place.write_bytes(b"left behind")
    data = load_data(str(tmp_path))
    assert data.dataset.label_names == ("cat",)
    assert len(data.dataset.inputs["image"]) == 1


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"the class folder .*b holds no images"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_read_with_its_test_part(tmp_path: Path, packed: bool) -> None:
    data = load_data(str(mnist(tmp_path, packed=packed)))
    assert data.dataset.inputs["image"].shape == (80, 1, 4, 5)
    assert data.dataset.label_names == tuple("0123456789")
    assert len(data.indices["report"]) == 20
    assert data.labels("report").tolist() == [index % 10 for index in range(20)]
    assert min(len(index) for index in data.indices.values()) > 0


def test_idx_files_may_have_any_name_that_pairs_them(tmp_path: Path) -> None:
    (tmp_path / "letters-images.idx3-ubyte").write_bytes(idx(np.ones((3, 2, 2))))
    (tmp_path / "letters-labels.idx1-ubyte").write_bytes(idx(np.array([5, 7, 5])))
    data = load_data(str(tmp_path))
    assert data.dataset.label_names == ("5", "7")
    assert data.dataset.split is None


def emnist(folder: Path, *sets: str) -> Path:
    for number, name in enumerate(sets):
        for part, count in {"train": 30, "test": 6}.items():
            images, labels = np.ones((count, 2, 2)) * number, np.arange(count) % 3 + number
            (folder / f"emnist-{name}-{part}-images-idx3-ubyte").write_bytes(idx(images))
            (folder / f"emnist-{name}-{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


@pytest.mark.parametrize("subset", ["letters", "emnist-letters"])
def test_one_of_several_idx_data_sets_is_read_by_its_name(tmp_path: Path, subset: str) -> None:
    data = load_data(f"{emnist(tmp_path, 'balanced', 'letters', 'digits')}?subset={subset}")
    assert data.dataset.label_names == ("1", "2", "3")
    assert len(data.dataset.inputs["image"]) == 36
    assert len(data.indices["report"]) == 6


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "holds the data sets emnist-balanced, emnist-letters$"),
        ("?subset=leters", "emnist-balanced, emnist-letters, and 'leters' names none of them"),
    ],
)
def test_several_idx_data_sets_are_never_joined(tmp_path: Path, query: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(f"{emnist(tmp_path, 'balanced', 'letters')}{query}")
    assert "?subset=balanced" in caught.value.hint


def test_one_idx_data_set_needs_no_name_and_refuses_a_wrong_one(tmp_path: Path) -> None:
    assert len(load_data(str(emnist(tmp_path, "letters"))).indices["report"]) == 6
    with pytest.raises(DataError, match="holds the data sets emnist-letters, and 'digits' names none"):
        load_data(f"{tmp_path}?subset=digits")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3", idx(np.ones((60, 4, 5)))[:-7], r"images-idx3-ubyte is cut in record 59 of 60"),
        ("images-idx3", idx(np.ones((60, 4, 5)))[:500], "is cut in record 24 of 60"),
        ("images-idx3", idx(np.ones((60, 4, 5))) + b"xx", "goes on after its 60 records, by 2 bytes"),
        ("images-idx3", idx(np.ones((60, 4, 5)))[:9], "is cut in its header: it has 9 of 16 bytes"),
        ("images-idx3", b"", "is cut in its header: it has 0 of 16 bytes"),
        ("images-idx3", idx(np.ones((0, 4, 5))), "holds no records: its sizes are 0, 4, 5"),
        ("images-idx3", idx(np.arange(60)), "begins with 0x00000801, not 0x00000803"),
        ("images-idx3", idx(np.ones((60, 4, 5)), magic=0xD03), "begins with 0x00000d03, not 0x00000803"),
        ("images-idx3", idx(np.ones((60, 5, 5))), "hold images of different sizes"),
        ("labels-idx1", idx(np.arange(59)), "has 60 records, train-labels-idx1-ubyte 59"),
        ("labels-idx1", idx(np.ones((60, 4, 5))), "begins with 0x00000803, not 0x00000801"),
        ("labels-idx1", idx(np.arange(60))[:-1], "labels-idx1-ubyte is cut in record 59 of 60"),
    ],
)
def test_a_wrong_idx_file_is_named_with_its_record(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (mnist(tmp_path) / f"train-{name}-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path))


def test_a_packed_idx_file_that_is_cut_or_no_gzip_is_named(tmp_path: Path) -> None:
    file = mnist(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is cut in record \d+ of 60"):
        load_data(str(tmp_path))
    file.write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be unpacked"):
        load_data(str(tmp_path))


def test_a_label_far_from_the_others_is_warned_of_with_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_data(str(mnist(tmp_path)))
    assert caplog.messages == []
    labels = np.arange(60) % 10
    labels[17] = 200
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    assert load_data(str(tmp_path)).num_classes == 11
    assert caplog.messages == [
        f"{tmp_path / 'train-labels-idx1-ubyte'}: record 17 has label 200, and none has a label between 9"
        " and that; every label is a class"
    ]


def test_an_idx_file_without_its_partner_is_named(tmp_path: Path) -> None:
    (mnist(tmp_path) / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte has no file of labels beside it"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(("classes", "num_train"), [(10, 80), (100, 40)])
def test_cifar_is_read_with_its_test_part(tmp_path: Path, classes: int, num_train: int) -> None:
    data = load_data(str(cifar(tmp_path, classes=classes)))
    image = data.dataset.inputs["image"]
    assert image.shape == (num_train + 40, 3, 32, 32)
    assert data.num_classes == classes
    assert len(data.indices["report"]) == 40
    assert data.labels("report").tolist() == [index % classes for index in range(40)]
    first = next(tmp_path.glob("*1.bin" if classes == 10 else "train.bin")).read_bytes()
    if classes == 10:
        assert image[0].tobytes() == first[1:3073]


def test_cifar_has_names_where_they_are_given(tmp_path: Path) -> None:
    (cifar(tmp_path) / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert load_data(str(tmp_path)).dataset.label_names == tuple("abcdefghij")
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt names 2 classes, not 10"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("classes", "name", "message"),
    [(10, "data_batch_2", "CIFAR-10 has 0 to 9"), (100, "test", "CIFAR-100 has 0 to 99")],
)
def test_a_wrong_cifar_file_is_named_with_its_record(
    tmp_path: Path, classes: int, name: str, message: str
) -> None:
    file = cifar(tmp_path, classes=classes) / f"{name}.bin"
    whole = bytearray(file.read_bytes())
    length = len(whole) // 40
    file.write_bytes(whole[: 7 * length + 100])
    with pytest.raises(DataError, match=rf"{name}\.bin is cut in record 7: it has 100 of {length} bytes"):
        load_data(str(tmp_path))
    whole[5 * length + length - 3073] = 255
    file.write_bytes(whole)
    with pytest.raises(DataError, match=rf"{name}\.bin: record 5 has label 255; {message}"):
        load_data(str(tmp_path))
    file.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{name}\.bin holds no records"):
        load_data(str(tmp_path))
