"""The loop closed: what is served over HTTP is what the report says, sample by sample."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lissom
from lissom.report.files import read_report
from lissom.runtime.preprocess import preprocess
from lissom.runtime.scores import softmax


@pytest.fixture(scope="module")
def endpoint(small_run: Any) -> Iterator[str]:
    """URL of `lissom serve <out>/artifact`, started as a user would."""
    command = [sys.executable, "-m", "lissom", "serve", str(small_run.out / "artifact"), "--port", "0"]
    command += ["--runtime", small_run.report.verdict.runtime]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if " at http://" in line:
                break
        else:
            pytest.fail("the server did not start: " + "".join(lines))
        yield line.split(" at ")[1].split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def call(url: str, document: dict[str, Any] | None = None) -> Any:
    body = json.dumps(document).encode() if document is not None else None
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as response:
        return json.loads(response.read())


def test_every_sample_of_the_report_split_gets_the_reports_label_over_http(
    endpoint: str, small_run: Any
) -> None:
    report = read_report(small_run.out)
    wanted = report.predictions.arms[f"{report.verdict.artifact}/{report.verdict.runtime}"]
    data = lissom.load_data("digits")
    raw = data.raw("report")["image"]
    tensors = data.tensors("report")
    with lissom.open_runtime(small_run.artifact, report.verdict.runtime) as runtime:
        scores = softmax(runtime.infer(tensors)["logits"])
    assert len(raw) == len(wanted) > 200
    for index, image in enumerate(raw):
        answer = call(f"{endpoint}/predict", {"inputs": {"image": [image.tolist()]}})
        assert answer["model"] == "small"
        assert answer["labels"] == [report.labels[wanted[index]]], f"sample {index}"
        np.testing.assert_allclose(answer["scores"][0], scores[index], atol=1e-4)


def test_one_request_with_the_whole_split_gives_the_same_labels(endpoint: str, small_run: Any) -> None:
    report = read_report(small_run.out)
    wanted = report.predictions.arms[f"{report.verdict.artifact}/{report.verdict.runtime}"]
    raw = lissom.load_data("digits").raw("report")["image"]
    answer = call(f"{endpoint}/predict/small", {"inputs": {"image": raw.tolist()}})
    assert answer["labels"] == [report.labels[index] for index in wanted]


def test_the_open_inference_protocol_takes_tensors_after_preprocessing(endpoint: str, small_run: Any) -> None:
    manifest = small_run.artifact.manifest
    raw = lissom.load_data("digits").raw("report")["image"][:3]
    tensor = preprocess({"image": raw}, manifest.preprocessing, {"image": "float32"})["image"]
    request = {
        "inputs": [
            {"name": "image", "shape": [3, 1, 8, 8], "datatype": "FP32", "data": tensor.reshape(-1).tolist()}
        ]
    }
    answer = call(f"{endpoint}/v2/models/small/infer", request)
    predicted = call(f"{endpoint}/predict", {"inputs": {"image": raw.tolist()}})
    assert answer["model_name"] == "small"
    assert answer["outputs"][0]["shape"] == [3, 10]
    np.testing.assert_allclose(
        np.reshape(answer["outputs"][0]["data"], (3, 10)), predicted["outputs"]["logits"], atol=1e-5
    )


def test_the_server_says_what_it_serves(endpoint: str, small_run: Any) -> None:
    assert call(f"{endpoint}/v2")["name"] == "lissom"
    found = call(f"{endpoint}/v2/models/small")
    assert found["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert found["properties"]["digest"] == small_run.artifact.digest
    assert found["properties"]["runtime"] == small_run.report.verdict.runtime


def test_without_being_told_the_server_takes_the_runtime_that_the_report_chose(small_run: Any) -> None:
    from lissom.serve.repository import ranked_runtimes

    assert ranked_runtimes(small_run.artifact)[0] == small_run.report.verdict.runtime


def test_a_damaged_artifact_is_not_served(small_run: Any, tmp_path: Path) -> None:
    import shutil

    path = tmp_path / "artifact"
    shutil.copytree(small_run.artifact.path, path)
    with (path / "payload" / "model.onnx").open("ab") as file:
        file.write(b"x")
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "lissom", "serve", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
        timeout=60,
    )
    assert process.returncode == 2
    assert "has changed" in process.stderr
    assert time.monotonic() - started < 30
