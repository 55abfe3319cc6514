"""Roundings that OpenVINO does better without: those between a layer and its activation.

ONNX Runtime computes a layer in integers only where its output is rounded at once, so int8 files round there.
OpenVINO computes layer, activation and the next rounding as one kernel, and the rounding in between takes
that apart: a text detector with 51 of them took 1.4 times as long. They are dropped when a model is opened,
which also takes their noise away.
"""

from __future__ import annotations

from typing import Any

_LAYERS = (
    *("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"),
    "MatMul",
)
_POINTWISE = {
    *("Abs", "Add", "Clamp", "Divide", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HSigmoid", "HSwish"),
    *("Maximum", "Minimum", "Mish", "Multiply", "Power", "PRelu", "Relu", "Selu", "Sigmoid", "SoftPlus"),
    *("Sqrt", "Subtract", "Swish", "Tanh"),
}
"""Operators of which activations consist."""
_DEQUANTIZING = ("Convert", "Convert", "Subtract", "Multiply")
"""What follows a rounding: to integers, back to floats, less the zero point, times the scale."""
_LONGEST = 16
"""Operators between a value and the start of its activation."""
_MOST_SEEN = 64
"""Nodes from which a constant is computed."""


def drop_roundings(model: Any) -> int:
    """Take the rounding away between each layer and an activation of its own; gives how many.

    Args:
        model: An `openvino.Model`, changed in place.
    """
    number = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize":
            continue
        given, rounded = node.input_value(0), _dequantized(node)
        if rounded is None or not _is_layer(given) or not _feeds_an_activation(rounded):
            continue
        for reader in rounded.get_target_inputs():
            reader.replace_source_output(given)
        number += 1
    if number:
        model.validate_nodes_and_infer_types()
    return number


def _dequantized(node: Any) -> Any | None:
    """The value of a rounding in floats; None where something else reads its integers."""
    value = node.output(0)
    for kind in _DEQUANTIZING:
        readers = [one.get_node() for one in value.get_target_inputs()]
        if len(readers) != 1:
            return None
        found = readers[0].get_type_name()
        if found == kind:
            value = readers[0].output(0)
        elif (kind, found) != ("Subtract", "Multiply"):  # a zero point of 0 is not taken off
            return None
    return value


def _is_layer(value: Any) -> bool:
    """True for what a layer gives to one reader, with its bias or without."""
    node = value.get_node()
    if node.get_type_name() == "Add" and _is_constant(node.input_value(1)):
        node = node.input_value(0).get_node()
    return node.get_type_name() in _LAYERS and len(value.get_target_inputs()) == 1


def _feeds_an_activation(value: Any) -> bool:
    """True where all that reads a value computes number by number, from it and constants alone."""
    readers = [one.get_node() for one in value.get_target_inputs()]
    return bool(readers) and all(
        reader.get_type_name() in _POINTWISE and all(_comes_from(value, one) for one in _inputs(reader))
        for reader in readers
    )


def _comes_from(value: Any, other: Any, steps: int = _LONGEST) -> bool:
    """True for a value itself, a constant, and what is computed from both number by number."""
    if other == value or _is_constant(other):
        return True
    node = other.get_node()
    return (
        steps > 0
        and node.get_type_name() in _POINTWISE
        and all(_comes_from(value, one, steps - 1) for one in _inputs(node))
    )


def _is_constant(value: Any) -> bool:
    """True where no input of the model has a say, other than by its shape."""
    waiting, seen = [value.get_node()], set[str]()
    while waiting:
        node = waiting.pop()
        kind = node.get_type_name()
        if kind in ("Parameter", "ReadValue") or len(seen) > _MOST_SEEN:
            return False
        if kind != "ShapeOf" and node.get_name() not in seen:
            seen.add(node.get_name())
            waiting += [one.get_node() for one in _inputs(node)]
    return True


def _inputs(node: Any) -> list[Any]:
    return [one.get_source_output() for one in node.inputs()]
