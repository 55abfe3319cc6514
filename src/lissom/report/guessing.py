"""The answer that needs no model: the most frequent class, or the median of the values.

A model that is no better has learned nothing, however small and fast it is. The constant is that of the train
split, and is judged on the report split by the task's own score. Of a trained original it fails the gate
`accuracy`; of a model that came as it is it is told.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lissom.models.tasks import regression
from lissom.report.measured_run import Run
from lissom.report.schema import Gate
from lissom.report.wording import percent

_TRAINING = ("train", "distill")


class Guess(NamedTuple):
    """A model that is no better than a constant answer.

    Attributes:
        score: Mean score of the model on the report split.
        constant: That of the constant answer, which is at least 0.
        answer: What the constant answer is, in words.
        trained: True where the original was trained here.
    """

    score: float
    constant: float
    answer: str
    trained: bool


def find_guess(run: Run) -> Guess | None:
    """What is told of the chosen model or the original where one is no better than the constant answer."""
    chosen, task = run.chosen, run.artifacts[0].manifest.task
    if chosen is None or task not in ("classification", "regression"):
        return None
    if run.data.dataset.labels is None or run.data.kind not in ("classes", "values"):
        return None
    found = [run.scores(arm, "report") for arm in (chosen, run.trusted)]
    scores = [float(one.mean()) for one in found if one is not None and len(one)]
    constant, answer = _of_values(run) if run.data.kind == "values" else _of_classes(run)
    if not scores or min(scores) > constant or constant >= 1:
        return None
    return Guess(min(scores), constant, answer, run.reference.manifest.stage in _TRAINING)


def guess_sentence(guess: Guess, score_name: str) -> str:
    r"""What stands before everything else in the verdict.

    >>> guess_sentence(Guess(-0.017, 0.0, "the median of the train labels", True), "skill")
    'WARNING: no better than guessing: skill −1.7\xa0%, that of the median of the train labels is 0.0\xa0%'
    """
    mine, other = percent(guess.score), percent(guess.constant)
    return f"WARNING: no better than guessing: {score_name} {mine}, that of {guess.answer} is {other}"


def guess_gate(guess: Guess, score_name: str) -> Gate:
    """The failed gate `accuracy` of an original that learned nothing."""
    return Gate(
        name="accuracy",
        state="fail",
        measured=f"{score_name} {percent(guess.score)}",
        limit=f"better than {percent(guess.constant)}",
        reason=f"no better than {guess.answer}, which needs no model: train longer, at another learning "
        "rate, or look at the data",
        allowed=False,
    )


def _of_classes(run: Run) -> tuple[float, str]:
    labels, known = run.data.labels("report"), _train_labels(run)
    most = int(np.bincount(known, minlength=run.data.num_classes).argmax())
    name = run.data.dataset.label_names[most]
    return float((labels == most).mean()), f"the most frequent class {name!r}"


def _of_values(run: Run) -> tuple[float, str]:
    labels, known = run.data.labels("report"), _train_labels(run)
    constant = np.broadcast_to(np.median(known, axis=0), labels.shape)
    score = float(regression(run.data).score(constant, labels).mean())
    return max(0.0, score), "the median of the train labels"


def _train_labels(run: Run) -> np.ndarray:
    """Labels of the train split, or of the report split where there is nothing to train on."""
    labels = run.data.labels("train")
    return labels if len(labels) else run.data.labels("report")
