"""The JSON Schemas that are shipped are those of the models that write and read."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

import lissom
from lissom.artifact import Manifest
from lissom.report.schema import Report

FOLDER = Path(lissom.__file__).parent / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
MODELS = {"manifest": Manifest, "report": Report}


def schema_text(model: type[BaseModel]) -> str:
    schema = {"$schema": DRAFT, **model.model_json_schema(by_alias=True, mode="serialization")}
    return json.dumps(schema, indent=2) + "\n"


def test_every_schema_file_belongs_to_a_model() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(MODELS)


VERSIONS = {"report": 3}


@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_the_schema_of_the_model(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == schema_text(MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_the_schema_is_valid_and_says_what_a_document_must_call_itself(name: str) -> None:
    schema = json.loads((FOLDER / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == f"lissom.{name}/{VERSIONS.get(name, 1)}"
    assert schema["additionalProperties"] is False
