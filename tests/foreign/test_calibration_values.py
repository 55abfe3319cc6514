"""What is not finite in the calibration samples is recorded, and served for that input alone.

Right answers come from ONNX Runtime, called directly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.foreign.batches import Graph, engine, floats, graph, node
from tests.foreign.served import open_app
from tests.unit.serve.asgi import request

from lissom.verbs.files import open_model


def _masked() -> Graph:
    """Attention over four places with a mask that is added: -inf rules a place out."""
    mask = np.where(np.arange(4) < np.arange(12)[:, None] % 4 + 1, 0, -np.inf).astype(np.float32)
    model = graph(
        [node("Add", "x m", "s"), node("Softmax", "s", "y", axis=1)],
        {"x": ["n", 4], "m": ["n", 4]},
        {"y": ["n", 4]},
    )
    return Graph(model, {"x": floats(12, 4), "m": mask}, {"y": 0}, True)


def _missing() -> Graph:
    """Features, of which NaN is missing and counts as the mean."""
    model = graph(
        [node("IsNaN", "m", "is"), node("Where", "is mean m", "f"), node("Add", "f x", "y")],
        {"x": ["n", 4], "m": ["n", 4]},
        {"y": ["n", 4]},
        {"mean": np.float32([1, 2, 3, 4])},
    )
    values = floats(12, 4)
    values[::3, 1] = np.nan
    return Graph(model, {"x": floats(12, 4), "m": values}, {"y": 0}, True)


def _unlimited() -> Graph:
    """Distances, of which +inf is out of reach: 1 / (1 + distance), and 9 where there is none."""
    model = graph(
        [
            node("IsInf", "m", "is"),
            node("Add", "m one", "d"),
            node("Div", "one d", "r"),
            node("Where", "is nine r", "f"),
            node("Add", "f x", "y"),
        ],
        {"x": ["n", 4], "m": ["n", 4]},
        {"y": ["n", 4]},
        {"one": np.float32([1]), "nine": np.float32([9])},
    )
    values = np.abs(floats(12, 4))
    values[1::4, 2] = np.inf
    return Graph(model, {"x": floats(12, 4), "m": values}, {"y": 0}, True)


@pytest.mark.parametrize("make", [_masked, _missing, _unlimited])
def test_the_check_is_off_for_the_input_whose_samples_hold_such_values(
    tmp_path: Path, make: Callable[[], Graph]
) -> None:
    found = make()
    onnx.save(found.model, tmp_path / "theirs.onnx")
    np.savez(tmp_path / "theirs.npz", **found.samples)
    made = open_model(tmp_path / "theirs.onnx", data=tmp_path / "theirs.npz", out=tmp_path / "run")
    assert {one.input: one.nonfinite for one in made.manifest.input_ranges} == {"x": False, "m": True}
    assert made.manifest.signature.batching is not None
    assert made.manifest.signature.batching.joins
    app, right = open_app(made), engine(found.model)(found.samples)["y"]

    def sent(array: np.ndarray) -> list[list[float | str]]:
        names = {np.inf: "Infinity", -np.inf: "-Infinity"}
        return [
            [one if np.isfinite(one) else names.get(one, "NaN") for one in row] for row in array[:4].tolist()
        ]

    taken = {name: sent(array) for name, array in found.samples.items()}
    answer = request(app, "POST", "/predict", {"inputs": taken})
    assert answer.status == 200, answer.body
    np.testing.assert_allclose(answer.json["outputs"]["y"], right[:4], rtol=1e-5)
    refused = request(
        app,
        "POST",
        "/predict",
        {"inputs": taken | {"x": [["NaN", 1.0, 1.0, 1.0], *taken["x"][1:]]}},
    )
    assert (refused.status, "'x'" in refused.json["error"]) == (400, True), refused.json
