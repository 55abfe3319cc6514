"""Samples as a page shows them: small pictures, beginnings of texts, and maps laid over both."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np

from lissom.report.marking import AGAINST, FOR, marked
from lissom.runtime.preprocess import is_ascii

_PIXELS = 96
_LETTERS = 280


def picture_of(sample: Mapping[str, np.ndarray]) -> str | None:
    """The first input that is an image of one or three channels, as a small PNG in a data URL.

    Args:
        sample: Raw inputs by name, without the axis of samples.
    """
    array = image_of(sample)
    return None if array is None else _png(_levels(array))


def text_of(sample: Mapping[str, np.ndarray]) -> str | None:
    """The first input that is a text, as it begins: codes of ASCII, of which 0 pads.

    >>> text_of({"tokens": np.array([72, 105, 0, 0])})
    'Hi'
    """
    for array in sample.values():
        if array.dtype.kind == "i" and array.ndim == 1 and is_ascii(array):
            return "".join(map(chr, array[array > 0]))[:_LETTERS]
    return None


def image_of(sample: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The first input that is an image, shape [channels, height, width]."""
    for array in sample.values():
        if array.ndim == 3 and array.shape[0] in (1, 3) and min(array.shape[1:]) >= 4:
            return array
    return None


def overlaid(sample: Mapping[str, np.ndarray], scores: np.ndarray) -> str:
    """A map over its image in grey, as a PNG in a data URL: orange speaks for the class, blue against it.

    Args:
        sample: Raw inputs by name, without the axis of samples.
        scores: Shape [height, width] of the image, or [positions] where there is none.
    """
    scores = np.atleast_2d(scores)
    image = image_of(sample)
    if image is not None and image.shape[1:] == scores.shape:
        base = _levels(image).mean(axis=0)
        grey = 0.35 * base + 150  # light, so that colours are seen on black and on white
    else:
        grey = np.full(scores.shape, 235.0)
    strength = np.abs(scores) / max(float(np.abs(scores).max()), 1e-30)
    colour = np.where(scores[None] > 0, np.reshape(FOR, (3, 1, 1)), np.reshape(AGAINST, (3, 1, 1)))
    mixed = grey * (1 - strength) + colour * strength
    return _png(np.clip(mixed, 0, 255).astype(np.uint8))


def map_picture(values: np.ndarray, low: float, high: float) -> str:
    """A feature map [rows, columns] in grey between two values, as a PNG in a data URL."""
    scaled = 255 * (np.clip(values, low, high) - low) / ((high - low) or 1.0)
    return _png(np.round(scaled).astype(np.uint8)[None])


def marked_text(tokens: np.ndarray, scores: np.ndarray) -> str:
    """A text with its letters or tokens on colours as in `overlaid`, as HTML.

    Args:
        tokens: Codes of ASCII, or other ids, shape [positions]; 0 pads.
        scores: Shape [positions].
    """
    letters = is_ascii(tokens)
    shown = [
        (chr(token) if letters else f"{token} ", score)
        for token, score in zip(tokens.tolist(), scores.tolist(), strict=True)
        if token != 0
    ]
    return marked([part for part, _ in shown], [score for _, score in shown])


def _levels(array: np.ndarray) -> np.ndarray:
    """Values from the lowest to the highest as bytes."""
    values = array.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(array.shape, np.uint8)
    found: np.ndarray = np.round(255 * (values - low) / (high - low)).astype(np.uint8)
    return found


def _png(levels: np.ndarray) -> str:
    """Bytes of shape [1 or 3, height, width]."""
    from PIL import Image

    image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    image.thumbnail((_PIXELS, _PIXELS))
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
