"""Forwards and engines that do not take every value: verify, inspect and predict say so, and are no bug."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.small import make
from torch import Tensor, nn

import lissom
from lissom.artifact import Artifact
from lissom.errors import ModelError, RequestError
from lissom.export.verification import verify
from lissom.models.attribution import gradient_maps, occlusion_maps
from lissom.models.data import Data, Dataset
from lissom.recipe import ModelConfig
from lissom.runtime.base import open_runtime

END = 2
TOKENS = np.random.default_rng(0).integers(3, 30, size=(80, 8))
TOKENS[:, -1] = END
DATA = Data("texts", Dataset({"tokens": TOKENS}, np.arange(80) % 4, ("a", "b", "c", "d")))
WITHOUT_END = {"tokens": np.full((3, 8), 5)}


class Base(nn.Module):
    """Answers by what stands before the end of the text."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(30, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        self.check(tokens)
        logits: Tensor = self.head(self.table(tokens).mean(1))
        return logits

    def check(self, tokens: Tensor) -> None:
        raise NotImplementedError


class RaisesValue(Base):
    def check(self, tokens: Tensor) -> None:
        if not torch.compiler.is_exporting() and not bool((tokens == END).any(1).all()):
            raise ValueError("every text needs an end")


class RaisesKey(Base):
    def check(self, tokens: Tensor) -> None:
        if not torch.compiler.is_exporting() and int((tokens == END).sum()) < len(tokens):
            raise KeyError("end")


class Asserts(Base):
    def check(self, tokens: Tensor) -> None:
        if not torch.compiler.is_exporting():
            assert bool((tokens == END).any(1).all()), "no end"


class TakesWhatIsThere(nn.Module):
    """The engine itself fails where a text has no end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(30, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.table(tokens)
        logits: Tensor = self.head(hidden[tokens == END].view(len(tokens), -1, 16)[:, -1])
        return logits


ALL = {
    "RaisesValue": "ValueError: every text needs an end",
    "RaisesKey": "KeyError: 'end'",
    "Asserts": "AssertionError: no end",
    "TakesWhatIsThere": "IndexError: index -1 is out of bounds",
}


def load(folder: Path, name: str) -> Artifact:
    return make(
        folder / "load", DATA, "load", model=ModelConfig(source=f"tests.foreign.{Path(__file__).stem}:{name}")
    )


@pytest.mark.parametrize("name", ALL)
def test_a_refusal_is_one_of_the_request_with_the_reason(tmp_path: Path, name: str) -> None:
    artifact = load(tmp_path, name)
    with pytest.raises(
        RequestError, match=rf"does not take these values:\n  {re.escape(ALL[name])}"
    ) as caught:
        lissom.predict(artifact, WITHOUT_END)
    assert caught.value.exit_code == 2
    model: Any = globals()[name]().eval()
    with torch.no_grad():
        wanted = model(torch.from_numpy(TOKENS[:5])).argmax(1)
    assert lissom.predict(artifact, {"tokens": TOKENS[:5]})[0] == ["abcd"[place] for place in wanted]


@pytest.mark.parametrize("name", ["RaisesValue", "TakesWhatIsThere"])
def test_what_the_original_refuses_is_no_test_of_its_copy(tmp_path: Path, name: str) -> None:
    artifact = load(tmp_path, name)
    exported = make(tmp_path / "export", DATA, "export", parents={"input": artifact})
    with open_runtime(artifact, "torch") as one, open_runtime(exported, "onnxruntime") as other:
        assert all(parity.passed for parity in verify(one, other, DATA))
    if name == "TakesWhatIsThere":
        with (
            open_runtime(exported, "onnxruntime") as engine,
            pytest.raises(RequestError, match="not take these"),
        ):
            engine.infer(WITHOUT_END)


def test_a_copy_that_refuses_what_the_original_takes_fails(tmp_path: Path) -> None:
    artifact = load(tmp_path, "RaisesValue")
    free = make(
        tmp_path / "free", DATA, "load", model=ModelConfig(source=f"tests.foreign.{Path(__file__).stem}:Free")
    )
    with open_runtime(free, "torch") as one, open_runtime(artifact, "torch") as other:
        (parity,) = verify(one, other, DATA)
    assert not parity.passed


class Free(Base):
    def check(self, tokens: Tensor) -> None:
        pass


@pytest.mark.parametrize("name", ["RaisesValue", "RaisesKey", "Asserts"])
def test_explaining_with_covered_parts_is_told_to_be_impossible(tmp_path: Path, name: str) -> None:
    few, goals = {"tokens": TOKENS[:2]}, np.array([0, 1])
    with pytest.raises(ModelError, match="covered"), open_runtime(load(tmp_path, name), "torch") as opened:
        occlusion_maps(opened.infer_batch, few, goals)
    model: Any = globals()[name]().eval()
    with pytest.raises(ModelError, match="gradients of the model are not known"):
        gradient_maps(model, few, goals)
