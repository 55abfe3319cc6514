"""Models that give as many rows as a sample has finds: quantized by what their answers are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.foreign.batches import engine, floats, graph, node, whole

from lissom.artifact import Artifact
from lissom.compress.quantizing.graph import operator_counts
from lissom.logs import NoProgress
from lissom.pipeline import load_data as load_recipe_data
from lissom.pipeline import make_artifacts
from lissom.recipe import Recipe

WEIGHTS = {"w": floats(8, 3, 3, 3) * 0.3, "v": floats(5, 8, 1, 1), "b": floats(5) * 0.1}
TRUNK = [
    node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
    node("Relu", "c", "r"),
    node("Conv", "r v b", "d"),
    node("Sigmoid", "d", "maps"),
]


def boxes() -> Any:
    """Four maps are boxes, one is a score; what non-maximum suppression keeps is gathered."""
    nodes = [
        *TRUNK,
        node("Reshape", "maps rows", "flat"),
        node("Split", "flat parts", "places scores", axis=1),
        node("Transpose", "places", "boxes", perm=[0, 2, 1]),
        node("NonMaxSuppression", "boxes scores most overlap lowest", "kept"),
        node("Gather", "kept two", "index", axis=1),
        node("Squeeze", "boxes zero", "all"),
        node("Gather", "all index", "found", axis=0),
    ]
    constants = {
        **{"rows": whole(1, 5, 64), "parts": whole(4, 1), "two": np.array(2), "zero": whole(0)},
        **{"most": whole(10), "overlap": np.float32([0.4]), "lowest": np.float32([0.6])},
    }
    return graph(nodes, {"x": [1, 3, 8, 8]}, {"found": ["k", 4]}, WEIGHTS | constants)


def points() -> Any:
    """The places at which a map is high."""
    nodes = [
        *TRUNK,
        node("Greater", "maps limit", "high"),
        node("NonZero", "high", "places"),
        node("Transpose", "places", "found", perm=[1, 0]),
    ]
    types = {"found": onnx.TensorProto.INT64}
    constants = {"limit": np.float32(0.7)}
    return graph(nodes, {"x": [1, 3, 8, 8]}, {"found": ["k", 4]}, WEIGHTS | constants, types=types)


def chosen() -> Any:
    """The values that are high, of all maps, beside their mean, which has one shape."""
    nodes = [
        *TRUNK,
        node("Reshape", "maps line", "values"),
        node("Greater", "values limit", "high"),
        node("Compress", "values high", "found"),
        node("GlobalAveragePool", "maps", "mean"),
    ]
    constants = {"line": whole(-1), "limit": np.float32(0.7)}
    return graph(nodes, {"x": [1, 3, 8, 8]}, {"found": ["k"], "mean": [1, 5, 1, 1]}, WEIGHTS | constants)


MODELS = {
    "boxes": (boxes, ["all", "boxes", "scores"]),
    "points": (points, ["maps"]),
    "values": (chosen, ["mean", "values"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_answers_of_many_shapes_are_judged_by_what_they_are_made_from(tmp_path: Path, name: str) -> None:
    build, sources = MODELS[name]
    model, x = build(), floats(64, 3, 8, 8)
    _, made = made_of(tmp_path, model, {"x": x})
    assert sorted(made.manifest.notes["judged_by"]) == sorted(sources)
    quantized = onnx.load(made.file("model.onnx"))
    assert [value.name for value in quantized.graph.output] == [value.name for value in model.graph.output]
    assert operator_counts(quantized)["computing_int8"] == 2
    signal = noise = 0.0
    one, other = (engine(_with_outputs(each, sources)) for each in (model, quantized))
    for row in x:
        wanted, found = one({"x": row[None]}), other({"x": row[None]})
        signal += sum(float(np.square(wanted[key]).sum()) for key in sources)
        noise += sum(float(np.square(wanted[key] - found[key]).sum()) for key in sources)
    assert 10 * np.log10(signal / noise) > 25


def made_of(folder: Path, model: Any, samples: dict[str, np.ndarray]) -> list[Artifact]:
    onnx.save(model, folder / "theirs.onnx")
    np.savez(folder / "theirs.npz", **samples)
    recipe = Recipe.from_document(
        {
            "name": "theirs",
            "data": {"source": str(folder / "theirs.npz")},
            "model": {"source": str(folder / "theirs.onnx")},
            "stages": [{"stage": "load"}, {"stage": "quantize", "skip_slow": False}],
        }
    )
    (folder / "run").mkdir()
    made, _ = make_artifacts(recipe, load_recipe_data(recipe), folder / "run", progress=NoProgress())
    return list(made)


def _with_outputs(model: Any, names: list[str]) -> Any:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return changed
