"""Tasks: which one the labels speak of, what an answer is, and how good it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.small import blobs, make

from lissom.errors import DataError, LissomError, ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.tasks import (
    Classification,
    LanguageModelling,
    Regression,
    fitting,
    task_name,
    task_of,
)
from lissom.recipe import ModelConfig

GENERATOR = np.random.default_rng(1)
VALUES = Data(
    "values",
    Dataset({"x": GENERATOR.random((80, 3), dtype=np.float32)}, GENERATOR.random(80).astype(np.float32)),
)
TOKENS = Data("tokens", Dataset({"t": GENERATOR.integers(1, 9, (80, 6))}, GENERATOR.integers(1, 9, (80, 6))))
UNLABELLED = Data("none", Dataset({"x": GENERATOR.random((8, 3), dtype=np.float32)}))


@pytest.mark.parametrize(
    ("data", "wanted", "kind"),
    [
        (blobs(), "classification", Classification),
        (VALUES, "regression", Regression),
        (TOKENS, "language-modelling", LanguageModelling),
        (UNLABELLED, "classification", Classification),
    ],
)
def test_the_labels_decide_the_task(data: Data, wanted: str, kind: type) -> None:
    assert task_name(None, data) == wanted
    assert isinstance(task_of(wanted, data), kind)


def test_a_task_that_the_labels_do_not_fit_is_refused_with_the_one_that_does() -> None:
    with pytest.raises(
        ModelError, match="labels of values are values; classification needs classes"
    ) as caught:
        task_of("classification", VALUES)
    assert "regression" in caught.value.hint


def test_an_unknown_task_offers_the_nearest() -> None:
    with pytest.raises(LissomError, match=r"regresion.*regression"):
        task_of("regresion", VALUES)


def test_the_skill_of_the_median_is_zero_and_of_the_truth_one() -> None:
    task = task_of("regression", VALUES)
    truth = VALUES.labels("train")
    assert task.score(truth, truth).mean() == 1.0
    assert task.score(np.full_like(truth, np.median(truth)), truth).mean() == pytest.approx(0.0, abs=1e-6)


def test_answers_are_read_off_arrays_and_tensors_alike() -> None:
    outputs = GENERATOR.random((4, 6, 9)).astype(np.float32)
    for task in (Classification(), LanguageModelling(), Regression()):
        first = outputs[:, 0] if not isinstance(task, LanguageModelling) else outputs
        np.testing.assert_array_equal(
            task.predict(first),
            task.predict(torch.from_numpy(first)).numpy(),  # type: ignore[arg-type,attr-defined]
        )


@pytest.mark.parametrize(
    ("data", "source", "kwargs"),
    [(VALUES, "mlp", {"hidden": [8]}), (TOKENS, "gpt", {"width": 16, "depth": 1, "num_heads": 2})],
)
def test_a_model_of_each_task_learns(
    tmp_path: Path, data: Data, source: str, kwargs: dict[str, object]
) -> None:
    model = ModelConfig(source=source, kwargs=kwargs)
    options = {"epochs": 6, "optimizer": "adamw", "learning_rate": 0.02}
    artifact = make(tmp_path / "one", data, "train", model=model, **options)
    history = artifact.manifest.notes["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["score"] > history[0]["score"]
    assert artifact.manifest.signature.outputs[0].name == task_of(task_name(None, data), data).output_name


def test_outputs_that_do_not_fit_the_labels_are_refused(tmp_path: Path) -> None:
    wide = ModelConfig(source="mlp", kwargs={"hidden": [8], "num_classes": 3})
    with pytest.raises(ModelError, match="gives 3 outputs, but values has 1 values a sample"):
        make(tmp_path / "one", VALUES, "train", model=wide, epochs=1)
    small = ModelConfig(source="gpt", kwargs={"width": 16, "depth": 1, "num_heads": 2, "vocab_size": 10})
    highest = Data("high", Dataset(TOKENS.dataset.inputs, TOKENS.dataset.labels + 5))  # type: ignore[operator]
    with pytest.raises(ModelError, match="the highest 13"):
        make(tmp_path / "two", highest, "train", model=small, epochs=1)


def test_a_sample_in_which_nothing_counts_is_refused() -> None:
    labels = np.array(TOKENS.dataset.labels)
    labels[7] = -100
    with pytest.raises(DataError, match="no position of sample 7 counts"):
        task_of("language-modelling", Data("sparse", Dataset(TOKENS.dataset.inputs, labels)))


def test_whole_numbers_are_values_for_a_regression_and_classes_for_a_classification() -> None:
    counts = Data("counts", Dataset({"x": GENERATOR.random((9, 2))}, np.arange(9) % 3, ("10", "20", "35")))
    values = fitting(counts, "regression")
    assert sorted(set(values.dataset.labels)) == [10.0, 20.0, 35.0]  # type: ignore[arg-type]
    assert fitting(values, "classification").dataset.label_names == ("10", "20", "35")
    assert fitting(counts, None) is counts
    with pytest.raises(DataError):
        fitting(blobs(), "regression")
