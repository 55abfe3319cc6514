"""An index that a table does not have is refused by every engine, and one that it has is read.

The right answers are numpy's, of the tables themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from tests.foreign.batches import Graph, floats, graph, node
from tests.foreign.test_batching import run_stage

from lissom.errors import RequestError
from lissom.runtime.base import open_runtime

TABLE, SMALL, WEIGHTS = floats(50, 6), floats(9, 6), floats(6, 4)
IDS = np.random.default_rng(1).integers(0, 9, size=(24, 5))
WHOLE = {"ids": TensorProto.INT64}


def summed(*before: Any, types: dict[str, int] | None = None, table: np.ndarray = TABLE) -> Any:
    """Rows of a table, their mean, a product."""
    nodes = [*before, node("Gather", f"E {'i' if before else 'ids'}", "rows", axis=0)]
    nodes += [node("ReduceMean", "rows", "mean", axes=[1], keepdims=0), node("MatMul", "mean w", "y")]
    return graph(nodes, {"ids": ["n", 5]}, {"y": ["n", 4]}, {"E": table, "w": WEIGHTS}, types=types or WHOLE)


def two_tables() -> Any:
    """The smaller one decides."""
    nodes = [
        node("Gather", "E ids", "rows", axis=0),
        node("Gather", "S ids", "places", axis=0),
        node("Add", "rows places", "both"),
        node("ReduceMean", "both", "mean", axes=[1], keepdims=0),
        node("MatMul", "mean w", "y"),
    ]
    constants = {"E": TABLE, "S": SMALL, "w": WEIGHTS}
    return graph(nodes, {"ids": ["n", 5]}, {"y": ["n", 4]}, constants, types=WHOLE)


def columns() -> Any:
    """Read along the second axis of a table that is turned."""
    nodes = [
        node("Gather", "T ids", "turned", axis=1),
        node("Transpose", "turned", "rows", perm=[1, 2, 0]),
        node("ReduceMean", "rows", "mean", axes=[1], keepdims=0),
        node("MatMul", "mean w", "y"),
    ]
    constants = {"T": TABLE.T.copy(), "w": WEIGHTS}
    return graph(nodes, {"ids": ["n", 5]}, {"y": ["n", 4]}, constants, types=WHOLE)


def plain(ids: np.ndarray) -> np.ndarray:
    found: np.ndarray = TABLE[ids].mean(axis=1) @ WEIGHTS
    return found


KINDS: dict[str, tuple[Callable[[], Any], int, Callable[[np.ndarray], np.ndarray]]] = {
    "int64": (summed, 50, plain),
    "int32": (lambda: summed(types={"ids": TensorProto.INT32}), 50, plain),
    "cast first": (
        lambda: summed(node("Cast", "ids", "i", to=TensorProto.INT32)),
        50,
        plain,
    ),
    "columns": (columns, 50, plain),
    "two tables": (two_tables, 9, lambda ids: (TABLE[ids] + SMALL[ids]).mean(axis=1) @ WEIGHTS),
}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", KINDS)
def test_only_rows_that_a_table_has_are_read(tmp_path: Path, name: str, runtime: str) -> None:
    build, rows, right = KINDS[name]
    model = build()
    dtype = np.int32 if name == "int32" else np.int64
    made = run_stage(tmp_path, Graph(model, {"ids": IDS.astype(dtype)}, {}, True))
    edges = IDS[:3].astype(dtype)
    edges[0, 0], edges[1, 1] = rows - 1, -rows
    with open_runtime(made, runtime, threads=1) as opened:
        assert np.allclose(opened.infer_batch({"ids": edges})["y"], right(edges), rtol=1e-4, atol=1e-5)
        narrow = dtype == np.int32 or name == "cast first"  # a cast of the model's own may wrap
        for outside in (rows, -rows - 1, 2**31 - 1, *([] if narrow else [2**32 + 1])):
            wrong = edges.copy()
            wrong[2, 2] = outside
            with pytest.raises(RequestError, match=f"{outside}|out of"):
                opened.infer_batch({"ids": wrong})
