"""ONNX files of somebody else are brought into one form and compute what they computed.

What is right is what ONNX Runtime, or the reference of onnx, says of the original file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom.artifact import Artifact
from lissom.export.graphs import all_nodes, default_opset
from lissom.export.loading import precision_of
from lissom.export.made_inputs import make_inputs
from lissom.export.normalisation import input_specs, normalise
from lissom.export.onnx_file import caller, open_session
from lissom.logs import NoProgress
from lissom.pipeline import load_data, make_artifacts
from lissom.recipe import Recipe
from lissom.runtime.base import open_runtime

NODE, VALUE = helper.make_node, helper.make_tensor_value_info
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RANDOM = np.random.default_rng(0)
Maker = Callable[[], onnx.ModelProto]


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def graph_of(
    nodes: list[Any],
    inputs: dict[str, list[Any]],
    outputs: dict[str, Any],
    constants: dict[str, np.ndarray],
    *,
    kinds: dict[str, int] | None = None,
) -> onnx.GraphProto:
    kinds = kinds or {}
    return helper.make_graph(
        nodes,
        "graph",
        [VALUE(name, kinds.get(name, FLOAT), shape) for name, shape in inputs.items()],
        [VALUE(name, kinds.get(name, FLOAT), shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )


def model_of(graph: onnx.GraphProto, opset: int = 17, ir: int = 8, **more: Any) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1) for domain in more.pop("domains", ())]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, **more)


def answers(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feed)
    return found


def loaded(folder: Path, model: onnx.ModelProto, **arrays: np.ndarray) -> Artifact:
    onnx.save(model, folder / "theirs.onnx")
    np.savez(folder / "data.npz", **arrays)
    recipe = Recipe.from_document(
        {
            "name": "theirs",
            "data": {"source": str(folder / "data.npz")},
            "model": {"source": str(folder / "theirs.onnx")},
            "stages": [{"stage": "load"}],
        }
    )
    (folder / "run").mkdir()
    (artifact,), _ = make_artifacts(recipe, load_data(recipe), folder / "run", progress=NoProgress())
    return artifact


WIDE = floats(16, 8)


def product(name: str = "w") -> Any:
    return NODE("MatMul", ["x", name], ["y"])


def listed(ir: int, opset: int, *, also: bool = False) -> onnx.ModelProto:
    inputs: dict[str, list[Any]] = {"x": ["n", 16], "w": [16, 8]} | ({"b": [8]} if also else {})
    nodes = [product(), NODE("Add", ["y", "b"], ["z"])] if also else [product()]
    constants = {"w": WIDE} | ({"b": floats(8)} if also else {})
    return model_of(graph_of(nodes, inputs, {nodes[-1].output[0]: ["n", 8]}, constants), opset, ir)


def sparse(*, coordinates: bool) -> onnx.ModelProto:
    dense = np.where(RANDOM.random((16, 8)) > 0.8, floats(16, 8), 0).astype(np.float32)
    places = np.argwhere(dense) if coordinates else np.flatnonzero(dense)
    tensor = helper.make_sparse_tensor(
        numpy_helper.from_array(dense[dense != 0], "w"),
        numpy_helper.from_array(places.astype(np.int64), "places"),
        [16, 8],
    )
    graph = graph_of([product()], {"x": ["n", 16]}, {"y": ["n", 8]}, {})
    graph.sparse_initializer.append(tensor)
    return model_of(graph)


def functions() -> onnx.ModelProto:
    body = helper.make_function(
        "own", "Twice", ["a"], ["b"], [NODE("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [NODE("Twice", ["x"], ["t"], domain="own"), NODE("MatMul", ["t", "w"], ["y"])]
    graph = graph_of(nodes, {"x": ["n", 16]}, {"y": ["n", 8]}, {"w": WIDE})
    return model_of(graph, ir=9, functions=[body], domains=("own",))


def unknown(*sizes: Any) -> onnx.ModelProto:
    return model_of(graph_of([product()], {"x": list(sizes)}, {"y": [*sizes[:-1], 8]}, {"w": WIDE}))


def old(
    opset: int, *nodes: Any, ir: int = 6, output: tuple[Any, ...] = ("n", 8, 8), **more: np.ndarray
) -> Maker:
    return lambda: model_of(graph_of([*nodes], {"x": ["n", 4, 8]}, {"y": list(output)}, more), opset, ir)


KERNEL = floats(8, 4, 3)
CONV = NODE("Conv", ["x", "k"], ["c"], pads=[1, 1])
OLD: dict[str, Maker] = {
    "7 with a dropout": old(7, CONV, NODE("Dropout", ["c"], ["y"], ratio=0.5), ir=4, k=KERNEL),
    "8 with a sum": old(8, CONV, NODE("Sum", ["c", "c"], ["y"]), ir=4, k=KERNEL),
    "9 with softmax over all that follows": old(
        9, CONV, NODE("Softmax", ["c"], ["y"], axis=1), ir=4, k=KERNEL
    ),
    "10 with a slice of attributes before it": old(
        9,
        NODE("Slice", ["x"], ["s"], axes=[2], starts=[0], ends=[8]),
        NODE("Conv", ["s", "k"], ["y"], pads=[1, 1]),
        k=KERNEL,
    ),
    "11 with clip and squeeze of attributes": old(
        11,
        CONV,
        NODE("Unsqueeze", ["c"], ["u"], axes=[0]),
        NODE("Squeeze", ["u"], ["s"], axes=[0]),
        NODE("Clip", ["s", "low"], ["y"]),
        k=KERNEL,
        low=np.float32(-0.5),
    ),
    "12 with a reduction": old(
        12, CONV, NODE("ReduceSum", ["c"], ["y"], axes=[2], keepdims=1), output=("n", 8, 1), k=KERNEL
    ),
    "12 with logarithms of softmax": old(12, CONV, NODE("LogSoftmax", ["c"], ["y"], axis=2), k=KERNEL),
    "11 with a split": old(
        11,
        CONV,
        NODE("Split", ["c"], ["a", "b"], axis=1, split=[4, 4]),
        NODE("Concat", ["b", "a"], ["y"], axis=1),
        k=KERNEL,
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_an_old_operator_set_is_converted_and_gives_the_same(name: str) -> None:
    model = OLD[name]()
    found, notes = normalise(model)
    assert default_opset(found) >= 13
    assert any("converted" in note for note in notes)
    for rows in (1, 5):
        feed = {"x": floats(rows, 4, 8) * 3}
        for one, other in zip(answers(model, feed), answers(found, feed), strict=True):
            assert one.shape == other.shape
            assert np.allclose(one, other, atol=1e-5)


def test_a_conversion_that_changes_the_outputs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OLD["8 with a sum"]()

    def wrong(given: onnx.ModelProto, target: int) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(given)
        changed.opset_import[0].version = target
        changed.graph.node[1].op_type = "Max"
        return changed

    monkeypatch.setattr("onnx.version_converter.convert_version", wrong)
    found, notes = normalise(model)
    assert default_opset(found) == 8
    assert any("kept" in note for note in notes)


FORMS: dict[str, Maker] = {
    "weights listed, IR 3": lambda: listed(3, 7),
    "weights and bias listed, IR 3": lambda: listed(3, 13, also=True),
    "weights listed in a later file": lambda: listed(8, 17, also=True),
    "sparse weights": lambda: sparse(coordinates=False),
    "sparse weights by coordinates": lambda: sparse(coordinates=True),
    "functions": functions,
    "sizes of -1": lambda: unknown(-1, 16),
    "a size of 0": lambda: unknown(0, 16),
    "two sizes of -1": lambda: unknown(-1, -1, 16),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_file_computes_what_it_computed(name: str) -> None:
    model = FORMS[name]()
    found, notes = normalise(model)
    assert notes
    assert [spec.name for spec in input_specs(found)] == ["x"]
    assert not found.functions
    assert not found.graph.sparse_initializer
    rank = len(input_specs(found)[0].shape)
    for rows in (1, 3):
        feed = {"x": floats(*[rows] * (rank - 1), 16)}
        is_sparse = bool(model.graph.sparse_initializer)  # which the reference of onnx does not read
        reference = None if is_sparse else onnx.reference.ReferenceEvaluator(model)
        wanted = answers(model, feed) if reference is None else reference.run(None, feed)
        for one, other in zip(wanted, answers(found, feed), strict=True):
            assert np.allclose(one, other, atol=1e-5)
    assert normalise(found).notes == ()


@pytest.mark.parametrize(
    ("inputs", "output", "settled"),
    [
        ({"x": ["n", 16]}, ["n", "MatMuly_dim_1"], 8),
        ({"x": ["n", 3, 16]}, ["n", "time", "classes"], 8),
        ({"x": ["n", 16]}, None, 8),
    ],
)
def test_the_size_of_an_output_axis_is_computed(inputs: dict[str, Any], output: Any, settled: int) -> None:
    model = model_of(graph_of([product()], inputs, {"y": output}, {"w": WIDE}))
    found, _ = normalise(model)
    dims = found.graph.output[0].type.tensor_type.shape.dim
    assert dims[-1].dim_value == settled
    assert len(dims) == len(inputs["x"])


@pytest.mark.parametrize("name", ["listed", "minus one", "named width", "old", "function", "scalar"])
def test_a_file_in_an_unusual_form_becomes_an_artifact(tmp_path: Path, name: str) -> None:
    makers: dict[str, Maker] = {
        "listed": lambda: listed(3, 13, also=True),
        "minus one": lambda: unknown(-1, 16),
        "named width": lambda: model_of(
            graph_of([product()], {"x": ["n", 16]}, {"y": ["n", "m"]}, {"w": WIDE})
        ),
        "old": OLD["11 with a split"],
        "function": functions,
        "scalar": lambda: model_of(
            graph_of(
                [NODE("MatMul", ["x", "w"], ["p"]), NODE("ReduceMean", ["p"], ["y"], keepdims=0)],
                {"x": ["n", 16]},
                {"y": []},
                {"w": WIDE},
            )
        ),
    }
    model = makers[name]()
    x = floats(64, 4, 8) if name == "old" else floats(64, 16)
    artifact = loaded(tmp_path, model, x=x)
    for engine in ("onnxruntime", "openvino"):
        with open_runtime(artifact, engine, threads=1) as runtime:
            for one, other in zip(
                answers(model, {"x": x[:4]}), runtime.infer({"x": x[:4]}).values(), strict=True
            ):
                assert np.allclose(one, other, atol=1e-4)


def branches() -> onnx.ModelProto:
    inner = [
        helper.make_graph(
            [NODE("MatMul", ["x", name], [f"{name}y"])], name, [], [VALUE(f"{name}y", FLOAT, ["n", 8])]
        )
        for name in ("w", "v")
    ]
    nodes = [
        NODE("ReduceMean", ["x"], ["m"], keepdims=0),
        NODE("Greater", ["m", "zero"], ["c"]),
        NODE("If", ["c"], ["y"], then_branch=inner[0], else_branch=inner[1]),
    ]
    constants = {"w": WIDE, "v": -WIDE, "zero": np.float32(0)}
    return model_of(graph_of(nodes, {"x": ["n", 16]}, {"y": ["n", 8]}, constants))


def test_graphs_inside_others_are_walked() -> None:
    assert sum(node.op_type == "MatMul" for node in all_nodes(branches())) == 2


def test_the_precision_is_that_of_the_operators_and_weights() -> None:
    assert precision_of(unknown(-1, 16)) == "float32"
    half = graph_of(
        [product()],
        {"x": ["n", 16]},
        {"y": ["n", 8]},
        {"w": WIDE.astype(np.float16)},
        kinds={"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16},
    )
    assert precision_of(model_of(half)) == "float16"
    whole = graph_of(
        [NODE("MatMulInteger", ["x", "w"], ["y"])],
        {"x": ["n", 16]},
        {"y": ["n", 8]},
        {"w": np.ones((16, 8), np.int8)},
        kinds={"x": TensorProto.UINT8, "y": TensorProto.INT32},
    )
    assert precision_of(model_of(whole)) == "int8"


@pytest.mark.parametrize(
    ("inputs", "kinds", "nodes", "axes"),
    [
        ({"x": ["n", "t", 16]}, {}, [product()], {"x": 0}),
        ({"x": [1, 16]}, {}, [product()], {"x": 0}),
        ({"x": ["n", 5]}, {"x": INT64}, [NODE("Gather", ["w", "x"], ["y"])], {"x": 0}),
    ],
)
def test_inputs_are_made_by_the_signature(
    inputs: dict[str, Any], kinds: dict[str, int], nodes: list[Any], axes: dict[str, int]
) -> None:
    model = model_of(graph_of(nodes, inputs, {"y": None}, {"w": WIDE}, kinds=kinds))
    made = make_inputs(model, input_specs(model), caller(open_session(model.SerializeToString()), ["y"]))
    assert dict(made.axes) == axes
    samples, again = made.samples(8), made.samples(8)
    assert len(samples["x"]) == 8
    assert np.array_equal(samples["x"], again["x"])
    assert samples["x"].dtype == (np.int64 if kinds else np.float32)
    if kinds:
        assert samples["x"].min() >= 0
        assert 2 < samples["x"].max() < 16
    feed = made.feed(1, rows=1)
    assert answers(model, feed)[0].shape[-1] == 8
