"""Torch models written for one number of samples a call are called as often as there are samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tests.unit.small import make
from torch import Tensor, nn
from torch.nn import functional

import lissom
from lissom.artifact import Artifact
from lissom.models.data import Data, Dataset
from lissom.models.inspection import look_inside_torch
from lissom.recipe import ModelConfig
from lissom.runtime.base import open_runtime
from lissom.structure import load_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

CLASSES = ("a", "b", "c", "d")
SHAPES = {"vectors": (16,), "images": (3, 8, 8), "sequences": (6, 8)}


class Net(nn.Module):
    """Layers by name, and a forward as a function of the module and its input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module | Tensor) -> None:
        super().__init__()
        for name, layer in layers.items():
            if isinstance(layer, Tensor):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def viewed() -> nn.Module:
    torch.manual_seed(0)
    return Net(lambda s, x: s.b(s.a(x.view(1, -1)).relu()), a=nn.Linear(16, 32), b=nn.Linear(32, 4))


def convolved() -> nn.Module:
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 16, 3, 2, 1), "n": nn.BatchNorm2d(16), "b": nn.Linear(256, 4)}
    return Net(lambda s, x: s.b(s.n(s.a(x)).relu().view(1, -1)), **layers)


def recurrent() -> nn.Module:
    """The state is a buffer of one sample."""
    torch.manual_seed(0)
    layers = {"g": nn.GRU(8, 16, batch_first=True), "b": nn.Linear(16, 4), "h": torch.zeros(1, 1, 16)}
    return Net(lambda s, x: s.b(s.g(x, s.h)[0][:, -1]), **layers)


def attending() -> nn.Module:
    """Takes a batch for a longer sequence, and answers it once."""
    torch.manual_seed(0)

    def forward(s: Any, x: Tensor) -> Tensor:
        h = s.a(x).reshape(1, -1, 2, 8).transpose(1, 2)
        seen = functional.scaled_dot_product_attention(h, h, h)
        return s.b(seen.transpose(1, 2).reshape(1, -1, 16).mean(1))  # type: ignore[no-any-return]

    return Net(forward, a=nn.Linear(8, 16), b=nn.Linear(16, 4))


def first_only() -> nn.Module:
    torch.manual_seed(0)
    return Net(lambda s, x: s.b(s.a(x[0]).relu())[None], a=nn.Linear(16, 32), b=nn.Linear(32, 4))


def with_state() -> nn.Module:
    """Gives a state besides, whose samples lie on its second axis."""
    torch.manual_seed(0)

    def forward(s: Any, x: Tensor) -> dict[str, Tensor]:
        answers, state = s.g(x.reshape(1, 6, 8))
        return {"logits": s.b(answers[:, -1]), "state": state}

    return Net(forward, g=nn.GRU(8, 16, 2, batch_first=True), b=nn.Linear(16, 4))


def of_four() -> nn.Module:
    torch.manual_seed(0)
    return Net(lambda s, x: s.b(s.a(x).relu().view(4, -1)), a=nn.Linear(16, 32), b=nn.Linear(32, 4))


ROWS = {
    "viewed": ("vectors", 1),
    "convolved": ("images", 1),
    "recurrent": ("sequences", 1),
    "attending": ("sequences", 1),
    "first_only": ("vectors", 1),
    "of_four": ("vectors", 4),
}


def samples(kind: str, count: int = 160) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *SHAPES[kind])).astype(np.float32)


def labelled(kind: str) -> Data:
    return Data(kind, Dataset({"x": samples(kind)}, np.arange(160) % 4, CLASSES))


def in_turn(model: nn.Module, x: np.ndarray, size: int) -> np.ndarray:
    """Plain torch, call by call."""
    with torch.no_grad():
        calls = torch.from_numpy(x).split(size)
        return np.concatenate([model.eval()(call).numpy() for call in calls])


def load(folder: Path, name: str, data: Data, **model: Any) -> Artifact:
    source = f"tests.foreign.test_fixed_calls:{name}"
    return make(folder / "load", data, "load", model=ModelConfig(source=source, **model))


@pytest.mark.parametrize("name", ROWS)
def test_every_sample_has_the_answer_of_its_own_call(tmp_path: Path, name: str) -> None:
    kind, size = ROWS[name]
    data, x = labelled(kind), samples(kind, 12)
    artifact, wanted = load(tmp_path, name, data), in_turn(globals()[name](), x, size)
    batching = artifact.manifest.signature.batching
    assert batching is not None
    assert batching.size == size
    with open_runtime(artifact, "torch") as opened:
        np.testing.assert_allclose(opened.infer_batch({"x": x})["logits"], wanted, rtol=1e-5, atol=1e-6)
        seven = opened.infer_batch({"x": x[:7]})["logits"]
        np.testing.assert_allclose(seven, wanted[:7], rtol=1e-5, atol=1e-6)
    assert lissom.predict(artifact, {"x": x})[0] == [CLASSES[place] for place in wanted.argmax(1)]


@pytest.mark.parametrize("name", ["convolved", "recurrent", "of_four"])
def test_the_onnx_file_takes_as_many_and_is_quantized(tmp_path: Path, name: str) -> None:
    kind, size = ROWS[name]
    data, x = labelled(kind), samples(kind, 12)
    wanted = in_turn(globals()[name](), x, size)
    exported = make(tmp_path / "export", data, "export", parents={"input": load(tmp_path, name, data)})
    session = onnxruntime.InferenceSession(exported.file("model.onnx"))
    found = np.concatenate([session.run(None, {"x": x[at : at + size]})[0] for at in range(0, 12, size)])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert lissom.predict(exported, {"x": x})[0] == [CLASSES[place] for place in wanted.argmax(1)]
    int8 = make(tmp_path / "int8", data, "quantize", parents={"input": exported}, mode="dynamic")
    with open_runtime(int8, "onnxruntime") as opened:
        noise = opened.infer_batch({"x": x})["logits"] - wanted
    assert 10 * np.log10((wanted**2).sum() / (noise**2).sum()) > 20


@pytest.mark.parametrize("name", ["viewed", "convolved", "of_four"])
def test_they_are_trained_and_pruned(tmp_path: Path, name: str) -> None:
    kind, size = ROWS[name]
    data, x = labelled(kind), samples(kind, 8)
    source = f"tests.foreign.test_fixed_calls:{name}"
    trained = make(tmp_path / "train", data, "train", model=ModelConfig(source=source), epochs=1)
    model = globals()[name]()
    model.load_state_dict(load_model(trained).state_dict())
    wanted = in_turn(model, x, size)
    pruned = make(tmp_path / "prune", data, "prune", parents={"input": trained}, ratio=0.5)
    layer = load_model(pruned).get_submodule("a")
    kept = [int((model.a.bias == value).nonzero()) for value in layer.bias]
    assert len(kept) == len(model.a.bias) // 2
    gone = [channel for channel in range(len(model.a.bias)) if channel not in kept]
    with open_runtime(trained, "torch") as one:
        np.testing.assert_allclose(one.infer_batch({"x": x})["logits"], wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        model.get_submodule("n" if name == "convolved" else "a").register_forward_hook(_silence(gone))
    with open_runtime(pruned, "torch") as small:
        np.testing.assert_allclose(
            small.infer_batch({"x": x})["logits"], in_turn(model, x, size), rtol=1e-4, atol=1e-5
        )


def _silence(gone: list[int]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        silent = output.clone()
        silent[:, gone] = 0
        return silent

    return hook


def test_a_state_beside_the_answers_keeps_its_axis(tmp_path: Path) -> None:
    x, bare = samples("sequences", 5), Data("bare", Dataset({"x": samples("sequences")}))
    artifact = load(tmp_path, "with_state", bare, output="all")
    with torch.no_grad():
        calls = [with_state().eval()(one[None]) for one in torch.from_numpy(x)]
    assert artifact.manifest.signature.batching is not None
    assert artifact.manifest.signature.batching.outputs == {"logits": 0, "state": 1}
    with open_runtime(artifact, "torch") as opened:
        found = opened.infer_batch({"x": x})
    wanted = torch.cat([one["state"] for one in calls], 1).movedim(1, 0).numpy()
    np.testing.assert_allclose(found["state"], wanted, rtol=1e-5, atol=1e-6)


def _grad_cam(layer: str, x: np.ndarray, goal: int) -> np.ndarray:
    """The map of one sample in plain torch."""
    model, seen = convolved().eval(), []
    model.get_submodule(layer).register_forward_hook(lambda module, given, output: seen.append(output))
    score = model(torch.from_numpy(x))[0, goal]
    (slope,) = torch.autograd.grad(score, seen[0])
    weighted = (seen[0] * slope.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    whole = functional.interpolate(weighted, x.shape[2:], mode="bilinear")
    return whole[0, 0].detach().numpy()  # type: ignore[no-any-return]


def test_they_are_looked_into_call_by_call(tmp_path: Path) -> None:
    from lissom.models.attribution import gradient_maps

    x = samples("images", 3)
    artifact = load(tmp_path, "convolved", labelled("images"))
    model = load_model(artifact)
    found = gradient_maps(model, {"x": x}, np.array([0, 1, 2]))
    assert [one.maps.shape[0] for one in found] == [3, 3]
    np.testing.assert_allclose(found[0].maps[2], _grad_cam(found[0].layer, x[2:], 2), rtol=1e-4, atol=1e-6)
    inside = look_inside_torch(model, {"x": x})
    with torch.no_grad():
        alive = (model.n(model.a(torch.from_numpy(x))) > 0).any(3).any(2).any(0)
    assert [(one.num_units, one.num_dead) for one in inside.rectifiers] == [(16, int((~alive).sum()))]
