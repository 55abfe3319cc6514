"""A picture or a text in the place of rows: `/predict` takes PNG, JPEG and plain text as they are.

What the model takes follows from its signature and its stored probe: a picture becomes as large, with as many
channels and with values of the range, that the model was made with; a text becomes the codes of its ASCII
characters, where that is what the probe holds. Tokens of another kind have to be sent as rows.
"""

from __future__ import annotations

import io
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lissom.artifact import Artifact, TensorSpec
from lissom.errors import RequestError
from lissom.runtime.preprocess import is_ascii, unprocess
from lissom.runtime.probe import load_probe
from lissom.serve.bodies import Refused, Scope, headers_of

if TYPE_CHECKING:
    from PIL import Image

    from lissom.serve.repository import ServedModel

IMAGES = {"image/png": "PNG", "image/jpeg": "JPEG"}
TEXT = "text/plain"
MAX_PIXELS = 50_000_000
_one_at_a_time = threading.Lock()
"""A picture of so many pixels takes some hundred megabytes while it is unpacked."""
_LEVELS = (1.0, 16.0, 255.0)
"""Highest values that pixels have: a share, four bits as scanned digits, eight bits."""


def media_type(scope: Scope) -> str | None:
    """Kind of a body that is no JSON; None for all others, since few clients say that they send JSON."""
    value = headers_of(scope).get(b"content-type", b"")
    kind = value.partition(b";")[0].strip().lower().decode("latin-1")
    if kind.startswith("image/") and kind not in IMAGES:
        raise Refused(415, f"a body of {kind[:40]} is not taken; PNG and JPEG are")
    return kind if kind in IMAGES or kind == TEXT else None


def uploaded(body: bytes, kind: str, model: ServedModel) -> dict[str, np.ndarray]:
    """Raw rows, one sample, from a picture or a text.

    Raises:
        RequestError: the body is not what it is said to be, or the model takes nothing of the kind.
    """
    artifact = model.artifact
    if kind == TEXT:
        return _tokens(body, model)
    spec = image_input(artifact)
    if spec is None:
        raise RequestError(f"model {model.name!r} takes no picture; send rows as JSON")
    return {spec.name: _pixels(body, IMAGES[kind], spec, pixel_range(artifact))}


def image_input(artifact: Artifact) -> TensorSpec | None:
    """The only input, where it is a picture: [samples, 1 or 3 channels, height, width] of known size."""
    specs = artifact.manifest.signature.inputs
    if len(specs) != 1 or len(specs[0].shape) != 4 or np.dtype(specs[0].dtype).kind not in "fu":
        return None
    channels, *sizes = specs[0].shape[1:]
    known = channels in (1, 3) and all(isinstance(size, int) for size in sizes)
    return specs[0] if known else None


@lru_cache(maxsize=64)  # the probe is a file, and is not read for each request
def text_input(artifact: Artifact) -> TensorSpec | None:
    """The only input, where it holds codes of characters: [samples, characters]."""
    specs = artifact.manifest.signature.inputs
    if len(specs) != 1 or len(specs[0].shape) != 2 or np.dtype(specs[0].dtype).kind != "i":
        return None
    return specs[0] if is_ascii(load_probe(artifact)[0][specs[0].name]) else None


@lru_cache(maxsize=64)
def pixel_range(artifact: Artifact) -> tuple[float, float]:
    """Lowest and highest value of raw pixels, as the stored probe shows it."""
    spec = artifact.manifest.signature.inputs[0]
    raw = unprocess(load_probe(artifact)[0], artifact.manifest.preprocessing)[spec.name]
    highest = float(raw.max())
    lowest = -1.0 if raw.min() < -1e-3 else 0.0  # some data come as -1 to 1
    return lowest, next((level for level in _LEVELS if highest <= level + 1e-3), highest)


def _pixels(body: bytes, form: str, spec: TensorSpec, limits: tuple[float, float]) -> np.ndarray:
    """Shape [1, channels, height, width], float64."""
    from PIL import Image, ImageOps

    channels, height, width = (int(size) for size in spec.shape[1:])
    mode = "L" if channels == 1 else "RGB"
    with _one_at_a_time:
        try:
            picture = Image.open(io.BytesIO(body), formats=[form])
            if picture.width * picture.height > MAX_PIXELS:
                raise RequestError(f"the picture has more than {MAX_PIXELS:,} pixels")
            picture.draft(mode, (2 * width, 2 * height))  # a JPEG unpacks no larger than it needs to be
            whole = _on_white(ImageOps.exif_transpose(picture)).convert(mode)
        except RequestError:
            raise
        except Exception as exc:  # a decoder raises what it likes
            raise RequestError(f"the body is no {form} picture: {exc}") from exc
    # As the data are read for training: cut at the centre, then resized.
    sized = ImageOps.fit(whole, (width, height), Image.Resampling.BILINEAR)
    levels = np.asarray(sized, dtype=np.float64).reshape(height, width, channels).transpose(2, 0, 1)
    low, high = limits
    return low + levels[None] / 255.0 * (high - low)


def _on_white(picture: Image.Image) -> Image.Image:
    """A picture without holes."""
    from PIL import Image

    if not picture.has_transparency_data:
        return picture
    whole = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)


def _tokens(body: bytes, model: ServedModel) -> dict[str, np.ndarray]:
    """Shape [1, characters]; 0 pads where the model takes a fixed number."""
    spec = text_input(model.artifact)
    if spec is None:
        raise RequestError(f"model {model.name!r} takes no text: its tokens are not codes of characters")
    codes = np.frombuffer(body, np.uint8).astype(np.int64)
    if not is_ascii(codes):
        raise RequestError("the text is empty, or holds characters that are not ASCII")
    length = spec.shape[1]
    if isinstance(length, int):
        if len(codes) > length:
            raise RequestError(f"the text has {len(codes):,} characters, the model takes {length:,}")
        codes = np.pad(codes, (0, length - len(codes)))
    return {spec.name: codes[None].astype(spec.dtype)}
