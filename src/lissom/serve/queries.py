"""Queries for a server: one sample each, laid out as the model has it, of data or of random numbers.

A server of lissom tells on which axis of each input the samples lie, and which inputs are recurrent states
that may be left out. Of any other server the first axis is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lissom.errors import RequestError
from lissom.serve.tensors import DATATYPES

NUM_QUERIES = 64
_FREE_SIZE = 16
"""Of an axis whose size is free, other than that of the samples."""
_DTYPES = {datatype: name for name, datatype in DATATYPES.items()}
Metadata = Mapping[str, Any]
Queries = list[dict[str, np.ndarray]]


def random_queries(metadata: Metadata, seed: int) -> tuple[Queries, list[str]]:
    """Queries of random numbers, and what is to be said of them; states are left out.

    Whole numbers are 0 and 1, which every vocabulary has, bytes any.

    Args:
        metadata: Of the model, as the server tells it.
        seed: Of the numbers.

    Raises:
        RequestError: a datatype is unknown.
    """
    generator = np.random.default_rng(seed)
    inputs = [entry for entry in metadata["inputs"] if entry["name"] not in _states(metadata)]
    shapes = {entry["name"]: _sizes(entry["shape"], _axis(metadata, entry)) for entry in inputs}

    def tensor(entry: Mapping[str, Any]) -> np.ndarray:
        dtype, shape = _dtype(entry), shapes[entry["name"]]
        if dtype.kind == "f":
            return generator.standard_normal(shape).astype(dtype)
        return generator.integers(256 if dtype == np.uint8 else 2, size=shape).astype(dtype)

    free = [entry["name"] for entry in inputs if _is_free(entry["shape"], _axis(metadata, entry))]
    told = f"sizes that may vary of {', '.join(free)} were taken as {_FREE_SIZE}; name others with --data"
    queries = [{entry["name"]: tensor(entry) for entry in inputs} for _ in range(NUM_QUERIES)]
    return queries, [told] if free else []


def queries_of(metadata: Metadata, samples: Mapping[str, np.ndarray], source: str) -> Queries:
    """Queries of one sample each.

    Args:
        metadata: Of the model, as the server tells it.
        samples: Tensors of shape [samples, ...] by input name.
        source: Where they are from.

    Raises:
        RequestError: an input is not among them, or its samples have another shape.
    """
    names = [entry["name"] for entry in metadata["inputs"]]
    asked = [
        entry
        for entry in metadata["inputs"]
        if entry["name"] in samples or entry["name"] not in _states(metadata)
    ]
    for entry in asked:
        name, axis = entry["name"], _axis(metadata, entry)
        if name not in samples:
            raise RequestError(f"{source} has no {name!r}; the model takes {', '.join(names)}")
        wanted, found = _without(entry["shape"], axis), samples[name].shape[1:]
        if len(found) != len(wanted) or any(
            size >= 0 and size != own for size, own in zip(wanted, found, strict=True)
        ):
            raise RequestError(
                f"samples of {name!r} in {source} have the shape {list(found)}, the model takes {wanted}",
                hint="queries are tensors after preprocessing; an .npz may hold them",
            )
    number = min(NUM_QUERIES, *(len(samples[entry["name"]]) for entry in asked))
    return [
        {entry["name"]: _one(samples[entry["name"]][place], metadata, entry) for entry in asked}
        for place in range(number)
    ]


def _one(sample: np.ndarray, metadata: Metadata, entry: Mapping[str, Any]) -> np.ndarray:
    """The tensor of one sample."""
    axis = _axis(metadata, entry)
    array = np.asarray(sample, dtype=_dtype(entry))
    return array if axis is None else np.expand_dims(array, axis)


def _axis(metadata: Metadata, entry: Mapping[str, Any]) -> int | None:
    """Axis of the samples of an input; None where it has none."""
    axes: Mapping[str, int | None] = _told(metadata).get("inputs", {})
    return axes.get(entry["name"], 0)


def _states(metadata: Metadata) -> Mapping[str, str | None]:
    states: Mapping[str, str | None] = _told(metadata).get("states", {})
    return states


def _told(metadata: Metadata) -> Mapping[str, Any]:
    """Where the samples lie; empty for another server than ours."""
    told = (metadata.get("properties") or {}).get("batch_axes")
    return told if isinstance(told, dict) else {}


def _without(sizes: Sequence[int], axis: int | None) -> list[int]:
    """The sizes of one sample."""
    return [size for place, size in enumerate(sizes) if place != axis]


def _is_free(sizes: Sequence[int], axis: int | None) -> bool:
    return any(size < 0 for size in _without(sizes, axis))


def _sizes(sizes: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """Of the tensor of one sample."""
    return tuple(
        size if size >= 0 else 1 if place == axis else _FREE_SIZE for place, size in enumerate(sizes)
    )


def _dtype(entry: Mapping[str, Any]) -> np.dtype[Any]:
    if entry["datatype"] not in _DTYPES:
        raise RequestError(
            f"input {entry['name']!r} has the datatype {entry['datatype']}, which is not known"
        )
    return np.dtype(_DTYPES[entry["datatype"]])
