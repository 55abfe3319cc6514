"""Every built-in model is built, called, trained and exported, because it is in the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.small import DATA, KWARGS, Chain, load, make

from lissom.models.catalogue import catalogue
from lissom.models.evaluation import predict, predicted_labels
from lissom.models.loading import factory_for
from lissom.recipe import ModelConfig
from lissom.registry import MODELS, resolve
from lissom.runtime.base import open_runtime
from lissom.structure import build, load_model


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_built_from_keywords_that_all_have_defaults(name: str) -> None:
    parameters = inspect.signature(resolve(name, known=MODELS)).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    assert all(parameter.default is not parameter.empty for parameter in parameters)
    assert sum(p.numel() for p in resolve(name, known=MODELS)().parameters()) > 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 5])
def test_a_model_gives_one_logit_for_each_class(name: str, batch: int) -> None:
    model = build(factory_for(ModelConfig(source=name), DATA)).eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(DATA.dataset.inputs["image"][:batch]))
    assert logits.shape == (batch, 4)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_a_step_and_every_parameter_takes_part(name: str, tmp_path: Path) -> None:
    before = load(tmp_path / "load", DATA, name, **KWARGS.get(name, {}))
    after = make(tmp_path / "train", DATA, "train", parents={"input": before}, epochs=1, batch_size=48)
    old, new = load_model(before).state_dict(), load_model(after).state_dict()
    unchanged = [key for key, tensor in new.items() if torch.equal(tensor, old[key])]
    assert unchanged == []


@pytest.mark.parametrize("name", MODELS)
def test_a_model_exports_and_answers_the_same(name: str, chain: Callable[[str], Chain]) -> None:
    whole, exported, _ = chain(name)
    assert exported.manifest.format == "onnx"
    assert exported.manifest.signature == whole.manifest.signature
    with open_runtime(whole, "torch") as one, open_runtime(exported, "onnxruntime") as other:
        wanted = one.infer(DATA.tensors("select"))["logits"]
        found = other.infer(DATA.tensors("select"))["logits"]
    assert np.allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_catalogue_lists_every_model_with_a_summary() -> None:
    found = catalogue()
    assert [entry.name for entry in found] == sorted(MODELS)
    assert all(entry.num_parameters > 0 and entry.summary.endswith(".") for entry in found)
    assert all("num_classes=10" in entry.signature for entry in found)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_predictions_do_not_depend_on_how_samples_are_batched(batch_size: int) -> None:
    inputs = {"x": np.arange(14.0).reshape(7, 2), "y": np.ones((7, 1))}
    sizes = []

    def call(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(batch["x"]))
        return {"first": batch["x"] * batch["y"], "second": batch["y"]}

    assert np.array_equal(predict(call, inputs, batch_size=batch_size), inputs["x"])
    assert sum(sizes) == 7
    assert max(sizes) <= batch_size


def test_predicted_labels_are_those_of_the_highest_output() -> None:
    labels = DATA.labels("select")
    found = predicted_labels(
        lambda batch: {"logits": np.eye(4)[np.zeros(len(batch["image"]), dtype=int)]}, DATA, "select"
    )
    assert found.tolist() == [0] * len(labels)
