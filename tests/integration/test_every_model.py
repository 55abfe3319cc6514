"""Every built-in model from data to an answer over HTTP, because it is in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.unit.serve.asgi import request
from tests.unit.small import KWARGS, data_for

import lissom
from lissom.registry import MODELS
from lissom.serve.app import Application
from lissom.serve.repository import Repository


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models gain nothing by two threads, which on a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(folder: Path, name: str) -> Path:
    """A recipe that trains the model for an epoch on samples in a file of the user."""
    dataset = data_for(name).dataset
    assert dataset.labels is not None
    labels = np.array(dataset.label_names)[dataset.labels] if dataset.label_names else dataset.labels
    np.savez(folder / "samples.npz", y=labels, **dataset.inputs)
    document: dict[str, Any] = {
        "name": name.replace("_", "-"),
        "data": {"source": str(folder / "samples.npz")},
        "model": {"source": name, "kwargs": KWARGS[name]},
        "stages": [{"stage": "train", "epochs": 1}, {"stage": "export"}],
        # Whether the chain holds is asked, not how good an epoch is.
        "gates": {"accuracy": {"max_drop": 1.0}, "not-slower": {"margin": 1.0}},
        "benchmark": {
            "runtimes": ["torch", "onnxruntime"],
            "threads": 1,
            "num_rounds": 4,
            "round_ms": 0.5,
            "num_warmup": 1,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_from_recipe_to_answer(name: str, tmp_path: Path) -> None:
    result = lissom.run(recipe(tmp_path, name), out=tmp_path / "out")
    runtime = result.report.verdict.runtime
    rows = data_for(name).raw("report")
    with lissom.open_runtime(result.artifact, runtime, threads=1) as opened:
        wanted = opened.infer(data_for(name).tensors("report"))["logits"]
    with Repository.open([result.artifact.path], runtime=runtime, threads=1) as repository:
        document = {"inputs": {key: array.tolist() for key, array in rows.items()}}
        answer = request(Application(repository), "POST", "/predict", document)
    assert answer.status == 200, answer.body
    np.testing.assert_allclose(answer.json["outputs"]["logits"], wanted, rtol=1e-4, atol=1e-5)
    names = data_for(name).dataset.label_names
    given = [names[index] for index in wanted.argmax(axis=-1)] if names else None
    assert answer.json["labels"] == given
