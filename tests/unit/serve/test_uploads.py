"""Pictures and texts in the place of rows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image
from tests.unit.artifacts import (
    MEAN,
    STD,
    onnx_model,
    tiny_logits,
    tiny_onnx_artifact,
    write_onnx_artifact,
)
from tests.unit.serve.asgi import Response, request

from lissom.artifact import Artifact, Signature, TensorSpec
from lissom.runtime.probe import probe_bytes
from lissom.serve.app import Application
from lissom.serve.repository import Repository
from lissom.serve.uploads import image_input, pixel_range, text_input

LEVELS = np.array([[0, 85], [170, 255]], dtype=np.uint8)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    folder = tmp_path_factory.mktemp("uploads")
    paths = [tiny_onnx_artifact(folder / "tiny").path]
    with Repository.open(paths, runtime="onnxruntime", threads=1) as repository:
        yield Application(repository)


def picture(levels: np.ndarray = LEVELS, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, form, **options)
    return buffer.getvalue()


def upload(app: Application, body: bytes, kind: str = "image/png") -> Response:
    return request(app, "POST", "/predict", body, headers={"Content-Type": kind})


def wanted(levels: np.ndarray) -> np.ndarray:
    """Logits of pixels, whose range the probe shows: 0 to 11, so four bits."""
    return tiny_logits((levels / 255 * 16).astype(np.float32).reshape(1, 1, 2, 2))


def test_a_picture_is_answered_as_its_rows_are(app: Application) -> None:
    found = upload(app, picture())
    assert found.status == 200
    np.testing.assert_allclose(found.json["outputs"]["logits"], wanted(LEVELS), rtol=1e-4, atol=1e-4)
    rows = {"inputs": {"image": (LEVELS / 255 * 16).reshape(1, 1, 2, 2).tolist()}}
    assert request(app, "POST", "/predict", rows).json["labels"] == found.json["labels"]


def test_pictures_become_as_large_and_as_grey_as_the_model_takes(app: Application) -> None:
    large = np.kron(LEVELS, np.ones((64, 64), dtype=np.uint8))
    colour = np.stack([large] * 3, axis=-1)
    for body, kind in (
        (picture(large), "image/png"),
        (picture(colour), "image/png; charset=binary"),
        (picture(colour, "JPEG", quality=95), "image/jpeg"),
    ):
        found = upload(app, body, kind)
        assert found.status == 200
        sized = np.asarray(Image.fromarray(large).resize((2, 2), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found.json["outputs"]["logits"], wanted(sized), rtol=0.02, atol=0.1)


def test_a_picture_of_another_form_is_cut_at_its_centre(app: Application) -> None:
    wide = np.hstack([np.full((2, 2), 255, np.uint8), LEVELS, np.full((2, 2), 255, np.uint8)])
    found = upload(app, picture(wide)).json["outputs"]["logits"]
    np.testing.assert_allclose(found, wanted(LEVELS), rtol=1e-4, atol=1e-4)


def test_what_is_transparent_is_white(app: Application) -> None:
    clear = np.zeros((2, 2, 4), dtype=np.uint8)
    found = upload(app, picture(clear)).json["outputs"]["logits"]
    np.testing.assert_allclose(found, wanted(np.full((2, 2), 255)), rtol=1e-4, atol=1e-4)


BAD = {
    "no picture": (b"not a picture", "image/png", 400),
    "empty": (b"", "image/png", 400),
    "a JPEG that is said to be PNG": (picture(form="JPEG"), "image/png", 400),
    "cut off": (picture(np.zeros((64, 64), np.uint8))[:60], "image/png", 400),
    "another kind": (picture(form="GIF"), "image/gif", 415),
    "a drawing": (b"<svg/>", "image/svg+xml", 415),
    "a text": (b"hello", "text/plain", 400),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_is_refused(app: Application, case: str) -> None:
    body, kind, status = BAD[case]
    found = upload(app, body, kind)
    assert found.status == status
    assert set(json.loads(found.body)) == {"error"}
    assert upload(app, picture()).status == 200


def test_a_picture_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(app: Application) -> None:
    buffer = io.BytesIO()
    Image.new("1", (40_000, 40_000)).save(buffer, "PNG")
    found = upload(app, buffer.getvalue())
    assert found.status == 400
    assert "pixels" in found.json["error"]


def test_the_range_of_pixels_is_that_of_the_probe(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    assert (MEAN, STD) != (0, 1)
    assert pixel_range(artifact) == (0.0, 16.0)
    spec = image_input(artifact)
    assert spec is not None
    assert text_input(artifact) is None


def echo_artifact(folder: Path, length: int | str, tokens: np.ndarray) -> Artifact:
    """A model that gives its tokens back."""
    model = onnx_model(
        [helper.make_node("Identity", ["tokens"], ["again"])],
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", length])],
        [helper.make_tensor_value_info("again", TensorProto.INT64, ["batch", length])],
        [],
    )
    signature = Signature(
        inputs=(TensorSpec(name="tokens", dtype="int64", shape=("batch", length)),),
        outputs=(TensorSpec(name="again", dtype="int64", shape=("batch", length)),),
    )
    probe = probe_bytes({"tokens": tokens}, {"again": tokens})
    changes: dict[str, Any] = {"labels": (), "preprocessing": (), "task": "own.package:factory"}
    return write_onnx_artifact(folder, model, signature, probe, recipe="echo", **changes)


LETTERS = np.array([[72, 105, 33, 0, 0, 0, 0, 0]], dtype=np.int64)


@pytest.mark.parametrize("length", [8, "length"])
def test_a_text_becomes_the_codes_of_its_characters(tmp_path: Path, length: int | str) -> None:
    artifact = echo_artifact(tmp_path / "echo", length, LETTERS)
    with Repository.open([artifact.path], runtime="onnxruntime", threads=1) as repository:
        app = Application(repository)
        found = upload(app, b"Hi you", "text/plain; charset=utf-8")
        assert found.status == 200
        codes = [72, 105, 32, 121, 111, 117]
        assert found.json["outputs"]["again"] == [[*codes, 0, 0] if length == 8 else codes]
        long = upload(app, b"too many letters", "text/plain")
        assert long.status == (400 if length == 8 else 200)
        for wrong in (b"", "gr\u00fcn".encode(), b"\x00\x01"):
            assert upload(app, wrong, "text/plain").status == 400
        assert upload(app, picture()).status == 400


def test_tokens_that_are_no_characters_are_no_text(tmp_path: Path) -> None:
    artifact = echo_artifact(tmp_path / "echo", 8, LETTERS + 30_000)
    assert text_input(artifact) is None
