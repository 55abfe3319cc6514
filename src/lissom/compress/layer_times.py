"""A table of what single layers take on a runtime, filled as pruning asks, and a prediction from it.

A layer is timed in ONNX graphs that have it several times, side by side on one input and added up, with
weights that are drawn. To call an engine and to lay out its input take as long for one as for several, so

    time(layer)      = (time(graph with 5) - time(graph with 1)) / 4
    predicted(model) = sum over its layers of time(layer) + rest * values(model) / values(whole)
    rest             = 1 - sum over the layers of the whole model, at least 0

with all times as shares of the whole model's; `values` counts what the layers give, which additions, norms
and activations then read. Where layers alone take longer than together, the sum is scaled to 1. A prediction
chooses what is worth measuring; it is never what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lissom.compress.tracing import is_turned
from lissom.optional import require

_OPSET, _IR_VERSION = 20, 10
_COPIES = 5
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Layer(NamedTuple):
    """One call of a layer, as far as its time depends on it.

    Attributes:
        operator: Of ONNX: Conv, MatMul, LSTM, GRU or RNN.
        shape: Of what it reads, in torch's order of axes; batch 1.
        weight: Shape of its weight. MatMul: [inputs, outputs]. Recurrent: [directions, units].
        options: Attributes of the operator.
    """

    operator: str
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()


class Call(NamedTuple):
    """What a module does in one call of the model.

    Attributes:
        name: Of the module.
        layers: One, or one for each layer of a recurrent stack.
        values: Numbers that it gives.
    """

    name: str
    layers: tuple[Layer, ...]
    values: int


class LayerTimes:
    """The table of one model on one runtime.

    Args:
        whole: The whole model.
        example: Positional inputs; the first sample is used.
        time: Gives the time of an ONNX file that takes one input, `x` float32 of this shape, as a share of
            the whole model's.
    """

    def __init__(
        self, whole: nn.Module, example: Sequence[Tensor], time: Callable[[bytes, Sequence[int]], float]
    ) -> None:
        self._example, self._time = example, time
        self._shares: dict[Layer, float] = {}
        calls = self._calls(whole)
        self._values = sum(call.values for call in calls)
        self._sum = sum(self._of(call) for call in calls)

    def predicted(self, model: nn.Module) -> float:
        """Time of a model as a share of the whole model's."""
        calls = self._calls(model)
        rest = max(0.0, 1 - self._sum)
        scale = 1 / max(1.0, self._sum)
        values = sum(call.values for call in calls) / max(1, self._values)
        return scale * sum(self._of(call) for call in calls) + rest * values

    def by_module(self, model: nn.Module) -> dict[str, float]:
        """Predicted share of each module; modules that are called several times are added up."""
        found: dict[str, float] = {}
        for call in self._calls(model):
            found[call.name] = found.get(call.name, 0.0) + self._of(call) / max(1.0, self._sum)
        return found

    def _calls(self, model: nn.Module) -> list[Call]:
        return calls_of(model, [tensor[:1] for tensor in self._example])

    def _of(self, call: Call) -> float:
        return sum(self._share(layer) for layer in call.layers)

    def _share(self, layer: Layer) -> float:
        if layer not in self._shares:
            one, several = (self._time(graph_of(layer, copies), layer.shape) for copies in (1, _COPIES))
            self._shares[layer] = max(0.0, several - one) / (_COPIES - 1)
        return self._shares[layer]


def calls_of(model: nn.Module, example: Sequence[Tensor]) -> list[Call]:
    """Every call of a convolution, linear or recurrent layer, in the order of the model."""
    found: list[Call] = []
    hooks = [
        module.register_forward_hook(_listener(name, found))
        for name, module in model.named_modules()
        if _reader(module) is not None
    ]
    try:
        with torch.inference_mode():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _listener(name: str, found: list[Call]) -> Callable[[nn.Module, Any, Any], None]:
    def listen(module: nn.Module, inputs: Any, outputs: Any) -> None:
        read = _reader(module)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        if read is not None and inputs and isinstance(inputs[0], Tensor) and isinstance(first, Tensor):
            found.append(Call(name, read(module, tuple(inputs[0].shape)), first.numel()))

    return listen


def _reader(module: nn.Module) -> Callable[[Any, tuple[int, ...]], tuple[Layer, ...]] | None:
    """How to describe a module; None for one that the table does not know."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return _convolution
    if isinstance(module, nn.Linear) or is_turned(module):
        return _linear
    if isinstance(module, nn.RNN | nn.LSTM | nn.GRU) and not module.proj_size:
        return _recurrent
    return None


def _convolution(module: Any, shape: tuple[int, ...]) -> tuple[Layer, ...]:
    padding = module._reversed_padding_repeated_twice  # last axis first, each twice; strings are resolved
    before, after = tuple(padding[::2])[::-1], tuple(padding[1::2])[::-1]
    options = (
        ("strides", module.stride),
        ("pads", (*before, *after)),
        ("dilations", module.dilation),
        ("group", module.groups),
    )
    return (Layer("Conv", shape, tuple(module.weight.shape), options),)


def _linear(module: Any, shape: tuple[int, ...]) -> tuple[Layer, ...]:
    weight = tuple(module.weight.shape)
    return (Layer("MatMul", shape, weight if is_turned(module) else weight[::-1]),)


def _recurrent(module: Any, shape: tuple[int, ...]) -> tuple[Layer, ...]:
    directions = 1 + module.bidirectional
    steps = shape[1] if module.batch_first and len(shape) == 3 else shape[0]
    widths = [module.input_size, *[directions * module.hidden_size] * (module.num_layers - 1)]
    operator, weight = module.mode.split("_")[0], (directions, module.hidden_size)
    return tuple(Layer(operator, (steps, 1, width), weight) for width in widths)


def graph_of(layer: Layer, copies: int) -> bytes:
    """An ONNX file that has a layer several times, with random weights; the batch may vary, as in a model."""
    onnx: Any = require("onnx", extra="cpu")
    helper, numbers, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    generator = np.random.default_rng(0)
    nodes, initializers = [], []
    shapes, options, batch_axis = _operands(layer)
    for copy in range(copies):
        names = [f"w{copy}_{index}" for index in range(len(shapes))]
        nodes.append(helper.make_node(layer.operator, ["x", *names], [f"y{copy}"], **options))
        for name, shape in zip(names, shapes, strict=True):
            array = (0.1 * generator.standard_normal(shape)).astype(np.float32)
            initializers.append(numbers.from_array(array, name))
    nodes.append(helper.make_node("Sum", [f"y{copy}" for copy in range(copies)], ["y"]))
    dims: list[int | str] = list(layer.shape)
    dims[batch_axis] = "batch"
    graph = helper.make_graph(
        nodes,
        layer.operator,
        [helper.make_tensor_value_info("x", kind, dims)],
        [helper.make_tensor_value_info("y", kind, [None] * (len(layer.shape) + batch_axis))],
        initializers,
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


def _operands(layer: Layer) -> tuple[list[tuple[int, ...]], dict[str, Any], int]:
    """Shapes of the weights, attributes, and the axis of the batch, as ONNX has them.

    A recurrent layer reads [steps, batch, values] and gives [steps, directions, batch, units].
    """
    if layer.operator == "MatMul":
        return [layer.weight], {}, 0
    if layer.operator == "Conv":
        return [layer.weight, layer.weight[:1]], dict(layer.options), 0
    directions, units = layer.weight
    rows = _GATES[layer.operator] * units
    options: dict[str, Any] = {
        "hidden_size": units,
        "direction": "bidirectional" if directions == 2 else "forward",
    }
    if layer.operator == "GRU":
        options["linear_before_reset"] = 1
    shapes = [(directions, rows, layer.shape[-1]), (directions, rows, units), (directions, 2 * rows)]
    return shapes, options, 1
