"""Writes docs/recipe.md from the models that read a recipe: `python docs/recipe_reference.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from lissom.artifact import Frozen
from lissom.recipe import (
    AccuracyGate,
    AugmentConfig,
    BenchmarkConfig,
    DataConfig,
    EarlyStoppingConfig,
    ModelConfig,
    NotSlowerGate,
    Recipe,
    stage_types,
)

PAGE = Path(__file__).with_name("recipe.md")


def reference() -> str:
    """The page, as Markdown."""
    sections = [
        ("The recipe", Recipe),
        ("`data`", DataConfig),
        ("`model`", ModelConfig),
        *((f"stage `{kind}`", config) for kind, config in stage_types().items()),
        ("`augment` of a stage that trains", AugmentConfig),
        ("`early_stopping` of a stage that trains", EarlyStoppingConfig),
        ("`gates.accuracy`", AccuracyGate),
        ("`gates.not-slower`", NotSlowerGate),
        ("`benchmark`", BenchmarkConfig),
    ]
    text = "# Recipe reference\n\nWritten by `docs/recipe_reference.py` from the models that read a recipe; "
    text += "`lissom check RECIPE` validates one.\nAny value can be changed on the command line: "
    text += "`--set stages.prune.ratio=0.3`.\n"
    return text + "".join(
        f"\n## {title}\n\n{config.__doc__}\n\n{table(config)}" for title, config in sections
    )


def table(config: type[Frozen]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    properties = config.model_json_schema(by_alias=True)["properties"]
    for name, field in config.model_fields.items():
        key = field.alias or name
        kind = type_of(properties[key])
        rows.append(f"| `{key}` | {kind} | {default_of(field)} | {field.description or ''} |")
    return "\n".join(rows) + "\n"


def type_of(schema: dict[str, Any]) -> str:
    """Type and range of a field, from its JSON Schema."""
    if "anyOf" in schema:
        return " or ".join(type_of(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:,}" for key, sign in bounds.items() if key in schema]
    kind = schema.get("type", "mapping")
    if kind == "array" and "enum" in schema.get("items", {}):
        kind = "list of " + type_of(schema["items"])
    return " ".join([{"object": "mapping", "array": "list"}.get(kind, kind), *limits])


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    PAGE.write_text(reference())
