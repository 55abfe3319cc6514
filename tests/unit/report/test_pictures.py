"""Pictures of samples: what is drawn, and that texts are escaped."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from lissom.report.pictures import image_of, map_picture, marked_text, overlaid, picture_of, text_of


def _decoded(url: str) -> np.ndarray:
    content = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_picture_reaches_from_black_to_white() -> None:
    image = np.linspace(-3, 5, 64, dtype=np.float32).reshape(1, 8, 8)
    found = _decoded(picture_of({"image": image}) or "")
    assert (found.min(), found.max(), found.shape) == (0, 255, (8, 8))


def test_a_large_picture_is_made_small() -> None:
    image = np.random.default_rng(0).random((3, 300, 200))
    assert max(_decoded(picture_of({"image": image}) or "").shape[:2]) == 96


def test_a_flat_picture_and_a_vector_are_no_fault() -> None:
    assert _decoded(picture_of({"image": np.ones((1, 8, 8))}) or "").max() == 0
    assert picture_of({"x": np.ones(4)}) is None
    assert image_of({"x": np.ones((5, 8, 8))}) is None


def test_what_speaks_for_a_class_is_orange_and_against_it_blue() -> None:
    scores = np.zeros((8, 8))
    scores[0, 0], scores[7, 7] = 1, -1
    found = _decoded(overlaid({"image": np.ones((1, 8, 8))}, scores)).astype(int)
    assert found[0, 0, 0] > found[0, 0, 2]
    assert found[7, 7, 2] > found[7, 7, 0]
    assert found[3, 3, 0] == found[3, 3, 2]


def test_a_map_without_image_is_drawn_alone() -> None:
    assert _decoded(overlaid({"x": np.ones((3, 4))}, np.arange(5.0))).shape == (1, 5, 3)


def test_a_feature_map_lies_between_two_values() -> None:
    found = _decoded(map_picture(np.array([[0.0, 1.0], [2.0, 9.0]]), 0.0, 2.0))
    assert found.tolist() == [[0, 128], [255, 255]]


def test_codes_of_ascii_are_a_text_and_other_ids_are_not() -> None:
    assert text_of({"tokens": np.array([104, 105, 0])}) == "hi"
    assert text_of({"tokens": np.array([3, 4000])}) is None
    assert text_of({"tokens": np.array([0, 0])}) is None


def test_letters_in_a_marked_text_are_escaped() -> None:
    found = marked_text(np.array([ord("<"), ord("b"), 0]), np.array([1.0, -0.5, 3.0]))
    assert "&lt;" in found
    assert "<b" not in found
    assert found.count("<i style=") == 2


def test_ids_that_are_no_letters_are_shown_as_numbers() -> None:
    assert ">4000 </i>" in marked_text(np.array([4000, 5]), np.array([1.0, 0.1]))
