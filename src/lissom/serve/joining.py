"""Requests computed together: tensors joined along the axes of the samples, and answers cut apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lissom.artifact import Batching
from lissom.runtime.layout import num_rows, shape_without, slice_rows

Tensors = Mapping[str, np.ndarray]
Run = Callable[[Tensors], Mapping[str, np.ndarray]]


def outcomes_of(
    run: Run, requests: Sequence[Tensors], batching: Batching | None = None
) -> list[Tensors | Exception]:
    """Answers of requests that are computed together, or what each of them raises.

    Args:
        run: Computes a batch.
        requests: Tensors of equal shapes but for the number of rows, at least one.
        batching: Where the rows lie; None for axis 0 of every tensor.
    """
    try:
        if len(requests) == 1:
            return [run(requests[0])]
        rows = [_rows(one, batching) for one in requests]
        return _split(run(_join(requests, batching)), rows, batching)
    except Exception as exc:  # an engine raises what it likes; each request gets its own
        if len(requests) == 1:
            return [exc]
        middle = len(requests) // 2
        first, second = requests[:middle], requests[middle:]
        return [*outcomes_of(run, first, batching), *outcomes_of(run, second, batching)]


def _rows(inputs: Tensors, batching: Batching | None) -> int:
    return len(next(iter(inputs.values()))) if batching is None else num_rows(inputs, batching)


def key_of(inputs: Tensors, batching: Batching) -> tuple[Any, ...]:
    """What requests that share a call have in common: shapes of a row, and inputs that serve all rows."""
    found: list[Any] = []
    for name, array in inputs.items():
        axis = batching.inputs.get(name)
        found.append(name)
        found.append((array.shape, array.tobytes()) if axis is None else shape_without(array.shape, axis))
    return tuple(found)


def _join(requests: Sequence[Tensors], batching: Batching | None) -> Tensors:
    if batching is None:
        return {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}
    joined = {}
    for name, array in requests[0].items():
        axis = batching.inputs.get(name)
        joined[name] = array if axis is None else np.concatenate([one[name] for one in requests], axis=axis)
    return joined


def _split(outputs: Tensors, rows: Sequence[int], batching: Batching | None) -> list[Tensors | Exception]:
    """Rows of each request.

    Raises:
        ValueError: an output has not as many rows as the inputs.
    """
    ends = np.cumsum(rows).tolist()
    axes: dict[str, int] = {}
    for name, array in outputs.items():
        axis = 0 if batching is None else batching.outputs.get(name)
        if axis is None or array.ndim <= axis or array.shape[axis] != ends[-1]:
            raise ValueError(f"output {name!r} of shape {list(array.shape)} is not of {ends[-1]} rows")
        axes[name] = axis
    return [
        {name: slice_rows(array, axes[name], end - size, end) for name, array in outputs.items()}
        for size, end in zip(rows, ends, strict=True)
    ]
