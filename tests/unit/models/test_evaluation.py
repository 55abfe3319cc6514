"""Answers, scores and metrics of whatever can be called, on the splits of labelled data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.artifacts import LABELS, tiny_logits, tiny_onnx_artifact
from tests.unit.small import DATA, KWARGS, VOCABULARY, Chain, load, texts

from lissom import verbs
from lissom.artifact import PreprocessingStep
from lissom.errors import DataError, ModelError, RequestError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.evaluation import TOKEN_BATCH_SIZE, answers, evaluate, judge, predict
from lissom.models.metrics import Batches
from lissom.models.tasks import Classification, Task, task_of
from lissom.runtime.base import open_runtime
from lissom.verbs import shared

GENERATOR = np.random.default_rng(5)
NUM = 120
SPLIT = np.array(["train", "calibrate", "select", "report"] * (NUM // 4))


def values(num_values: int) -> Data:
    samples = GENERATOR.normal(size=(NUM, 3)).astype(np.float32)
    labels = samples @ GENERATOR.normal(size=(3, num_values)).astype(np.float32)
    return Data("values", Dataset({"x": samples}, labels if num_values > 1 else labels[:, 0], split=SPLIT))


def tokens() -> Data:
    samples = GENERATOR.integers(0, 7, (NUM, 5))
    labels = np.roll(samples, -1, axis=1)
    labels[:, -1] = -100
    return Data("tokens", Dataset({"tokens": samples}, labels, split=SPLIT))


def constant_logits(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": np.tile(np.float32([4, 1, 2, 3]), (len(batch["image"]), 1))}


def next_token(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Right but for the first position of every sequence."""
    ahead = np.roll(batch["tokens"], -1, axis=1)
    ahead[:, 0] = (ahead[:, 0] + 1) % 7
    return {"logits": 9 * np.eye(7, dtype=np.float32)[ahead]}


class Halves(Task):
    """Half a point for everything."""

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.full(len(targets), 0.5)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_predictions_do_not_depend_on_how_samples_are_batched(batch_size: int) -> None:
    inputs = {"x": np.arange(14.0).reshape(7, 2), "y": np.ones((7, 1))}
    sizes = []

    def call(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(batch["x"]))
        return {"first": batch["x"] * batch["y"], "second": batch["y"]}

    assert np.array_equal(predict(call, inputs, batch_size=batch_size), inputs["x"])
    assert sum(sizes) == 7
    assert max(sizes) <= batch_size


def test_answers_of_a_classifier_are_the_classes_of_the_highest_output() -> None:
    found = answers(constant_logits, DATA, "select", Classification())
    assert found.tolist() == [0] * len(DATA.labels("select"))


def test_a_classifier_is_told_what_it_confuses() -> None:
    found = evaluate(constant_logits, DATA, "report", Classification())
    labels = DATA.labels("report")
    assert found.num_samples == len(labels)
    assert found.score == found.metrics["accuracy"] == (labels == 0).mean()
    assert found.confusion == [[int((labels == index).sum()), 0, 0, 0] for index in range(4)]


@pytest.mark.parametrize("num_values", [1, 2])
def test_exact_values_have_skill_one_and_no_error(num_values: int) -> None:
    data = values(num_values)
    labels = iter(np.array_split(data.labels("report"), 1))

    def call(_: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"value": next(labels).reshape(-1, num_values)}

    found = evaluate(call, data, "report", task_of("regression", data))
    assert (found.score, found.score_name, found.metrics["mae"]) == (1.0, "skill", 0.0)
    assert found.metrics["r2"] == pytest.approx(1.0)
    assert found.confusion is None


def test_a_language_model_is_read_a_few_samples_at_a_time_and_none_are_kept() -> None:
    data, sizes = tokens(), []

    def call(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(batch["tokens"]))
        return next_token(batch)

    judged = judge(call, data, "report", task_of("language-modelling", data))
    assert sizes == [TOKEN_BATCH_SIZE] * 3 + [6]
    assert judged.answers.shape == (30, 5)
    assert judged.scores.tolist() == [0.75] * 30
    assert judged.metrics["token_accuracy"] == pytest.approx(0.75)


def test_a_task_without_metrics_of_its_own_is_scored_all_the_same() -> None:
    found = evaluate(constant_logits, DATA, "report", Halves())
    assert (found.score, found.score_name, found.metrics, found.confusion) == (0.5, "score", {}, None)


def test_a_task_may_bring_metrics_that_read_only_some_batches() -> None:
    class First(Halves):
        def metrics(self, batches: Batches) -> dict[str, float]:
            outputs, targets = next(iter(batches))
            return {"num_outputs": float(outputs.shape[1]), "num_targets": float(len(targets))}

    images, labels = np.zeros((100, 1), np.float32), np.arange(100) % 2
    data = Data("ab", Dataset({"image": images}, labels, ("a", "b"), split=np.full(100, "train")))
    judged = judge(constant_logits, data, "train", First())
    assert judged.metrics == {"num_outputs": 4, "num_targets": 64}
    assert len(judged.scores) == 100


@pytest.mark.parametrize("scores", [np.ones((2, 2)), np.ones(3, dtype=int), np.ones(2)])
def test_scores_that_are_not_one_for_each_sample_are_refused(scores: np.ndarray) -> None:
    class Odd(Halves):
        def score(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
            return scores

    with pytest.raises(ModelError, match="gave scores of shape"):
        evaluate(constant_logits, DATA, "report", Odd())


def test_values_that_are_not_finite_are_no_score() -> None:
    data = values(1)

    def call(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = np.zeros((len(batch["x"]), 1), np.float32)
        found[2] = np.nan
        return {"value": found}

    with pytest.raises(ModelError, match="1 of 30 answers have no finite score"):
        evaluate(call, data, "report", task_of("regression", data))


@pytest.fixture
def small(chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: DATA)
    return chain("mlp")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_int8_model_is_evaluated_by_the_same_code_as_the_torch_model(small: Chain, runtime: str) -> None:
    original = verbs.evaluate(small.trained, runtime="torch")
    quantized = verbs.evaluate(small.quantized, runtime=runtime)
    assert original.metrics.keys() == quantized.metrics.keys()
    assert original.num_samples == quantized.num_samples == np.sum(quantized.confusion)
    assert quantized.score == pytest.approx(original.score, abs=0.05)
    for name, value in quantized.metrics.items():
        assert value == pytest.approx(original.metrics[name], abs=0.1), name
    with open_runtime(small.quantized, runtime) as session:
        labels = predict(session.infer_batch, DATA.tensors("report")).argmax(axis=1)
    assert quantized.score == (labels == DATA.labels("report")).mean()


def test_classes_are_matched_by_name_and_may_be_fewer(small: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verbs.evaluate(small.exported)
    names = DATA.dataset.label_names
    kept = np.flatnonzero(np.isin(DATA.dataset.labels, [1, 3]))
    fewer = Dataset(
        {"image": DATA.dataset.inputs["image"][kept]},
        (DATA.dataset.labels[kept] == 1).astype(np.int64),
        (names[3], names[1]),
        split=np.array(["train", "calibrate", "select", "report"])[
            [next(k for k, s in enumerate(DATA.indices) if i in DATA.indices[s]) for i in kept]
        ],
    )
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: Data("fewer", fewer))
    found = verbs.evaluate(small.exported, data="fewer")
    assert [found.confusion[row] for row in (1, 3)] == [whole.confusion[row] for row in (1, 3)]
    assert np.sum(found.confusion) == np.sum([whole.confusion[row] for row in (1, 3)])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"split": "test"}, "no split 'test'"), ({"runtime": "torch"}, "torch does not execute onnx")],
)
def test_what_cannot_be_evaluated_is_refused(small: Chain, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        verbs.evaluate(small.exported, **options)


def test_data_without_labels_cannot_be_evaluated(small: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Data("bare", Dataset({"image": DATA.dataset.inputs["image"]}))
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: bare)
    with pytest.raises(DataError, match="bare has no labels"):
        verbs.evaluate(small.exported)


def test_data_of_other_classes_are_refused(small: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Data("other", Dataset(DATA.dataset.inputs, DATA.dataset.labels // 2, ("x", "y"), split=None))
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: other)
    with pytest.raises(DataError, match="other has the classes x, y; the model knows class 0, class 1, "):
        verbs.evaluate(small.exported)


def bright_images(names: tuple[str, ...] = LABELS, shape: tuple[int, ...] = (1, 2, 2)) -> Data:
    """Images that are labelled as the tiny model sees them, with a mean and spread of their own."""
    images = np.random.default_rng(3).normal(82, 8, (40, *shape)).astype(np.float32)
    labels = tiny_logits(images[:, :1, :2, :2]).argmax(axis=1)
    labels[::4] = (labels[::4] + 1) % 3
    steps = (PreprocessingStep(input="image", mean=(82.0,), std=(8.0,)),)
    split = np.array(["report", "select"])[np.arange(40) % 2]
    return Data("bright", Dataset({"image": images}, labels, names, steps, split))


def test_other_data_are_normalized_as_the_model_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bright_images()
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: data)
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    found = verbs.evaluate(artifact, data="bright")
    labels, _ = verbs.predict(artifact, data.raw("report"))
    truth = [LABELS[index] for index in data.labels("report")]
    assert found.score == np.mean([one == other for one, other in zip(labels, truth, strict=True)]) == 0.5


@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_other_data_reach_every_comparison_as_the_model_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    data, seen = bright_images(), []
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: data)
    monkeypatch.setattr("lissom.export.verification.verify", lambda one, other, given: seen.append(given))
    monkeypatch.setattr(
        "lissom.report.measurement.measure", lambda one, config, given, progress: ("", seen.append(given))
    )
    one, other = (tiny_onnx_artifact(tmp_path / name, name=name) for name in ("one", "other"))
    if verb == "verify":
        verbs.verify(one, other, data="bright")
    else:
        verbs.bench([one, other], data="bright")
    assert np.allclose(seen[0].tensors("select")["image"], (data.raw("select")["image"] - 2) / 4)


@pytest.mark.parametrize("verb", ["evaluate", "verify", "bench"])
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"image": np.zeros((8, 1, 4, 4), np.float32)}, "image of shape [1, 4, 4]"),
        ({"image": np.zeros((8, 4), np.float32)}, "image of shape [4]"),
        (
            {"image": np.zeros((8, 1, 2, 2), np.float32), "mask": np.zeros((8, 2), np.float32)},
            "image of shape [1, 2, 2], mask of shape [2] (unknown: 'mask')",
        ),
    ],
)
def test_samples_of_another_shape_are_refused_and_both_shapes_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, inputs: dict[str, np.ndarray], words: str
) -> None:
    data = Data("odd", Dataset(inputs, np.arange(8) % 3, LABELS, split=np.full(8, "report")))
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: data)
    one, other = (tiny_onnx_artifact(tmp_path / name, name=name) for name in ("one", "other"))
    calls: dict[str, Callable[[], object]] = {
        "evaluate": lambda: verbs.evaluate(one, data="odd"),
        "verify": lambda: verbs.verify(one, other, data="odd"),
        "bench": lambda: verbs.bench([one, other], data="odd"),
    }
    with pytest.raises(DataError) as caught:
        calls[verb]()
    assert caught.value.message == f"the model takes image of shape [1, 2, 2]; odd has {words}"
    assert caught.value.exit_code == 2


def test_classes_of_the_same_number_and_other_names_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: bright_images(("cat", "dog", "emu")))
    with pytest.raises(
        DataError, match="bright has the classes cat, dog, emu; the model knows cat, dog, owl"
    ):
        verbs.evaluate(tiny_onnx_artifact(tmp_path / "tiny"), data="bright")


def test_a_model_without_class_names_takes_the_classes_by_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: bright_images(("x", "y", "z")))
    assert verbs.evaluate(tiny_onnx_artifact(tmp_path / "tiny", labels=()), data="bright").score == 0.5


def with_metrics(found: Any) -> Task:
    class Measured(Halves):
        def metrics(self, batches: Batches) -> dict[str, float]:
            return found  # type: ignore[no-any-return]

    return Measured()


def test_metrics_of_an_own_task_become_plain_numbers_and_those_not_finite_are_left_out() -> None:
    given = {
        "numpy": np.float32(0.25),
        "tensor": torch.tensor(0.5),
        "count": np.int64(3),
        "nan": float("nan"),
        "infinite": np.float64("inf"),
    }
    found = judge(constant_logits, DATA, "report", with_metrics(given)).metrics
    assert found == {"numpy": 0.25, "tensor": 0.5, "count": 3.0}
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize(
    "given",
    [None, 0.5, {"f1": "0.5"}, {"f1": None}, {"f1": np.ones(3)}, {"f1": torch.ones(3)}, {"f1": 1j}, {1: 0.5}],
)
def test_metrics_that_are_no_numbers_by_name_are_refused(given: Any) -> None:
    with pytest.raises(ModelError, match="the task gave as metrics"):
        judge(constant_logits, DATA, "report", with_metrics(given))


def test_a_token_outside_the_vocabulary_is_refused_and_the_range_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = texts()
    artifact = load(tmp_path / "load", known, "gru", **KWARGS["gru"])
    tokens = known.dataset.inputs["tokens"] + VOCABULARY
    beyond = Data("beyond", Dataset({"tokens": tokens}, known.dataset.labels, known.dataset.label_names))
    monkeypatch.setattr(shared, "load_data", lambda source, *declared: beyond)
    words = rf"a token id lies outside the model's vocabulary: tokens holds {VOCABULARY} to "
    with pytest.raises(RequestError, match=words) as caught:
        verbs.evaluate(artifact, data="beyond", runtime="torch")
    assert "vocab_size" in caught.value.hint
