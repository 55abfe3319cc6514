"""What callers get from `predict` and the server: answers of many shapes, and refusals that help them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.foreign.batches import engine, floats, graph, node
from tests.foreign.served import open_app
from tests.unit.serve.asgi import Response, request
from tests.unit.small import load
from torch import Tensor, nn

import lissom
from lissom.artifact import Artifact
from lissom.errors import RequestError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.serve.explanation import explain
from lissom.verbs import open_model

W, X = floats(6, 4), floats(70, 6)
TOKENS = np.random.default_rng(0).integers(0, 30, size=(80, 8))
TEXTS = Data("texts", Dataset({"tokens": TOKENS}, np.arange(80) % 4, ("a", "b", "c", "d")))


def finds(*, scores: bool = False) -> Any:
    """Places of the numbers above zero, beside scores or alone."""
    nodes = [
        node("MatMul", "x w", "y"),
        node("Greater", "x zero", "high"),
        node("NonZero", "high", "places"),
        node("Transpose", "places", "found", perm=[1, 0]),
    ]
    outputs = ({"y": [1, 4]} if scores else {}) | {"found": ["k", 2]}
    constants = {"zero": np.float32(0), "w": W}
    kept = nodes if scores else nodes[1:]
    return graph(kept, {"x": [1, 6]}, outputs, constants, types={"found": onnx.TensorProto.INT64})


def scaled() -> Any:
    return graph(
        [node("MatMul", "x w", "a"), node("Mul", "a s", "y")],
        {"x": ["n", 6], "s": [4]},
        {"y": ["n", 4]},
        {"w": W},
    )


def opened(folder: Path, model: Any, samples: Mapping[str, np.ndarray]) -> Artifact:
    onnx.save(model, folder / "theirs.onnx")
    np.savez(folder / "theirs.npz", **samples)
    return open_model(folder / "theirs.onnx", data=folder / "theirs.npz", out=folder / "run")


@pytest.mark.parametrize("last", [1, 2, 4], ids=lambda one: f"{one} finds")
def test_finds_of_many_samples_keep_their_axis(tmp_path: Path, last: int) -> None:
    """The first 64 samples, which share a batch, have six finds each."""
    model = finds()
    x = np.ones((70, 6), np.float32)
    x[64:, last:] = 0
    labels, found = lissom.predict(opened(tmp_path, model, {"x": X}), {"x": x})
    assert labels == []
    assert found.shape == (70,)
    call = engine(model)
    for row, answer in zip(x, found, strict=True):
        assert np.array_equal(answer, call({"x": row[None]})["found"])


def test_labels_do_not_depend_on_the_shapes_of_another_output(tmp_path: Path) -> None:
    artifact = opened(tmp_path, finds(scores=True), {"x": X, "y": np.arange(70) % 4})
    labels, scores = lissom.predict(artifact, {"x": X})
    assert labels == [str(place) for place in (X @ W).argmax(1)]
    assert scores.shape == (70, 4)


@pytest.mark.parametrize("number", [1, 3, 7])
def test_inputs_of_other_numbers_of_samples_are_refused(tmp_path: Path, number: int) -> None:
    artifact = opened(tmp_path, scaled(), {"x": X, "s": np.ones((70, 4), np.float32)})
    scales = np.arange(1, number + 1, dtype=np.float32)[:, None].repeat(4, 1)
    if number == 1:  # it serves all
        wanted = torch.softmax(torch.from_numpy(X[:5] @ W), 1).numpy()
        assert np.allclose(lissom.predict(artifact, {"x": X[:5], "s": scales})[1], wanted, atol=1e-5)
        return
    with pytest.raises(RequestError, match=f"number of samples: x 5, s {number}"):
        lissom.predict(artifact, {"x": X[:5], "s": scales})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([[1.0] * 6, [1.0]], "is no array"),
        (np.array([["a"] * 6]), "not numbers"),
        (np.zeros((0, 6), np.float32), "has no samples"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(tmp_path: Path, given: Any, words: str) -> None:
    model = graph([node("MatMul", "x w", "y")], {"x": ["n", 6]}, {"y": ["n", 4]}, {"w": W})
    with pytest.raises(RequestError, match=words):
        lissom.predict(opened(tmp_path, model, {"x": X}), {"x": given})


class Texts(nn.Module):
    """Refuses a token, and has not all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(30, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and bool((tokens == 29).all()):
            raise ValueError("a text of one word")
        logits: Tensor = self.head(self.table(tokens).mean(1))
        return logits


def asked(artifact: Artifact, inputs: Mapping[str, np.ndarray], runtime: str) -> list[Response]:
    """The answers of `/predict` and of the protocol."""
    app = open_app(artifact, runtime=runtime)
    assert app.repository is not None
    (model,) = app.repository.models
    kinds = {"int64": "INT64", "float32": "FP32"}
    tensors = [
        {
            "name": name,
            "datatype": kinds[one.dtype.name],
            "shape": list(one.shape),
            "data": one.ravel().tolist(),
        }
        for name, one in inputs.items()
    ]
    rows = {"inputs": {name: one.tolist() for name, one in inputs.items()}}
    with app.repository:
        return [
            request(app, "POST", "/predict", rows),
            request(app, "POST", f"/v2/models/{model}/infer", {"inputs": tensors}),
        ]


def test_a_token_outside_of_the_vocabulary_is_a_fault_of_the_caller(tmp_path: Path) -> None:
    artifact = load(tmp_path / "load", TEXTS, f"{__name__}:Texts")
    for response in asked(artifact, {"tokens": np.full((1, 8), 99)}, "torch"):
        assert response.status == 400
        assert "outside the model's vocabulary: tokens holds 99 to 99" in response.json["error"]


def test_callers_are_told_what_a_forward_refuses_and_not_where_it_lies(tmp_path: Path) -> None:
    artifact = load(tmp_path / "load", TEXTS, f"{__name__}:Texts")
    refused = {"tokens": np.full((1, 8), 29)}
    for response in asked(artifact, refused, "torch"):
        assert response.status == 400
        assert "ValueError: a text of one word" in response.json["error"]
        assert Path(__file__).stem not in response.json["error"]
    with pytest.raises(RequestError) as caught:
        lissom.predict(artifact, refused)
    assert f"{Path(__file__).name}:" in caught.value.hint


def test_answers_that_no_array_holds_are_a_fault_of_the_request(tmp_path: Path) -> None:
    rows = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], np.float32)
    artifact = opened(tmp_path, finds(), {"x": X})
    for response in asked(artifact, {"x": rows}, "onnxruntime"):
        assert response.status == 400
        assert "[2, 2] for one sample and [3, 2] for another" in response.json["error"]
    assert [one.status for one in asked(artifact, {"x": rows[:1]}, "onnxruntime")] == [200, 200]


def test_a_picture_of_which_no_part_may_be_covered_is_a_fault_of_the_request(tmp_path: Path) -> None:
    pytest.importorskip("captum")
    from tests.unit.artifacts import tiny_onnx_artifact

    app = open_app(tiny_onnx_artifact(tmp_path / "tiny"))
    assert app.repository is not None
    with app.repository:
        model = app.repository.models["tiny"]
        image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)

        def call(batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            if not np.array_equal(batch["image"], image):
                raise RequestError("the model does not take these values")
            return model.runtime.infer_request(batch)

        with pytest.raises(RequestError, match="cannot be explained") as caught:
            explain(model, {"image": image}, call)
    assert type(caught.value) is RequestError
