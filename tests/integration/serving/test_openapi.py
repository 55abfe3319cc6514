"""The OpenAPI document is true: whatever it allows, and much that it does not, is answered as it says.

Schemathesis makes the requests; a stranger with the document alone could not ask better.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.integration.test_serving import serving
from tests.unit.artifacts import identity_onnx_artifact, tiny_onnx_artifact

from lissom.serve.openapi import document
from lissom.serve.repository import Repository

schemathesis = pytest.importorskip("schemathesis")
Mode = pytest.importorskip("schemathesis.generation").GenerationMode
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

NUM_EXAMPLES = 15
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
EXPECTED_ERRORS = (503, 504)
ROUTES = {
    "/": {"get"},
    "/page.json": {"get"},
    "/openapi.json": {"get"},
    "/report/{model}": {"get"},
    "/metrics": {"get"},
    "/v2": {"get"},
    "/v2/health/live": {"get", "head"},
    "/v2/health/ready": {"get", "head"},
    "/v2/models/stats": {"get"},
    "/v2/models/{model}": {"get"},
    "/v2/models/{model}/ready": {"get"},
    "/v2/models/{model}/config": {"get"},
    "/v2/models/{model}/stats": {"get"},
    "/v2/models/{model}/infer": {"post"},
    "/v2/models/{model}/versions/{version}": {"get"},
    "/v2/models/{model}/versions/{version}/ready": {"get"},
    "/v2/models/{model}/versions/{version}/config": {"get"},
    "/v2/models/{model}/versions/{version}/stats": {"get"},
    "/v2/models/{model}/versions/{version}/infer": {"post"},
    "/v2/repository/index": {"post"},
    "/v2/repository/models/{model}/load": {"post"},
    "/v2/repository/models/{model}/unload": {"post"},
    "/predict": {"post"},
    "/predict/{model}": {"post"},
    "/explain": {"post"},
    "/explain/{model}": {"post"},
}
OPERATIONS = [(path, method) for path, methods in ROUTES.items() for method in sorted(methods)]
INFER = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [0, 1, 2, 3]}]}
PREDICT = {"inputs": {"image": [[[[0, 1], [2, 3]]]]}}
schemathesis.serializer.alias(["image/png", "image/jpeg"], "application/octet-stream")


class Documented(NamedTuple):
    """A server and the document of what it serves."""

    port: int
    document: dict[str, Any]
    schema: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    folder = tmp_path_factory.mktemp("openapi")
    paths = [
        tiny_onnx_artifact(folder / "tiny").path,
        identity_onnx_artifact(folder / "integers", "int32").path,
    ]
    with Repository.open(paths, runtime="onnxruntime", threads=1) as repository:
        found = document(list(repository.models.values()))
    with serving(folder, *paths) as server:
        yield Documented(server.port, found, schemathesis.openapi.from_dict(found))


def test_the_document_names_every_route_and_every_model(documented: Documented) -> None:
    told = documented.document
    methods = {"get", "head", "post"}
    assert {path: set(item) & methods for path, item in told["paths"].items()} == ROUTES
    assert told["components"]["parameters"]["model"]["schema"]["enum"] == ["tiny", "identity_int32"]
    assert json.loads(json.dumps(told)) == told
    assert_references(told, told)


def assert_references(part: Any, whole: dict[str, Any]) -> None:
    """Every reference leads somewhere."""
    if isinstance(part, dict):
        if "$ref" in part:
            place: Any = whole
            for name in part["$ref"].removeprefix("#/").split("/"):
                place = place[name]
        for value in part.values():
            assert_references(value, whole)
    elif isinstance(part, list):
        for value in part:
            assert_references(value, whole)


def test_the_server_gives_the_document_away(documented: Documented) -> None:
    status, body = documented.get("/openapi.json")
    assert status == 200
    assert json.loads(body) == documented.document


def test_a_server_without_models_has_a_document_too() -> None:
    told = document([])
    assert told["components"]["parameters"]["model"]["schema"] == {"type": "string"}
    assert told["paths"].keys() == ROUTES.keys()
    assert_references(told, told)


@pytest.mark.parametrize(
    ("name", "good", "wrong"),
    [
        (
            "infer.tiny",
            INFER,
            [
                {},
                {"inputs": []},
                {"inputs": INFER["inputs"] * 2},
                {"inputs": [{**INFER["inputs"][0], "name": "picture"}]},
                {"inputs": [{**INFER["inputs"][0], "datatype": "FP16"}]},
                {"inputs": [{**INFER["inputs"][0], "shape": [1, 1, 2, 3]}]},
                {"inputs": [{**INFER["inputs"][0], "shape": [1, 4]}]},
                {"inputs": [{**INFER["inputs"][0], "data": ["0", "1", "2", "3"]}]},
                {**INFER, "id": 7},
                {**INFER, "outputs": [{"name": "nope"}]},
            ],
        ),
        (
            "predict.tiny",
            PREDICT,
            [
                {},
                {**PREDICT, "own": 1},
                {"inputs": {"picture": [[[[0, 1], [2, 3]]]]}},
                {"inputs": {"image": [[[[0, 1], [2]]]]}},
                {"inputs": {"image": []}},
                {"inputs": {"image": "cat"}},
            ],
        ),
    ],
)
def test_schemas_of_requests_tell_good_from_wrong(
    documented: Documented, name: str, good: Any, wrong: list[Any]
) -> None:
    schema = documented.document["components"]["schemas"][name]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(good)
    for one in wrong:
        assert not validator.is_valid(one), one


def test_rows_of_one_sample_and_nested_data_fit_the_schemas(documented: Documented) -> None:
    schemas = documented.document["components"]["schemas"]
    nested = np.arange(4.0).reshape(1, 1, 2, 2).tolist()
    jsonschema.validate({"inputs": {"image": nested[0]}}, schemas["predict.tiny"])
    jsonschema.validate({"inputs": [{**INFER["inputs"][0], "data": nested}]}, schemas["infer.tiny"])


@pytest.mark.parametrize("mode", [Mode.POSITIVE, Mode.NEGATIVE], ids=["fits", "does_not"])
@pytest.mark.parametrize(
    ("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS]
)
def test_every_operation_is_answered_as_the_document_says(
    documented: Documented, path: str, method: str, mode: Any
) -> None:
    operation = documented.schema[path][method.upper()]

    @settings(
        max_examples=NUM_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        response = case.call(base_url=documented.url)
        assert response.status_code < 500 or response.status_code in EXPECTED_ERRORS
        case.validate_response(response, checks=CHECKS)

    ask()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/models/{model}/infer", INFER),
        ("/v2/models/{model}/versions/{version}/infer", {**INFER, "id": "7"}),
        ("/v2/models/{model}/infer", {**INFER, "parameters": {"binary_data_output": True}}),
        ("/predict/{model}", PREDICT),
        ("/explain/{model}", PREDICT),
        ("/v2/repository/index", {"ready": True}),
    ],
)
def test_usual_requests_fit_the_document_and_so_do_their_answers(
    documented: Documented, path: str, body: Any
) -> None:
    parameters = {"model": "tiny", "version": "1"}
    used = {name: value for name, value in parameters.items() if f"{{{name}}}" in path}
    case = documented.schema[path]["POST"].Case(
        path_parameters=used, body=body, media_type="application/json"
    )
    response = case.call(base_url=documented.url)
    assert response.status_code == 200
    case.validate_response(response, checks=CHECKS)


def test_after_all_this_the_server_is_ready(documented: Documented) -> None:
    assert documented.get("/v2/health/ready")[0] == 200
