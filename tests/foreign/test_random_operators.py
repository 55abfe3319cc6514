"""`lissom verify` of a model that draws random numbers names the operators, wherever they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.foreign.batches import floats, graph, node

from lissom.cli import main

W, X = floats(6, 4), floats(24, 6)


def inside_a_branch() -> list[Any]:
    """Noise in one branch of an If that is always taken."""
    shape = helper.make_tensor_value_info("noise", TensorProto.FLOAT, None)
    then = helper.make_graph([node("RandomNormalLike", "a", "noise")], "then", [], [shape])
    same = helper.make_tensor_value_info("same", TensorProto.FLOAT, None)
    other = helper.make_graph([node("Identity", "a", "same")], "other", [], [same])
    return [node("If", "yes", "r", then_branch=then, else_branch=other), node("Add", "a r", "y")]


KINDS = {
    "RandomNormalLike (tensor r)": [node("RandomNormalLike", "a", "r"), node("Add", "a r", "y")],
    "RandomUniformLike (tensor r)": [node("RandomUniformLike", "a", "r", high=3.0), node("Mul", "a r", "y")],
    "RandomNormal (tensor r)": [
        helper.make_node("RandomNormal", [], ["r"], shape=[4]),
        node("Add", "a r", "y"),
    ],
    "RandomNormalLike (tensor noise)": inside_a_branch(),
}


def verified(folder: Path, nodes: list[Any], capsys: pytest.CaptureFixture[str], *, other: Any = None) -> Any:
    """The lines of a comparison of a model with itself, or with another one."""
    constants = {"w": W, "yes": np.array(True)}
    model = graph([node("MatMul", "x w", "a"), *nodes], {"x": ["n", 6]}, {"y": ["n", 4]}, constants, opset=17)
    onnx.save(model, folder / "one.onnx")
    if other is not None:
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(other, "w"))
    onnx.save(model, folder / "two.onnx")
    np.savez(folder / "rows.npz", x=X)
    assert main(["verify", "one.onnx", "two.onnx", "--data", "rows.npz"]) == 1
    told = capsys.readouterr().out
    assert main(["verify", "one.onnx", "two.onnx", "--data", "rows.npz", "--json"]) == 1
    return told, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("name", KINDS)
def test_the_operator_is_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told, document = verified(tmp_path, KINDS[name], capsys)
    assert f"random numbers are drawn by {name}:" in told
    assert document["random"] == [name]


def test_a_model_that_draws_none_is_not_excused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told, document = verified(tmp_path, [node("Relu", "a", "y")], capsys, other=W + 1)
    assert "random" not in told
    assert document["random"] == []
