"""Why a served model answers as it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.unit.artifacts import BIAS, LABELS, WEIGHTS, identity_onnx_artifact, tiny_onnx_artifact

from lissom.artifact import Artifact
from lissom.errors import RequestError
from lissom.runtime.scores import softmax
from lissom.serve import explanation
from lissom.serve.bodies import Refused
from lissom.serve.explanation import explain, explains
from lissom.serve.repository import ServedModel

PICTURE = np.array([[[[1.0, -2.0], [0.5, 3.0]]]], dtype=np.float32)


def opened(artifact: Artifact) -> ServedModel:
    return ServedModel(artifact, runtime="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    with closing(opened(tiny_onnx_artifact(tmp_path_factory.mktemp("explained") / "tiny"))) as model:
        yield model


def test_the_map_of_a_linear_model_is_what_each_pixel_adds_to_the_score(model: ServedModel) -> None:
    found = explain(model, {"image": PICTURE}, model.runtime.infer_batch)
    scores = PICTURE.reshape(-1) @ WEIGHTS + BIAS
    best = int(scores.argmax())
    expected = WEIGHTS[:, best].reshape(2, 2) * (PICTURE[0, 0] - PICTURE.mean())
    np.testing.assert_allclose(found["map"], expected, atol=1e-5)
    assert (found["model"], found["label"], found["method"]) == ("tiny", LABELS[best], "occlusion")
    assert found["score"] == pytest.approx(float(softmax(scores)[best]))


def test_a_model_without_labels_is_explained_by_the_number_of_the_class(tmp_path: Path) -> None:
    with closing(opened(tiny_onnx_artifact(tmp_path / "tiny", labels=()))) as model:
        assert explain(model, {"image": PICTURE}, model.runtime.infer_batch)["label"] in {"0", "1", "2"}


def test_every_call_goes_through_the_function_that_is_given(model: ServedModel) -> None:
    seen = []

    def call(batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        seen.append(len(batch["image"]))
        return model.runtime.infer_batch(batch)

    found = explain(model, {"image": PICTURE}, call)
    assert found == explain(model, {"image": PICTURE}, model.runtime.infer_batch)
    assert seen[0] == 1
    assert max(seen) > 1
    assert sum(seen) <= 8


def test_two_samples_are_refused(model: ServedModel) -> None:
    with pytest.raises(RequestError, match="one sample is explained at a time; 2 were sent"):
        explain(model, {"image": np.concatenate([PICTURE, PICTURE])}, model.runtime.infer_batch)


def test_a_model_of_something_else_is_refused(tmp_path: Path) -> None:
    artifact = identity_onnx_artifact(tmp_path / "identity", "float32")
    assert not explains(artifact)
    inputs = {"x": np.ones((1, 2), np.float32), "y": np.ones(1, np.float32)}
    with (
        closing(opened(artifact)) as model,
        pytest.raises(RequestError, match="does not classify pictures"),
    ):
        explain(model, inputs, model.runtime.infer_batch)


def test_without_captum_nothing_is_explained_and_the_server_says_what_is_missing(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert explains(model.artifact)
    monkeypatch.setattr(explanation, "is_installed", lambda module: module != "captum")
    assert not explains(model.artifact)
    with pytest.raises(Refused, match=r"lacks captum.*pip install 'lissom\[explain\]'") as caught:
        explain(model, {"image": PICTURE}, model.runtime.infer_batch)
    assert caught.value.status == 501


def test_a_picture_that_would_take_too_many_calls_is_refused(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "MAX_COVERED", 3)
    with pytest.raises(RequestError, match="takes 4 calls; at most 3 are made"):
        explain(model, {"image": PICTURE}, model.runtime.infer_batch)
