"""Every built-in model is built, called, trained and exported, because it is in the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.small import KWARGS, LENGTH, VOCABULARY, Chain, data_for, load, make

from lissom.factories import build
from lissom.models.catalogue import catalogue
from lissom.models.loading import factory_for
from lissom.recipe import ModelConfig
from lissom.registry import MODELS, resolve
from lissom.runtime.base import open_runtime
from lissom.structure import load_model


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_built_from_keywords_that_all_have_defaults(name: str) -> None:
    parameters = inspect.signature(resolve(name, known=MODELS)).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    assert all(parameter.default is not parameter.empty for parameter in parameters)
    assert sum(p.numel() for p in resolve(name, known=MODELS)().parameters()) > 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 5])
def test_a_model_gives_logits_of_each_class_or_of_each_token(name: str, batch: int) -> None:
    data = data_for(name)
    model = build(factory_for(ModelConfig(source=name, kwargs=KWARGS[name]), data)).eval()
    (samples,) = data.dataset.inputs.values()
    with torch.inference_mode():
        logits = model(torch.from_numpy(samples[:batch]))
    assert logits.shape == (batch, LENGTH, VOCABULARY) if data.kind == "tokens" else (batch, 4)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_a_step_and_every_parameter_takes_part(name: str, tmp_path: Path) -> None:
    data = data_for(name)
    before = load(tmp_path / "load", data, name, **KWARGS[name])
    after = make(tmp_path / "train", data, "train", parents={"input": before}, epochs=1, batch_size=48)
    old, new = load_model(before).state_dict(), load_model(after).state_dict()
    unchanged = [key for key, tensor in new.items() if torch.equal(tensor, old[key])]
    assert unchanged == []


@pytest.mark.parametrize("name", MODELS)
def test_a_model_exports_and_answers_the_same(name: str, chain: Callable[[str], Chain]) -> None:
    whole, exported = chain(name).trained, chain(name).exported
    assert exported.manifest.format == "onnx"
    assert exported.manifest.signature == whole.manifest.signature
    with open_runtime(whole, "torch") as one, open_runtime(exported, "onnxruntime") as other:
        wanted = one.infer(data_for(name).tensors("select"))["logits"]
        found = other.infer(data_for(name).tensors("select"))["logits"]
    assert np.allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_catalogue_lists_every_model_with_a_summary() -> None:
    found = catalogue()
    assert [entry.name for entry in found] == sorted(MODELS)
    assert all(entry.num_parameters > 0 and entry.summary.endswith(".") for entry in found)
