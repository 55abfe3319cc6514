"""The page at `/`: what is served, how it does just now, and a place to try it.

The page itself is one constant file that holds nothing about the models. It asks for `page_data` and for the
statistics with the key that it was given, so that it can be shown to everybody. It may run its own script
and style, both known by hash, and talk to its own origin; nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from lissom.artifact import Artifact, TensorSpec
from lissom.optional import version
from lissom.runtime.layout import describe_batching
from lissom.runtime.preprocess import unprocess
from lissom.runtime.probe import load_probe
from lissom.serve.explanation import explains
from lissom.serve.repository import ServedModel, State
from lissom.serve.uploads import image_input, pixel_range, text_input

SCRIPTS = ("words", "asking", "figures", "drawing", "forms", "answers", "models", "start")
"""Parts of the script, each of which may use what those before it define."""
REPORT_FILES = ("report.html", "report.json")
MOST_EXAMPLE_VALUES = 1024
"""Values of an example of rows; larger inputs are not typed by anybody."""
_INK = 0.5
"""Share of the range from the ground above which a pixel of a sample counts as drawn on."""
_SAFE = ((b"referrer-policy", b"no-referrer"), (b"cross-origin-opener-policy", b"same-origin"))


@cache
def page() -> bytes:
    """The page, the same for every server."""
    return Template(_asset("page.html")).substitute(style=_style(), script=_script()).encode()


@cache
def page_headers() -> tuple[tuple[bytes, bytes], ...]:
    """Headers of the page: what it may do, and that nobody may frame it."""
    policy = (
        f"default-src 'none'; script-src {_digest(_script())}; style-src {_digest(_style())}; "
        "img-src data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return (b"content-security-policy", policy.encode()), *_SAFE


@cache
def report_headers() -> tuple[tuple[bytes, bytes], ...]:
    """Headers of a report: it came with a model, so that it runs apart from the origin of the server."""
    policy = (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; sandbox allow-scripts"
    )
    return (b"content-security-policy", policy.encode()), *_SAFE


def page_data(models: Sequence[ServedModel], absent: Mapping[str, tuple[State, str]]) -> dict[str, Any]:
    """What the page shows of every model, and why others are absent."""
    served = {model.name for model in models}
    return {
        "server": {"name": "lissom", "version": version("lissom")},
        "models": [_described(model) for model in models],
        "absent": [
            {"name": name, "state": state.value, "reason": reason}
            for name, (state, reason) in absent.items()
            if name not in served
        ],
    }


def report_of(artifact: Artifact) -> Path | None:
    """The report of the run that made an artifact, which lies beside the folders of its stages."""
    run = artifact.path.resolve().parent  # a served path is often the link to the chosen artifact
    page_file, document = (run / name for name in REPORT_FILES)
    return page_file if page_file.is_file() and document.is_file() else None


def _described(model: ServedModel) -> dict[str, Any]:
    manifest, limits = model.manifest, model.scheduler.limits
    return {
        "name": model.name,
        "state": model.state.value,
        "runtime": model.runtime.name,
        "precision": manifest.precision,
        "format": manifest.format,
        "stage": manifest.name,
        "size_bytes": model.artifact.size_bytes,
        "num_parameters": manifest.num_parameters,
        "inputs": [_tensor(spec) for spec in manifest.signature.inputs],
        "outputs": [_tensor(spec) for spec in manifest.signature.outputs],
        "limits": {
            "max_batch": limits.max_batch if model.scheduler.batches else 1,
            "max_waiting": limits.max_waiting,
        },
        "batching": describe_batching(model.batching),
        "labels": list(manifest.labels),
        "digest": model.artifact.digest,
        "preprocessing": [step.model_dump(mode="json") for step in manifest.preprocessing],
        "input_ranges": [one.model_dump(mode="json") for one in manifest.input_ranges],
        "report": report_of(model.artifact) is not None,
        "explains": explains(model.artifact),
        **_form(model.artifact),
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


@lru_cache(maxsize=64)
def _form(artifact: Artifact) -> dict[str, Any]:
    """How a person gives the model something: `kind` is image, text or rows, and what that form needs."""
    if (spec := image_input(artifact)) is not None:
        return {"kind": "image", "image": _image(artifact, spec)}
    if (spec := text_input(artifact)) is not None:
        length = spec.shape[1]
        return {"kind": "text", "max_length": length if isinstance(length, int) else None}
    specs = artifact.manifest.signature.inputs
    is_short = sum(math.prod(_example_shape(spec)) for spec in specs) <= MOST_EXAMPLE_VALUES
    return {"kind": "rows", "example": {spec.name: _zeros(spec) for spec in specs} if is_short else None}


def _image(artifact: Artifact, spec: TensorSpec) -> dict[str, Any]:
    """Size and values of raw pictures, and how drawings lie in them, as the stored probe shows it."""
    channels, height, width = (int(size) for size in spec.shape[1:])
    low, high = pixel_range(artifact)
    raw = unprocess(load_probe(artifact)[0], artifact.manifest.preprocessing)[spec.name].astype(np.float64)
    shares = (raw - low) / ((high - low) or 1.0)
    is_dark = _ground(shares) < 0.5
    return {
        "input": spec.name,
        "channels": channels,
        "height": height,
        "width": width,
        "low": low,
        "high": high,
        "integer": np.dtype(spec.dtype).kind == "u",
        "ink_is_high": is_dark,
        "extent": _extent((shares if is_dark else 1.0 - shares) > _INK),
    }


def _ground(shares: np.ndarray) -> float:
    """The usual value along the edges of pictures of shape [samples, channels, height, width]."""
    edges = (shares[..., 0, :], shares[..., -1, :], shares[..., :, 0], shares[..., :, -1])
    return float(np.median(np.concatenate([edge.ravel() for edge in edges])))


def _extent(ink: np.ndarray) -> float:
    """Share of the picture's height or width, the larger, that drawings usually take; 1 without any ink.

    Args:
        ink: Where pictures are drawn on, bool [samples, channels, height, width].

    >>> _extent(np.array([[[[False, False], [True, False]]]]))
    0.5
    """
    drawn = np.asarray(ink.any(axis=1))
    shares = []
    for sample in drawn[drawn.any(axis=(1, 2))]:
        spans = [np.flatnonzero(sample.any(axis=axis)) for axis in (0, 1)]
        lengths = zip(spans, sample.shape[::-1], strict=True)
        shares.append(max((span[-1] - span[0] + 1) / size for span, size in lengths))
    return float(np.median(shares)) if shares else 1.0


def _example_shape(spec: TensorSpec) -> list[int]:
    """Sizes of one row; what may vary is 1."""
    return [size if isinstance(size, int) else 1 for size in spec.shape]


def _zeros(spec: TensorSpec) -> Any:
    kind = np.dtype(spec.dtype).kind
    return np.zeros(_example_shape(spec), bool if kind == "b" else np.int64).tolist()


def _style() -> str:
    return _asset("page.css")


def _script() -> str:
    """The parts as one script whose names nobody else sees."""
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'"use strict";\n{{\n{parts}}}\n'


def _digest(content: str) -> str:
    """A script or style as a content security policy names it."""
    found = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(found).decode()}'"


def _asset(name: str) -> str:
    """A file of the page, as text."""
    return (files("lissom.serve") / "static" / name).read_text(encoding="utf-8")
