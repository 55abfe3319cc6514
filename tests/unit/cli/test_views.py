"""What the command line makes of words and of results."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from tests.unit.artifacts import tiny_onnx_artifact

from lissom.cli.views import keyword_arguments, predicted
from lissom.errors import RequestError


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
