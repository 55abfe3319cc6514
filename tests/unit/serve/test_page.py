"""The page of the server: what it may do, and what it is told of every model."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests.unit.artifacts import identity_onnx_artifact, tiny_onnx_artifact
from tests.unit.serve.pictures import digits_artifact, linear_artifact

from lissom.artifact import Artifact
from lissom.report.drawing import FONT, PALETTE
from lissom.report.marking import AGAINST, FOR
from lissom.serve.page import page, page_data, page_headers, report_headers, report_of
from lissom.serve.repository import ServedModel, State

RNG = np.random.default_rng(0)
LETTERS = np.frombuffer(b"what a text it is", np.uint8).astype(np.int64)[None].repeat(2, axis=0)


def told(artifact: Artifact) -> dict[str, Any]:
    """What the page is told of one model."""
    with closing(ServedModel(artifact, runtime="onnxruntime", threads=1)) as model:
        (found,) = page_data([model], {})["models"]
    assert orjson.loads(orjson.dumps(found)) == found
    return dict(found)


def policy(headers: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    """The content security policy by directive."""
    text = dict(headers)[b"content-security-policy"].decode()
    return {part.split()[0]: " ".join(part.split()[1:]) for part in text.split("; ")}


def test_the_page_may_run_its_own_script_and_style_and_nothing_else() -> None:
    allowed = policy(page_headers())
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        ((content,),) = [re.findall(f"<{tag}>(.*?)</{tag}>", page().decode(), re.DOTALL)]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert allowed[directive] == f"'sha256-{digest}'"
    assert allowed["default-src"] == allowed["form-action"] == allowed["frame-ancestors"] == "'none'"
    assert allowed["connect-src"] == "'self'"
    assert "unsafe" not in str(allowed)


def test_the_page_is_one_file_without_anything_to_fetch_or_a_handler_in_its_markup() -> None:
    text = page().decode()
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert re.findall(r"(?:src|srcset|action)=", text) == []
    assert re.findall(r"<[^>]* on[a-z]+=", text) == []
    assert re.findall(r"<[^>]* style=", text) == []
    assert "innerHTML" not in text
    assert "localStorage" not in text


def test_the_page_has_the_colours_of_the_reports() -> None:
    text = page().decode()
    light, dark = (block for block in text.split("prefers-color-scheme: dark", 1))
    for name, twins in PALETTE.items():
        assert f"--{name}: {twins[0]};" in light
        assert f"--{name}: {twins[1]};" in dark
    assert FONT in text
    for name, colour in (("for", FOR), ("against", AGAINST)):
        assert f"--{name}: rgb({' '.join(map(str, colour))});" in light


def test_a_report_runs_apart_from_the_server_and_cannot_call_it() -> None:
    allowed = policy(report_headers())
    assert allowed["default-src"] == "'none'"
    assert "connect-src" not in allowed
    assert "allow-same-origin" not in allowed["sandbox"]


def test_a_model_is_described_as_it_is_served(tmp_path: Path) -> None:
    found = told(tiny_onnx_artifact(tmp_path / "tiny"))
    assert (found["name"], found["state"]) == ("tiny", "READY")
    assert (found["runtime"], found["precision"], found["format"]) == ("onnxruntime", "float32", "onnx")
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 2, 2]}]
    assert found["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 3]}]
    assert found["limits"] == {"max_batch": 32, "max_waiting": 1024}
    assert found["labels"] == ["cat", "dog", "owl"]
    assert found["num_parameters"] == 15
    assert found["size_bytes"] > 0
    assert found["explains"]
    assert not found["report"]


def test_models_that_do_not_answer_are_told_with_their_reason() -> None:
    absent = {"one": (State.LOADING, "it is being loaded"), "two": (State.UNLOADED, "<b>gone</b>")}
    found = page_data([], absent)
    assert found["server"]["name"] == "lissom"
    assert found["models"] == []
    assert found["absent"] == [
        {"name": "one", "state": "LOADING", "reason": "it is being loaded"},
        {"name": "two", "state": "UNAVAILABLE", "reason": "<b>gone</b>"},
    ]


def test_digits_are_drawn_with_their_own_values_as_large_as_they_are(tmp_path: Path) -> None:
    found = told(digits_artifact(tmp_path / "digits"))
    assert found["kind"] == "image"
    assert found["image"] == {
        "input": "image",
        "channels": 1,
        "height": 8,
        "width": 8,
        "low": 0.0,
        "high": 16.0,
        "integer": False,
        "ink_is_high": True,
        "extent": 1.0,
    }


@pytest.mark.parametrize("ink_is_high", [True, False])
def test_where_drawings_lie_and_whether_their_ground_is_dark_is_seen_in_the_probe(
    tmp_path: Path, ink_is_high: bool
) -> None:
    raw = np.zeros((4, 1, 28, 28), np.float32)
    raw[:, :, 4:24, 9:19] = 255.0
    raw = raw if ink_is_high else 255.0 - raw
    found = told(linear_artifact(tmp_path / "made", raw, mean=100.0, std=50.0))["image"]
    assert (found["low"], found["high"]) == (0.0, 255.0)
    assert found["ink_is_high"] == ink_is_high
    assert found["extent"] == pytest.approx(20 / 28)


def test_colours_of_eight_bits_are_whole_numbers(tmp_path: Path) -> None:
    raw = RNG.integers(0, 256, (4, 3, 6, 9)).astype(np.uint8)
    found = told(linear_artifact(tmp_path / "made", raw))["image"]
    assert (found["channels"], found["height"], found["width"]) == (3, 6, 9)
    assert found["integer"]
    assert found["high"] == 255.0


def test_codes_of_characters_are_typed_as_text(tmp_path: Path) -> None:
    found = told(linear_artifact(tmp_path / "made", LETTERS, name="tokens"))
    assert (found["kind"], found["max_length"]) == ("text", LETTERS.shape[1])
    assert not found["explains"]


@pytest.mark.parametrize(
    ("make", "example"),
    [
        (lambda folder: identity_onnx_artifact(folder, "bool"), {"x": [[False, False]], "y": [False]}),
        (lambda folder: identity_onnx_artifact(folder, "float64"), {"x": [[0, 0]], "y": [0]}),
        (lambda folder: linear_artifact(folder, RNG.random((2, 3)), name="row"), {"row": [[0, 0, 0]]}),
        (lambda folder: linear_artifact(folder, RNG.random((2, 2000)), name="row"), None),
    ],
)
def test_everything_else_is_typed_as_rows_that_begin_as_zeros(
    tmp_path: Path, make: Callable[[Path], Artifact], example: Any
) -> None:
    found = told(make(tmp_path / "made"))
    assert found["kind"] == "rows"
    assert found["example"] == example


def test_the_report_of_the_run_is_found_through_the_link_to_the_chosen_artifact(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "digits"
    run.mkdir(parents=True)
    artifact = tiny_onnx_artifact(run / "05-export-0123")
    (run / "artifact").symlink_to("05-export-0123")
    assert report_of(artifact) is None
    (run / "report.html").write_text("a page")
    assert report_of(artifact) is None  # any page might lie there
    (run / "report.json").write_text("{}")
    assert report_of(Artifact.open(run / "artifact")) == run / "report.html"
    assert told(artifact)["report"]
