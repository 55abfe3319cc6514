"""Moving scale between a tensor and the weights around it, without changing what the model computes.

Between a tensor x and the layers that read it stands s, one factor for each channel:

    y = (x / s) (s W)

The division goes into what makes x, where that is linear in it: a LayerNormalization or a layer, also
through a ReLU, which commutes with positive factors. Elsewhere a multiplication is added. Two choices of s:

    SmoothQuant         s = max|x|^a / max|W|^(1 - a): outliers of an activation, which one scale for the
                        whole tensor cannot hold, move into the weights (Xiao et al., arXiv 2211.10438)
    equalisation        s = sqrt(max|W1| max|W2|) / max|W2| over pairs of layers, several times: their
                        channels get equal ranges (Nagel et al., Data-Free Quantization, arXiv 1906.04721)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lissom.compress.quantizing.graph import Graph, Layer
from lissom.optional import require

_HOMOGENEOUS = ("Relu", "LeakyRelu")
_MAX_FACTOR = 1e4
_NUM_PASSES = 8


class Site(NamedTuple):
    """A tensor whose scale can be moved.

    Attributes:
        tensor: Name of the tensor that the layers read.
        readers: The layers, which are all that read it.
        constants: Names of the constants that make it and are divided, with the axis of the channels.
    """

    tensor: str
    readers: tuple[Layer, ...]
    constants: tuple[tuple[str, int], ...]


def smoothed(model: Any, largest: Mapping[str, np.ndarray], *, alpha: float, everywhere: bool) -> Any:
    """A copy in which outliers of activations were moved into weights.

    Args:
        model: A float32 model.
        largest: Largest absolute value of each channel, by tensor, on the calibrate split.
        alpha: How much of the range moves, 0 to 1.
        everywhere: Add multiplications where nothing before the tensor can be divided.
    """
    changed = copy.deepcopy(model)
    graph = Graph(changed)
    for site in _sites(graph):
        if site.tensor not in largest or not (site.constants or everywhere):
            continue
        weights = np.max([_reading_range(graph, layer) for layer in site.readers], axis=0)
        factors = _factors(largest[site.tensor] ** alpha, weights ** (1 - alpha))
        _divide(graph, site, factors)
    return changed


def rescaled(model: Any, factors_of: Callable[[int], np.ndarray]) -> Any:
    """A copy in which every tensor that can be divided without an operator more was.

    Args:
        model: A float32 model.
        factors_of: Number of channels to what each is divided by, above 0.
    """
    changed = copy.deepcopy(model)
    graph = Graph(changed)
    for site in _sites(graph):
        if site.constants:
            number = len(_reading_range(graph, site.readers[0]))
            _divide(graph, site, factors_of(number))
    return changed


def equalized(model: Any) -> Any:
    """A copy in which layers that follow each other have channels of equal ranges."""
    changed = copy.deepcopy(model)
    graph = Graph(changed)
    pairs = [(site, maker) for site in _sites(graph) if (maker := _maker(graph, site)) is not None]
    for _ in range(_NUM_PASSES):
        for site, maker in pairs:
            before = _making_range(graph, maker)
            after = np.max([_reading_range(graph, layer) for layer in site.readers], axis=0)
            _divide(graph, site, _factors(np.sqrt(before * after), after))
    return changed


def can_be_smoothed(model: Any) -> bool:
    """True when the scale of a tensor can be moved without an operator more."""
    return any(site.constants for site in _sites(Graph(model)))


def can_be_equalized(model: Any) -> bool:
    """True when two layers follow each other."""
    graph = Graph(model)
    return any(_maker(graph, site) is not None for site in _sites(graph))


def _sites(graph: Graph) -> list[Site]:
    by_tensor: dict[str, list[Layer]] = {}
    for layer in graph.layers:
        by_tensor.setdefault(layer.data, []).append(layer)
    sites = []
    for tensor, readers in by_tensor.items():
        if (
            tensor in graph.outputs
            or len(readers) != len(graph.readers[tensor])
            or not all(graph.sole(layer.weight) and _reads_channels(graph, layer) for layer in readers)
        ):
            continue
        sites.append(Site(tensor, tuple(readers), tuple(_makers_constants(graph, tensor))))
    return sites


def _reads_channels(graph: Graph, layer: Layer) -> bool:
    """False for grouped convolutions that are not depthwise: one weight reads several groups of channels."""
    return layer.groups == 1 or (layer.op_type == "Conv" and graph.array(layer.weight).shape[1] == 1)


def _makers_constants(graph: Graph, tensor: str) -> list[tuple[str, int]]:
    """Constants that the tensor is linear in, channel by channel; none where it is not."""
    node = graph.makers.get(tensor)
    while node is not None and node.op_type in _HOMOGENEOUS and _alone(graph, node.input[0]):
        node = graph.makers.get(node.input[0])
    if node is None:
        return []
    if node.op_type == "LayerNormalization":
        names = [name for name in node.input[1:3] if name]
        fits = all(graph.sole(name) and graph.array(name).ndim == 1 for name in names)
        return [(name, 0) for name in names] if names and fits else []
    layer = _layer_of(graph, node)
    if layer is None or (layer.groups > 1 and layer.op_type != "Conv"):
        return []
    bias = graph.bias_of(layer)
    if not graph.sole(layer.weight) or (bias is None and _has_bias(layer, node)):
        return []
    return [(layer.weight, layer.out_axis), *([(bias, 0)] if bias else [])]


def _layer_of(graph: Graph, node: Any) -> Layer | None:
    """The layer that ends in a node: the node itself, or a product before the addition of its bias."""
    places = {layer.output: layer for layer in graph.layers}
    if node.output[0] in places:
        own = places[node.output[0]]
        return own if own.op_type != "MatMul" or graph.bias_of(own) is None else None
    if node.op_type != "Add":
        return None
    layer = next((places[name] for name in node.input if name in places), None)
    return layer if layer is not None and graph.bias_of(layer) in node.input else None


def _has_bias(layer: Layer, node: Any) -> bool:
    """True where something is added to the layer that cannot be divided."""
    return (
        layer.op_type != "MatMul" and len(node.input) > 2 and bool(node.input[2])
    ) or node.op_type == "Add"


def _alone(graph: Graph, tensor: str) -> bool:
    return len(graph.readers[tensor]) == 1 and tensor not in graph.outputs


def _maker(graph: Graph, site: Site) -> Layer | None:
    names = [name for name, _ in site.constants]
    return next((layer for layer in graph.layers if layer.weight in names), None)


def _making_range(graph: Graph, layer: Layer) -> np.ndarray:
    """Largest absolute weight of each output channel."""
    return _largest(graph.array(layer.weight), layer.out_axis)


def _reading_range(graph: Graph, layer: Layer) -> np.ndarray:
    """Largest absolute weight of each input channel."""
    axis = 0 if layer.groups > 1 else layer.in_axis
    return _largest(graph.array(layer.weight), axis)


def _largest(weight: np.ndarray, axis: int) -> np.ndarray:
    found: np.ndarray = np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1).max(axis=1)
    return found


def _factors(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Their quotient; 1 for a channel that is zero on one side."""
    usable = (above > 0) & (below > 0)
    found = np.divide(above, below, out=np.ones(above.shape), where=usable)
    clipped: np.ndarray = np.clip(found, 1 / _MAX_FACTOR, _MAX_FACTOR)
    return clipped


def _divide(graph: Graph, site: Site, factors: np.ndarray) -> None:
    for layer in site.readers:
        weight = graph.array(layer.weight)
        axis = 0 if layer.groups > 1 else layer.in_axis
        graph.write(layer.weight, weight * _along(factors, weight.ndim, axis))
    for name, axis in site.constants:
        values = graph.array(name)
        graph.write(name, values / _along(factors, values.ndim, axis))
    if not site.constants:
        _multiply(graph, site, 1 / factors)


def _along(factors: np.ndarray, ndim: int, axis: int) -> np.ndarray:
    return factors.reshape([-1 if place == axis else 1 for place in range(ndim)])


def _multiply(graph: Graph, site: Site, factors: np.ndarray) -> None:
    """Put a multiplication before the layers."""
    helper = require("onnx", extra="cpu").helper
    layer = site.readers[0]
    name, output = f"{site.tensor}_smoothing", f"{site.tensor}_smoothed"
    if layer.channel_axis != -1:
        ndim = graph.array(layer.weight).ndim
        factors = _along(factors, ndim, 1)
    graph.write(name, factors.astype(np.float32))
    nodes = graph.model.graph.node
    first = min(
        index for index, node in enumerate(nodes) if node.name in {reader.name for reader in site.readers}
    )
    for reader in graph.readers[site.tensor]:
        reader.input[0] = output
    nodes.insert(first, helper.make_node("Mul", [site.tensor, name], [output], name=name))
