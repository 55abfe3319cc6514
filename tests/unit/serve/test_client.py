"""What the clients send, what they read, and when they ask again."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import threading
import time
from collections.abc import Callable

import numpy as np
import orjson
import pytest
from tests.unit.serve.fake_server import (
    INDEX,
    METADATA,
    Answer,
    Request,
    Step,
    echo,
    in_json,
    model,
    response,
    serving,
)

from lissom.errors import RequestError, ServerError
from lissom.serve.client import AsyncClient, Client
from lissom.serve.messages import infer_answer, infer_body

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def first(*steps: Step, then: Answer = echo) -> Answer:
    """These steps for the first request, and something else for those after it."""
    return model(lambda request: list(steps) if request.number == 0 else then(request))


def infers(client: Client, **options: float) -> np.ndarray:
    return client.infer("tiny", {"x": ROWS}, **options)["y"]


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "int64", "float16", "float32", "float64", ">f4", ">i8"]
)
def test_tensors_of_every_dtype_come_back_as_they_went(dtype: str) -> None:
    given = (np.arange(6) % 2).reshape(2, 3).astype(dtype)
    with serving(model(echo)) as server, Client(server.url) as client:
        found = client.infer("tiny", {"x": given})["y"]
    np.testing.assert_array_equal(found, given)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert found.flags.writeable


def test_a_request_names_its_outputs_its_deadline_and_its_key() -> None:
    with serving(model(echo)) as server, Client(f"{server.url}/", api_key="secret") as client:
        client.infer("tiny", {"x": ROWS}, version="1", outputs=["y"], timeout=2.5)
    (request,) = server.requests
    length = int(request.headers["inference-header-content-length"])
    head = orjson.loads(request.body[:length])
    assert request.path == "/v2/models/tiny/versions/1/infer"
    assert request.headers["authorization"] == "Bearer secret"
    assert 2000 < int(request.headers["x-request-timeout-ms"]) <= 2500
    assert head["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]
    assert head["inputs"][0]["parameters"] == {"binary_data_size": ROWS.nbytes}
    assert len(request.body) == length + ROWS.nbytes


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISSOM_API_KEY", "from outside"[:4])
    with serving(model(echo)) as server, Client(server.url) as client:
        infers(client)
    assert server.requests[0].headers["authorization"] == "Bearer from"


def test_what_is_known_of_models_is_given() -> None:
    with serving(model(echo)) as server, Client(server.url) as client:
        assert client.models() == INDEX
        assert client.metadata("tiny") == METADATA
        assert not client.ready("nope")
    with serving(lambda request: [in_json({"labels": ["a"]})]) as server, Client(server.url) as client:
        assert client.predict({"x": ROWS}, model="a b") == {"labels": ["a"]}
        assert client.ready()
    assert server.requests[0].path == "/predict/a%20b"
    assert orjson.loads(server.requests[0].body) == {"inputs": {"x": ROWS.tolist()}}


def test_what_the_server_finds_odd_is_given_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    told = {"model": "tiny", "labels": ["a"], "warnings": ["input 'x' goes from 0 to 1"]}
    with serving(lambda request: [in_json(told)]) as server, Client(server.url) as client:
        assert client.predict({"x": ROWS}) == told
    assert "tiny: input 'x' goes from 0 to 1" in caplog.text


def test_a_connection_is_kept_and_each_thread_has_its_own() -> None:
    barrier = threading.Barrier(3)

    def together(request: Request) -> list[Step]:
        if request.number >= 3:
            barrier.wait(5)
        return echo(request)

    with serving(model(together)) as server, Client(server.url) as client:
        for _ in range(3):
            infers(client)
        assert server.num_connections == 1
        threads = [threading.Thread(target=infers, args=(client,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.num_connections == 3


def test_a_connection_that_was_closed_meanwhile_is_replaced_at_once() -> None:
    with serving(first(*echo_steps(), None)) as server, Client(server.url, retries=0) as client:
        infers(client)
        time.sleep(0.05)
        np.testing.assert_array_equal(infers(client), ROWS)
    assert server.num_connections == 2


def echo_steps() -> list[Step]:
    body, headers = infer_body({"y": ROWS})
    head = int(headers["Inference-Header-Content-Length"])
    told = orjson.dumps({"outputs": orjson.loads(body[:head])["inputs"]})
    return [response(200, told + body[head:], Inference_Header_Content_Length=str(len(told)))]


def soon(seconds: float) -> str:
    return email.utils.format_datetime(datetime.datetime.fromtimestamp(time.time() + seconds, datetime.UTC))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("header", [lambda: "1", lambda: soon(2)])
def test_it_is_waited_as_long_as_the_server_says(status: int, header: Callable[[], str]) -> None:
    busy = in_json({"error": "full"}, status, Retry_After=header())
    with serving(first(busy)) as server, Client(server.url) as client:
        started = time.monotonic()
        np.testing.assert_array_equal(infers(client), ROWS)
    assert 0.9 < time.monotonic() - started < 4


def test_a_wait_beyond_the_deadline_is_not_waited() -> None:
    busy = in_json({"error": "full"}, 429, Retry_After="30")
    with serving(model(lambda request: [busy])) as server, Client(server.url) as client:
        started = time.monotonic()
        with pytest.raises(ServerError, match="full") as caught:
            infers(client, timeout=4)
    assert caught.value.status == 429
    assert time.monotonic() - started < 3.5
    assert len(server.requests) == 1


def test_no_more_is_tried_than_was_said() -> None:
    busy = in_json({"error": "full"}, 503, Retry_After="0")
    with serving(model(lambda request: [busy])) as server, Client(server.url, retries=2) as client:
        with pytest.raises(ServerError, match="full"):
            infers(client)
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 500, 502, 504])
def test_other_statuses_are_errors_with_the_words_of_the_server(status: int) -> None:
    said = in_json({"error": "no such thing"}, status, Retry_After="0")
    with serving(model(lambda request: [said])) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match=r"^no such thing$") as caught:
            infers(client)
        assert caught.value.status == status
        assert len(server.requests) == 1


def test_redirects_are_not_followed() -> None:
    elsewhere = response(307, b"", Location="http://example.com/v2")
    with serving(model(lambda request: [elsewhere])) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match=r"points to http://example.com/v2, which is not followed"):
            infers(client)
        assert len(server.requests) == 1


def test_a_reset_before_the_answer_is_tried_again() -> None:
    with serving(first(None)) as server, Client(server.url) as client:
        np.testing.assert_array_equal(infers(client), ROWS)
    assert len(server.requests) == 2


@pytest.mark.parametrize("protocol", [b"HTTP/1.1", b"HTTP/1.0"])
def test_half_an_answer_is_an_error_and_not_tried_again(protocol: bytes) -> None:
    (whole,) = echo_steps()
    assert isinstance(whole, bytes)
    half = whole[:-9].replace(b"HTTP/1.1", protocol)
    with serving(model(lambda request: [half, 0.05, None])) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match="broke off"):
            infers(client)
        assert len(server.requests) == 1


def test_a_slow_server_is_waited_for_until_the_deadline() -> None:
    (whole,) = echo_steps()
    assert isinstance(whole, bytes)
    with serving(model(lambda request: [5.0])) as server, Client(server.url) as client:
        started = time.monotonic()
        with pytest.raises(ServerError, match=r"did not answer within 0\.2 s"):
            infers(client, timeout=0.2)
        assert time.monotonic() - started < 2
    drops: list[Step] = [whole[:-20]]
    for _ in range(20):
        drops += [0.2, b"."]
    with serving(model(lambda request: drops)) as server, Client(server.url) as client:
        started = time.monotonic()
        with pytest.raises(ServerError, match="did not answer"):
            infers(client, timeout=0.2)
        assert time.monotonic() - started < 2


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    with serving(echo) as server:
        pass
    with Client(server.url, retries=1) as client:
        assert not client.ready()
        with pytest.raises(ServerError, match="cannot be reached") as caught:
            infers(client)
    assert caught.value.status is None
    assert caught.value.exit_code == 3
    with pytest.raises(ServerError, match="closed"):
        infers(client)


@pytest.mark.parametrize(
    "url",
    ["localhost:3000", "ftp://host", "http://", "http://u:p@host", "http://h/?a", "http://h:x", "http://a b"],
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(RequestError):
        Client(url)


def test_a_dtype_that_the_protocol_does_not_know_is_refused() -> None:
    with pytest.raises(RequestError, match="complex64"):
        infer_body({"x": np.zeros(2, np.complex64)})


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 4}}]},
        {
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [9], "parameters": {"binary_data_size": 36}}
            ]
        },
        {"outputs": [{"name": "y", "datatype": "FP99", "shape": [1], "data": [1]}]},
        {"outputs": [{"name": "y", "datatype": "INT8", "shape": [1], "data": [None]}]},
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]},
    ],
)
def test_an_answer_against_the_protocol_is_an_error(document: object) -> None:
    head = orjson.dumps(document)
    with pytest.raises(ServerError):
        infer_answer(head + b"12345678", str(len(head)))


def test_numbers_that_json_cannot_write_are_read_as_nan() -> None:
    entry = {"name": "y", "datatype": "FP32", "shape": [2], "data": [1.5, None]}
    found = infer_answer(orjson.dumps({"outputs": [entry]}), None)["y"]
    np.testing.assert_array_equal(found, np.float32([1.5, np.nan]))


def test_many_requests_wait_side_by_side() -> None:
    async def ask() -> list[dict[str, np.ndarray]]:
        async with AsyncClient(server.url, connections=8) as client:
            assert (await client.models()) == INDEX
            return await asyncio.gather(*(client.infer("tiny", {"x": ROWS + i}) for i in range(8)))

    with serving(model(lambda request: [0.2, *echo(request)])) as server:
        started = time.monotonic()
        found = asyncio.run(ask())
    assert time.monotonic() - started < 1.2
    for place, one in enumerate(found):
        np.testing.assert_array_equal(one["y"], ROWS + place)
