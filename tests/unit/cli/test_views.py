"""What the command line makes of words and of results."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from tests.unit.artifacts import LABELS, tiny_logits, tiny_onnx_artifact
from tests.unit.serve.test_prediction import WEIGHTS, tokens_artifact, values_artifact

from lissom import verbs
from lissom.cli.views import evaluated, keyword_arguments, kwarg_options, listed, predicted
from lissom.errors import RequestError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.evaluation import Evaluation
from lissom.registry import DATASETS, MODELS


@pytest.mark.parametrize("word", ["widths", "widths=[1", "=3", "a=: :"])
def test_a_word_that_is_no_keyword_argument_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match="--kwarg"):
        keyword_arguments([word])


def test_values_of_keyword_arguments_are_yaml() -> None:
    found = keyword_arguments(["a=3", "b=[1, 2]", "c=x=y", "d=", "e=null"])
    assert found == {"a": 3, "b": [1, 2], "c": "x=y", "d": None, "e": None}


def test_predictions_can_be_read_back_whatever_the_labels_are_called(tmp_path: Path) -> None:
    labels = ("one, two", 'so-called "three"', "four")
    artifact = tiny_onnx_artifact(tmp_path / "tiny", labels=labels)
    images = np.random.default_rng(0).normal(scale=20, size=(12, 1, 2, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=images)
    outcome = predicted(artifact.path, str(tmp_path / "data.npz"), "onnxruntime", tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["sample", "label", "score"]
    assert [row[1] for row in rows] == outcome.extra["labels"]
    assert all(len(row) == 3 and 1 / 3 <= float(row[2]) <= 1 for row in rows)
    assert len(set(outcome.extra["labels"])) > 1


def test_the_models_are_listed_with_sizes_and_with_arguments_that_fit_the_screen() -> None:
    outcome = listed()
    sizes = outcome.lines[1 : 1 + len(MODELS)]
    assert [line.split()[0] for line in sizes] == sorted(MODELS)
    assert next(line for line in sizes if line.startswith("resnet18 ")).split()[1:] == [
        *("701,466", "70.1", "M"),
        *("11.7", "M", "3.63", "G"),
    ]
    assert max(len(line) for line in outcome.lines) <= 112
    assert [row["name"] for row in json.loads(json.dumps(outcome.extra))["models"]] == sorted(MODELS)
    assert {"num_parameters", "flops", "paper_parameters", "paper_flops"} <= outcome.extra["models"][0].keys()
    assert outcome.lines[-1] == f"data: {', '.join(DATASETS)}"


def test_the_papers_size_is_shown_as_words_that_can_be_typed() -> None:
    outcome = listed()
    text = " ".join(" ".join(outcome.lines).split())
    assert "paper: --kwarg in_features=784 --kwarg 'hidden=[300,100]'" in text
    for row in json.loads(json.dumps(outcome.extra["models"])):
        words = shlex.split(kwarg_options(row["paper_kwargs"] or {}))
        assert keyword_arguments([word for word in words if word != "--kwarg"]) == (row["paper_kwargs"] or {})


def test_values_are_predicted_as_numbers_and_sequences_as_the_tokens_of_the_highest_output(
    tmp_path: Path,
) -> None:
    for folder, artifact in {
        "values": values_artifact(tmp_path / "values", flat=False),
        "mean": values_artifact(tmp_path / "mean", flat=True),
        "tokens": tokens_artifact(tmp_path / "tokens"),
    }.items():
        name = artifact.manifest.signature.inputs[0].name
        inputs = np.array([[0, 1, 2, 3]]) if name == "tokens" else np.eye(7, dtype=np.float32)
        np.savez(tmp_path / f"{folder}.npz", **{name: inputs})
        outcome = predicted(artifact.path, str(tmp_path / f"{folder}.npz"), "onnxruntime", tmp_path / folder)
        with (tmp_path / folder / "predictions.csv").open(newline="") as file:
            header, first, *_ = csv.reader(file)
        assert header == ["sample", "output"]
        wanted = {"values": WEIGHTS[0], "mean": [WEIGHTS[0].mean()], "tokens": [4, 4, 4, 4]}[folder]
        assert np.allclose([float(word) for word in first[1].split()], wanted, atol=1e-5)
        assert outcome.extra["labels"] == []


@pytest.mark.parametrize("num_classes", [3, 41])
def test_an_evaluation_is_a_table_and_names_what_is_confused_where_classes_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_classes: int
) -> None:
    confusion = np.eye(num_classes, dtype=int) * 5
    confusion[2, 0], confusion[0, 1] = 3, 1
    found = Evaluation(
        num_classes * 5 + 4,
        0.79,
        "accuracy",
        {"accuracy": 0.79, "calibration_error": 0.1},
        confusion.tolist(),
    )
    monkeypatch.setattr(verbs, "evaluate", lambda *_, **__: found)
    outcome = evaluated(tiny_onnx_artifact(tmp_path / "tiny").path, None, "report", None)
    text = "\n".join(outcome.lines)
    assert "accuracy           0.7900" in text
    assert "calibration error  0.1000  lower is better" in text
    assert ("owl -> cat: 3\ncat -> dog: 1" in text) == (num_classes == 3)
    assert outcome.extra["confusion"] == confusion.tolist()
    assert outcome.extra["score"] == 0.79


def labelled(path: Path, **arrays: np.ndarray) -> np.ndarray:
    """Write images and what is said of them; gives the class that the tiny model sees in each."""
    images = np.random.default_rng(0).normal(scale=20, size=(12, 1, 2, 2)).astype(np.float32)
    labels = tiny_logits(images).argmax(axis=1)
    names = np.array(LABELS)[labels]
    np.savez(path, image=images, **{"y": names, "split": np.full(12, "report"), **arrays})
    return labels


def test_predictions_are_compared_with_the_labels_by_name(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    found = labelled(tmp_path / "whole.npz")
    names = np.array(LABELS)[found]
    labelled(
        tmp_path / "more.npz", y=np.where(np.arange(12) == 0, "aardvark", names)
    )  # it moves every position
    labelled(tmp_path / "fewer.npz", y=np.full(12, "owl"))
    wanted = {"whole": 1.0, "more": 11 / 12, "fewer": np.mean(names == "owl")}
    for name, accuracy in wanted.items():
        outcome = predicted(artifact.path, str(tmp_path / f"{name}.npz"), "onnxruntime", None)
        assert outcome.extra["accuracy"] == accuracy, name


@pytest.mark.parametrize("y", [np.linspace(0, 1, 12), np.full(12, "emu"), np.arange(24).reshape(12, 2)])
def test_predictions_are_not_compared_with_labels_that_are_no_classes_of_the_model(
    tmp_path: Path, y: np.ndarray
) -> None:
    labelled(tmp_path / "other.npz", y=y)
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    outcome = predicted(artifact.path, str(tmp_path / "other.npz"), "onnxruntime", None)
    assert "accuracy" not in outcome.extra
    assert len(outcome.extra["labels"]) == 12


def test_a_model_without_class_names_is_compared_by_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).normal(scale=20, size=(12, 1, 2, 2)).astype(np.float32)
    labels = tiny_logits(images).argmax(axis=1)
    dataset = Dataset({"image": images}, labels, ("x", "y", "z"), split=np.full(12, "report"))
    monkeypatch.setattr(verbs, "load_data", lambda source, *declared: Data("letters", dataset))
    outcome = predicted(tiny_onnx_artifact(tmp_path / "tiny", labels=()).path, "letters", "onnxruntime", None)
    assert outcome.extra["accuracy"] == 1.0


def test_labelled_data_without_a_report_split_are_predicted_all_the_same(tmp_path: Path) -> None:
    labelled(tmp_path / "data.npz", split=np.full(12, "train"))
    outcome = predicted(tiny_onnx_artifact(tmp_path / "tiny").path, str(tmp_path / "data.npz"), None, None)
    assert (outcome.extra["split"], outcome.extra["accuracy"]) == ("train", 1.0)
