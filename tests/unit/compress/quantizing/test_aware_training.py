"""Training with rounding: the weights learn it, the model stays what it was, and ranges are frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.small import DATA, Chain, context, data_for, make

from lissom.compress.quantizing.aware_training import _freezing, _with_rounding, train_rounded
from lissom.compress.quantizing.scheme import Scheme
from lissom.errors import ModelError, RecipeError
from lissom.recipe import Optimization, QuantizeConfig, Recipe
from lissom.structure import load_model

SCHEME = Scheme("x86", symmetric=False, reduce_range=True, per_channel=True, here=True)
CONFIG = QuantizeConfig(name="quantize", mode="qat")
TUNE = {"epochs": 1, "learning_rate": 0.01}


def scene(folder: Path, name: str) -> Any:
    return context(folder / "quantize", data_for(name), CONFIG)


@pytest.mark.parametrize("name", ["resnet", "resnet20", "vit", "gpt", "mlp"])
def test_only_weights_change(tmp_path: Path, chain: Callable[[str], Chain], name: str) -> None:
    model = load_model(chain(name).trained)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    history = train_rounded(model, Optimization.model_validate(TUNE), scene(tmp_path, name), SCHEME)
    after = model.state_dict()
    assert len(history) == 1
    assert np.isfinite(history[0]["loss"])
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[key], before[key]) for key in before)
    assert not model.training


def test_the_stage_gives_int8_from_a_torch_model(tmp_path: Path, chain: Callable[[str], Chain]) -> None:
    parents = {"input": chain("resnet").trained}
    artifact = make(tmp_path / "quantize", DATA, "quantize", parents=parents, mode="qat", tune=TUNE)
    notes = artifact.manifest.notes
    assert (artifact.manifest.format, artifact.manifest.precision) == ("onnx", "int8")
    assert notes["computing_int8"] == notes["computing"] == 7
    assert len(notes["history"]) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_dropout_and_norms_follow_the_mode_again_after_a_validation(
    tmp_path: Path, chain: Callable[[str], Chain]
) -> None:
    rounded = _with_rounding(load_model(chain("resnet").trained), scene(tmp_path, "resnet"), SCHEME)
    images = torch.from_numpy(DATA.tensors("train")["image"])
    rounded.train()
    rounded(images)
    means = [key for key in rounded.state_dict() if key.endswith("running_mean")]

    def moves() -> bool:
        before = rounded.state_dict()[means[0]].clone()
        rounded(images)
        return not torch.equal(before, rounded.state_dict()[means[0]])

    rounded.eval()
    assert not moves()
    rounded.training = True  # as Lightning does it
    assert moves()


def test_ranges_stand_still_after_the_step_that_freezes_them_also_in_a_training_that_goes_on(
    tmp_path: Path, chain: Callable[[str], Chain]
) -> None:
    images = torch.from_numpy(DATA.tensors("train")["image"])
    first = _with_rounding(load_model(chain("resnet").trained), scene(tmp_path, "resnet"), SCHEME)
    first.train()
    first(images)
    freeze = _freezing(first, 2)
    freeze()
    second = _with_rounding(load_model(chain("resnet").trained), scene(tmp_path, "resnet"), SCHEME)
    second.load_state_dict(first.state_dict())
    second.train()
    freeze = _freezing(second, 2)

    def ranges() -> list[torch.Tensor]:
        state = second.state_dict()
        return [state[key].clone() for key in state if key.endswith(("max_val", "min_val"))]

    before = ranges()
    second(100 * images)
    moved = ranges()
    assert any(not torch.equal(one, other) for one, other in zip(before, moved, strict=True))
    freeze()
    second(1000 * images)
    assert all(torch.equal(one, other) for one, other in zip(moved, ranges(), strict=True))


def test_a_model_that_torch_cannot_capture_is_refused_with_the_other_way(tmp_path: Path) -> None:
    class Branching(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if image.sum() > 0 else -image

    with pytest.raises(ModelError, match="cannot be captured for quantization-aware training") as caught:
        _with_rounding(Branching(), scene(tmp_path, "resnet"), SCHEME)
    assert "--mode static" in caught.value.hint


def recipe_with(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"name": "x", "stages": [{"stage": "train"}, *stages]}


def test_qat_starts_from_torch_and_the_others_from_onnx() -> None:
    Recipe.from_document(recipe_with({"stage": "quantize", "mode": "qat"}))
    exported = recipe_with({"stage": "export"}, {"stage": "quantize", "mode": "qat"})
    with pytest.raises(RecipeError, match="needs a model in the format torch"):
        Recipe.from_document(exported)
    static = recipe_with({"stage": "export"}, {"stage": "quantize", "tune": {"epochs": 1}})
    with pytest.raises(RecipeError, match="does not take 'tune', which is of qat"):
        Recipe.from_document(static)
