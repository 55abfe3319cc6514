"""Readers of images: a folder of files, CIFAR binary, and IDX. All give uint8 [samples, channels, H, W]."""

from __future__ import annotations

import gzip
import io
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lissom.errors import DataError
from lissom.logs import log
from lissom.models.dataset import Dataset
from lissom.models.preparation import is_part, require_whole, with_names, with_normalization, with_parts
from lissom.runtime.arrays import plain

if TYPE_CHECKING:
    from PIL import Image

_IGNORED = ("Thumbs.db", "desktop.ini", "@eaDir", "__MACOSX")  # what file managers leave behind
_GREY = ("1", "L", "LA")
_IDX_NAME = re.compile(r"(?P<part>.*?)(?P<what>images|labels)[-._](?P<kind>idx[13])-ubyte(\.gz)?")


class Picture(NamedTuple):
    """The bytes of an image file, and what to call it in a message."""

    name: str
    content: bytes


def dataset_from_image_folder(path: Path, *, image_size: int | None = None) -> Dataset:
    """Images in one subfolder a class, perhaps inside `train/` beside `test/` or `val/`; any Pillow format.

    16-bit grey is scaled from 0...65535 to 0...255. What begins with a dot is skipped.

    Args:
        path: The folder.
        image_size: Side in pixels to which every image is cropped at its centre and resized; without it,
            all must have one size.

    Raises:
        DataError: naming the file that is no image, is damaged, or differs in size, or the folder that
            is neither a part nor a class.
    """
    _check_image_size(image_size)
    parts = _part_folders(path)
    entries: list[tuple[str, str, Path]] = []
    for part in parts or [path]:
        for folder in _subfolders(part):
            files = [file for file in sorted(folder.rglob("*")) if _is_candidate(file, folder)]
            if not files:
                raise DataError(f"the class folder {folder} holds no images", hint="remove it, or fill it")
            entries += [(part.name if parts else "train", folder.name, file) for file in files]
    if not entries:
        raise DataError(f"{path} holds no class folders with images")
    pictures = [Picture(str(file), file.read_bytes()) for _, _, file in entries]
    labels, names = with_names(np.array([label for _, label, _ in entries]))
    images = images_of(pictures, image_size, str(path))
    return with_normalization(
        with_parts(Dataset({"image": images}, labels, names), [part for part, _, _ in entries]), "image"
    )


def _subfolders(path: Path) -> list[Path]:
    return [child for child in sorted(path.iterdir()) if child.is_dir() and not _is_ignored(child.name)]


def _is_ignored(name: str) -> bool:
    return name[0] == "." or name in _IGNORED


def _is_candidate(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(map(_is_ignored, file.relative_to(folder).parts))


def _part_folders(path: Path) -> list[Path]:
    """Parts with their class folders, or none where the folders are classes, one of which may be called test.

    Raises:
        DataError: a folder that is no part stands beside parts, or the part for training has no classes.
    """
    folders = _subfolders(path)
    parts = [folder for folder in folders if is_part(folder.name) and _subfolders(folder)]
    if not parts:
        return []
    for folder in folders:
        if not is_part(folder.name):
            raise DataError(
                f"{path}: the folder {folder.name} stands beside the parts"
                f" {', '.join(part.name for part in parts)}, and is no part",
                hint="parts are called train, val and test, and hold one subfolder a class; move others away",
            )
        if folder not in parts and folder.name.lower().startswith("train"):
            raise DataError(f"{folder} has no subfolder for each class, though {parts[0]} has")
        if folder not in parts:
            log.warning("%s is left out: it has no subfolder for each class", folder)
    return parts


def images_of(pictures: Sequence[Picture], image_size: int | None, source: str) -> np.ndarray:
    """Decoded images, uint8 [n, 3, H, W], or [n, 1, H, W] when all are grey.

    Raises:
        DataError: naming the file that is no image, is damaged, or differs in size.
    """
    arrays = [_decoded(picture, image_size) for picture in pictures]
    sizes = [array.shape[1:] for array in arrays]
    other = next((index for index, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        (h, w), (height, width) = sizes[0], sizes[other]
        raise DataError(
            f"images differ in size: {pictures[0].name} has {w}x{h} pixels, {pictures[other].name}"
            f" {width}x{height}",
            hint=f"give one size to all: {source}?image_size={min(h, w, height, width)}",
        )
    channels = max(len(array) for array in arrays)
    return np.stack([np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays])


def dataset_from_cifar(path: Path) -> Dataset:
    """CIFAR-10 or CIFAR-100, the binary version: one or two label bytes and 3,072 pixels a record.

    Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. CIFAR-100 gives the fine labels.

    Raises:
        DataError: naming the file and record that is cut or has an unknown label.
    """
    files = sorted(file for file in path.iterdir() if file.suffix == ".bin")
    is_ten = any("_batch" in file.name for file in files)
    num_classes, num_label_bytes = (10, 1) if is_ten else (100, 2)
    images, labels, parts = [], [], []
    for file in files:
        records = _cifar_records(file, num_label_bytes)
        column = records[:, num_label_bytes - 1]
        if len(wrong := np.flatnonzero(column >= num_classes)):
            raise DataError(
                f"{file}: record {wrong[0]} has label {column[wrong[0]]}; CIFAR-{num_classes} has 0 to"
                f" {num_classes - 1}"
            )
        images.append(records[:, num_label_bytes:].reshape(-1, 3, 32, 32))
        labels.append(column.astype(np.int64))
        parts += ["test" if file.name.startswith("test") else "train"] * len(records)
    names = _cifar_names(path / ("batches.meta.txt" if is_ten else "fine_label_names.txt"), num_classes)
    dataset = Dataset({"image": np.concatenate(images)}, np.concatenate(labels), names)
    return with_normalization(with_parts(dataset, parts), "image")


def dataset_from_idx(path: Path, *, subset: str | None = None) -> Dataset:
    """MNIST and its kin: pairs of IDX files of images and labels, perhaps packed by gzip.

    LeCun, Cortes and Burges, The MNIST database; a name that holds `t10k` or `test` is the test part.

    Args:
        path: The folder.
        subset: Which data set to read where there are several: `letters` for `emnist-letters-train-...`.

    Raises:
        DataError: naming the file, and the record where it is cut, or the partner that is missing, or the
            data sets of which one is to be named.
    """
    found = _idx_pairs(path, subset)
    images, labels, parts = [], [], []
    for part, pair in found.items():
        for what in {"images", "labels"} - set(pair):
            raise DataError(f"{path}: {next(iter(pair.values())).name} has no file of {what} beside it")
        images.append(_idx_array(pair["images"], 3))
        labels.append(_idx_array(pair["labels"], 1))
        if len(images[-1]) != len(labels[-1]):
            raise DataError(
                f"{pair['images']} has {len(images[-1])} records, {pair['labels'].name} {len(labels[-1])}"
            )
        parts += [part] * len(labels[-1])
    if len({array.shape[1:] for array in images}) > 1:
        raise DataError(f"{path}: the parts {', '.join(found)} hold images of different sizes")
    _warn_of_gap([pair["labels"] for pair in found.values()], labels)
    classes, names = with_names(np.concatenate(labels))
    dataset = Dataset({"image": np.concatenate(images)[:, None]}, classes, names)
    return with_normalization(with_parts(dataset, parts), "image")


def _warn_of_gap(files: Sequence[Path], labels: Sequence[np.ndarray]) -> None:
    """Say where the widest gap between labels ends: classes are numbered, and a damaged byte is one more."""
    values = np.unique(np.concatenate(labels)).astype(int)
    steps = np.diff(values)
    if not len(steps) or steps.max() == 1:
        return
    below, above = values[steps.argmax()], values[steps.argmax() + 1]
    file, column = next((file, column) for file, column in zip(files, labels, strict=True) if above in column)
    log.warning(
        "%s: record %d has label %d, and none has a label between %d and that; every label is a class",
        file,
        np.flatnonzero(column == above)[0],
        above,
        below,
    )


def _idx_pairs(path: Path, subset: str | None) -> dict[str, dict[str, Path]]:
    """Files of images and of labels by part, of the one data set that is there or is asked for."""
    found: dict[str, dict[str, dict[str, Path]]] = {}
    for file in sorted(path.iterdir()):
        if name := _IDX_NAME.fullmatch(file.name):
            words = [word for word in re.split(r"[-_.]", name["part"]) if word]
            part = next(filter(is_part, reversed(words)), "train")
            title = "-".join(word for word in words if not is_part(word)) or "unnamed"
            found.setdefault(title, {}).setdefault(part, {}).setdefault(name["what"], file)
    if not found:
        raise DataError(f"{path}: no file is named as in train-images-idx3-ubyte, train-labels-idx1-ubyte")
    if subset is None and len(found) == 1:
        return next(iter(found.values()))
    matches = [title for title in found if subset is not None and f"-{title}".endswith(f"-{subset}")]
    if str(subset) in found or len(matches) == 1:
        return found.get(str(subset)) or found[matches[0]]
    asked = "" if subset is None else f", and {subset!r} names {'several' if matches else 'none'} of them"
    raise DataError(
        f"{path} holds the data sets {', '.join(found)}{asked}",
        hint=f"name one: {path}?subset={(matches or list(found))[0].rpartition('-')[2]}",
    )


def _check_image_size(image_size: int | None) -> None:
    if image_size is not None:
        require_whole("image_size", image_size, minimum=1)


def _decoded(picture: Picture, image_size: int | None) -> np.ndarray:
    """One image, uint8 [1 or 3, H, W], turned as its EXIF says."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(picture.content)) as opened:
            image = ImageOps.exif_transpose(opened)
            return _pixels(image, picture.name, image_size)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error) as exc:
        reason = re.sub(r" <_io\.BytesIO[^>]*>", "", str(exc)) if picture.content else "it is empty"
        raise DataError(f"{picture.name} cannot be read as an image: {reason}") from exc
    except Image.DecompressionBombError as exc:
        raise DataError(f"{picture.name} is refused: {exc}") from exc


def _pixels(image: Image.Image, name: str, image_size: int | None) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.mode[0] in "IF":
        raise DataError(
            f"{name} has pixels of mode {image.mode}; images have 8 bits a channel, or 16 bits of grey",
            hint="scale its pixels to 0...255 and save them as uint8, or put float arrays into an .npz",
        )
    image = image.convert("L" if image.mode in _GREY else "RGB")
    if image_size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        image = square.resize((image_size, image_size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else plain(array.transpose(2, 0, 1))


def _cifar_records(file: Path, num_label_bytes: int) -> np.ndarray:
    """Records of a file, uint8 [n, labels + 3072]."""
    length = num_label_bytes + 3 * 32 * 32
    content = file.read_bytes()
    count, rest = divmod(len(content), length)
    if rest:
        raise DataError(f"{file} is cut in record {count}: it has {rest} of {length} bytes")
    if not count:
        raise DataError(f"{file} holds no records")
    return np.frombuffer(content, dtype=np.uint8).reshape(count, length)


def _cifar_names(file: Path, num_classes: int) -> tuple[str, ...]:
    """Names of the classes, one a line, or their numbers where the file is missing."""
    if not file.is_file():
        return tuple(str(index) for index in range(num_classes))
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) != num_classes:
        raise DataError(f"{file} names {len(names)} classes, not {num_classes}")
    return names


def _idx_array(file: Path, rank: int) -> np.ndarray:
    """Unsigned bytes of an IDX file, [n, ...]: magic 0x0000080<rank>, sizes as big-endian int32, records."""
    content = _unpacked(file)
    magic = 0x800 + rank
    if len(content) < 4 + 4 * rank:
        raise DataError(f"{file} is cut in its header: it has {len(content)} of {4 + 4 * rank} bytes")
    found, *sizes = struct.unpack(f">{rank + 1}I", content[: 4 + 4 * rank])
    if found != magic:
        raise DataError(
            f"{file} begins with 0x{found:08x}, not 0x{magic:08x} (unsigned bytes, {rank} dimensions)"
        )
    body = len(content) - 4 - 4 * rank
    record = int(np.prod(sizes[1:], dtype=object))
    if record == 0 or sizes[0] == 0:
        raise DataError(f"{file} holds no records: its sizes are {', '.join(map(str, sizes))}")
    if body < sizes[0] * record:
        raise DataError(f"{file} is cut in record {body // record} of {sizes[0]}")
    if body > sizes[0] * record:
        raise DataError(f"{file} goes on after its {sizes[0]} records, by {body - sizes[0] * record} bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(sizes)


def _unpacked(file: Path) -> bytes:
    """The content, unpacked as far as a packed file goes."""
    if file.suffix != ".gz":
        return file.read_bytes()
    content = bytearray()
    try:
        with gzip.open(file) as stream:
            while chunk := stream.read1(1 << 20):
                content += chunk
    except EOFError:  # cut: how far it goes tells the record
        pass
    except (gzip.BadGzipFile, zlib.error) as exc:
        raise DataError(f"{file} cannot be unpacked: {exc}") from exc
    return bytes(content)
