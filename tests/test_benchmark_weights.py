"""The weights that are kept beside the benchmarks are those of the models that the recipes build."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

import lissom
from lissom.models.loading import start

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "benchmarks" / "weights").glob("*.safetensors"))


def test_there_are_weights() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_weights_fit_the_model_of_their_recipe(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISSOM_CACHE", str(tmp_path))
    recipe = lissom.Recipe.from_file(ROOT / "recipes" / f"{file.stem}.yaml")
    source = recipe.data.source
    # A few glyphs have the sizes and the classes of all.
    data = lissom.load_data("glyphs?samples=40" if source == "glyphs" else source)
    weights = recipe.model.model_copy(update={"weights": str(file)})
    model, _ = start(weights, data)
    kept = safetensors.torch.load_file(file)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
