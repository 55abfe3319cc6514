"""The HTTP application, without sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import zlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.unit.artifacts import LABELS, identity_onnx_artifact, tiny_logits, tiny_onnx_artifact
from tests.unit.serve.asgi import Response, request, send_request

from lissom.errors import ArtifactError
from lissom.runtime.scores import softmax
from lissom.serve import repository
from lissom.serve.app import Application
from lissom.serve.bodies import MAX_BODY_BYTES
from lissom.serve.keys import Keys, add_key
from lissom.serve.repository import Repository, ServedModel, State

ROWS = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)


def open_app(*paths: Path) -> Application:
    return Application(Repository.open(paths, runtime="onnxruntime", threads=1))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    app = open_app(tiny_onnx_artifact(tmp_path_factory.mktemp("app") / "tiny").path)
    yield app
    assert app.repository is not None
    app.repository.close()


def tensor(**changes: Any) -> dict[str, Any]:
    values = ROWS.reshape(-1).tolist()
    return {"name": "image", "datatype": "FP32", "shape": [2, 1, 2, 2], "data": values, **changes}


def infer(app: Application, document: Any, **options: Any) -> Response:
    return request(app, "POST", "/v2/models/tiny/infer", document, **options)


def predict(app: Application, rows: Any, **options: Any) -> Response:
    return request(app, "POST", "/predict", {"inputs": {"image": rows}}, **options)


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_says_what_it_is(app: Application, path: str) -> None:
    found = request(app, "GET", path)
    assert found.status == 200
    assert found.headers["content-type"] == "application/json"
    assert found.json["name"] == "lissom"
    assert {"binary_tensor_data", "statistics", "model_repository"} <= {*found.json["extensions"]}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/v2/health/live/"]
)
def test_health_is_answered_to_get_and_head(app: Application, method: str, path: str) -> None:
    found = request(app, method, path)
    assert found.status == 200
    assert bool(found.body) == (method == "GET")


def test_the_server_is_alive_but_not_ready_before_its_models_are() -> None:
    app = Application()
    assert request(app, "GET", "/v2/health/live").status == 200
    for method, path in [("GET", "/v2/health/ready"), ("GET", "/v2/models/tiny"), ("POST", "/predict")]:
        found = request(app, method, path)
        assert (found.status, found.headers["retry-after"]) == (503, "1")
        assert "still being loaded" in found.json["error"]


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/versions/1", "/v2/models/tiny/"])
def test_a_model_says_what_it_takes_and_gives(app: Application, path: str) -> None:
    found = request(app, "GET", path).json
    assert found["name"] == "tiny"
    assert found["versions"] == ["1"]
    assert found["platform"] == "onnxruntime_onnx"
    assert found["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 2, 2]}]
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
    assert found["properties"]["runtime"] == "onnxruntime"


@pytest.mark.parametrize("path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"])
@pytest.mark.parametrize("data", [ROWS.reshape(-1).tolist(), ROWS.tolist()], ids=["flat", "nested"])
def test_infer_computes_what_the_model_computes(app: Application, path: str, data: Any) -> None:
    found = request(app, "POST", path, {"inputs": [tensor(data=data)]})
    assert found.status == 200
    (output,) = found.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [2, 3])
    expected = tiny_logits(ROWS * 4 + 2)  # the request skips the preprocessing, which this undoes
    np.testing.assert_allclose(output["data"], expected.reshape(-1), rtol=1e-5, atol=1e-5)
    assert "id" not in found.json


def test_infer_echoes_the_id_and_tolerates_parameters(app: Application) -> None:
    document = {
        "id": "request 7",
        "parameters": {"priority": 1, "binary_data_output": True},
        "inputs": [tensor(parameters={"own": "thing"})],
        "outputs": [{"name": "logits", "parameters": {"binary_data": False}}],
    }
    found = infer(app, document)
    assert found.status == 200
    assert found.json["id"] == "request 7"
    assert (found.json["model_name"], found.json["model_version"]) == ("tiny", "1")


@pytest.mark.parametrize(
    ("dtype", "datatype", "x", "y"),
    [
        ("bool", "BOOL", [True, False], [True]),
        ("uint8", "UINT8", [0, 255], [7]),
        ("int8", "INT8", [-128, 127], [7]),
        ("int32", "INT32", [-(2**31), 2**31 - 1], [7]),
        ("int64", "INT64", [-(2**63), 2**63 - 1], [7]),
        ("uint64", "UINT64", [0, 2**64 - 1], [7]),
        ("float16", "FP16", [0.5, -65504], [1]),
        ("float32", "FP32", [0.1, -3e38], [1]),
        ("float64", "FP64", [0.1, 1e300], [1]),
    ],
)
def test_infer_takes_and_gives_every_datatype_exactly(
    tmp_path: Path, dtype: str, datatype: str, x: list[Any], y: list[Any]
) -> None:
    artifact = identity_onnx_artifact(tmp_path / "identity", dtype)
    app = open_app(artifact.path)
    inputs = [
        {"name": "y", "datatype": datatype, "shape": [1], "data": y},
        {"name": "x", "datatype": datatype, "shape": [1, 2], "data": x},
    ]
    wanted = [{"name": "y_again"}, {"name": "x_again"}]
    document = {"inputs": inputs, "outputs": wanted}
    found = request(app, "POST", f"/v2/models/identity_{dtype}/infer", document).json
    assert [output["name"] for output in found["outputs"]] == ["y_again", "x_again"]
    assert {output["datatype"] for output in found["outputs"]} == {datatype}
    for output, given in zip(found["outputs"], (y, x), strict=True):
        np.testing.assert_array_equal(np.array(output["data"], dtype=dtype), np.array(given, dtype=dtype))
    only = infer_outputs(app, f"identity_{dtype}", inputs, ["x_again"])
    assert only == ["x_again"]


def infer_outputs(app: Application, model: str, inputs: list[Any], names: list[str]) -> list[str]:
    document = {"inputs": inputs, "outputs": [{"name": name} for name in names]}
    found = request(app, "POST", f"/v2/models/{model}/infer", document).json
    return [output["name"] for output in found["outputs"]]


def test_predict_preprocesses_and_names_the_class(app: Application) -> None:
    found = predict(app, ROWS.tolist())
    assert found.status == 200
    logits = tiny_logits(ROWS)
    assert found.json["model"] == "tiny"
    assert found.json["labels"] == [LABELS[index] for index in logits.argmax(axis=1)]
    np.testing.assert_allclose(found.json["scores"], softmax(logits), rtol=1e-5)
    np.testing.assert_allclose(found.json["outputs"]["logits"], logits, rtol=1e-5, atol=1e-5)


def test_predict_by_name_answers_as_predict_without(app: Application) -> None:
    body = {"inputs": {"image": ROWS.tolist()}}
    assert request(app, "POST", "/predict/tiny", body).json == request(app, "POST", "/predict", body).json


def test_predict_takes_one_sample_without_the_axis_of_the_batch(app: Application) -> None:
    single, batch = predict(app, ROWS[0].tolist()), predict(app, ROWS[:1].tolist())
    assert single.status == 200
    assert single.json == batch.json


def test_predict_counts_classes_that_have_no_names(tmp_path: Path) -> None:
    app = open_app(tiny_onnx_artifact(tmp_path / "a", labels=()).path)
    assert predict(app, ROWS.tolist()).json["labels"] == [str(i) for i in tiny_logits(ROWS).argmax(axis=1)]


def test_predict_gives_no_labels_for_another_task(tmp_path: Path) -> None:
    app = open_app(tiny_onnx_artifact(tmp_path / "a", labels=(), task="own.package:factory").path)
    found = predict(app, ROWS.tolist()).json
    assert (found["labels"], found["scores"]) == (None, None)
    np.testing.assert_allclose(found["outputs"]["logits"], tiny_logits(ROWS), rtol=1e-5, atol=1e-5)


def test_two_models_are_served_side_by_side(tmp_path: Path) -> None:
    paths = [tiny_onnx_artifact(tmp_path / name, recipe=name).path for name in ("one", "two")]
    app = open_app(*paths)
    body = {"inputs": {"image": ROWS.tolist()}}
    assert [request(app, "POST", f"/predict/{name}", body).json["model"] for name in ("one", "two")] == [
        "one",
        "two",
    ]
    unnamed = request(app, "POST", "/predict", body)
    assert unnamed.status == 400
    assert "/predict/one, /predict/two" in unnamed.json["error"]


HOSTILE_INFER: dict[str, tuple[Any, str]] = {
    "empty body": (b"", "empty"),
    "no JSON": (b"\x00\xff", "not JSON"),
    "no object": ([1, 2], "not an object"),
    "no inputs": ({}, "'inputs' is missing"),
    "inputs no list": ({"inputs": {"image": 1}}, "list of tensors"),
    "input no object": ({"inputs": [3]}, "'name'"),
    "name no text": ({"inputs": [{"name": 3}]}, "'name'"),
    "id no text": ({"id": 7, "inputs": [tensor()]}, "'id' is 7"),
    "wrong name": ({"inputs": [tensor(name="imag")]}, "did you mean image"),
    "endless name": ({"inputs": [tensor(name="i" * 1_000_000)]}, "no input"),
    "no input at all": ({"inputs": []}, "'image' is missing"),
    "input twice": ({"inputs": [tensor(), tensor()]}, "given twice"),
    "wrong datatype": ({"inputs": [tensor(datatype="FP64")]}, "takes 'FP32'"),
    "no datatype": ({"inputs": [tensor(datatype=None)]}, "takes 'FP32'"),
    "no shape": ({"inputs": [tensor(shape=None)]}, "list of sizes"),
    "negative shape": ({"inputs": [tensor(shape=[-2, 1, 2, 2])]}, "list of sizes"),
    "fraction in shape": ({"inputs": [tensor(shape=[2.0, 1, 2, 2])]}, "list of sizes"),
    "true in shape": ({"inputs": [tensor(shape=[True, 1, 2, 2])]}, "list of sizes"),
    "wrong rank": ({"inputs": [tensor(shape=[2, 4])]}, "takes [batch, 1, 2, 2]"),
    "endless shape": ({"inputs": [tensor(shape=[2**63] * 100_000)]}, "takes [batch, 1, 2, 2]"),
    "huge shape": ({"inputs": [tensor(shape=[2**63, 2**63, 2, 2])]}, "has 8 values"),
    "wrong shape": (
        {"inputs": [tensor(shape=[2, 2, 2, 1])]},
        "[2, 2, 2, 1], the model takes [batch, 1, 2, 2]",
    ),
    "too few values": ({"inputs": [tensor(data=[1, 2])]}, "has 2 values"),
    "nested otherwise": ({"inputs": [tensor(data=[[1, 2, 3, 4], [5, 6, 7, 8]])]}, "its lists have [2, 4]"),
    "ragged": ({"inputs": [tensor(data=[[1, 2], [3]])]}, "ragged"),
    "mixed depth": ({"inputs": [tensor(data=[[1], 2])]}, "ragged"),
    "list after numbers": ({"inputs": [tensor(data=[1, [2]])]}, "unequal depth at position 1"),
    "text": ({"inputs": [tensor(data=["1"] * 8)]}, "text at position 0"),
    "null": ({"inputs": [tensor(data=[1, None] * 4)]}, "null at position 1"),
    "true": ({"inputs": [tensor(data=[True] * 8)]}, "true or false at position 0"),
    "object": ({"inputs": [tensor(data=[{}] * 8)]}, "an object at position 0"),
    "data no list": ({"inputs": [tensor(data=3)]}, "not a list"),
    "no data": ({"inputs": [{k: v for k, v in tensor().items() if k != "data"}]}, "no 'data'"),
    "binary size": (
        {
            "inputs": [
                {**{k: v for k, v in tensor().items() if k != "data"}, "parameters": {"binary_data_size": 32}}
            ]
        },
        "Inference-Header-Content-Length is not given",
    ),
    "beyond float32": ({"inputs": [tensor(data=[1e300] * 8)]}, "outside the range of FP32"),
    "NaN": (
        json.dumps({"inputs": [tensor(data=[float("nan")] * 8)]}).encode(),
        "NaN and Infinity are not JSON",
    ),
    "infinity": (json.dumps({"inputs": [tensor(data=[float("inf")] * 8)]}).encode(), "NaN and Infinity"),
    "beyond float64": (b'{"inputs": [{"name": "image", "data": [1e999]}]}', "not JSON"),
    "empty batch": ({"inputs": [tensor(shape=[0, 1, 2, 2], data=[])]}, "empty"),
    "outputs no list": ({"inputs": [tensor()], "outputs": "logits"}, "list of tensors"),
    "unknown output": ({"inputs": [tensor()], "outputs": [{"name": "logit"}]}, "did you mean logits"),
    "output twice": ({"inputs": [tensor()], "outputs": [{"name": "logits"}] * 2}, "asked for twice"),
    "deep": (b"[" * 101, "nested more than 100"),
    "deep and valid": (b'{"inputs":' + b"[" * 101 + b"]" * 101 + b"}", "nested more than 100"),
    "flood of lists": (b"[" + b"[]," * 1_000_001 + b"[]]", "1,000,003 lists"),
    "lone surrogate": (b'{"id": "\\ud800", "inputs": []}', "not JSON"),
}


@pytest.mark.parametrize("case", HOSTILE_INFER)
def test_infer_refuses_what_it_cannot_take_and_lives_on(app: Application, case: str) -> None:
    body, reason = HOSTILE_INFER[case]
    found = infer(app, body)
    assert found.status == 400, found.body[:300]
    assert list(found.json) == ["error"]
    assert reason in found.json["error"]
    assert len(found.json["error"]) <= 500
    assert_lives(app)


HOSTILE_PREDICT: dict[str, tuple[Any, str]] = {
    "no inputs": ({}, "'inputs' is missing"),
    "inputs a list": ({"inputs": [1]}, "'inputs' is a list"),
    "unknown key": ({"inputs": {"image": ROWS.tolist()}, "input": 1}, "unknown key 'input'"),
    "wrong name": ({"inputs": {"img": ROWS.tolist()}}, "no input 'img'"),
    "no rows": ({"inputs": {"image": []}}, "[0]"),
    "a number": ({"inputs": {"image": 3}}, "shape []"),
    "flat": ({"inputs": {"image": [1, 2, 3, 4]}}, "takes [batch, 1, 2, 2]"),
    "wrong channels": ({"inputs": {"image": [[[[1, 2], [3, 4]]] * 3]}}, "[1, 3, 2, 2]"),
    "ragged": ({"inputs": {"image": [[[[1, 2], [3]]]]}}, "ragged"),
    "text": ({"inputs": {"image": [[["1", "2"], ["3", "4"]]]}}, "text at position 0"),
    "beyond float32": ({"inputs": {"image": [[[1e300, 1], [1, 1]]]}}, "outside the range of float32"),
}


@pytest.mark.parametrize("case", HOSTILE_PREDICT)
def test_predict_refuses_what_it_cannot_take_and_lives_on(app: Application, case: str) -> None:
    body, reason = HOSTILE_PREDICT[case]
    found = request(app, "POST", "/predict", body)
    assert found.status == 400, found.body[:300]
    assert reason in found.json["error"]
    assert_lives(app)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("GET", "/v3", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/tiny/versions/2", 404),
        ("GET", "/v2/models/tiny/versions/1/versions/1", 404),
        ("GET", "/v2/models/../../etc/passwd", 404),
        ("POST", "/v2/models/tiny/versions/01/infer", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("POST", "/predict/nope", 404),
        ("POST", "/predict/tiny/more", 404),
        ("POST", f"/predict/{'t' * 50_000}", 404),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/tiny", 405),
        ("GET", "/v2/models/tiny/infer", 405),
        ("GET", "/predict", 405),
        ("POST", "/v2/health/ready", 405),
    ],
)
def test_what_is_not_there_is_an_error_in_one_shape(
    app: Application, method: str, path: str, status: int
) -> None:
    found = request(app, method, path)
    assert found.status == status
    assert list(found.json) == ["error"]
    assert len(found.json["error"]) <= 500
    assert ("allow" in found.headers) == (status == 405)
    assert_lives(app)


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Inference-Header-Content-Length": "-1"}, 400, "Inference-Header-Content-Length is '-1'"),
        ({"Inference-Header-Content-Length": "abc"}, 400, "Inference-Header-Content-Length is 'abc'"),
        ({"Inference-Header-Content-Length": "9999999"}, 400, "the body has"),
        ({"Inference-Header-Content-Length": "9" * 5000}, 400, "the body has"),
        ({"Content-Encoding": "br"}, 415, "gzip, deflate or none"),
        ({"Content-Encoding": "gzip"}, 400, "not gzip"),
        ({"Content-Encoding": "deflate"}, 400, "not deflate"),
        ({"X-Request-Timeout-Ms": "soon"}, 400, "whole milliseconds"),
        ({"X-Request-Timeout-Ms": "0"}, 400, "whole milliseconds"),
        ({"Content-Length": str(MAX_BODY_BYTES + 1)}, 413, "smaller batches"),
        ({"Content-Length": "-1"}, 400, "not a number"),
        ({"Content-Length": "²"}, 400, "not a number"),
    ],
)
def test_headers_that_announce_trouble_are_refused_before_the_body(
    app: Application, headers: dict[str, str], status: int, reason: str
) -> None:
    found = infer(app, {"inputs": [tensor()]}, headers=headers)
    assert found.status == status
    assert reason in found.json["error"]
    assert_lives(app)


def test_content_types_are_not_asked_for(app: Application) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Encoding": "identity"}):
        assert infer(app, {"inputs": [tensor()]}, headers=headers).status == 200


def test_a_body_in_pieces_is_put_together(app: Application) -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    pieces = [body[index : index + 7] for index in range(0, len(body), 7)]
    assert infer(app, None, chunks=pieces).status == 200


def test_a_body_that_does_not_say_its_length_is_cut_off(app: Application) -> None:
    piece = b" " * 2**20
    found = infer(app, None, chunks=[piece] * (MAX_BODY_BYTES // 2**20 + 1))
    assert (found.status, found.headers["connection"]) == (413, "close")
    assert_lives(app)


def test_a_client_that_goes_away_gets_no_answer(app: Application) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent == []
    assert_lives(app)


def test_a_websocket_is_turned_away(app: Application) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "websocket", "path": "/v2"}, asyncio.Queue().get, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("exc", [RuntimeError("secret /path"), ArtifactError("secret /path"), MemoryError()])
def test_the_cause_of_an_internal_error_is_in_the_log_only(
    app: Application, exc: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert app.repository is not None
    model = app.repository.models["tiny"]

    def fail(inputs: Any) -> Any:
        raise exc

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "lissom"):
        patch.setattr(model.scheduler, "_run", fail)
        found = predict(app, ROWS.tolist())
    assert found.status == 500
    assert found.json == {"error": "internal error; the cause is in the log of the server"}
    assert caplog.records[-1].exc_info is not None
    assert predict(app, ROWS.tolist()).status == 200


def test_a_tensor_that_is_not_finite_is_null_and_gets_no_label(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app.repository is not None
    logits = np.array([[np.nan, 1.0, np.inf]], dtype=np.float32)
    monkeypatch.setattr(app.repository.models["tiny"].scheduler, "_run", lambda inputs: {"logits": logits})
    refused = predict(app, ROWS[:1].tolist())
    assert (refused.status, "output 'logits'" in refused.json["error"]) == (422, True)
    one = tensor(shape=[1, 1, 2, 2], data=[1, 2, 3, 4])
    assert infer(app, {"inputs": [one]}).json["outputs"][0]["data"] == [None, 1.0, None]


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """A model that is called in its thread, and computes when it is told to."""
    monkeypatch.setattr(repository, "INLINE_SECONDS", 0.0)
    monkeypatch.setattr(repository, "usable_cores", lambda: 1)
    app = open_app(tiny_onnx_artifact(tmp_path / "tiny").path)
    assert app.repository is not None
    found = Slow(app, app.repository.models["tiny"])
    yield found
    found.finish.set()
    app.repository.close()


class Slow:
    def __init__(self, app: Application, model: ServedModel) -> None:
        self.app, self.scheduler = app, model.scheduler
        self.begun, self.finish = threading.Event(), threading.Event()
        self.rows: list[int] = []
        real = self.scheduler._run

        def run(inputs: Any) -> Any:
            self.begun.set()
            assert self.finish.wait(30)
            self.rows.append(len(inputs["image"]))
            return real(inputs)

        self.scheduler._run = run

    def call(self, **options: Any) -> Coroutine[Any, Any, Response]:
        return send_request(self.app, "POST", "/predict", {"inputs": {"image": ROWS.tolist()}}, **options)


def test_health_is_answered_while_a_model_computes(slow: Slow) -> None:
    async def scenario() -> tuple[Response, Response]:
        busy = asyncio.create_task(slow.call())
        await asyncio.to_thread(slow.begun.wait, 30)
        health = await send_request(slow.app, "GET", "/v2/health/ready")
        assert not busy.done()
        slow.finish.set()
        return health, await busy

    health, answer = asyncio.run(scenario())
    assert (health.status, answer.status) == (200, 200)


def test_a_server_that_drains_finishes_what_was_begun_and_takes_nothing_new(slow: Slow) -> None:
    async def scenario() -> tuple[Response, Response, Response, Response]:
        busy = asyncio.create_task(slow.call())
        await asyncio.to_thread(slow.begun.wait, 30)
        draining = asyncio.create_task(slow.app.drain())
        await asyncio.sleep(0)
        new, ready = await slow.call(), await send_request(slow.app, "GET", "/v2/health/ready")
        live = await send_request(slow.app, "GET", "/v2/health/live")
        assert not draining.done()
        slow.finish.set()
        await draining
        return await busy, new, ready, live

    answer, new, ready, live = asyncio.run(scenario())
    assert (answer.status, live.status) == (200, 200)
    for refused in (new, ready):
        assert (refused.status, refused.headers["connection"]) == (503, "close")
    assert slow.rows == [2]


def test_a_caller_who_leaves_is_not_computed(slow: Slow) -> None:
    async def scenario() -> tuple[Response, Response]:
        busy = asyncio.create_task(slow.call())
        await asyncio.to_thread(slow.begun.wait, 30)
        gone = await slow.call(leaves=True)
        slow.finish.set()
        return await busy, gone

    answer, gone = asyncio.run(scenario())
    assert (answer.status, gone.status) == (200, 0)
    assert slow.rows == [2]


def test_a_full_queue_is_refused_with_the_time_to_come_back(slow: Slow) -> None:
    slow.scheduler.limits = slow.scheduler.limits._replace(max_waiting=2)

    async def scenario() -> Response:
        busy = [asyncio.create_task(slow.call())]
        await asyncio.to_thread(slow.begun.wait, 30)
        busy.append(asyncio.create_task(slow.call()))
        await asyncio.sleep(0.05)
        refused = await slow.call()
        slow.finish.set()
        assert [answer.status for answer in await asyncio.gather(*busy)] == [200, 200]
        return refused

    refused = asyncio.run(scenario())
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "come back" in refused.json["error"]


@pytest.mark.parametrize("way", ["header", "parameter"])
def test_a_deadline_is_answered_when_it_passes(slow: Slow, way: str) -> None:
    async def scenario() -> Response:
        busy = asyncio.create_task(slow.call())
        await asyncio.to_thread(slow.begun.wait, 30)
        document = {"inputs": [tensor()]}
        headers = {"X-Request-Timeout-Ms": "50"} if way == "header" else {}
        if way == "parameter":
            document["parameters"] = {"timeout": 50_000}  # type: ignore[assignment]
        path = "/v2/models/tiny/infer"
        late = await send_request(slow.app, "POST", path, document, headers=headers)
        slow.finish.set()
        await busy
        return late

    late = asyncio.run(scenario())
    assert late.status == 504
    assert "deadline" in late.json["error"]


def binary_request(
    *arrays: np.ndarray, outputs: list[Any] | None = None, **parameters: Any
) -> tuple[bytes, dict[str, str]]:
    """A request to `infer` with tensors behind the JSON, and its headers."""
    document: dict[str, Any] = {
        "inputs": [
            {k: v for k, v in tensor(parameters={"binary_data_size": array.nbytes}).items() if k != "data"}
            for array in arrays
        ],
        "parameters": parameters,
    }
    if outputs is not None:
        document["outputs"] = outputs
    head = json.dumps(document).encode()
    body = head + b"".join(array.tobytes() for array in arrays)
    return body, {"Inference-Header-Content-Length": str(len(head))}


def binary_outputs(response: Response) -> tuple[Any, np.ndarray]:
    length = int(response.headers["inference-header-content-length"])
    return json.loads(response.body[:length]), np.frombuffer(response.body[length:], np.float32)


def test_binary_tensors_give_what_json_gives(app: Application) -> None:
    body, headers = binary_request(ROWS, binary_data_output=True)
    document, values = binary_outputs(infer(app, body, headers=headers))
    wanted = infer(app, {"inputs": [tensor()]}).json["outputs"][0]
    assert document["outputs"] == [
        {"name": "logits", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}
    ]
    np.testing.assert_allclose(values, wanted["data"], rtol=1e-6)


def test_an_output_may_be_asked_for_in_either_way(app: Application) -> None:
    wanted = [{"name": "logits", "parameters": {"binary_data": False}}]
    body, headers = binary_request(ROWS, outputs=wanted, binary_data_output=True)
    assert len(infer(app, body, headers=headers).json["outputs"][0]["data"]) == 6
    found = infer(app, {"inputs": [tensor()], "parameters": {"binary_data_output": True}})
    assert len(binary_outputs(found)[1]) == 6


def test_a_body_without_json_is_the_one_input(app: Application) -> None:
    found = infer(app, ROWS[:1].tobytes(), headers={"Inference-Header-Content-Length": "0"})
    document, values = binary_outputs(found)
    assert document["outputs"][0]["shape"] == [1, 3]
    assert len(values) == 3
    short = infer(app, b"abc", headers={"Inference-Header-Content-Length": "0"})
    assert (short.status, "3 bytes" in short.json["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (binary_request(ROWS)[0][:-1], "31 are left"),
        (binary_request(ROWS)[0] + b"x", "belong to no input"),
        (binary_request(ROWS[:1])[0], "wants 32"),
    ],
    ids=["short", "long", "other shape"],
)
def test_binary_tensors_of_another_size_are_refused(app: Application, body: bytes, reason: str) -> None:
    length = body.index(b"}}") + 2 if body.count(b"}}") == 1 else body.rindex(b"}") + 1
    found = infer(app, body, headers={"Inference-Header-Content-Length": str(length)})
    assert found.status == 400
    assert reason in found.json["error"]
    assert_lives(app)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_are_packed_both_ways(app: Application, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    body, headers = binary_request(ROWS, binary_data_output=True)
    headers |= {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    found = infer(app, pack(body), headers=headers)
    assert (found.status, found.headers["content-encoding"]) == (200, encoding)
    unpacked = {"gzip": gzip.decompress, "deflate": zlib.decompress}[encoding](found.body)
    length = int(found.headers["inference-header-content-length"])
    assert json.loads(unpacked[:length])["model_name"] == "tiny"
    assert len(unpacked) - length == 24


def test_a_body_that_unpacks_to_too_much_is_refused(app: Application) -> None:
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    assert len(bomb) < 1_000_000
    found = infer(app, bomb, headers={"Content-Encoding": "gzip"})
    assert found.status == 413
    assert_lives(app)


def test_the_index_the_configuration_and_the_statistics_are_told(app: Application) -> None:
    for body in (None, {}, {"ready": True}):
        (found,) = request(app, "POST", "/v2/repository/index", body).json
        assert (found["name"], found["version"], found["state"]) == ("tiny", "1", "READY")
    config = request(app, "GET", "/v2/models/tiny/config").json
    assert config["input"] == [{"name": "image", "data_type": "TYPE_FP32", "dims": [1, 2, 2]}]
    assert config["max_batch_size"] >= 1
    infer(app, {"inputs": [tensor()]})
    for path in ("/v2/models/stats", "/v2/models/tiny/stats", "/v2/models/tiny/versions/1/stats"):
        (told,) = request(app, "GET", path).json["model_stats"]
        assert told["inference_stats"]["success"]["count"] >= 1
        assert told["inference_count"] >= 2


def test_the_request_id_is_given_back_and_made_where_there_is_none(app: Application) -> None:
    own = infer(app, {"inputs": [tensor()]}, headers={"X-Request-ID": "abc-1"})
    assert own.headers["x-request-id"] == "abc-1"
    failed = request(app, "GET", "/nothing", headers={"X-Request-ID": "abc-2"})
    assert failed.headers["x-request-id"] == "abc-2"
    hostile = infer(app, {"inputs": [tensor()]}, headers={"X-Request-ID": "a b" * 100})
    assert len(hostile.headers["x-request-id"]) == 16
    assert hostile.headers["x-content-type-options"] == "nosniff"


class Guarded(NamedTuple):
    """An application that asks for keys, with one of a user and one of an administrator."""

    app: Application
    user: dict[str, str]
    admin: dict[str, str]
    artifact: Path


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    file = tmp_path / "keys"
    user, admin = add_key(file, "user"), add_key(file, "root", is_admin=True)
    made = tiny_onnx_artifact(tmp_path / "tiny").path
    app = open_app(made)
    app.keys = Keys(file)
    yield Guarded(app, {"Authorization": f"Bearer {user}"}, {"X-API-Key": admin}, made)
    assert app.repository is not None
    app.repository.close()


def test_without_a_key_health_alone_is_answered(guarded: Guarded) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert request(guarded.app, "GET", path).status == 200
    for method, path in (("GET", "/v2"), ("GET", "/v2/models/tiny"), ("POST", "/predict"), ("GET", "/x")):
        found = request(guarded.app, method, path)
        assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer")
    wrong = request(guarded.app, "GET", "/v2", headers={"Authorization": "Bearer wrong"})
    assert (wrong.status, "unknown" in wrong.json["error"]) == (401, True)
    basic = request(guarded.app, "GET", "/v2", headers={"Authorization": "Basic abc"})
    assert basic.status == 401


def test_with_a_key_models_answer(guarded: Guarded) -> None:
    for headers in (guarded.user, guarded.admin):
        found = predict(guarded.app, ROWS.tolist(), headers=headers)
        assert found.status == 200


def test_a_key_that_comes_too_often_waits(guarded: Guarded) -> None:
    assert guarded.app.keys is not None
    guarded.app.keys._per_second = 0.5
    first = request(guarded.app, "GET", "/v2", headers=guarded.user)
    second = request(guarded.app, "GET", "/v2", headers=guarded.user)
    assert (first.status, second.status) == (200, 429)
    assert int(second.headers["retry-after"]) >= 1
    assert request(guarded.app, "GET", "/v2", headers=guarded.admin).status == 200


@pytest.mark.parametrize("action", ["load", "unload"])
def test_models_are_changed_by_administrators_only(guarded: Guarded, app: Application, action: str) -> None:
    path = f"/v2/repository/models/tiny/{action}"
    assert request(guarded.app, "POST", path, {}, headers=guarded.user).status == 403
    assert request(app, "POST", path, {}).status == 403  # nobody is one where there are no keys
    unknown = path.replace("tiny", "nope")
    assert request(guarded.app, "POST", unknown, {}, headers=guarded.admin).status == 404
    assert request(guarded.app, "GET", path, headers=guarded.admin).status == 405


def test_metrics_of_bentoml_take_the_key_of_an_administrator(guarded: Guarded, app: Application) -> None:
    def scope(headers: dict[str, str], path: str = "/metrics") -> dict[str, Any]:
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http", "method": "GET", "path": path, "headers": pairs}

    assert guarded.app.guard(scope(guarded.admin))
    assert not guarded.app.guard(scope(guarded.user))
    assert not guarded.app.guard(scope({}))
    assert guarded.app.guard(scope({}, "/livez"))
    assert app.guard(scope({}))
    assert request(guarded.app, "GET", "/metrics", headers=guarded.user).status == 403


def test_a_model_is_unloaded_told_of_and_loaded_again(guarded: Guarded) -> None:
    async def scenario() -> list[Response]:
        async def post(path: str, body: Any = None) -> Response:
            return await send_request(guarded.app, "POST", path, body, headers=guarded.admin)

        rows = {"inputs": {"image": ROWS.tolist()}}
        found = [await post("/v2/repository/models/tiny/unload", {}), await post("/predict/tiny", rows)]
        assert guarded.app.repository is not None
        while guarded.app.repository.absent["tiny"][0] is State.DRAINING:
            await asyncio.sleep(0.01)
        found += [await post("/v2/repository/index"), await post("/v2/repository/index", {"ready": True})]
        found += [await post("/v2/repository/models/tiny/load", {}), await post("/predict/tiny", rows)]
        return [*found, await post("/v2/repository/index")]

    unloaded, absent, index, ready, loaded, answered, again = asyncio.run(scenario())
    assert (unloaded.status, loaded.status) == (200, 200)
    assert (absent.status, "model 'tiny' is un" in absent.json["error"]) == (503, True)
    assert [one["state"] for one in index.json] == ["UNAVAILABLE"]
    assert ready.json == []
    assert answered.status == 200
    assert [one["state"] for one in again.json] == ["READY"]


def test_a_version_is_swapped_under_traffic_without_a_failed_request(guarded: Guarded) -> None:
    assert guarded.app.repository is not None
    before = guarded.app.repository.models["tiny"]

    async def scenario() -> tuple[list[int], Response]:
        stop = asyncio.Event()
        statuses: list[int] = []

        async def ask() -> None:
            while not stop.is_set():
                body = {"inputs": {"image": ROWS.tolist()}}
                found = await send_request(guarded.app, "POST", "/predict", body, headers=guarded.user)
                statuses.append(found.status)
                await asyncio.sleep(0)

        callers = [asyncio.create_task(ask()) for _ in range(4)]
        path = "/v2/repository/models/tiny/load"
        swapped = await send_request(guarded.app, "POST", path, {}, headers=guarded.admin)
        await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*callers)
        return statuses, swapped

    statuses, swapped = asyncio.run(scenario())
    assert swapped.status == 200
    assert set(statuses) == {200}
    assert len(statuses) > 10
    assert guarded.app.repository.models["tiny"] is not before
    assert before.state is State.UNLOADED


@pytest.mark.parametrize("change", ["load", "unload"])
def test_a_request_whose_body_comes_slowly_is_answered_by_the_model_it_began_with(
    guarded: Guarded, change: str
) -> None:
    assert guarded.app.repository is not None
    before = guarded.app.repository.models["tiny"]
    body = json.dumps({"inputs": {"image": ROWS.tolist()}}).encode()

    async def scenario() -> tuple[list[Any], Response]:
        half, sent = asyncio.Event(), []
        pieces = [(body[:9], True), (body[9:], False)]

        async def receive() -> Any:
            if len(pieces) == 1:
                await half.wait()
            if not pieces:
                return await asyncio.Future()
            content, more = pieces.pop(0)
            return {"type": "http.request", "body": content, "more_body": more}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(name.lower().encode(), value.encode()) for name, value in guarded.user.items()]
        scope = {"type": "http", "method": "POST", "path": "/predict/tiny", "headers": headers}
        slow = asyncio.create_task(guarded.app(scope, receive, send))
        await asyncio.sleep(0)
        path = f"/v2/repository/models/tiny/{change}"
        changed = await send_request(guarded.app, "POST", path, {}, headers=guarded.admin)
        await asyncio.sleep(0)
        assert before.state is State.DRAINING
        half.set()
        await slow
        while before.state is not State.UNLOADED:
            await asyncio.sleep(0.01)
        return sent, changed

    sent, changed = asyncio.run(scenario())
    assert (changed.status, sent[0]["status"]) == (200, 200)


def test_nobody_is_ready_while_draining_or_without_a_model(guarded: Guarded) -> None:
    assert guarded.app.is_ready
    request(guarded.app, "POST", "/v2/repository/models/tiny/unload", {}, headers=guarded.admin)
    assert not guarded.app.is_ready
    found = request(guarded.app, "GET", "/v2/health/ready")
    assert (found.status, "retry-after" in found.headers) == (503, True)
    assert predict(guarded.app, ROWS.tolist(), headers=guarded.user).status == 503


def test_a_load_that_fails_leaves_the_old_model(guarded: Guarded) -> None:
    next(path for path in (guarded.artifact / "payload").iterdir()).write_bytes(b"changed")
    found = request(guarded.app, "POST", "/v2/repository/models/tiny/load", {}, headers=guarded.admin)
    assert found.status == 500
    assert predict(guarded.app, ROWS.tolist(), headers=guarded.user).status == 200


def test_a_thousand_requests_at_once_get_their_own_answers(app: Application) -> None:
    async def scenario() -> list[Response]:
        calls = [
            send_request(app, "POST", "/predict", {"inputs": {"image": [[[[i, 0], [0, 0]]]]}})
            for i in range(1000)
        ]
        return await asyncio.gather(*calls)

    answers = asyncio.run(scenario())
    rows = np.zeros((1000, 1, 2, 2), dtype=np.float32)
    rows[:, 0, 0, 0] = np.arange(1000)
    found = [answer.json["outputs"]["logits"][0] for answer in answers]
    np.testing.assert_allclose(found, tiny_logits(rows), rtol=1e-4, atol=1e-4)


def assert_lives(app: Application) -> None:
    assert request(app, "GET", "/v2/health/live").status == 200
    assert infer(app, {"inputs": [tensor()]}).status == 200


def test_the_page_is_shown_to_everybody_and_what_it_shows_to_those_with_a_key(guarded: Guarded) -> None:
    shell = request(guarded.app, "GET", "/")
    assert (shell.status, shell.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert shell.headers["content-security-policy"].startswith("default-src 'none'")
    assert b"tiny" not in shell.body
    for path in ("/page.json", "/openapi.json", "/report/tiny", "/metrics"):
        assert request(guarded.app, "GET", path).status == 401
    found = request(guarded.app, "GET", "/page.json", headers=guarded.user)
    assert [model["name"] for model in found.json["models"]] == ["tiny"]
    assert request(guarded.app, "GET", "/openapi.json", headers=guarded.user).json["openapi"] >= "3.1"


def test_the_report_of_the_run_is_shown_where_there_is_one(tmp_path: Path) -> None:
    app = open_app(tiny_onnx_artifact(tmp_path / "00-tiny").path)
    assert request(app, "GET", "/report/tiny").status == 404
    (tmp_path / "report.html").write_text("<p>a report")
    (tmp_path / "report.json").write_text("{}")
    found = request(app, "GET", "/report/tiny")
    assert (found.status, found.body) == (200, b"<p>a report")
    assert "sandbox" in found.headers["content-security-policy"]
    for name in ("other", "../tiny", ""):
        assert request(app, "GET", f"/report/{name}").status == 404


def test_an_answer_is_explained_through_the_queue(app: Application) -> None:
    pytest.importorskip("captum")
    assert app.repository is not None
    before = app.repository.models["tiny"].scheduler.counts.answered
    found = request(app, "POST", "/explain/tiny", {"inputs": {"image": ROWS[:1].tolist()}})
    assert found.status == 200
    assert found.json["label"] == predict(app, ROWS[:1].tolist()).json["labels"][0]
    assert np.shape(found.json["map"]) == (2, 2)
    assert app.repository.models["tiny"].scheduler.counts.answered > before + 1
    two = request(app, "POST", "/explain/tiny", {"inputs": {"image": ROWS.tolist()}})
    assert (two.status, set(two.json)) == (400, {"error"})


def test_statistics_hold_the_latest_latencies(app: Application) -> None:
    infer(app, {"inputs": [tensor()]})
    (told,) = request(app, "GET", "/v2/models/tiny/stats").json["model_stats"]
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]
    assert told["latency_ms"]["requests_per_second"] > 0


def test_limits_may_be_chosen(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny").path
    with Repository.open([artifact], max_batch=3, max_waiting=7, max_delay_ms=2.0) as repository:
        limits = repository.models["tiny"].scheduler.limits
    assert (limits.max_batch, limits.max_waiting, limits.max_delay) == (3, 7, 0.002)
