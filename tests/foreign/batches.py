"""Graphs of other people by how they treat a batch, and the plain engine that says what is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Tensors = Mapping[str, np.ndarray]
FLOAT = TensorProto.FLOAT
RANDOM = np.random.default_rng(7)


class Graph(NamedTuple):
    """A model from elsewhere with its samples, and what is right for it.

    Attributes:
        model: ONNX ModelProto.
        samples: Arrays of shape [samples, ...] by input name.
        outputs: Axis of the samples of each output.
        joins: Requests may be computed together.
    """

    model: Any
    samples: dict[str, np.ndarray]
    outputs: dict[str, int | None]
    joins: bool


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def graph(
    nodes: list[Any],
    inputs: Mapping[str, list[Any]],
    outputs: Mapping[str, list[Any] | None],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    types: Mapping[str, int] | None = None,
) -> Any:
    kinds = types or {}
    made = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(name, kinds.get(name, FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, kinds.get(name, FLOAT), shape)
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), name=f"{kind}_{outputs.split()[0]}", **attributes)


def engine(model: Any) -> Callable[[Tensors], dict[str, np.ndarray]]:
    """ONNX Runtime called directly."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in model.graph.output]
    return lambda tensors: dict(zip(names, session.run(names, dict(tensors)), strict=True))


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


W = floats(6, 4)
X = floats(12, 6)
SEQUENCE = floats(12, 3, 6)
PRODUCT = node("MatMul", "x w", "a")


def rows(nodes: list[Any], axis: int | None, *, joins: bool, shape: list[Any], **more: Any) -> Graph:
    """A graph over `x` [n, 6] with the product `a` [n, 4] and the output `y`."""
    constants = {"w": W, **more.pop("constants", {})}
    model = graph([PRODUCT, *nodes], {"x": ["n", 6]}, {"y": shape}, constants, **more)
    return Graph(model, {"x": X}, {"y": axis}, joins)


def sequences(nodes: list[Any], axis: int | None, *, joins: bool, shape: list[Any], **more: Any) -> Graph:
    """The same over `x` [n, 3, 6]."""
    constants = {"w": W, **more.pop("constants", {})}
    model = graph([PRODUCT, *nodes], {"x": ["n", 3, 6]}, {"y": shape}, constants, **more)
    return Graph(model, {"x": SEQUENCE}, {"y": axis}, joins)


def _recurrent(kind: str, gates: int, states: str) -> Graph:
    nexts = [f"Y{name}" for name in states.split()]
    constants = {"W": floats(1, gates * 5, 6), "R": floats(1, gates * 5, 5), "B": floats(1, 2 * gates * 5)}
    model = graph(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node(kind, f"t W R B - {states}", " ".join(["Y", *nexts]), hidden_size=5),
        ],
        {"x": ["n", 3, 6], **{name: [1, "n", 5] for name in states.split()}},
        {"Y": ["s", 1, "n", 5], **{name: [1, "n", 5] for name in nexts}},
        constants,
    )
    samples = {"x": SEQUENCE, **{name: floats(12, 1, 5) for name in states.split()}}
    return Graph(model, samples, {"Y": 2, **dict.fromkeys(nexts, 1)}, True)


def _two_layer_state() -> Graph:
    model = graph(
        [
            PRODUCT,
            node("Gather", "h k", "h0", axis=0),
            node("Add", "a h0", "y"),
            node("Unsqueeze", "y first", "y1"),
            node("Concat", "y1 y1", "hn", axis=0),
        ],
        {"x": ["n", 6], "h": [2, "n", 4]},
        {"y": ["n", 4], "hn": [2, "n", 4]},
        {"w": W, "k": np.array(0), "first": whole(0)},
    )
    return Graph(model, {"x": X, "h": floats(12, 2, 4)}, {"y": 0, "hn": 1}, True)


def _scaled(shape: list[Any], values: np.ndarray) -> Graph:
    model = graph([PRODUCT, node("Mul", "a s", "y")], {"x": ["n", 6], "s": shape}, {"y": ["n", 4]}, {"w": W})
    return Graph(model, {"x": X, "s": np.repeat(values[None], 12, axis=0)}, {"y": 0}, True)


def _boxes() -> Graph:
    """Detections of all pictures in one list, as detectors give them."""
    model = graph(
        [
            node("Abs", "b", "boxes"),
            node("NonMaxSuppression", "boxes s most iou score", "kept"),
        ],
        {"b": ["n", 5, 4], "s": ["n", 2, 5]},
        {"kept": ["m", 3]},
        {"most": whole(3), "iou": np.float32([0.5]), "score": np.float32([0.1])},
        types={"kept": TensorProto.INT64},
    )
    return Graph(model, {"b": floats(12, 5, 4), "s": np.abs(floats(12, 2, 5))}, {"kept": None}, False)


N4: list[Any] = ["n", 4]
NN: list[Any] = ["n", "n"]
KINDS: dict[str, dict[str, Callable[[], Graph]]] = {
    "samples on the first axis": {
        "product": lambda: rows([node("Relu", "a", "y")], 0, joins=True, shape=N4),
        "softmax of classes": lambda: rows([node("Softmax", "a", "y", axis=1)], 0, joins=True, shape=N4),
        "sum of a row": lambda: rows(
            [node("ReduceSum", "a one", "y", keepdims=0)],
            0,
            joins=True,
            shape=["n"],
            constants={"one": whole(1)},
        ),
    },
    "another axis": {
        "time-major": lambda: sequences(
            [node("Transpose", "a", "y", perm=[1, 0, 2])], 1, joins=True, shape=["t", "n", 4]
        ),
        "classes first": lambda: rows(
            [node("Transpose", "a", "y", perm=[1, 0])], 1, joins=True, shape=[4, "n"]
        ),
        "samples last": lambda: sequences(
            [node("Transpose", "a", "y", perm=[1, 2, 0])], 2, joins=True, shape=[3, 4, "n"]
        ),
        "as many as samples by chance": lambda: sequences(
            [node("Transpose", "a", "y", perm=[2, 0, 1])], 1, joins=True, shape=[4, "n", 3]
        ),
    },
    "states": {
        "GRU": lambda: _recurrent("GRU", 3, "h"),
        "RNN": lambda: _recurrent("RNN", 1, "h"),
        "LSTM": lambda: _recurrent("LSTM", 4, "h c"),
        "two layers": _two_layer_state,
    },
    "statistics over the batch": {
        "mean": lambda: rows(
            [node("ReduceMean", "a", "m", axes=[0]), node("Sub", "a m", "y")], 0, joins=False, shape=N4
        ),
        "softmax over the batch": lambda: rows([node("Softmax", "a", "y", axis=0)], 0, joins=False, shape=N4),
        "largest of all": lambda: rows(
            [node("ReduceMax", "a", "m", keepdims=0), node("Div", "a m", "y")], 0, joins=False, shape=N4
        ),
        "normalisation in train mode": lambda: rows(
            [node("BatchNormalization", "a o z z o", "y m v", training_mode=1)],
            0,
            joins=False,
            shape=N4,
            constants={"o": np.ones(4, np.float32), "z": np.zeros(4, np.float32)},
        ),
        "one scale for all rows": lambda: rows(
            [node("DynamicQuantizeLinear", "a", "q s p"), node("DequantizeLinear", "q s p", "y")],
            0,
            joins=False,
            shape=N4,
        ),
        "a branch by the mean": lambda: rows(
            [
                node("ReduceMax", "a", "m", keepdims=0),
                node("Greater", "m five", "c"),
                node("Where", "c o z", "f"),
                node("Mul", "a f", "y"),
            ],
            0,
            joins=False,
            shape=N4,
            constants={"five": np.float32(9), "o": np.float32(2), "z": np.float32(1)},
        ),
    },
    "neighbours": {
        "cumulative sum": lambda: rows(
            [node("CumSum", "a first", "y")],
            None,
            joins=False,
            shape=N4,
            constants={"first": np.array(0)},
        ),
        "cumulative sum from the end": lambda: rows(
            [node("CumSum", "a first", "y", reverse=1)],
            None,
            joins=False,
            shape=N4,
            constants={"first": np.array(0)},
        ),
        "the next row": lambda: rows(
            [
                node("Slice", "a one end zero", "rest"),
                node("Slice", "a zero one zero", "top"),
                node("Concat", "rest top", "turned", axis=0),
                node("Add", "a turned", "y"),
            ],
            0,
            joins=False,
            shape=N4,
            constants={"one": whole(1), "end": whole(2**40), "zero": whole(0)},
        ),
        "how many are equal": lambda: rows(
            [
                node("Transpose", "a", "b", perm=[1, 0]),
                node("MatMul", "a b", "p"),
                node("Softmax", "p", "q", axis=1),
                node("MatMul", "q a", "y"),
            ],
            0,
            joins=False,
            shape=N4,
        ),
    },
    "pairs": {
        "products": lambda: rows(
            [node("Transpose", "a", "b", perm=[1, 0]), node("MatMul", "a b", "y")],
            None,
            joins=False,
            shape=NN,
        ),
        "differences": lambda: rows(
            [node("Unsqueeze", "a one", "b"), node("Unsqueeze", "a zero", "c"), node("Sub", "b c", "y")],
            None,
            joins=False,
            shape=["n", "n", 4],
            constants={"one": whole(1), "zero": whole(0)},
        ),
        "shares": lambda: rows(
            [
                node("Transpose", "a", "b", perm=[1, 0]),
                node("MatMul", "a b", "c"),
                node("Softmax", "c", "y", axis=1),
            ],
            None,
            joins=False,
            shape=NN,
        ),
    },
    "sorted or filtered": {
        "highest first": lambda: rows(
            [
                node("Shape", "a", "s"),
                node("Slice", "s zero one", "k"),
                node("TopK", "a k", "y i", axis=0),
            ],
            None,
            joins=False,
            shape=N4,
            constants={"zero": whole(0), "one": whole(1)},
        ),
        "places of what is not 0": lambda: rows(
            [node("Relu", "a", "r"), node("NonZero", "r", "y")],
            None,
            joins=False,
            shape=[2, "m"],
            types={"y": TensorProto.INT64},
        ),
        "rows above a limit": lambda: rows(
            [
                node("ReduceMax", "a", "m", axes=[1], keepdims=0),
                node("Greater", "m half", "c"),
                node("Compress", "a c", "y", axis=0),
            ],
            None,
            joins=False,
            shape=["m", 4],
            constants={"half": np.float32(0.5)},
        ),
        "boxes": _boxes,
    },
    "no axis of the samples": {
        "scalar": lambda: rows([node("ReduceMean", "a", "y", keepdims=0)], None, joins=False, shape=[]),
        "mean row": lambda: rows(
            [node("ReduceMean", "a", "y", axes=[0], keepdims=0)], None, joins=False, shape=[4]
        ),
        "all in one row": lambda: rows(
            [node("Reshape", "a flat", "y")], None, joins=False, shape=["m"], constants={"flat": whole(-1)}
        ),
        "as long as three samples": lambda: rows(
            [node("ReduceMax", "a", "m", keepdims=0), node("Expand", "m three", "y")],
            None,
            joins=False,
            shape=[3],
            constants={"three": whole(3)},
        ),
    },
    "an input for all samples": {
        "temperature": lambda: _scaled([], np.float32(0.5)),
        "scales": lambda: _scaled([4], floats(4)),
        "scales in a row": lambda: _scaled([1, 4], floats(1, 4)),
    },
    "random": {
        "noise": lambda: rows(
            [node("RandomNormalLike", "a", "r"), node("Add", "a r", "y")], 0, joins=False, shape=N4
        ),
        "coins": lambda: rows(
            [node("Sigmoid", "a", "p"), node("Bernoulli", "p", "r"), node("Mul", "a r", "y")],
            0,
            joins=False,
            shape=N4,
        ),
        "dropout": lambda: rows(
            [node("Dropout", "a half yes", "y")],
            0,
            joins=False,
            shape=N4,
            constants={"half": np.float32(0.5), "yes": np.array(True)},
        ),
    },
}
