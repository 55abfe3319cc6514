"""What is served of other people's models is true: no label of NaN, no stale model, no two of one name.

Right answers are computed with numpy from the numbers that the graphs were made of.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.foreign.served import (
    CLASSES,
    ENGINES,
    ROWS,
    SIZE,
    WEIGHTS,
    classifier,
    constant,
    infer_binary,
    infer_json,
    node,
    open_app,
    predict,
    rectified,
)
from tests.unit.serve.asgi import Response, request

import lissom
from lissom.artifact import Artifact, InputRange
from lissom.errors import AnswerError, RequestError
from lissom.serve.app import Application
from lissom.serve.keys import Keys, add_key
from lissom.serve.naming import named_sources, source_of
from lissom.serve.repository import Repository, check_artifacts


def shares(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


# Answers made of NaN


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("dtype", "datatype"), [("float16", "FP16"), ("float32", "FP32"), ("float64", "FP64")]
)
@pytest.mark.parametrize(
    ("value", "row", "told"),
    [(np.nan, 0, "NaN in row 0"), (np.inf, 2, "infinity in row 2"), (-np.inf, 3, "-infinity in row 3")],
)
def test_no_engine_answers_a_sample_that_is_not_finite(
    tmp_path: Path, engine: str, dtype: str, datatype: str, value: float, row: int, told: str
) -> None:
    artifact = rectified(tmp_path / "a", dtype=dtype)
    app = open_app(artifact, runtime=engine)
    rows = ROWS.astype(dtype)
    assert infer_binary(app, rows, datatype).status == 200
    rows[row, 1] = value
    for found in (infer_binary(app, rows, datatype), infer_binary(app, rows, datatype)):
        assert (found.status, found.json["error"].startswith(f"input 'x' holds {told}")) == (400, True)
    with pytest.raises(RequestError, match=told):
        lissom.predict(artifact, {"x": rows}, runtime=engine)
    assert infer_binary(app, ROWS.astype(dtype), datatype).status == 200


def test_the_same_is_found_in_the_one_input_without_json_and_in_large_bodies(tmp_path: Path) -> None:
    app = open_app(rectified(tmp_path / "a"))
    one = ROWS[:1].copy()
    headers = {"inference-header-content-length": "0"}
    path = "/v2/models/foreign/infer"
    assert request(app, "POST", path, one.tobytes(), headers=headers).status == 200
    one[0, 5] = np.nan
    assert request(app, "POST", path, one.tobytes(), headers=headers).status == 400
    many = np.tile(ROWS, (3000, 1))
    assert infer_binary(app, many, "FP32").status == 200
    many[9999, 3] = np.inf
    found = infer_binary(app, many, "FP32")
    assert (found.status, "infinity in row 9999" in found.json["error"]) == (400, True)


@pytest.mark.parametrize("largest", [1e30, 3e38])
def test_large_numbers_are_finite(tmp_path: Path, largest: float) -> None:
    weights = np.zeros((SIZE, CLASSES), np.float32)
    weights[0, 0] = 1e-38
    app = open_app(
        classifier(tmp_path / "a", [node("MatMul", "x w", "y")], [constant("w", weights)], ROWS @ weights)
    )
    rows = np.full((2, SIZE), largest, np.float32)
    assert infer_binary(app, rows, "FP32").status == 200
    found = predict(app, rows.tolist())
    np.testing.assert_allclose(found.json["outputs"]["y"], rows @ weights, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e5), ("float32", 1e39), ("float32", -1e300)])
def test_a_number_that_the_dtype_cannot_hold_is_refused(tmp_path: Path, dtype: str, value: float) -> None:
    artifact = rectified(tmp_path / "a", dtype=dtype)
    app = open_app(artifact)
    rows = ROWS.astype(np.float64)
    rows[1, 1] = value
    found = predict(app, rows.tolist())
    assert (found.status, f"outside the range of {dtype}" in found.json["error"]) == (400, True)
    with pytest.raises(RequestError, match="outside the range"):
        lissom.predict(artifact, {"x": rows}, runtime="onnxruntime")


def test_a_model_in_float64_gets_every_digit(tmp_path: Path) -> None:
    nodes, small = [node("Mul", "x w", "y")], 2.0**-40
    rows = np.array([[1.0, 1.0 + small]])
    artifact = classifier(
        tmp_path / "a", nodes, [constant("w", 1.0, "float64")], rows, dtype="float64", rows=rows
    )
    found = predict(open_app(artifact), rows.tolist())
    assert found.json["outputs"]["y"] == rows.tolist()


FAULTY: dict[str, tuple[list[Any], list[Any], np.ndarray]] = {
    "the logarithm of a negative number": (
        [node("Log", "x", "y")],
        [],
        np.array([[1, 1], [-1, 1], [1, 1.0]]),
    ),
    "a division of zero by zero": ([node("Div", "x x", "y")], [], np.array([[1, 1], [0, 1], [2, 1.0]])),
    "an overflow": ([node("Mul", "x w", "y")], [constant("w", 3e38)], np.array([[1, 1], [9, 1], [0, 1.0]])),
    "an exponential": ([node("Exp", "x", "y")], [], np.array([[1, 1], [1000, 1], [0, 1.0]])),
}


@pytest.mark.parametrize("case", FAULTY)
def test_no_label_is_given_without_a_finite_score(tmp_path: Path, engine: str, case: str) -> None:
    nodes, constants, rows = FAULTY[case]
    ones = np.ones((2, 2), np.float32)
    scale = 1.0 if not constants else 3e38
    wanted = {"Log": np.zeros_like(ones), "Exp": np.exp(ones)}.get(nodes[0].op_type, ones * np.float32(scale))
    artifact = classifier(tmp_path / "a", nodes, constants, wanted, rows=ones)
    app = open_app(artifact, runtime=engine)
    found = predict(app, rows.tolist())
    assert found.status == 422, found.body
    assert "row 1" in found.json["error"]
    assert "output 'y'" in found.json["error"]
    assert predict(app, rows[[0, 2]].tolist()).status == 200
    with pytest.raises(AnswerError, match=r"row 1.*output 'y'"):
        lissom.predict(artifact, {"x": rows.astype(np.float32)}, runtime=engine)
    assert len(lissom.predict(artifact, {"x": rows[[0, 2]].astype(np.float32)}, runtime=engine)[0]) == 2


def test_a_class_that_is_ruled_out_has_the_finite_score_zero(tmp_path: Path) -> None:
    mask = np.array([0, -np.inf, 0], np.float32)
    nodes = [node("MatMul", "x w", "product"), node("Add", "product m", "y")]
    wanted = ROWS @ WEIGHTS + mask
    app = open_app(classifier(tmp_path / "a", nodes, [constant("w", WEIGHTS), constant("m", mask)], wanted))
    found = predict(app, ROWS.tolist())
    assert found.status == 200
    np.testing.assert_allclose(found.json["scores"], shares(wanted), atol=1e-5)
    assert found.json["labels"] == [f"class {place}" for place in wanted.argmax(axis=1)]


def masked_range(nonfinite: bool) -> tuple[InputRange, ...]:
    return (InputRange(input="x", low=-3, high=3, mean=0, std=1, nonfinite=nonfinite),)


def is_missing(folder: Path, **changes: Any) -> Artifact:
    """0 where a feature is NaN, through its weights: a model that is made for missing features."""
    nodes = [
        node("IsNaN", "x", "missing"),
        node("Where", "missing zero x", "filled"),
        node("MatMul", "filled w", "y"),
    ]
    return classifier(
        folder, nodes, [constant("zero", 0.0), constant("w", WEIGHTS)], ROWS @ WEIGHTS, **changes
    )


def test_a_model_whose_samples_hold_nan_gets_it_on_every_route(tmp_path: Path) -> None:
    artifact = is_missing(tmp_path / "a", input_ranges=masked_range(True))
    app = open_app(artifact)
    rows = ROWS.copy()
    rows[2, 4] = np.nan
    wanted = np.where(np.isnan(rows), 0, rows) @ WEIGHTS
    as_json = [[None if np.isnan(value) else value for value in row] for row in rows.tolist()]
    named = [["NaN" if value is None else value for value in row] for row in as_json]
    found = infer_binary(app, rows, "FP32").json["outputs"][0]
    np.testing.assert_allclose(np.reshape(found["data"], found["shape"]), wanted, rtol=1e-5)
    found = infer_json(app, rows).json["outputs"][0]
    np.testing.assert_allclose(np.reshape(found["data"], found["shape"]), wanted, rtol=1e-5)
    for given in (as_json, named):
        np.testing.assert_allclose(predict(app, given).json["outputs"]["y"], wanted, rtol=1e-5)
    labels, scores = lissom.predict(artifact, {"x": rows}, runtime="onnxruntime")
    np.testing.assert_allclose(scores, shares(wanted), atol=1e-5)
    assert labels == [f"class {place}" for place in wanted.argmax(axis=1)]


@pytest.mark.parametrize("given", [None, "NaN", "Infinity", "-Infinity"])
def test_json_has_no_other_way_around_the_check(tmp_path: Path, given: Any) -> None:
    rows: list[list[Any]] = ROWS.tolist()
    rows[0][0] = given
    strict = open_app(is_missing(tmp_path / "a", input_ranges=masked_range(False)))
    assert predict(strict, rows).status == 400
    loose = open_app(is_missing(tmp_path / "b"), allow_nonfinite=True)
    assert predict(loose, rows).status == (200 if given in (None, "NaN") else 422)
    rows[0][0] = "nonsense"
    assert predict(loose, rows).status == 400
    rows[0][0] = 1e300
    assert predict(loose, rows).status == 400


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_check_can_be_switched_off(tmp_path: Path, dtype: str) -> None:
    artifact = rectified(tmp_path / "a", dtype=dtype)
    app = open_app(artifact, allow_nonfinite=True)
    rows = ROWS.astype(dtype)
    rows[0, 0] = np.nan
    datatype = {"float16": "FP16", "float32": "FP32", "float64": "FP64"}[dtype]
    found = infer_binary(app, rows, datatype).json["outputs"][0]
    assert found["data"][:CLASSES] == [None] * CLASSES
    with pytest.raises(AnswerError, match="row 0"):
        lissom.predict(artifact, {"x": rows}, runtime="onnxruntime", allow_nonfinite=True)


# A swap serves what lies there now, and says what that is


def scorer(folder: Path, bias: float, **changes: Any) -> Artifact:
    """x @ weights + bias: each has answers, and a digest, of its own."""
    nodes = [node("MatMul", "x w", "product"), node("Add", "product b", "y")]
    constants = [constant("w", WEIGHTS), constant("b", bias)]
    return classifier(folder, nodes, constants, ROWS @ WEIGHTS + np.float32(bias), **changes)


def relink(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def swap_link(folder: Path) -> tuple[str, Any]:
    """The link to a folder points elsewhere."""
    scorer(folder / "one", 1), scorer(folder / "two", 2)
    relink(folder / "artifact", folder / "one")
    return str(folder / "artifact"), lambda: relink(folder / "artifact", folder / "two")


def swap_link_above(folder: Path) -> tuple[str, Any]:
    """A link higher up in the path points elsewhere."""
    scorer(folder / "one" / "artifact", 1), scorer(folder / "two" / "artifact", 2)
    relink(folder / "newest", Path("one"))
    return str(folder / "newest" / "artifact"), lambda: relink(folder / "newest", Path("two"))


def swap_chain(folder: Path) -> tuple[str, Any]:
    """A link to a link, of which the second points elsewhere; the manifest itself was named."""
    scorer(folder / "one", 1), scorer(folder / "two", 2)
    relink(folder / "chosen", Path("one"))
    relink(folder / "artifact", Path("chosen"))
    path = folder / "artifact" / "manifest.json"
    return str(path), lambda: relink(folder / "chosen", Path("two"))


def swap_folder(folder: Path) -> tuple[str, Any]:
    """The folder itself is replaced by another."""
    scorer(folder / "artifact", 1), scorer(folder / "two", 2)

    def change() -> None:
        (folder / "artifact").rename(folder / "old")
        (folder / "two").rename(folder / "artifact")

    return str(folder / "artifact"), change


def swap_relative(folder: Path) -> tuple[str, Any]:
    """The path was relative, and the working folder is another meanwhile."""
    _, change = swap_link(folder)
    return "artifact", change


SWAPS = (swap_link, swap_link_above, swap_chain, swap_folder, swap_relative)
ADMIN = "/v2/repository/models/foreign/load"


def administered(sources: list[Any], folder: Path) -> tuple[Application, dict[str, str]]:
    keys = folder / "keys.txt"
    key = add_key(keys, "root", is_admin=True)
    app = Application(Repository.open(sources, runtime="onnxruntime", threads=1), keys=Keys(keys))
    return app, {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("how", SWAPS, ids=lambda how: how.__name__)
@pytest.mark.parametrize("name", [None, "foreign"])
def test_load_serves_what_the_path_names_now(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: Any,
    name: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    path, change = how(tmp_path)
    app, admin = administered([path if name is None else f"{name}={path}"], tmp_path)
    monkeypatch.chdir("/")

    def told() -> tuple[float, Any, Any]:
        body = {"inputs": {"x": ROWS.tolist()}}
        logits = request(app, "POST", "/predict", body, headers=admin).json["outputs"]["y"]
        bias = float(np.median(np.array(logits) - ROWS @ WEIGHTS))
        index = request(app, "POST", "/v2/repository/index", headers=admin).json[0]["digest"]
        digest = request(app, "GET", "/v2/models/foreign", headers=admin).json["properties"]["digest"]
        return round(bias, 3), index, digest

    before = told()
    assert before[0] == 1
    same = request(app, "POST", ADMIN, {}, headers=admin).json
    assert (same["digest"], same["previous"], same["changed"]) == (before[1], before[1], False)
    assert "has not changed" in same["message"]
    change()
    assert told() == before
    with caplog.at_level("INFO", "lissom"):
        swapped = request(app, "POST", ADMIN, {}, headers=admin)
    after = told()
    assert (swapped.status, after[0]) == (200, 2)
    assert after[1] == after[2] == swapped.json["digest"] != before[1]
    assert (swapped.json["previous"], swapped.json["changed"]) == (before[1], True)
    assert any(after[1][:12] in record.message for record in caplog.records)


def test_load_of_a_link_to_nothing_keeps_the_old_model(tmp_path: Path) -> None:
    path, _ = swap_link(tmp_path)
    app, admin = administered([path], tmp_path)
    relink(Path(path), tmp_path / "nowhere")
    assert request(app, "POST", ADMIN, {}, headers=admin).status == 500
    assert predict_with(app, admin).status == 200
    relink(Path(path), tmp_path / "two")
    assert request(app, "POST", ADMIN, {}, headers=admin).json["changed"] is True


def predict_with(app: Application, headers: Mapping[str, str]) -> Response:
    return request(app, "POST", "/predict", {"inputs": {"x": ROWS.tolist()}}, headers=dict(headers))


# Two artifacts of one verb share a server


def test_the_hint_names_a_command_that_works(tmp_path: Path) -> None:
    paths = [
        scorer(tmp_path / run / "artifact", bias, recipe="train").path for run, bias in (("a", 1), ("b", 2))
    ]
    paths.append(scorer(tmp_path / "c" / "artifact", 3, recipe="other").path)
    with pytest.raises(RequestError, match="both be served as 'train'") as caught:
        check_artifacts(paths)
    words = shlex.split(caught.value.hint)[2:]
    app = Application(Repository.open(words, runtime="onnxruntime", threads=1))
    assert app.repository is not None
    assert list(app.repository.models) == ["a", "b", "other"]
    for name, bias in zip(("a", "b", "other"), (1, 2, 3), strict=True):
        found = predict(app, ROWS.tolist(), f"/predict/{name}").json
        assert found["model"] == name
        np.testing.assert_allclose(found["outputs"]["y"], ROWS @ WEIGHTS + bias, rtol=1e-4, atol=1e-5)
        assert request(app, "GET", f"/v2/models/{name}").json["name"] == name


@pytest.mark.parametrize(
    ("words", "names", "wanted"),
    [
        (["x=a", "y=b"], None, ["x", "y"]),
        (["a", "y=b"], None, [None, "y"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),
        (["is=there", "./n=p"], None, [None, None]),
    ],
)
def test_names_are_given_with_paths_or_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], names: Any, wanted: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "is=there").mkdir()
    found = named_sources(words, names)
    assert [source.name for source in found] == wanted
    assert [source_of(str(source)) for source in found] == found


@pytest.mark.parametrize(
    ("words", "names", "told"),
    [
        (["a", "b"], ["x"], "1 names were given for 2 artifacts"),
        (["x=a"], ["y"], "has a name already"),
        (["a"], ["a/b"], "'a/b' cannot be the name"),
        (["a"], [""], "'' cannot be the name"),
        (["stats=a"], None, "'stats' cannot be the name"),
    ],
)
def test_names_that_cannot_be_are_refused(words: list[str], names: Any, told: str) -> None:
    with pytest.raises(RequestError, match=re.escape(told)):
        named_sources(words, names)
