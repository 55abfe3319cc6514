"""The text that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.serve.asgi import request

from lissom.serve.app import Application
from lissom.serve.metrics import exposition
from lissom.serve.repository import Repository, State

BODY = {"inputs": {"image": [[[0, 1], [2, 3]]]}}


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Values by name and labels; the parser adds `_total` to the names of counters."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_in_the_words_of_triton(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    with Repository.open([artifact.path], runtime="onnxruntime", threads=1) as repository:
        app = Application(repository)
        for _ in range(3):
            assert request(app, "POST", "/predict/tiny", BODY).status == 200
        assert request(app, "POST", "/predict/tiny", {}).status == 400
        found = samples(app.metrics())
    model = (("model", "tiny"), ("version", "1"))
    assert found["nv_inference_request_success_total", model] == 3
    assert found["nv_inference_count_total", model] == 3
    assert found["nv_inference_exec_count_total", model] == 3
    assert found["nv_inference_pending_request_count", model] == 0
    assert found["nv_inference_request_duration_us_total", model] > 0
    assert found["nv_inference_request_failure_total", (model[0], ("reason", "REJECTED"), model[1])] == 0
    assert found["lissom_request_duration_ms_count", model] == 3
    assert found["lissom_request_duration_ms_bucket", (("le", "+Inf"), *model)] == 3
    assert found["lissom_model_ready", model] == 1
    assert found["lissom_http_responses_total", (("route", "predict"), ("status", "200"))] == 3
    assert found["lissom_http_responses_total", (("route", "predict"), ("status", "400"))] == 1
    assert found["process_resident_memory_bytes", ()] > 2**20


def test_nothing_that_comes_with_a_request_becomes_a_label(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    with Repository.open([artifact.path], runtime="onnxruntime", threads=1) as repository:
        app = Application(repository)
        for path in ("/nothing", "/v2/models/unknown", "/predict/unknown", "/v2/models/tiny/versions/9"):
            request(app, "GET", path)
            request(app, "POST", path, {})
        before = set(samples(app.metrics()))
        for number in range(50):
            request(app, "POST", f"/predict/unknown{number}", {})
            request(app, "GET", f"/unknown{number}", {})
        assert set(samples(app.metrics())) == before
        assert "unknown" not in app.metrics()


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_names_are_escaped(name: str) -> None:
    text = exposition([], {name: State.UNLOADED}, Counter())
    assert samples(text)["lissom_model_ready", (("model", name), ("version", "1"))] == 0
