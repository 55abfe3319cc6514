"""Artifacts that several unit tests read; they are made once, and never changed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from tests.unit.small import DATA, KWARGS, Chain, make

from lissom.recipe import ModelConfig

# How long an example takes says how busy the machine is.
settings.register_profile("lissom", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lissom")


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Chain]:
    """A built-in model by name, trained, exported and quantized."""
    folder = tmp_path_factory.mktemp("chain")

    @functools.cache
    def made(source: str) -> Chain:
        model = ModelConfig(source=source, kwargs=KWARGS.get(source, {}))
        (folder / source).mkdir()
        trained = make(folder / source / "train", DATA, "train", model=model, epochs=6, learning_rate=0.05)
        exported = make(folder / source / "export", DATA, "export", parents={"input": trained})
        quantized = make(folder / source / "quantize", DATA, "quantize", parents={"input": exported})
        return Chain(trained, exported, quantized)

    return made
