"""Small ONNX models written by hand, with samples for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lissom.compress.quantizing.static import inferred
from lissom.export.onnx_file import open_session


def model_of(
    nodes: Sequence[Any],
    constants: dict[str, np.ndarray],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str] = ("y",),
    *,
    opset: int = 17,
) -> Any:
    """A checked model of float32 tensors; shapes of outputs are inferred."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    found = inferred(model)
    onnx.checker.check_model(found)
    return found


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    """The same values for the same shape, whatever was drawn before."""
    return (scale * np.random.default_rng(shape).normal(size=shape)).astype(np.float32)


def separable(*, outlier: float = 1.0, channels: int = 8) -> Any:
    """Convolution, depthwise and pointwise convolution with ReLU between; `outlier` changes no output.

    One channel in four is that many times larger behind the first layer, and its weights in the next as many
    times smaller.
    """
    factors = np.where(np.arange(channels) % 4 == 0, outlier, 1.0).astype(np.float32)
    across = factors.reshape(-1, 1, 1, 1)
    constants = {
        "w1": normal(channels, 3, 3, 3, scale=0.3) * across,
        "b1": normal(channels, scale=0.1) * factors,
        "w2": normal(channels, 1, 3, 3, scale=0.5) / across,
        "b2": normal(channels, scale=0.1),
        "w3": normal(6, channels, 1, 1, scale=0.5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="depthwise", pads=[1] * 4, group=channels),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], name="pointwise"),
        helper.make_node("GlobalAveragePool", ["c3"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["y"], name="flatten"),
    ]
    return model_of(nodes, constants, {"x": ["n", 3, 8, 8]})


def normalized(*, outlier: float = 1.0, width: int = 16) -> Any:
    """LayerNormalization, and two products that read it, as an encoder has; `outlier` changes no output."""
    factors = np.ones(width, np.float32)
    factors[3] = outlier
    constants = {
        "scale": factors * (1 + normal(width, scale=0.1)),
        "shift": factors * normal(width, scale=0.1),
        "wq": normal(width, width, scale=0.3) / factors[:, None],
        "bq": normal(width, scale=0.1),
        "wv": normal(width, width, scale=0.3) / factors[:, None],
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"], name="norm", axis=-1),
        helper.make_node("MatMul", ["n", "wq"], ["q0"], name="query"),
        helper.make_node("Add", ["q0", "bq"], ["q"], name="query_bias"),
        helper.make_node("MatMul", ["n", "wv"], ["v"], name="value"),
        helper.make_node("Mul", ["q", "v"], ["y"], name="gate"),
    ]
    return model_of(nodes, constants, {"x": ["n", 5, width]})


def images(number: int = 64) -> dict[str, np.ndarray]:
    return {"x": normal(number, 3, 8, 8)}


def tokens(number: int = 64, width: int = 16) -> dict[str, np.ndarray]:
    return {"x": normal(number, 5, width)}


def answer(model: Any, samples: dict[str, np.ndarray]) -> np.ndarray:
    """First output of a model."""
    found: np.ndarray = open_session(model.SerializeToString()).run(None, samples)[0]
    return found


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    """Signal-to-noise ratio, decibel."""
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((wanted - found) ** 2)))
