"""Data sets that come with lissom or are made by it: nothing is downloaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import re
import tempfile
from collections import Counter
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from lissom.artifact import PreprocessingStep, sha256_file
from lissom.errors import DataError
from lissom.logs import log
from lissom.models import lettering
from lissom.models.dataset import IGNORED, Dataset
from lissom.models.formats import DAMAGE
from lissom.models.preparation import require_whole, with_normalization
from lissom.optional import version

_PASSAGE = 2048  # characters of running text that stay in one split
_MASK = 127  # ASCII's delete, which no text holds
_PRINTABLE = range(32, 127)
_MASKED_SHARE = 0.15
_MASKING_SEED = 0


def digits() -> Dataset:
    """Handwritten digits: 1,797 real scans of 8x8 pixels, values 0 to 16, ten classes.

    E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998; the copy that scikit-learn ships.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Dataset(
        inputs={"image": bunch.images[:, None].astype(np.float32)},
        labels=bunch.target,
        label_names=tuple(str(name) for name in bunch.target_names),
        preprocessing=(PreprocessingStep(input="image", mean=(0.0,), std=(16.0,)),),
    )


def glyphs(*, samples: int = 20_000, seed: int = 0) -> Dataset:
    """Letters and digits in eighteen fonts on cluttered ground: colour images of 32x32 pixels, 36 classes.

    Drawn once and kept under `LISSOM_CACHE`, else `~/.cache/lissom`; see `lissom.models.lettering`.

    Args:
        samples: Number of images; a smaller set is the beginning of a larger one.
        seed: Of the random numbers.

    Raises:
        DataError: an option is no whole number or too small.
    """
    require_whole("samples", samples, minimum=1)
    require_whole("seed", seed, minimum=0)
    image, labels = _cached_glyphs(samples, seed)
    dataset = Dataset({"image": image}, labels, tuple(lettering.CHARACTERS))
    return with_normalization(dataset, "image")


def topics(*, length: int = 256) -> Dataset:
    """Paragraphs of Python's reference manual, by the topic that they stand under: 935 texts, 13 classes.

    Only topics with at least 20 paragraphs of their own; no paragraph that stands under two topics, none
    that is shorter than 50 characters. Input `tokens` int64 [samples, length]: ASCII codes, 0 pads.

    Args:
        length: Characters of each sample; longer paragraphs are cut.

    Raises:
        DataError: `length` is no whole number or too small.
    """
    require_whole("length", length, minimum=1)
    paragraphs = {name: [" ".join(part.split()) for part in parts] for name, parts in _paragraphs().items()}
    homes = Counter(text for parts in paragraphs.values() for text in set(parts))
    own = {
        name: [text for text in dict.fromkeys(parts) if len(text) >= 50 and homes[text] == 1]
        for name, parts in paragraphs.items()
    }
    names = tuple(name for name, texts in own.items() if len(texts) >= 20)
    pairs = [(_codes(text)[:length], label) for label, name in enumerate(names) for text in own[name]]
    tokens = np.zeros((len(pairs), length), dtype=np.int64)
    for row, (codes, _) in zip(tokens, pairs, strict=True):
        row[: len(codes)] = codes
    first = np.sort(np.unique(tokens, axis=0, return_index=True)[1])  # texts may be equal once they are cut
    return Dataset({"tokens": tokens[first]}, np.array([label for _, label in pairs])[first], names)


def topics_text(*, length: int = 128) -> Dataset:
    """Python's reference manual as running text, for a model that predicts the next character.

    Windows of `length` characters that do not overlap: input `tokens` int64 [samples, length] of ASCII
    codes, labels the same shifted by one. What is said twice in the manual is taken once. About 2,000
    characters of running text make a group, so that neighbours stand in the same split.

    Args:
        length: Characters of each window, at most 2,048.

    Raises:
        DataError: `length` is no whole number or out of range.
    """
    require_whole("length", length, minimum=2)
    if length > _PASSAGE:
        raise DataError(f"the option length is {length}; a passage has {_PASSAGE} characters")
    parts = dict.fromkeys(part for name in sorted(_paragraphs()) for part in _paragraphs()[name])
    codes = _codes("\n\n".join(parts))
    per_passage = _PASSAGE // length
    stride = per_passage * length + 1  # the last window of a passage needs one character more
    starts = [
        (passage, passage * stride + window * length)
        for passage in range(len(codes) // stride)
        for window in range(per_passage)
    ]
    windows = np.stack([codes[start : start + length + 1] for _, start in starts])
    first = np.sort(np.unique(windows[:, :-1], axis=0, return_index=True)[1])
    return Dataset(
        inputs={"tokens": windows[first, :-1]},
        labels=windows[first, 1:],
        group=np.array([passage for passage, _ in starts])[first],
    )


def topics_masked(*, length: int = 128) -> Dataset:
    """Python's reference manual with characters masked, for a model that fills them in.

    The windows of `topics_text`. Of their characters, padding aside, 15 % are chosen: 80 % of these are
    replaced by the mask (code 127), 10 % by a random printable character, and 10 % stay; labels are the
    original characters there and -100 elsewhere. Devlin et al., BERT, arXiv 1810.04805. What is chosen in a
    window depends on the window alone.

    Args:
        length: Characters of each window, at most 2,048.

    Raises:
        DataError: `length` is no whole number or out of range.
    """
    text = topics_text(length=length)
    pairs = [_masked(window) for window in text.inputs["tokens"]]
    tokens, labels = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return Dataset({"tokens": tokens}, labels, group=text.group)


def _masked(window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A window with characters masked, and its labels."""
    generator = np.random.default_rng([_MASKING_SEED, *window.tolist()])
    places = generator.permutation(np.flatnonzero(window))
    places = places[: max(1, round(_MASKED_SHARE * len(places)))]
    fate = generator.random(len(places))
    others = generator.integers(_PRINTABLE.start, _PRINTABLE.stop, len(places))
    tokens, labels = window.copy(), np.full_like(window, IGNORED)
    tokens[places] = np.where(fate < 0.8, _MASK, np.where(fate < 0.9, others, window[places]))
    labels[places] = window[places]
    return tokens, labels


@cache
def _paragraphs() -> dict[str, list[str]]:
    """Paragraphs of each topic of `pydoc_data.topics` of Python 3.11.7 (licence beside the file)."""
    file = resources.files("lissom.models") / "topics" / "topics.json.xz"
    text: dict[str, str] = json.loads(lzma.decompress(file.read_bytes()))
    parts = {name: re.split(r"\n\s*\n", topic) for name, topic in text.items()}
    return {name: [part.strip("\n") for part in found if part.strip()] for name, found in parts.items()}


def _codes(text: str) -> np.ndarray:
    """ASCII codes, int64; what is not ASCII becomes a question mark."""
    return np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64)


def cache_folder() -> Path:
    """Where data that were made are kept: `LISSOM_CACHE`, else `~/.cache/lissom`."""
    return Path(os.environ.get("LISSOM_CACHE") or Path.home() / ".cache" / "lissom")


def _cached_glyphs(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels from the cache, drawn again when the copy is missing or damaged."""
    versions = [version(name) for name in ("matplotlib", "pillow", "numpy")]
    content = [sha256_file(Path(lettering.__file__)), *versions, samples, seed]
    key = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    path = cache_folder() / f"glyphs-{samples}-{key}.npz"
    with contextlib.suppress(*DAMAGE), path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        image, labels = file["image"], file["labels"]
        if len(image) == len(labels) == samples:
            return image, labels
    log.info("drawing %d glyphs once, to be kept in %s", samples, path)
    image, labels = lettering.draw_characters(num_samples=samples, seed=seed)
    _keep(path, image, labels)
    return image, labels


def _keep(path: Path, image: np.ndarray, labels: np.ndarray) -> None:
    """Write a file of the cache under a temporary name and rename it; go on where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            try:
                np.savez(file, image=image, labels=labels)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as exc:
        log.warning("%s cannot be kept: %s", path, exc)
