"""A look inside: what is asked of models, what is told of it, and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.small import Chain, blobs, data_for

from lissom.artifact import Artifact
from lissom.errors import MissingExtra, ModelError
from lissom.models.attribution import Attributed, num_calls
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.report import dissection, explanations
from lissom.report.dissection import (
    Dissection,
    Question,
    Training,
    dissect,
    document,
    estimated_seconds,
    in_turn,
)
from lissom.report.dissection_page import html_from_dissection, told, write_dissection
from lissom.report.explanations import Explained, unrelated_cosine

Made = Callable[[str], Chain]


def _question(
    *artifacts: Artifact, data: Data, samples: int | None = 6, layer: str | None = None
) -> Question:
    return Question(artifacts, data, (None,) * len(artifacts), layer, samples)


@pytest.fixture(scope="module")
def pair(chain: Made) -> Dissection:
    """A residual network before and after quantization."""
    made = chain("resnet")
    return dissect(_question(made.trained, made.quantized, data=data_for("resnet")))


@pytest.fixture(scope="module")
def alone(chain: Made) -> Dissection:
    return dissect(_question(chain("resnet").trained, data=data_for("resnet")))


def test_a_torch_model_is_explained_by_its_gradients(alone: Dissection) -> None:
    assert [one.maps[0].method for one in alone.explained] == ["grad-cam", "integrated-gradients"]
    assert all(one.cosines is None for one in alone.explained)
    assert alone.sides[0].inside is not None
    assert alone.remarks == ()


def test_a_model_without_gradients_is_covered_and_the_page_says_so(pair: Dissection) -> None:
    (one,) = pair.explained
    assert [side.method for side in one.maps] == ["occlusion", "occlusion"]
    assert one.cosines is not None
    assert np.nanmin(one.cosines) > 0.5
    assert "has no gradients" in pair.remarks[0]
    assert "has no gradients" in html_from_dissection(pair)


def test_two_torch_models_are_compared_by_every_method(chain: Made) -> None:
    made = chain("resnet")
    found = dissect(_question(made.trained, made.trained, data=data_for("resnet")))
    for one in found.explained:
        assert one.cosines is not None
        assert np.allclose(one.cosines[np.isfinite(one.cosines)], 1.0)


def test_samples_are_of_every_class_and_explained_for_the_true_one(alone: Dissection) -> None:
    assert alone.labelled
    assert set(alone.targets[:4]) == {0, 1, 2, 3}
    assert len(alone.hashes) == len(alone.places) == len(alone.targets) == 6


def test_without_labels_the_answer_is_explained(chain: Made) -> None:
    data = data_for("resnet")
    unlabelled = Data("raw", Dataset({"image": data.dataset.inputs["image"][:20]}))
    found = dissect(_question(chain("resnet").trained, data=unlabelled))
    assert (found.labelled, found.split) == (False, "calibrate")
    assert found.targets.tolist() == found.sides[0].answers.tolist()
    assert "the answer of the first model" in html_from_dissection(found)


def test_training_is_found_beside_what_was_made_from_it(pair: Dissection) -> None:
    assert pair.training is not None
    assert len(pair.training.history) == 3


@pytest.mark.parametrize("source", ["lstm", "gpt", "mlp", "vit"])
def test_every_kind_of_model_gets_a_page(chain: Made, source: str) -> None:
    made = chain(source)
    for artifacts in ((made.trained,), (made.trained, made.exported)):
        found = dissect(_question(*artifacts, data=data_for(source), samples=3))
        page = html_from_dissection(found)
        assert found.explained, found.remarks
        assert page.count("<li>") >= 3


def test_tokens_are_shown_on_the_colour_of_what_they_weigh(chain: Made) -> None:
    page = html_from_dissection(dissect(_question(chain("lstm").trained, data=data_for("lstm"), samples=2)))
    assert '<i style="background:rgb(' in page


def test_without_captum_the_rest_is_shown(chain: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingExtra("captum is not installed", hint="pip install 'lissom[explain]'")

    monkeypatch.setattr(explanations, "gradient_maps", missing)
    found = dissect(_question(chain("resnet").trained, data=data_for("resnet")))
    assert found.explained == ()
    assert "pip install &#x27;lissom[explain]&#x27;" in html_from_dissection(found)
    assert found.sides[0].inside is not None


def test_a_model_whose_gradients_are_unknown_is_covered(chain: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModelError("gradients of the model are not known: no")

    monkeypatch.setattr(explanations, "gradient_maps", fails)
    found = dissect(_question(chain("resnet").trained, data=data_for("resnet"), samples=2))
    assert found.explained[0].maps[0].method == "occlusion"
    assert "Parts are covered instead" in found.remarks[0]


def test_a_slow_model_explains_what_a_minute_allows(chain: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 12.0 / num_calls((1, 8, 8))
    monkeypatch.setattr(explanations, "_seconds_of_call", lambda *_: seconds)
    question = _question(chain("resnet").exported, data=data_for("resnet"), samples=None)
    found = dissect(question)
    assert len(found.places) == 5
    assert "--samples" in found.remarks[-1]
    assert estimated_seconds(question) == 75.0


def test_an_unknown_layer_of_the_last_model_is_refused(chain: Made) -> None:
    with pytest.raises(ModelError, match="no module 'none'"):
        dissect(_question(chain("resnet").trained, data=data_for("resnet"), layer="none"))


def test_layers_of_other_formats_cannot_be_seen(tmp_path: Path) -> None:
    made = tiny_onnx_artifact(tmp_path / "tiny")
    other = Artifact(made.path, made.manifest.model_copy(update={"format": "openvino"}), made.digest)
    inside, why = dissection._inside(other, {}, None)
    assert inside is None
    assert "openvino cannot be watched" in why


def test_in_turn_begins_with_one_of_every_class() -> None:
    labels = np.array([2, 2, 2, 0, 1, 0])
    assert labels[in_turn(labels, 6)].tolist() == [0, 1, 2, 0, 2, 2]


def test_unrelated_maps_are_those_of_the_same_class() -> None:
    maps = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert unrelated_cosine(maps, np.array([0, 0, 1])) == (pytest.approx(1.0), True)
    assert unrelated_cosine(maps, np.array([0, 1, 2])) == (pytest.approx(0.5), False)
    assert unrelated_cosine(maps[:1], np.array([0])) is None
    assert unrelated_cosine(np.zeros((2, 2)), np.array([0, 0])) is None


def test_the_document_is_json_and_holds_what_was_seen(pair: Dissection, tmp_path: Path) -> None:
    write_dissection(pair, tmp_path)
    written = json.loads((tmp_path / "inspect.json").read_text())
    assert written == json.loads(json.dumps(document(pair)))
    assert written["schema"] == "lissom.inspection/1"
    assert len(written["explanations"][0]["cosines"]) == 6
    assert [model["artifact"]["precision"] for model in written["models"]] == ["float32", "int8"]


def test_an_empty_map_has_no_cosine(pair: Dissection) -> None:
    empty = replace(
        pair,
        explained=(
            Explained(
                tuple(Attributed("occlusion", np.zeros((6, 8, 8))) for _ in range(2)),
                np.full(6, np.nan),
                None,
            ),
        ),
    )
    assert document(empty)["explanations"][0]["cosines"] == [None] * 6
    assert "no sample has a map in both models" in told(empty)[0]
    assert "No sample has a map in both models." in html_from_dissection(empty)


def test_markup_in_names_is_escaped(pair: Dissection) -> None:
    hostile = replace(pair, labels=("<script>alert(1)</script>",) * 4, data="<b>x</b>")
    page = html_from_dissection(hostile)
    assert "<script>alert" not in page
    assert "<b>x</b>" not in page


def test_flagged_epochs_are_named(pair: Dissection) -> None:
    epochs = ({"gradient_norm": 1.0, "gradient_norm_max": 500.0, "exploding": 1.0},) * 2
    page = html_from_dissection(replace(pair, training=Training("train", epochs)))
    assert "epoch 1: exploding; epoch 2: exploding" in page


def test_unknown_training_is_said_to_be_unknown(pair: Dissection) -> None:
    page = html_from_dissection(replace(pair, training=None))
    assert "How it was trained is not known" in page
    unwatched = replace(pair, training=Training("train", ({"loss": 1.0},)))
    assert "Gradients were not watched" in html_from_dissection(unwatched)


def test_a_regression_is_explained_by_its_first_value(chain: Made) -> None:
    data = blobs(60)
    values = Data("values", replace(data.dataset, labels=np.arange(60.0, dtype=np.float32), label_names=()))
    found = dissect(_question(chain("resnet").trained, data=values, samples=3))
    assert found.targets.tolist() == [0, 0, 0]
    assert found.sides[0].certainty is None
    html_from_dissection(found)


def test_inputs_reach_the_model_in_the_order_of_its_signature(chain: Made) -> None:
    made = chain("resnet").trained
    specs = made.manifest.signature.inputs
    other = specs[0].model_copy(update={"name": "mask"})
    turned = made.manifest.model_copy(
        update={"signature": made.manifest.signature.model_copy(update={"inputs": (other, *specs)})}
    )
    artifact = Artifact(made.path, turned, made.digest)
    data = blobs(20)
    both = Dataset({**data.dataset.inputs, "mask": data.dataset.inputs["image"]}, data.dataset.labels)
    question = _question(artifact, data=Data("both", replace(both, label_names=data.dataset.label_names)))
    assert list(dissection._tensors(question, "train")) == ["mask", "image"]


def test_data_that_all_lie_in_the_train_split_are_explained_all_the_same(chain: Made) -> None:
    data = blobs(12)
    only = Data("train", replace(data.dataset, split=np.full(12, "train")))
    assert dissect(_question(chain("resnet").trained, data=only, samples=2)).split == "train"


def test_answers_that_are_no_numbers_are_null(pair: Dissection, tmp_path: Path) -> None:
    first, last = pair.sides
    broken = last._replace(certainty=np.full(6, np.nan))
    write_dissection(replace(pair, sides=(first, broken)), tmp_path)
    assert json.loads((tmp_path / "inspect.json").read_text())["models"][1]["certainty"] == [None] * 6


def test_the_sentence_says_what_is_explained(chain: Made) -> None:
    data = data_for("resnet")
    unlabelled = Data("raw", Dataset({"image": data.dataset.inputs["image"][:20]}))
    page = html_from_dissection(dissect(_question(chain("resnet").trained, data=unlabelled, samples=2)))
    assert "class by class in turn" not in page
