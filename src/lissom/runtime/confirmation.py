"""Whether another engine computes samples apart as the one did with which an artifact was made.

The axes are known, and it was found that samples may share a call, so that fewer calls tell: two rows alone,
then both three times beside other neighbours, in calls of four. Nothing is found out here but whether all is
as it was; where it is not, the whole experiment tells why. A model that takes more than 10 ms for a sample is
asked twice instead of three times, so that a server starts 0.2 s and ten samples later at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from time import perf_counter

import numpy as np

from lissom.artifact import Batching
from lissom.runtime.batching import Answer, Call, Closeness, answer_together, closeness_of, is_close
from lissom.runtime.made_rows import Row, Tensors, companies, compared_rows, crowd

_PLACES = (0, 2)
"""Where the two rows stand in a call of four."""
_SLOW = 0.01
"""Seconds of a sample from which a neighbour less is tried."""
_SECONDS = 0.1
"""That the call of as many samples as share one may take."""


def holds(call: Call, samples: Tensors, told: Batching, *, precision: str, most: int) -> bool:
    """True when samples are computed apart as it was told; False also where this cannot be said so quickly.

    Args:
        call: Computes tensors of the model.
        samples: A few arrays of shape [samples, ...] by input name.
        told: What was proven, of a model whose samples share calls of any size.
        precision: Of the model, which decides what is rounding.
        most: Samples that will share a call at most.
    """
    axes = {name: axis for name, axis in told.outputs.items() if axis is not None}
    if told.size is not None or len(axes) < len(told.outputs):
        return False
    rows, closeness = compared_rows(samples, len(_PLACES)), closeness_of(precision)
    alone, seconds = _alone(call, told, rows)
    if not alone or not any(array.dtype.kind in "fc" for array in alone[0].values()):
        return False
    together: list[Answer] = []
    for company in islice(companies(samples, rows[0]), 2 if seconds > _SLOW else 3):
        found = answer_together(call, told.inputs, [rows[0], company[0], rows[1], company[1]])
        if found is None or not _are_alone(found, _PLACES, 4, alone, axes, closeness.sizes):
            return False
        together.append(found)
    if not all(_are_beside(together[0], one, axes, closeness) for one in together[1:]):
        return False
    size = min(most, int(_SECONDS / seconds))
    if size <= 4:
        return True
    many, places = crowd(samples, rows, size)
    found = answer_together(call, told.inputs, many)
    return found is not None and _are_alone(found, places, size, alone, axes, closeness.sizes)


def _alone(call: Call, told: Batching, rows: list[Row]) -> tuple[list[Answer], float]:
    """The answers to single rows, none where there is not one for each; and the seconds of the quickest."""
    found, times = [], []
    for row in rows:
        start = perf_counter()
        found.append(answer_together(call, told.inputs, [row], rows[0]))
        times.append(perf_counter() - start)
    whole = [one for one in found if one is not None]
    return whole if len(whole) == len(rows) else [], max(min(times), 1e-9)


def _are_alone(
    found: Answer,
    places: tuple[int, ...] | list[int],
    size: int,
    alone: list[Answer],
    axes: Mapping[str, int],
    share: float,
) -> bool:
    """True when a call of so many rows holds the answers alone at some places."""
    return found.keys() == axes.keys() and all(
        found[name].ndim > axis
        and found[name].shape[axis] == size
        and is_close(np.take(found[name], [place], axis), one[name], share)
        for name, axis in axes.items()
        for place, one in zip(places, alone, strict=True)
    )


def _are_beside(one: Answer, other: Answer, axes: Mapping[str, int], closeness: Closeness) -> bool:
    """True when the two rows have the same answers beside other neighbours."""
    return all(
        is_close(np.take(one[name], _PLACES, axis), np.take(other[name], _PLACES, axis), closeness.neighbours)
        for name, axis in axes.items()
    )
