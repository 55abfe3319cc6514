"""The confusion matrix of the chosen arm: which class it takes for which, beside the reference.

Right answers are many and errors few, so each has its own scale: the diagonal is a quiet tint, and an
error is the redder the larger its share of the true class. Everything is computed from the predictions
in the report.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lissom.report.drawing import Drawing, escaped, figure_json, light, linear_axis
from lissom.report.reading import arm_name, chosen_arm, is_classification, trusted_arm
from lissom.report.schema import Arm, Report
from lissom.report.wording import count, percent, shortened

if TYPE_CHECKING:
    import numpy as np

MAX_CLASSES = 40
MAX_NUMBERED = 15
"""Classes up to which a cell has room for its number."""
FULL_SHARE = 0.1
"""Share of a class, taken for another, at which a cell is fully red; more when the worst cell has more."""
NUM_NAMED = 5


def draw_confusion(report: Report) -> Drawing | None:
    """The matrix; None when nothing was chosen, answers are no classes, or there are too many of them."""
    import numpy as np

    chosen = chosen_arm(report)
    matrix = arm_confusion(report, chosen)
    if chosen is None or matrix is None:
        return None
    names = [shortened(name, 14) for name in report.labels]
    numbered = len(names) <= MAX_NUMBERED
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(names), dtype=bool)
    texts = [[str(cell) if cell and numbered else "" for cell in row] for row in matrix.tolist()]
    hover = _hover(report, chosen, matrix)
    worst = max(float(shares[~diagonal].max(initial=0.0)), FULL_SHARE)
    traces = [
        _cells(np.where(diagonal, shares, np.nan), texts, hover, scale=("panel", "tint"), highest=1.0),
        _cells(np.where(diagonal, np.nan, shares), texts, hover, scale=("paper", "bad"), highest=worst),
    ]
    layout = {
        "xaxis": _axis("predicted", names, side="bottom"),
        "yaxis": _axis("true", names, autorange="reversed"),
    }
    height = 90 + (36 if numbered else 18) * len(names)
    return Drawing("confusion", figure_json(traces, layout), height, _label(report, chosen, matrix))


def arm_confusion(report: Report, arm: Arm | None) -> np.ndarray | None:
    """Samples by true class (row) and predicted class of an arm; None where it cannot be told or drawn."""
    found = report.predictions.arms.get(f"{arm.artifact}/{arm.runtime}") if arm else None
    num_classes = len(report.labels)
    if not found or not is_classification(report) or not 2 <= num_classes <= MAX_CLASSES:
        return None
    import numpy as np

    from lissom.models.metrics import confusion_matrix

    predictions, labels = (np.asarray(values) for values in (found, report.predictions.labels))
    matrix = confusion_matrix(predictions, labels, num_classes)
    return matrix if len(matrix) == num_classes else None


def _cells(
    values: np.ndarray,
    texts: list[list[str]],
    hover: list[list[str]],
    *,
    scale: tuple[str, str],
    highest: float,
) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": [[None if math.isnan(value) else value for value in row] for row in values.tolist()],
        "zmin": 0,
        "zmax": highest,
        "colorscale": [[0, light(scale[0])], [1, light(scale[1])]],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "text": texts,
        "texttemplate": "%{text}",
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "hoverongaps": False,
    }


def _axis(title: str, names: list[str], **properties: Any) -> dict[str, Any]:
    step = 1 if len(names) <= MAX_NUMBERED else 2
    return linear_axis(
        title,
        tickvals=list(range(0, len(names), step)),
        ticktext=[escaped(name) for name in names[::step]],
        showgrid=False,
        ticks="outside",
        **properties,
    )


def _hover(report: Report, chosen: Arm, matrix: np.ndarray) -> list[list[str]]:
    reference = trusted_arm(report)
    before = arm_confusion(report, reference) if reference != chosen else None
    totals = matrix.sum(axis=1)
    names = [escaped(shortened(name, 40)) for name in report.labels]

    def words(true: int, predicted: int) -> str:
        number = int(matrix[true, predicted])
        share = percent(number / totals[true]) if totals[true] else percent(0.0)
        lines = [
            f"true <b>{names[true]}</b>, predicted <b>{names[predicted]}</b>",
            f"{number} of {count(int(totals[true]), 'sample')} ({share})",
        ]
        if before is not None and reference is not None:
            then = int(before[true, predicted])
            change = f"{number - then:+d}".replace("-", "−") if number != then else "the same"
            lines.append(f"{escaped(shortened(arm_name(reference), 40))}: {then}, {change}")
        return "<br>".join(lines)

    size = range(len(matrix))
    return [[words(true, predicted) for predicted in size] for true in size]


def _label(report: Report, chosen: Arm, matrix: np.ndarray) -> str:
    from lissom.models.metrics import most_confused

    errors = int(matrix.sum() - matrix.trace())
    pairs = ", ".join(
        f"{report.labels[true]} taken for {report.labels[predicted]} {number} times"
        for true, predicted, number in most_confused(matrix, NUM_NAMED)
    )
    frequent = f" Most frequent: {pairs}." if pairs else ""
    samples = count(int(matrix.sum()), "sample")
    return f"Confusion matrix of {arm_name(chosen)}: {count(errors, 'error')} on {samples}.{frequent}"
