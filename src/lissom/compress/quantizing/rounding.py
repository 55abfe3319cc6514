"""AdaRound: each weight is rounded up or down so that its layer's output changes least.

Rounding to the nearest integer is best for each weight and not for their sum. For one layer after the other,
with s the scale and h(V) between 0 and 1,

    W' = s clip(floor(W / s) + h(V), low, high)
    minimise over V:  |W x - W' x|^2 / e + lambda mean(1 - |2 h(V) - 1|^b)

with samples x of the calibrate split and e the error of the nearest integers, so that one lambda suits every
layer; b falls, so that every h ends at 0 or 1 (Nagel et al., Up or Down?, arXiv 2004.10568). Inputs are those
of the float32 model: layers do not make up for each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lissom.compress.quantizing.calibration import Calibration
from lissom.compress.quantizing.graph import Graph, Layer
from lissom.logs import Advance
from lissom.runtime.arrays import tensor_of

_NUM_STEPS = 400
_LEARNING_RATE = 0.03
_LAMBDA = 5.0
_STRETCH = 1.2
"""The sigmoid is stretched to -0.1...1.1 and clipped, so that it reaches 0 and 1."""
_WARM = 0.2
"""Share of the steps without the term that pushes to 0 and 1."""
_BETA = (20.0, 2.0)
_BATCH, _BATCH_VALUES = 32, 1 << 17
"""Samples of a step; fewer of large ones, or a part of one: each place is one more equation for a weight."""
_FEWEST_PLACES = 16
"""Of such a part along an axis."""
_MAX_VALUES = 1 << 24
"""Of a layer's input that are kept, 64 MB."""
_AT_ONCE = 8
"""Layers whose inputs are held at once: a pass through the model gives them all."""


class Grid(NamedTuple):
    """What a weight may be: integers from `low` to `high`, times a scale that broadcasts over it."""

    scale: np.ndarray
    low: int
    high: int


def adaptively_rounded(
    model: Any,
    grids: Mapping[str, Grid],
    calibration: Calibration,
    *,
    seed: int,
    advance: Advance,
) -> Any:
    """A copy whose weights lie on their grids.

    Args:
        model: A float32 model.
        grids: By name of the weight; layers without one keep their weights.
        calibration: Of the same model.
        seed: Which samples make a batch.
        advance: Called with 1 when a layer is done.
    """
    changed = copy.deepcopy(model)
    graph = Graph(changed)
    layers = [layer for layer in graph.layers if layer.weight in grids and graph.sole(layer.weight)]
    for layer, inputs in _with_inputs(calibration, layers):
        weight = tensor_of(graph.array(layer.weight).copy())
        function = _function(graph, layer)
        generator = torch.Generator().manual_seed(seed)
        source = _Source(inputs, _axes(graph, layer, inputs.ndim), _growth(layer, weight), generator)
        graph.write(layer.weight, _rounded(weight, grids[layer.weight], source, function))
        advance(1)
    return changed


def _with_inputs(calibration: Calibration, layers: Sequence[Layer]) -> Iterator[tuple[Layer, Tensor]]:
    """Every layer with what it reads; that of some layers is taken, and held, at once."""
    for start in range(0, len(layers), _AT_ONCE):
        some = layers[start : start + _AT_ONCE]
        found = calibration.first_values([layer.data for layer in some], _MAX_VALUES)
        for layer in some:
            yield layer, tensor_of(found[layer.data])


def _axes(graph: Graph, layer: Layer, num_axes: int) -> dict[int, int]:
    """Axes along which a layer does the same at every place, and the fewest places that it takes."""
    if layer.op_type in ("MatMul", "Gemm"):
        return dict.fromkeys(range(1, num_axes - 1), _FEWEST_PLACES)
    kernel = graph.array(layer.weight).shape[2:]
    node = graph.makers[layer.output]
    steps = next((item.ints for item in node.attribute if item.name == "dilations"), ()) or [1] * len(kernel)
    extents = (step * (size - 1) + 1 for size, step in zip(kernel, steps, strict=True))
    return {2 + place: max(extent, _FEWEST_PLACES) for place, extent in enumerate(extents)}


def _growth(layer: Layer, weight: Tensor) -> float:
    """Channels that a layer gives over those that it reads, at least 1."""
    read, given = weight.shape[layer.in_axis], weight.shape[layer.out_axis]
    if layer.op_type == "ConvTranspose":
        given *= layer.groups
    elif layer.op_type == "Conv":
        read *= layer.groups
    return max(given / read, 1.0)


@dataclass(frozen=True)
class _Source:
    """What a layer reads, a random part of it at a time.

    Attributes:
        inputs: All of it, shape [samples, ...].
        axes: As `_axes` gives them.
        growth: As `_growth` gives it: a part is bounded in what is read of it and in what is made of it.
        generator: Chooses the parts.
    """

    inputs: Tensor
    axes: Mapping[int, int]
    growth: float
    generator: torch.Generator

    def draw(self) -> Tensor:
        """Some samples, or a part of one where already one is large."""
        most = int(_BATCH_VALUES / self.growth)
        size = min(_BATCH, len(self.inputs), max(most // self.inputs[0].numel(), 1))
        chosen = torch.randint(len(self.inputs), (size,), generator=self.generator)
        part = self.inputs[chosen] if size > 1 else self.inputs[int(chosen) :][:1]  # no copy of a large one
        for axis in sorted(self.axes, key=lambda one: -self.inputs.shape[one]):
            whole = part.shape[axis]
            length = max(whole * most // part.numel(), self.axes[axis])
            if length < whole:
                start = int(torch.randint(whole - length + 1, (), generator=self.generator))
                part = part.narrow(axis, start, length)
        return part


def _function(graph: Graph, layer: Layer) -> Callable[[Tensor, Tensor], Tensor]:
    """What the layer computes, without its bias: it is linear in the weight, so that errors pass through."""
    if layer.op_type == "MatMul":
        return lambda inputs, weight: inputs @ weight
    if layer.op_type == "Gemm":
        turned = layer.in_axis == 1
        return lambda inputs, weight: inputs @ (weight.T if turned else weight)
    settings: dict[str, Any] = {}
    for item in graph.makers[layer.output].attribute:
        settings[item.name] = list(item.ints) or item.i
    dims = graph.array(layer.weight).ndim - 2
    pads = settings.get("pads") or [0] * (2 * dims)
    stride, dilation = settings.get("strides") or [1] * dims, settings.get("dilations") or [1] * dims
    if layer.op_type == "ConvTranspose":
        transposed = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
        return lambda inputs, weight: transposed[dims - 1](
            inputs, weight, stride=stride, groups=layer.groups, dilation=dilation
        )
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
    before, after = pads[:dims], pads[dims:]
    least = [min(pair) for pair in zip(before, after, strict=True)]
    rest = [side[axis] - least[axis] for axis in reversed(range(dims)) for side in (before, after)]

    def convolution(inputs: Tensor, weight: Tensor) -> Tensor:
        padded = functional.pad(inputs, rest) if any(rest) else inputs
        return convolve(padded, weight, stride=stride, padding=least, dilation=dilation, groups=layer.groups)

    return convolution


def _rounded(
    weight: Tensor,
    grid: Grid,
    source: _Source,
    function: Callable[[Tensor, Tensor], Tensor],
) -> np.ndarray:
    scale = tensor_of(np.asarray(grid.scale, dtype=np.float32))
    floor = torch.floor(weight / scale)
    rest = (weight / scale - floor).clamp(1e-4, 1 - 1e-4)
    free = torch.logit((rest + (_STRETCH - 1) / 2) / _STRETCH).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=_LEARNING_RATE)
    with torch.no_grad():  # the error of the nearest integers is the unit, so that lambda suits every layer
        nearest = scale * torch.round(weight / scale).clamp(grid.low, grid.high)
        unit = float(function(source.draw(), nearest - weight).pow(2).mean()) or 1.0
    for step in range(_NUM_STEPS):
        up = _soft(free)
        error = scale * (floor + up).clamp(grid.low, grid.high) - weight
        loss = function(source.draw(), error).pow(2).mean() / unit
        done = step / _NUM_STEPS
        if done > _WARM:
            share = (done - _WARM) / (1 - _WARM)
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 - share)
            loss = loss + _LAMBDA * (1 - (2 * up - 1).abs().pow(beta)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    hard = (floor + (_soft(free.detach()) >= 0.5)).clamp(grid.low, grid.high)
    return (scale * hard).numpy()


def _soft(free: Tensor) -> Tensor:
    return (torch.sigmoid(free) * _STRETCH - (_STRETCH - 1) / 2).clamp(0, 1)
