"""What every stage of a recipe has, and the model that the first one starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lissom.artifact import MANIFEST_NAME, Frozen
from lissom.errors import RecipeError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]


class ModelConfig(Frozen):
    """Which architecture is built, or which model is loaded."""

    source: str = Field(
        "resnet",
        description="Built-in name, package.module:factory, path/file.py:factory, artifact, or .onnx file.",
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword arguments of the factory; channels and classes come from the data.",
    )
    weights: str | None = Field(
        None, description="A .safetensors, .pt or .pth file of weights to start from."
    )
    output: str | None = Field(
        None,
        description="Output that matters where the model gives several by name, or all; default: logits "
        "where there is one, else the first, or all where the data have no labels.",
    )
    task: str | None = Field(
        None,
        description="classification, regression, language-modelling, package.module:factory or "
        "path/file.py:factory; default: what the labels say.",
    )

    @property
    def format(self) -> str:
        """Format of the model, read from the file or manifest that `source` names."""
        manifest = Path(self.source) / MANIFEST_NAME
        if manifest.is_file():
            try:
                return str(json.loads(manifest.read_bytes())["format"])
            except (ValueError, KeyError) as exc:
                raise RecipeError(f"{manifest} is not a manifest of lissom") from exc
        return "onnx" if self.source.endswith(".onnx") else "torch"


class StageConfig(Frozen):
    """What every stage has."""

    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version decides what the stage makes; part of the artifact's id."""
    consumes: ClassVar[tuple[str, ...]] = ()
    """Formats that the stage can start from; empty when it starts from the model of the recipe."""
    produces: ClassVar[str] = "torch"
    """Format of what the stage makes."""
    extra: ClassVar[tuple[str, str] | None] = None
    """A module that the stage needs, and the extra of lissom that brings it."""

    stage: str = Field(description="Kind of the stage.")
    name: Name = Field("", validate_default=False, description="Name of the stage; default: its kind.")
    from_: str | None = Field(None, alias="from", description="Stage to start from; default: the one before.")

    @property
    def sources(self) -> dict[str, str]:
        """Role and name of every stage that this one reads."""
        return {"input": self.from_} if self.from_ else {}

    @property
    def accepts(self) -> tuple[str, ...]:
        """Formats that the stage can start from."""
        return self.consumes

    @property
    def makes(self) -> str:
        """Format of what the stage makes."""
        return self.produces

    @property
    def needs(self) -> tuple[str, str] | None:
        """A module that the stage needs, and the extra of lissom that brings it."""
        return self.extra

    @property
    def calls(self) -> tuple[str, ...]:
        """Distributions whose version decides what the stage makes."""
        return self.libraries

    @property
    def trains(self) -> bool:
        """True when the stage optimises weights, in which every process takes part."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result: everything but the names of stages."""
        return self.model_dump(mode="json", by_alias=True, exclude={"name", "from_", "teacher"})


class LoadConfig(StageConfig):
    """Take a model as it is."""

    libraries = ("torch",)
    stage: Literal["load"] = Field("load", description="Kind of the stage.")

    model: ModelConfig | None = Field(None, description="Another model than the recipe's.")
