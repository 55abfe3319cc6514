"""Samples in quite another range than the model was made for are told of, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.foreign.served import calibrated, classifier, node, open_app, predict
from tests.unit.serve.asgi import request

import lissom
from lissom.artifact import PreprocessingStep
from lissom.runtime.input_check import InputCheck

random = np.random.default_rng(3)
PICTURES = np.floor(random.beta(0.6, 0.8, size=(64, 100)) * 256).clip(0, 255).astype(np.float32)
SCANS = np.floor(random.beta(0.4, 0.6, size=(64, 64)) * 17).clip(0, 16).astype(np.float32)
SHARES = (PICTURES / 255).astype(np.float32)
STANDARD = random.normal(size=(64, 40)).astype(np.float32)
TABLE = np.hstack([random.integers(0, 2, (64, 5)), random.normal(60, 20, (64, 3)), np.ones((64, 1))]).astype(
    np.float32
)
ONE_HOT = np.eye(20, dtype=np.float32)[random.integers(0, 20, 64)]
MASKED = np.where(random.random((64, 30)) < 0.95, 0, random.lognormal(3, 1, (64, 30))).astype(np.float32)

WRONG = {
    "pictures of 255 as shares": (PICTURES, PICTURES / 255),
    "pictures of 255 as -1 to 1": (PICTURES, PICTURES / 127.5 - 1),
    "pictures of 255, standardised": (PICTURES, (PICTURES - 110) / 80),
    "pictures of 255 in 16 bits": (PICTURES, PICTURES * 257),
    "scans of 16 as shares": (SCANS, SCANS / 16),
    "scans of 16 as 255": (SCANS, SCANS * 255 / 16),
    "shares as pictures of 255": (SHARES, PICTURES),
    "shares as scans of 16": (SHARES, SHARES * 16),
    "shares as -1 to 1": (SHARES, SHARES * 2 - 1),
    "standardised values raw": (STANDARD, STANDARD * 50 + 128),
    "a table in thousandths": (TABLE, TABLE / 1000),
    "bytes beyond the four bits of the scans": (SCANS.astype(np.uint8), (SCANS * 255 / 16).astype(np.uint8)),
}
RIGHT = {
    "pictures": (PICTURES, PICTURES),
    "a dark picture": (PICTURES, np.floor(PICTURES / 20)),
    "a dark picture in fractions": (PICTURES, PICTURES / 20),
    "a blank picture, black": (PICTURES, PICTURES * 0),
    "a blank picture, white": (PICTURES, PICTURES * 0 + 255),
    "a black picture with a speck": (PICTURES, np.eye(100, dtype=np.float32)[:64]),
    "an inverted picture": (PICTURES, 255 - PICTURES),
    "scans": (SCANS, SCANS),
    "a blank scan": (SCANS, SCANS * 0),
    "a pale share": (SHARES, SHARES * 0.05),
    "a blank share": (SHARES, SHARES * 0 + 1),
    "standardised values": (STANDARD, random.normal(size=(64, 40))),
    "a table": (TABLE, TABLE),
    "a table with an outlier": (TABLE, TABLE * 1.5),
    "one of twenty": (ONE_HOT, ONE_HOT[:, ::-1]),
    "nothing of twenty": (ONE_HOT, ONE_HOT * 0),
    "rare large values": (MASKED, MASKED[:, ::-1]),
    "a constant column": (TABLE * 0 + 7, TABLE),
    "codes of words": (np.arange(256).reshape(64, 4), np.arange(256).reshape(64, 4) * 90),
    "bytes": (PICTURES.astype(np.uint8), PICTURES.astype(np.uint8) // 30),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_sample_in_another_range_is_told_of(tmp_path: Path, case: str) -> None:
    samples, given = WRONG[case]
    app = open_app(calibrated(tmp_path / "a", samples))
    for row in given[:20]:
        found = predict(app, [row.tolist()])
        assert found.status == 200
        (text,) = found.json["warnings"]
        assert text.startswith("input 'x' goes from")
        assert f"mean {samples.astype(np.float64).mean():.4g}" in text
        assert found.headers["x-lissom-warning"] == text
    mixed = np.concatenate([samples[:3], given[5:6].astype(samples.dtype)])
    assert "in row 3 " in predict(app, mixed.tolist()).json["warnings"][0]


@pytest.mark.parametrize("case", RIGHT)
def test_samples_as_they_may_be_are_not_told_of(tmp_path: Path, case: str) -> None:
    samples, given = RIGHT[case]
    app = open_app(calibrated(tmp_path / "a", samples))
    for rows in (given, *(given[place : place + 1] for place in range(20))):
        found = predict(app, rows.tolist())
        assert (found.status, found.json["warnings"]) == (200, [])
        assert "x-lissom-warning" not in found.headers


@pytest.mark.parametrize("source", ["digits", "glyphs"])
def test_no_report_sample_of_the_built_in_data_is_told_of(tmp_path: Path, source: str) -> None:
    data = lissom.load_data(source)
    (name,) = data.dataset.inputs
    samples, others = (data.raw(split)[name] for split in ("calibrate", "report"))
    check = InputCheck(calibrated(tmp_path / "a", samples.reshape(len(samples), -1)))
    rows = others[:500].reshape(-1, 1, samples[0].size)
    assert [check.warnings({"x": row}) for row in rows] == [[]] * len(rows)
    assert all(check.warnings({"x": row / samples.max()}) for row in rows)


@pytest.mark.parametrize(
    ("range_check", "status", "told"), [("refuse", 400, 0), ("off", 200, 0), ("warn", 200, 1)]
)
def test_what_becomes_of_them_can_be_chosen(tmp_path: Path, range_check: Any, status: int, told: int) -> None:
    app = open_app(calibrated(tmp_path / "a", SHARES), range_check=range_check)
    found = predict(app, PICTURES[:2].tolist())
    assert (found.status, len(found.json.get("warnings", ()))) == (status, told)
    if status == 400:
        assert "the samples that the model was calibrated with go from 0 to 1" in found.json["error"]
    assert predict(app, SHARES[:2].tolist()).status == 200


def test_older_artifacts_know_no_range(tmp_path: Path) -> None:
    app = open_app(calibrated(tmp_path / "a", SHARES, input_ranges=()))
    assert predict(app, PICTURES[:2].tolist()).json["warnings"] == []


def test_the_server_tells_preprocessing_and_range(tmp_path: Path) -> None:
    step = PreprocessingStep(input="x", mean=(3.0,), std=(5.0,))
    artifact = calibrated(tmp_path / "a", SCANS, preprocessing=(step,))
    app = open_app(artifact)
    told = request(app, "GET", "/v2/models/foreign").json["properties"]
    (one,) = told["input_ranges"]
    assert (one["input"], one["low"], one["high"], one["nonfinite"]) == ("x", 0, 16, False)
    np.testing.assert_allclose((one["mean"], one["std"]), (SCANS.mean(), SCANS.std()), rtol=1e-5)
    assert told["preprocessing"] == [{"op": "normalize", "input": "x", "mean": [3.0], "std": [5.0]}]
    parameters = request(app, "GET", "/v2/models/foreign/config").json["parameters"]
    for name in ("preprocessing", "input_ranges"):
        assert json.loads(parameters[name]["string_value"]) == told[name]
    (shown,) = request(app, "GET", "/page.json").json["models"]
    assert (shown["input_ranges"], shown["preprocessing"]) == (told["input_ranges"], told["preprocessing"])
    assert shown["digest"] == artifact.digest


def test_another_output_that_is_not_finite_is_told_of(tmp_path: Path) -> None:
    artifact = classifier(
        tmp_path / "a",
        [node("Log", "x", "y")],
        [],
        np.zeros((1, 2)),
        rows=np.ones((1, 2)),
        task="regression",
        labels=(),
    )
    found = predict(open_app(artifact), [[0.0, 1.0]])
    assert (found.status, found.json["outputs"]["y"]) == (200, [[None, 0.0]])
    assert found.json["warnings"] == ["output 'y' holds NaN or infinity, which JSON writes as null"]


def test_lissom_predict_tells_of_the_range_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifact = calibrated(tmp_path / "a", SHARES)
    lissom.predict(artifact, {"x": SHARES}, runtime="onnxruntime")
    assert not caplog.records
    lissom.predict(artifact, {"x": PICTURES}, runtime="onnxruntime")
    assert "input 'x' goes from" in caplog.text
