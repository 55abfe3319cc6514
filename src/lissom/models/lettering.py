"""Pictures of letters and digits, drawn from a seed: the image task that needs no download.

Each picture is a stack of layers: a background that shades from one colour to another, fragments of other
characters and strokes behind, the character itself, a bar before it, and noise. Characters come from the
fonts that matplotlib ships, are rendered once as masks, and are placed by an affine map that is sampled
bilinearly. What is hard is meant to be hard for small models: eighteen fonts, little contrast, clutter of
the same shapes as the signal. The digit zero carries a slash, so that it differs from the letter O.

Everything is computed by blocks of `_BLOCK` pictures, each from its own generator: a smaller set is the
beginning of a larger one. A change of this file makes other data: caches are named for its hash,
and accuracies that were measured before no longer hold.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lissom.errors import MachineError
from lissom.optional import version

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZE = 32
_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
_TILE = 56  # pixels of the side of a mask
_HEIGHT = 28  # pixels of the height of a character in its mask
_BLOCK = 720  # pictures, the same number of each character
_NUM_FRAGMENTS = 2
_NUM_STROKES = 1


class _Placement(NamedTuple):
    """Where characters land: the map from picture to mask, for each picture."""

    matrix: np.ndarray  # [n, 2, 2], from pixels of the picture to pixels of the mask
    centre: np.ndarray  # [n, 2], of the character in the picture, from its middle


def draw_characters(*, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and their classes, the same for the same seed and the same versions of fonts and Pillow.

    Args:
        num_samples: Number of pictures.
        seed: Of the random numbers, at least 0.

    Returns:
        Pictures uint8 [num_samples, 3, 32, 32], and positions in `CHARACTERS` int64 [num_samples].
    """
    images = np.empty((num_samples, 3, SIZE, SIZE), dtype=np.uint8)
    labels = np.empty(num_samples, dtype=np.int64)
    for start in range(0, num_samples, _BLOCK):
        part = slice(start, start + _BLOCK)
        block, classes = _draw_block(np.random.default_rng([seed, start // _BLOCK]))
        images[part], labels[part] = block[: num_samples - start], classes[: num_samples - start]
    return images, labels


def _draw_block(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.permutation(np.arange(_BLOCK) % len(CHARACTERS))
    ground = rng.uniform(0, 1, (_BLOCK, 3, 1, 1)).astype(np.float32)
    picture = ground + _shading(rng)
    for _ in range(_NUM_FRAGMENTS):
        picture = _painted(picture, _fragment(rng), _colour_near(rng, ground, 0.1, 0.4))
    for _ in range(_NUM_STROKES):
        picture = _painted(picture, _stroke(rng, width=(0.5, 1.2)), _colour_near(rng, ground, 0.1, 0.4))
    mask = _sampled(_masks(), rng.integers(0, len(_FONTS), _BLOCK), labels, _placement(rng))
    picture = _painted(picture, mask, _colour_near(rng, ground, 0.35, 0.8))
    bar = _stroke(rng, width=(0.8, 2.0)) * (rng.random((_BLOCK, 1, 1)) < 0.4)
    picture = _painted(picture, bar, rng.uniform(0, 1, (_BLOCK, 3, 1, 1)))
    sigma = rng.uniform(0.01, 0.08, (_BLOCK, 1, 1, 1))
    picture = picture + sigma * rng.standard_normal(picture.shape, dtype=np.float32)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8), labels


def _shading(rng: np.random.Generator) -> np.ndarray:
    """A slope of light across each picture, [n, 3, 32, 32]."""
    slope = rng.uniform(-0.25, 0.25, (2, _BLOCK, 3, 1, 1)).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j].astype(np.float32)
    shading: np.ndarray = slope[0] * y + slope[1] * x
    return shading


def _colour_near(rng: np.random.Generator, ground: np.ndarray, low: float, high: float) -> np.ndarray:
    """A colour that differs from the ground by `low` to `high` in brightness, to the side with room."""
    contrast = rng.uniform(low, high, (_BLOCK, 1, 1, 1))
    brightness = ground.mean(axis=1, keepdims=True)
    side = np.where(brightness + rng.uniform(-0.2, 0.2, brightness.shape) > 0.5, -1, 1)
    colour: np.ndarray = ground + side * contrast + rng.uniform(-0.2, 0.2, ground.shape)
    return colour.clip(0, 1)


def _painted(picture: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The picture with a colour laid over it where the mask [n, 32, 32] is 1."""
    cover = mask[:, None].astype(np.float32)
    painted: np.ndarray = picture + cover * (colour.astype(np.float32) - picture)
    return painted


def _placement(rng: np.random.Generator) -> _Placement:
    """The character: turned by up to 20 degrees, sheared, 18 to 27 pixels high, up to 3 pixels off centre."""
    angle = np.deg2rad(rng.uniform(-20, 20, _BLOCK))
    scale = rng.uniform(0.65, 0.95, _BLOCK)
    matrix = _matrix(angle, scale, rng.uniform(0.85, 1.18, _BLOCK), rng.uniform(-0.3, 0.3, _BLOCK))
    return _Placement(matrix, rng.uniform(-3, 3, (_BLOCK, 2)))


def _fragment(rng: np.random.Generator) -> np.ndarray:
    """Another character, of any angle, so far out that only a part of it is seen."""
    direction = rng.uniform(0, 2 * np.pi, _BLOCK)
    distance = rng.uniform(13, 20, _BLOCK)
    ones = np.ones(_BLOCK)
    matrix = _matrix(rng.uniform(0, 2 * np.pi, _BLOCK), rng.uniform(0.55, 0.9, _BLOCK), ones, 0 * ones)
    centre = (distance * np.stack([np.sin(direction), np.cos(direction)])).T
    fonts = rng.integers(0, len(_FONTS), _BLOCK)
    return _sampled(_masks(), fonts, rng.integers(0, len(CHARACTERS), _BLOCK), _Placement(matrix, centre))


def _matrix(angle: np.ndarray, scale: np.ndarray, aspect: np.ndarray, shear: np.ndarray) -> np.ndarray:
    """The inverse of turn * shear * stretch, [n, 2, 2], on (y, x)."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lean = np.array([[np.ones_like(shear), 0 * shear], [shear, np.ones_like(shear)]])
    stretch = np.array([[scale, 0 * scale], [0 * scale, scale * aspect]])
    forward = np.einsum("ijn,jkn,kln->nil", turn, lean, stretch)
    return np.linalg.inv(forward).astype(np.float32)


def _stroke(rng: np.random.Generator, *, width: tuple[float, float]) -> np.ndarray:
    """A straight line through each picture at any angle, [n, 32, 32]; width is half of what is seen."""
    angle, offset = rng.uniform(0, np.pi, (_BLOCK, 1, 1)), rng.uniform(-12, 12, (_BLOCK, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    away = np.abs(np.sin(angle) * y + np.cos(angle) * x - offset)
    line: np.ndarray = (rng.uniform(*width, (_BLOCK, 1, 1)) + 0.5 - away).clip(0, 1)
    return line


def _sampled(masks: np.ndarray, fonts: np.ndarray, letters: np.ndarray, place: _Placement) -> np.ndarray:
    """Masks as they are seen in the pictures, bilinear, [n, 32, 32]."""
    y, x = np.mgrid[:SIZE, :SIZE].reshape(2, -1).astype(np.float32) - (SIZE - 1) / 2
    pixels = np.stack([y, x]) - place.centre[:, :, None].astype(np.float32)
    spots = (place.matrix @ pixels + (_TILE - 1) / 2).clip(0, _TILE - 1.001)
    corner = spots.astype(np.int32)
    dy, dx = (spots - corner).transpose(1, 0, 2)
    flat = masks.reshape(-1)
    first = ((fonts * len(CHARACTERS) + letters) * _TILE * _TILE)[:, None]
    first = first + corner[:, 0] * _TILE + corner[:, 1]
    upper = flat[first] * (1 - dx) + flat[first + 1] * dx
    lower = flat[first + _TILE] * (1 - dx) + flat[first + _TILE + 1] * dx
    seen: np.ndarray = upper * (1 - dy) + lower * dy
    return seen.reshape(-1, SIZE, SIZE)


@cache
def _masks() -> np.ndarray:
    """Every character in every font, float32 [fonts, characters, 56, 56], 0 to 1, centred."""
    import matplotlib

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    masks = np.stack([[_mask(folder / f"{font}.ttf", letter) for letter in CHARACTERS] for font in _FONTS])
    return masks


def _mask(path: Path, letter: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    if not path.is_file():
        raise MachineError(
            f"matplotlib {version('matplotlib')} has no font {path.name}", hint="pip install -U matplotlib"
        )
    font = ImageFont.truetype(path, 40, layout_engine=ImageFont.Layout.BASIC)
    _, top, _, bottom = font.getbbox("H", anchor="ls")
    font = font.font_variant(size=40 * _HEIGHT / (bottom - top))
    left, top, right, bottom = font.getbbox(letter, anchor="ls")
    image = Image.new("L", (_TILE, _TILE))
    canvas = ImageDraw.Draw(image)
    middle = (_TILE - left - right) / 2, (_TILE - top - bottom) / 2
    canvas.text(middle, letter, fill=255, font=font, anchor="ls")
    if letter == "0":
        x, y, radius = _TILE / 2, _TILE / 2, (bottom - top) / 4
        canvas.line([x - radius / 2, y + radius, x + radius / 2, y - radius], fill=255, width=3)
    return np.asarray(image, dtype=np.float32) / 255
