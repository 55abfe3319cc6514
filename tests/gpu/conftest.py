"""A trained model, and what is exported from it; they are made once, and never changed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from tests.unit.small import DATA, KWARGS, make

from lissom.artifact import Artifact
from lissom.recipe import ModelConfig

Export = Callable[[str, str], Artifact]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small ResNet, trained on blobs."""
    model = ModelConfig(source="resnet", kwargs=KWARGS["resnet"])
    folder = tmp_path_factory.mktemp("gpu") / "train"
    return make(folder, DATA, "train", model=model, epochs=3, learning_rate=0.05)


@pytest.fixture(scope="session")
def export(trained: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The trained model in a format and a precision; as it is for the format torch."""
    place = tmp_path_factory.mktemp("exports")

    @functools.cache
    def made(kind: str, precision: str) -> Artifact:
        if kind == "torch":
            return trained
        folder, parents = place / f"{kind}-{precision}", {"input": trained}
        return make(folder, DATA, "export", parents=parents, format=kind, precision=precision)

    return made
