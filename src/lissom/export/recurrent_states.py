"""Inputs of an ONNX file that hold a recurrent state, and start as zeros where the data lack them.

Either an output looks like the next value of the input, or the input is what a recurrent layer starts from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from lissom.export.graph_inputs import Dims, dims_of, dtype_of, inputs_of, rank_of

States = Mapping[str, str | None]
"""Inputs with the output that gives the next value of each; None where no output does."""

_INITIAL_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_MOVES_VALUES = frozenset(
    {"Slice", "Split", "Squeeze", "Unsqueeze", "Transpose", "Gather", "Identity", "Reshape", "Cast"}
)


def possible_states(model: Any) -> set[str]:
    """The inputs that may be left out of the data, each where all others are there."""
    names = {value.name for value in inputs_of(model)}
    return {name for name in names if states_of_inputs(model, names - {name})}


def states_of_inputs(model: Any, given: Collection[str]) -> dict[str, str | None]:
    """Inputs that the data lack and the outputs with their next values; empty unless each is a state.

    At least one output must remain: what the model is asked for.
    """
    declared = {value.name: value for value in inputs_of(model)}
    missing = [name for name in declared if name not in given]
    if not declared.keys() & given:
        return {}
    starting = _starting_states(model)
    found: dict[str, str | None] = {}
    for name in missing:
        if dtype_of(declared[name]).startswith(("int", "bool", "uint")) or len(dims_of(declared[name])) < 2:
            return {}
        next_value = _next_value(model, declared[name], {output for output in found.values() if output})
        if next_value is None and name not in starting:
            return {}
        found[name] = next_value
    return found


def _next_value(model: Any, state: Any, taken: Collection[str]) -> str | None:
    """The output that looks like a state: by dtype, sizes and name; None also where it is the last one."""
    if len(taken) + 1 >= len(model.graph.output):
        return None
    dims, name = dims_of(state), state.name.lower()
    match = [
        value.name
        for value in model.graph.output
        if value.name not in taken and dtype_of(value) == dtype_of(state) and _agree(dims_of(value), dims)
    ]
    named = [output for output in match if name in output.lower()]
    return next(iter([*named, *reversed(match)]), None)  # states usually come after the answer


def _agree(one: Dims, other: Dims) -> bool:
    return len(one) == len(other) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(one, other, strict=True)
    )


def _starting_states(model: Any) -> set[str]:
    """Inputs that nothing but recurrent layers read, and those as the state they start from."""
    readers: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            readers[name].append((node, place))
    return {value.name for value in inputs_of(model) if _starts_layers(value.name, readers)}


def _starts_layers(name: str, readers: Mapping[str, list[tuple[Any, int]]]) -> bool:
    """Whether a tensor goes to recurrent layers alone, at once or after it was cut or turned."""
    pending, number = [name], 0
    while pending:
        for node, place in readers.get(pending.pop(), ()):
            if place in _INITIAL_STATES.get(node.op_type, ()):
                number += 1
            elif node.op_type in _MOVES_VALUES and place == 0:
                pending.extend(node.output)
            else:
                return False
    return number > 0


def zero_states(declared: Mapping[str, Any], states: States, rows: int) -> dict[str, np.ndarray]:
    """Samples of the states: zeros, one for each sample of the data."""
    found = {}
    for name in states:
        dims = dims_of(declared[name])
        axis = min(range(len(dims)), key=lambda place: (rank_of(dims[place]), place))
        kept = [size for place, size in enumerate(dims) if place != axis or rank_of(size) > 1]
        shape = [size if isinstance(size, int) else 1 for size in kept]
        found[name] = np.zeros((rows, *shape), dtype=dtype_of(declared[name]))
    return found
