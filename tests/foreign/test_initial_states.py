"""Recurrent layers that start from an input, in files whose outputs give no next value of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.foreign.batches import Graph, engine, floats, graph, node
from tests.foreign.test_batching import run_stage

from lissom.cli import main
from lissom.runtime.base import open_runtime


def one_layer(kind: str, gates: int, states: str, batch: str | int) -> Any:
    """A layer whose last state goes through one more operation before it is the answer."""
    constants = {"W": floats(1, gates * 5, 6), "R": floats(1, gates * 5, 5), "B": floats(1, 2 * gates * 5)}
    return graph(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node(kind, f"t W R B - {states}", "Y Yh", hidden_size=5),
            node("Squeeze", "Yh first", "s"),
            node("Tanh", "s", "y"),
        ],
        {"x": [batch, 3, 6], **{name: [1, batch, 5] for name in states.split()}},
        {"y": [batch, 5]},
        constants | {"first": np.array([0], np.int64)},
    )


def two_layers_of_one_input() -> Any:
    """Two layers start from halves of one input of a fixed size, and the answer has no axis of samples."""
    constants = {
        **{"W": floats(1, 15, 6), "R": floats(1, 15, 5), "W2": floats(1, 15, 5), "R2": floats(1, 15, 5)},
        **{name: np.array([value], np.int64) for name, value in {"zero": 0, "one": 1, "two": 2}.items()},
    }
    return graph(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("Slice", "h0 zero one zero", "first"),
            node("Slice", "h0 one two zero", "second"),
            node("GRU", "t W R - - first", "Y Yh", hidden_size=5),
            node("Squeeze", "Y one", "s"),
            node("GRU", "s W2 R2 - - second", "Z Zh", hidden_size=5),
            node("Squeeze", "Zh", "y"),
        ],
        {"x": ["batch_size", 3, 6], "h0": [2, 1, 5]},
        {"y": ["batch_size"]},
        constants,
    )


MODELS = {
    "GRU": lambda: one_layer("GRU", 3, "h", "n"),
    "RNN": lambda: one_layer("RNN", 1, "h", "n"),
    "LSTM": lambda: one_layer("LSTM", 4, "h c", "n"),
    "GRU of one sample": lambda: one_layer("GRU", 3, "h", 1),
    "halves of one input": two_layers_of_one_input,
}


def first_states(model: Any) -> dict[str, np.ndarray]:
    """Zeros for one sample of every input but x."""
    sizes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    del sizes["x"]
    return {name: np.zeros([dim.dim_value or 1 for dim in dims], np.float32) for name, dims in sizes.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_starts_from_zeros_where_the_data_have_no_state(tmp_path: Path, name: str) -> None:
    model, x = MODELS[name](), floats(24, 3, 6)
    made = run_stage(tmp_path, Graph(model, {"x": x}, {}, True))
    zeros, alone = first_states(model), engine(model)
    assert made.manifest.signature.batching.states == dict.fromkeys(zeros)
    for runtime in ("onnxruntime", "openvino"):
        with open_runtime(made, runtime, threads=1) as opened:
            answers = opened.infer_batch({"x": x})["y"]
        for answer, row in zip(answers, x, strict=True):
            wanted = alone({"x": row[None], **zeros})["y"]
            np.testing.assert_allclose(answer.reshape(-1), wanted.reshape(-1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["GRU", "RNN", "LSTM"])
def test_states_that_the_data_have_are_given(tmp_path: Path, name: str) -> None:
    model, x = MODELS[name](), floats(24, 3, 6)
    states = {key: floats(24, 1, 5) for key in first_states(model)}
    made = run_stage(tmp_path, Graph(model, {"x": x, **states}, {}, True))
    wanted = engine(model)({"x": x, **{key: np.moveaxis(array, 0, 1) for key, array in states.items()}})["y"]
    with open_runtime(made, "onnxruntime", threads=1) as opened:
        np.testing.assert_allclose(opened.infer_batch({"x": x, **states})["y"], wanted, rtol=1e-3, atol=1e-4)


def test_an_input_that_is_more_than_a_first_state_has_to_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = MODELS["GRU"]()
    model.graph.node[-1].op_type = "Add"
    model.graph.node[-1].input.append("h")
    onnx.save(model, tmp_path / "theirs.onnx")
    np.savez(tmp_path / "theirs.npz", x=floats(24, 3, 6))
    command = ["predict", str(tmp_path / "theirs.onnx"), "--data", str(tmp_path / "theirs.npz")]
    assert main([*command, "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert "missing: 'h'" in error["message"]
