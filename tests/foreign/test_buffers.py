"""Forwards that take a buffer away, or put it back, answer as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.small import load
from torch import Tensor, nn

from lissom import predict
from lissom.models.data import Data
from lissom.models.dataset import Dataset

X = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
DATA = Data("rows", Dataset({"x": X}, np.arange(60) % 3, ("a", "b", "c")))
WAYS = ("none", "deleted", "another")


class Emptied(nn.Module):
    def __init__(self, way: str = "none") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.layer = way, nn.Linear(6, 3)
        self.register_buffer("cache", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        kept = getattr(self, "cache", None)
        logits: Tensor = self.layer(x) + (torch.ones(3) if kept is None else kept)
        if not torch.compiler.is_exporting():
            if self.way == "deleted" and "cache" in self._buffers:
                del self.cache
            if self.way == "another":
                self.cache = torch.ones(3)
            if self.way == "none":
                self.cache = None
        return logits


@pytest.mark.parametrize("way", WAYS)
def test_a_buffer_that_the_forward_takes_away_is_put_back(tmp_path: Path, way: str) -> None:
    artifact = load(tmp_path / "load", DATA, f"{__name__}:Emptied", way=way)
    with torch.no_grad():
        wanted = Emptied(way)(torch.from_numpy(X)).argmax(1)
    assert predict(artifact, {"x": X})[0] == ["abc"[place] for place in wanted]
