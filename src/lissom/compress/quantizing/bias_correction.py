"""Bias correction: what rounding of weights adds to the mean of a layer's output is taken off its bias.

With W' the rounded weights, the output of a layer moves on average by (W' - W) E[x], which later layers
take for signal. It is known from the mean of each input channel on the calibrate split (Nagel et al.,
Data-Free Quantization, arXiv 1906.04721, section 4.2; here the mean is measured instead of derived). For a
convolution the mean is taken to be the same at every place; padding is not looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from lissom.compress.quantizing.graph import Graph, Layer


def corrected(model: Any, errors: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray]) -> Any:
    """A copy with other biases.

    Args:
        model: A float32 model.
        errors: Weights as the integers say them, minus the weights, by name of the quantized layer.
        means: Mean of each channel of the tensors that layers read, by name.
    """
    changed = copy.deepcopy(model)
    graph = Graph(changed)
    for layer in graph.layers:
        if layer.name in errors and layer.data in means:
            shift = output_shift(layer, errors[layer.name], means[layer.data])
            _take_off(graph, layer, shift)
    return changed


def output_shift(layer: Layer, error: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Mean change of each output channel when the weights change by `error`."""
    if layer.op_type in ("Gemm", "MatMul"):
        product: np.ndarray = np.moveaxis(error, layer.in_axis, -1) @ mean
        return product
    summed = error.sum(axis=tuple(range(2, error.ndim)))
    if layer.op_type == "ConvTranspose":  # [input, output of a group], the transpose of a convolution's
        summed = np.concatenate([part.T for part in np.split(summed, layer.groups)])
    grouped = summed.reshape(layer.groups, -1, summed.shape[1]) * mean.reshape(layer.groups, 1, -1)
    shift: np.ndarray = grouped.sum(axis=2).reshape(-1)
    return shift


def _take_off(graph: Graph, layer: Layer, shift: np.ndarray) -> None:
    bias = graph.bias_of(layer)
    if bias is not None:
        if (values := graph.array(bias)).shape == shift.shape:
            graph.write(bias, values - shift)
        return
    node = graph.makers[layer.output]
    if layer.op_type in ("Conv", "ConvTranspose") and len(node.input) == 2:
        name = f"{layer.weight}_correction"
        graph.write(name, -shift.astype(np.float32))
        node.input.append(name)
