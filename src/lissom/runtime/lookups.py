"""Tables of an OpenVINO graph that are read at an index of the caller.

OpenVINO gives zeros for a row that a table does not have, where ONNX Runtime and torch refuse: a token
outside of the vocabulary would be answered as if it meant something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lissom.errors import RequestError

_PASSES_ON = frozenset({"Convert", "Unsqueeze", "Squeeze", "Reshape"})
_READS = frozenset({"Gather", "GatherElements"})


def lookups(model: Any) -> dict[str, int]:
    """Rows of the smallest table that each input of whole numbers is an index into, by name of the input."""
    found = {}
    for parameter in model.get_parameters():
        if parameter.get_element_type().is_integral_number():
            sizes = [size for output in parameter.outputs() for size in _sizes(output)]
            if sizes:
                found[parameter.output(0).get_any_name()] = min(sizes)
    return found


def _sizes(output: Any) -> list[int]:
    """Rows of the tables that are read at the values of an output, which may have another shape there."""
    sizes, pending = [], [output]
    while pending:
        for place in pending.pop().get_target_inputs():
            node = place.get_node()
            if node.get_type_name() in _READS and place.get_index() == 1:
                sizes += _rows(node)
            elif node.get_type_name() in _PASSES_ON and place.get_index() == 0:
                pending += node.outputs()
    return sizes


def _rows(node: Any) -> list[int]:
    """The size of the axis along which a table is read; empty where it is not known."""
    shape = node.input_value(0).get_partial_shape()
    if node.get_type_name() == "Gather":
        axis = node.input_value(2).get_node()
        place = int(np.ravel(axis.get_data())[0]) if axis.get_type_name() == "Constant" else None
    else:
        place = int(node.get_attributes()["axis"])
    if place is None or not shape.rank.is_static or shape[place].is_dynamic:
        return []
    return [shape[place].get_length()]


def check_lookups(known: Mapping[str, int], inputs: Mapping[str, np.ndarray]) -> None:
    """Refuse an index that a table does not have; negative ones count from its end, as in ONNX.

    Raises:
        RequestError: with the index, and what the model has.
    """
    for name, size in known.items():
        values = inputs[name]
        if values.size and (values.max() >= size or values.min() < -size):
            wrong = values[(values >= size) | (values < -size)].flat[0]
            raise RequestError(
                f"the model does not take these values: input {name!r} holds {wrong}, an index into a table "
                f"of {size} rows"
            )
