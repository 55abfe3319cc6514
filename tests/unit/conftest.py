"""Artifacts that several unit tests read; they are made once, and never changed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, settings
from tests.unit.small import KWARGS, Chain, data_for, make

from lissom.recipe import ModelConfig

# How long an example takes says how busy the machine is.
settings.register_profile("lissom", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lissom")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """One thread: small models gain nothing by two, which on a busy machine wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Chain]:
    """A built-in model by name, trained, exported and quantized."""
    folder = tmp_path_factory.mktemp("chain")

    @functools.cache
    def made(source: str) -> Chain:
        model, data = ModelConfig(source=source, kwargs=KWARGS[source]), data_for(source)
        (folder / source).mkdir()
        trained = make(folder / source / "train", data, "train", model=model, epochs=3, learning_rate=0.05)
        exported = make(folder / source / "export", data, "export", parents={"input": trained})
        return Chain(
            trained,
            exported,
            lambda: make(folder / source / "quantize", data, "quantize", parents={"input": exported}),
        )

    return made
