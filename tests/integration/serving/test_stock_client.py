"""Triton's own client against a real server: what `test_serving.py` does not call already."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.integration.test_serving import serving
from tests.unit.artifacts import identity_onnx_artifact, tiny_logits, tiny_onnx_artifact

from lissom.serve.keys import add_key

client_library = pytest.importorskip("tritonclient.http")
ROWS = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
TENSOR = (ROWS - 2) / 4
PACKINGS = (None, "gzip", "deflate")


class Stock(NamedTuple):
    """A client, the port it asks, and the keys of an administrator and of a user."""

    client: Any
    port: int
    admin_key: str
    user_key: str

    @property
    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin_key}"}

    @property
    def user(self) -> dict[str, str]:
        """New headers every time, because the client adds its own to them."""
        return {"Authorization": f"Bearer {self.user_key}"}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    folder = tmp_path_factory.mktemp("stock")
    models = [
        *(tiny_onnx_artifact(folder / name, recipe=name) for name in ("tiny", "spare")),
        identity_onnx_artifact(folder / "integers", "int32"),
    ]
    file = folder / "keys"
    admin, user = add_key(file, "root", is_admin=True), add_key(file, "user")
    with (
        serving(folder, *(model.path for model in models), keys=str(file)) as server,
        client_library.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client,
    ):
        yield Stock(client, server.port, admin, user)


def image(*, binary: bool = True, tensor: np.ndarray = TENSOR) -> Any:
    found = client_library.InferInput("image", list(tensor.shape), "FP32")
    found.set_data_from_numpy(tensor, binary_data=binary)
    return found


def pair() -> list[Any]:
    """Both inputs of the model of integers: one in binary, one as JSON."""
    x, y = client_library.InferInput("x", [2, 2], "INT32"), client_library.InferInput("y", [2], "INT32")
    x.set_data_from_numpy(np.array([[1, -2], [2**31 - 1, -(2**31)]], dtype=np.int32))
    y.set_data_from_numpy(np.array([7, 8], dtype=np.int32), binary_data=False)
    return [x, y]


def assert_logits(found: Any) -> None:
    np.testing.assert_allclose(found.as_numpy("logits"), tiny_logits(ROWS), rtol=1e-5, atol=1e-5)


def test_health_is_told_with_and_without_a_key(stock: Stock) -> None:
    for headers in (None, stock.user):
        assert stock.client.is_server_live(headers=headers)
        assert stock.client.is_server_ready(headers=headers)
    assert stock.client.is_model_ready("tiny", "1", headers=stock.user)
    assert not stock.client.is_model_ready("tiny", "2", headers=stock.user)
    assert not stock.client.is_model_ready("tiny")


def test_metadata_of_the_server_and_of_a_version(stock: Stock) -> None:
    server = stock.client.get_server_metadata(headers=stock.user, query_params={"verbose": 1})
    assert {"binary_tensor_data", "model_repository", "statistics"} <= {*server["extensions"]}
    for version in ("", "1"):
        model = stock.client.get_model_metadata("identity_int32", version, headers=stock.user)
        assert [one["datatype"] for one in (*model["inputs"], *model["outputs"])] == ["INT32"] * 4
        config = stock.client.get_model_config("tiny", version, headers=stock.user)
        assert config["max_batch_size"] > 1
        assert config["input"][0]["data_type"] == "TYPE_FP32"


@pytest.mark.parametrize("request_packing", PACKINGS)
@pytest.mark.parametrize("response_packing", PACKINGS)
@pytest.mark.parametrize("binary", [True, False])
def test_every_packing_gives_the_same_answer(
    stock: Stock, request_packing: str | None, response_packing: str | None, binary: bool
) -> None:
    found = stock.client.infer(
        "tiny",
        [image(binary=binary)],
        outputs=[client_library.InferRequestedOutput("logits", binary_data=binary)],
        request_id="7",
        headers=stock.user,
        request_compression_algorithm=request_packing,
        response_compression_algorithm=response_packing,
    )
    assert found.get_response()["id"] == "7"
    assert ("parameters" in found.get_output("logits")) == binary
    assert_logits(found)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("order", [("x_again", "y_again"), ("y_again", "x_again")])
@pytest.mark.parametrize("binary", [(True, False), (False, True), (True, True), (False, False)])
def test_outputs_are_mixed_as_they_are_asked_for(
    stock: Stock, order: tuple[str, str], binary: tuple[bool, bool], packing: str | None
) -> None:
    outputs = [
        client_library.InferRequestedOutput(name, binary_data=own)
        for name, own in zip(order, binary, strict=True)
    ]
    found = stock.client.infer(
        "identity_int32",
        pair(),
        outputs=outputs,
        headers=stock.user,
        response_compression_algorithm=packing,
    )
    assert [one["name"] for one in found.get_response()["outputs"]] == list(order)
    np.testing.assert_array_equal(found.as_numpy("x_again"), [[1, -2], [2**31 - 1, -(2**31)]])
    np.testing.assert_array_equal(found.as_numpy("y_again"), [7, 8])
    assert found.as_numpy("x_again").dtype == np.int32


def test_one_output_of_two_is_given_alone(stock: Stock) -> None:
    wanted = [client_library.InferRequestedOutput("y_again")]
    found = stock.client.infer("identity_int32", pair(), outputs=wanted, headers=stock.user)
    assert [one["name"] for one in found.get_response()["outputs"]] == ["y_again"]
    assert found.as_numpy("x_again") is None


def test_requests_at_the_same_time_get_their_own_answers(stock: Stock) -> None:
    tensors = [TENSOR + number for number in range(32)]
    asked = [
        stock.client.async_infer(
            "tiny", [image(tensor=tensor)], request_id=str(number), headers=stock.user, timeout=30_000_000
        )
        for number, tensor in enumerate(tensors)
    ]
    for number, (tensor, one) in enumerate(zip(tensors, asked, strict=True)):
        found = one.get_result()
        assert found.get_response()["id"] == str(number)
        np.testing.assert_allclose(found.as_numpy("logits"), tiny_logits(tensor * 4 + 2), rtol=1e-4)


def test_bodies_that_the_client_makes_and_reads_go_over_another_connection(stock: Stock) -> None:
    body, length = client_library.InferenceServerClient.generate_request_body([image()], request_id="7")
    header = "Inference-Header-Content-Length"
    with contextlib.closing(HTTPConnection("127.0.0.1", stock.port, timeout=30)) as connection:
        connection.request("POST", "/v2/models/tiny/infer", body, {header: str(length), **stock.user})
        answer = connection.getresponse()
        content, json_length = answer.read(), int(answer.headers[header])
    found = client_library.InferenceServerClient.parse_response_body(content, header_length=json_length)
    assert found.get_response()["id"] == "7"
    assert_logits(found)


def test_a_version_and_a_priority_may_be_named(stock: Stock) -> None:
    found = stock.client.infer("tiny", [image()], model_version="1", priority=1, headers=stock.user)
    assert found.get_response()["model_version"] == "1"
    assert_logits(found)


def test_classes_are_refused_and_the_client_shows_why(stock: Stock) -> None:
    wanted = [client_library.InferRequestedOutput("logits", class_count=2)]
    with pytest.raises(client_library.InferenceServerException, match="/predict gives labels") as raised:
        stock.client.infer("tiny", [image()], outputs=wanted, headers=stock.user)
    assert raised.value.status() == "400"


def test_errors_are_told_in_the_words_of_the_server(stock: Stock) -> None:
    unknown = client_library.InferRequestedOutput("nope")
    calls = [
        ("404", "no model 'nope'", lambda: stock.client.infer("nope", [image()], headers=stock.user)),
        ("404", "no version '9'", lambda: stock.client.infer("tiny", [image()], "9", headers=stock.user)),
        (
            "400",
            "no input 'image'",
            lambda: stock.client.infer("identity_int32", [image()], headers=stock.user),
        ),
        (
            "400",
            "no output 'nope'",
            lambda: stock.client.infer("tiny", [image()], outputs=[unknown], headers=stock.user),
        ),
        ("404", "no model", lambda: stock.client.get_model_metadata("nope", headers=stock.user)),
        ("404", "no model", lambda: stock.client.get_model_config("nope", headers=stock.user)),
        ("404", "no model", lambda: stock.client.get_inference_statistics("nope", headers=stock.user)),
        ("404", "no model", lambda: stock.client.load_model("nope", headers=stock.admin)),
        ("404", "no model", lambda: stock.client.unload_model("nope", headers=stock.admin)),
        ("401", "API key is missing", lambda: stock.client.get_server_metadata()),
    ]
    for status, words, call in calls:
        with pytest.raises(client_library.InferenceServerException, match=words) as raised:
            call()
        assert raised.value.status() == status


def test_what_is_not_offered_is_refused_in_a_shape_that_the_client_reads(stock: Stock) -> None:
    calls = [
        stock.client.get_trace_settings,
        stock.client.get_log_settings,
        stock.client.get_system_shared_memory_status,
        stock.client.get_cuda_shared_memory_status,
    ]
    for call in calls:
        with pytest.raises(client_library.InferenceServerException, match="there is nothing at") as raised:
            call(headers=stock.user)
        assert raised.value.status() == "404"


def test_models_go_and_come_by_the_key_of_an_administrator_only(stock: Stock) -> None:
    for call in (stock.client.load_model, stock.client.unload_model):
        with pytest.raises(client_library.InferenceServerException, match="administrator") as raised:
            call("spare", headers=stock.user)
        assert raised.value.status() == "403"
    assert states(stock) == {"tiny": "READY", "spare": "READY", "identity_int32": "READY"}
    stock.client.unload_model("spare", headers=stock.admin, unload_dependents=True)
    assert states(stock)["spare"] in ("UNLOADING", "UNAVAILABLE")
    assert not stock.client.is_model_ready("spare", headers=stock.user)
    with pytest.raises(client_library.InferenceServerException) as raised:
        stock.client.infer("spare", [image()], headers=stock.user)
    assert raised.value.status() == "503"
    assert_logits(stock.client.infer("tiny", [image()], headers=stock.user))
    stock.client.load_model("spare", headers=stock.admin)
    assert states(stock)["spare"] == "READY"
    assert_logits(stock.client.infer("spare", [image()], headers=stock.user))


def states(stock: Stock) -> dict[str, str]:
    return {one["name"]: one["state"] for one in stock.client.get_model_repository_index(headers=stock.user)}


def test_statistics_count_what_was_asked(stock: Stock) -> None:
    def count(version: str = "") -> tuple[int, int]:
        (one,) = stock.client.get_inference_statistics("tiny", version, headers=stock.user)["model_stats"]
        assert (one["name"], one["version"]) == ("tiny", "1")
        return one["inference_stats"]["success"]["count"], one["inference_count"]

    before = count()
    for _ in range(3):
        stock.client.infer("tiny", [image()], headers=stock.user)
    assert count("1") == (before[0] + 3, before[1] + 6)
    every = stock.client.get_inference_statistics(headers=stock.user)["model_stats"]
    assert {one["name"] for one in every} == {"tiny", "spare", "identity_int32"}
    for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        assert {"count", "ns"} <= every[0]["inference_stats"][part].keys()


def test_the_asynchronous_client_is_answered_too(stock: Stock) -> None:
    aio = pytest.importorskip("tritonclient.http.aio")

    async def ask() -> None:
        async with aio.InferenceServerClient(f"127.0.0.1:{stock.port}") as client:
            assert await client.is_server_ready()
            asked = [client.infer("tiny", [image()], headers=stock.user) for _ in range(8)]
            for found in await asyncio.gather(*asked):
                assert_logits(found)

    asyncio.run(ask())
