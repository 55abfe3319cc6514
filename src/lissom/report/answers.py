"""What arms answered on the report split, and the samples whose answers flipped, as reports keep them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lissom.report.measured_run import Run
from lissom.report.pictures import picture_of, text_of
from lissom.report.schema import CertaintyFigures, Flip, Predictions

MOST_FLIPS = 24
"""Of each kind, that are shown."""


def predictions_of(run: Run, maps: Sequence[Mapping[str, Any]] = ()) -> Predictions:
    """Answers of every arm in one order; how sure the reference and the chosen arm are.

    Args:
        run: What was measured.
        maps: What answers that flipped hang on, as `lissom.report.pair` finds it.
    """
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
        flips=tuple(_flips(run, maps)),
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


def flipped(run: Run) -> list[int]:
    """Places of samples that lost, then of those that gained, by how far the probability of the truth moved.

    At most `MOST_FLIPS` of each; none where answers are no classes, or the reference was chosen.
    """
    chosen = run.chosen
    if chosen is None or run.data.kind != "classes" or chosen == run.trusted:
        return []
    before, after = run.scores(run.trusted, "report"), run.scores(chosen, "report")
    if before is None or after is None or before.dtype != bool:
        return []
    moved = _moved(run)
    found: list[int] = []
    for one, other in ((before, after), (after, before)):
        places = np.flatnonzero(one & ~other)
        found += places[np.argsort(-np.abs(moved[places]), kind="stable")][:MOST_FLIPS].tolist()
    return found


def _flips(run: Run, maps: Sequence[Mapping[str, Any]]) -> Iterator[Flip]:
    """Those that lost, then those that gained, with what both answers hang on where that is known."""
    raw, known = run.data.raw("report"), {one["place"]: one for one in maps}
    for place in flipped(run):
        sample = {name: array[place] for name, array in raw.items()}
        sides = [known.get(place, {}).get(side, {}) for side in ("before", "after")]
        yield Flip(
            place=place,
            picture=picture_of(sample),
            text=text_of(sample),
            before_map=sides[0].get("map"),
            after_map=sides[1].get("map"),
            before_weights=tuple(sides[0].get("weights", ())),
            after_weights=tuple(sides[1].get("weights", ())),
        )


def _moved(run: Run) -> np.ndarray:
    """Probability of the true class after minus before; zeros where it is unknown."""
    told = [run.figures[arm].get("certainty") for arm in (run.trusted, run.chosen) if arm is not None]
    if len(told) < 2 or None in told:
        return np.zeros(len(run.data.indices["report"]))
    before, after = (np.asarray(one["likelihood"]) for one in told if one)
    return np.asarray(after - before)
