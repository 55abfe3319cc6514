"""What arms answered on the report split, and the samples whose answers flipped, as reports keep them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np

from lissom.report.measured_run import Run
from lissom.report.schema import CertaintyFigures, Flip, Predictions

MOST_FLIPS = 24
"""Of each kind, that are shown."""
_PIXELS = 96
_LETTERS = 280


def predictions_of(run: Run) -> Predictions:
    """Answers of every arm in one order; how sure the reference and the chosen arm are."""
    if run.data.dataset.labels is None:
        return Predictions(samples=(), labels=(), arms={}, scores={}, certainty={}, groups=(), flips=())
    labels, places = run.data.labels("report"), run.data.indices["report"]
    groups = run.data.dataset.group
    return Predictions(
        samples=tuple(run.data.sample_hashes[index][:16] for index in places),
        labels=tuple(labels.tolist()) if labels.ndim == 1 else (),
        arms=_by_arm(run, "predictions"),
        scores={} if run.data.kind == "classes" else _by_arm(run, "scores"),
        certainty=_certainty(run),
        groups=tuple(str(groups[index]) for index in places) if groups is not None else (),
        flips=tuple(_flips(run)),
    )


def _by_arm(run: Run, kind: str) -> dict[str, tuple[int | float, ...]]:
    return {
        "/".join(arm): tuple(figures[kind]["report"])
        for arm, figures in run.figures.items()
        if figures.get(kind)
    }


def _certainty(run: Run) -> dict[str, CertaintyFigures]:
    found = {}
    for arm in (run.trusted, run.chosen):
        if arm is not None and (told := run.figures[arm].get("certainty")):
            found["/".join(arm)] = CertaintyFigures(
                confidence=tuple(told["confidence"]),
                likelihood=tuple(told["likelihood"]),
                kl=tuple(told.get("kl", ())),
            )
    return found


def _flips(run: Run) -> Iterator[Flip]:
    """Those that lost, then those that gained, each by how much the probability of the truth moved."""
    chosen = run.chosen
    if chosen is None or run.data.kind != "classes" or chosen == run.trusted:
        return
    before, after = run.scores(run.trusted, "report"), run.scores(chosen, "report")
    if before is None or after is None or before.dtype != bool:
        return
    moved, raw = _moved(run), run.data.raw("report")
    for one, other in ((before, after), (after, before)):
        places = np.flatnonzero(one & ~other)
        for place in places[np.argsort(-np.abs(moved[places]), kind="stable")][:MOST_FLIPS]:
            sample = {name: array[place] for name, array in raw.items()}
            yield Flip(place=int(place), picture=_picture(sample), text=_text(sample))


def _moved(run: Run) -> np.ndarray:
    """Probability of the true class after minus before; zeros where it is unknown."""
    told = [run.figures[arm].get("certainty") for arm in (run.trusted, run.chosen) if arm is not None]
    if len(told) < 2 or None in told:
        return np.zeros(len(run.data.indices["report"]))
    before, after = (np.asarray(one["likelihood"]) for one in told if one)
    return np.asarray(after - before)


def _picture(raw: dict[str, np.ndarray]) -> str | None:
    """The first input that is an image of one or three channels, as a small PNG."""
    from PIL import Image

    for array in raw.values():
        if array.ndim == 3 and array.shape[0] in (1, 3) and min(array.shape[1:]) >= 4:
            values = array.astype(np.float64)
            low, high = float(values.min()), float(values.max())
            levels = np.zeros(array.shape, np.uint8)
            if high > low:
                levels = np.round(255 * (values - low) / (high - low)).astype(np.uint8)
            image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
            image.thumbnail((_PIXELS, _PIXELS))
            content = io.BytesIO()
            image.save(content, "PNG", optimize=True)
            return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return None


def _text(raw: dict[str, np.ndarray]) -> str | None:
    """The first input that is a text, as it begins."""
    for array in raw.values():
        if array.dtype.kind in "US" and array.ndim == 0:
            return str(array)[:_LETTERS]
    return None
