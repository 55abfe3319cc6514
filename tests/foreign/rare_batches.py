"""More graphs by how they treat a batch: what mixes samples seldom, and axes that are easily mistaken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper
from tests.foreign.batches import N4, PRODUCT, Graph, W, X, floats, graph, node, rows, whole

INT64 = {"y": TensorProto.INT64}
LENGTH = [node("Shape", "a", "s"), node("Gather", "s i", "n")]


def _limited() -> Graph:
    """Divided by the largest of all samples where that is above a limit no sample of the data reaches."""
    nodes = [
        node("Abs", "a", "b"),
        node("ReduceMax", "b", "m", keepdims=0),
        node("Div", "m limit", "s"),
        node("Max", "s one", "t"),
        node("Div", "a t", "y"),
    ]
    return rows(nodes, 0, joins=False, shape=N4, constants={"limit": np.float32(100), "one": np.float32(1)})


def _carried_on() -> Graph:
    """A recurrent layer along the samples."""
    nodes = [
        node("Unsqueeze", "a one", "s"),
        node("RNN", "s W R", "Y", hidden_size=4),
        node("Squeeze", "Y both", "y"),
    ]
    constants = {"one": whole(1), "both": whole(1, 2), "W": floats(1, 4, 4), "R": floats(1, 4, 4)}
    return rows(nodes, None, joins=False, shape=N4, constants=constants)


def _room_for_eight() -> Graph:
    nodes = [
        *LENGTH,
        node("Range", "i n d", "r"),
        node("Less", "r eight", "c"),
        node("Unsqueeze", "c one", "cc"),
        node("Where", "cc a zero", "y"),
    ]
    constants = {"i": np.array(0), "d": np.array(1), "eight": np.array(8)}
    constants |= {"one": whole(1), "zero": np.array(0, np.float32)}
    return rows(nodes, 0, joins=False, shape=N4, constants=constants)


def _another_way_for_many() -> Graph:
    """Less the mean of the samples where there are more than six."""
    value = helper.make_tensor_value_info
    less = helper.make_graph(
        [node("ReduceMean", "a", "mean", axes=[0], keepdims=1), node("Sub", "a mean", "less")],
        "less",
        [],
        [value("less", TensorProto.FLOAT, None)],
    )
    same = helper.make_graph(
        [node("Identity", "a", "same")], "same", [], [value("same", TensorProto.FLOAT, None)]
    )
    nodes = [*LENGTH, node("Greater", "n six", "c"), node("If", "c", "y", then_branch=less, else_branch=same)]
    return rows(nodes, 0, joins=False, shape=N4, constants={"i": np.array(0), "six": np.array(6)})


def _counts() -> Graph:
    """How many samples have each class."""
    nodes = [
        node("ArgMax", "a", "k", axis=1, keepdims=0),
        node("OneHot", "k d v", "h", axis=-1),
        node("ReduceSum", "h z", "y", keepdims=0),
    ]
    constants = {"d": np.array(4), "v": whole(0, 1), "z": whole(0)}
    return rows(nodes, None, joins=False, shape=[4], constants=constants, types=INT64)


def _ranks() -> Graph:
    nodes = [
        node("Shape", "a", "s"),
        node("Slice", "s zero one", "k"),
        node("TopK", "a k", "v y", axis=0),
    ]
    constants = {"zero": whole(0), "one": whole(1)}
    return rows(nodes, None, joins=False, shape=N4, constants=constants, types=INT64)


def _samples_last() -> Graph:
    model = graph(
        [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "t w", "a"), node("Transpose", "a", "y")],
        {"x": [6, "n"]},
        {"y": [4, "n"]},
        {"w": W},
    )
    return Graph(model, {"x": X}, {"y": 1}, True)


def _two_inputs() -> Graph:
    model = graph(
        [PRODUCT, node("Transpose", "z", "t", perm=[1, 0]), node("Add", "a t", "y"), node("Tanh", "z", "q")],
        {"x": ["n", 6], "z": [4, "n"]},
        {"y": ["n", 4], "q": [4, "n"]},
        {"w": W},
    )
    return Graph(model, {"x": X, "z": floats(12, 4)}, {"y": 0, "q": 1}, True)


def _optional() -> Graph:
    """A scale with a value of its own, listed as an input too."""
    model = graph(
        [PRODUCT, node("Mul", "a s", "y")],
        {"x": ["n", 6], "s": [4]},
        {"y": ["n", 4]},
        {"w": W, "s": floats(4)},
    )
    return Graph(model, {"x": X}, {"y": 0}, True)


RARE: dict[str, Callable[[], Graph]] = {
    "limited": _limited,
    "carried-on": _carried_on,
    "room-for-eight": _room_for_eight,
    "another-way-for-many": _another_way_for_many,
    "counts": _counts,
    "ranks": _ranks,
    "without-copies": lambda: rows([node("Unique", "a", "y", axis=0)], None, joins=False, shape=["m", 4]),
    "each-twice": lambda: rows(
        [node("Concat", "a a", "b", axis=1), node("Reshape", "b s", "y")],
        None,
        joins=False,
        shape=["m", 4],
        constants={"s": whole(-1, 4)},
    ),
    "all-twice": lambda: rows([node("Concat", "a a", "y", axis=0)], None, joins=False, shape=["m", 4]),
    "classes": lambda: rows(
        [node("ArgMax", "a", "y", axis=1, keepdims=0)], 0, joins=True, shape=["n"], types=INT64
    ),
    "samples-last": _samples_last,
    "two-inputs": _two_inputs,
    "optional": _optional,
    "threes": lambda: Graph(
        graph([node("Transpose", "x", "y", perm=[1, 0, 2])], {"x": ["n", 3, 3]}, {"y": [3, "n", 3]}),
        {"x": floats(12, 3, 3)},
        {"y": 1},
        True,
    ),
}
