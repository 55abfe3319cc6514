"""Classifiers that give names of classes beside scores, as converters write them: the scores are taken.

Right scores are those of ONNX Runtime, called directly with the file as it came.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.foreign.batches import node

from lissom.errors import ModelError
from lissom.runtime.base import open_runtime
from lissom.verbs.files import open_model

WEIGHTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)
NAMES = ["one", "two", "three"]
STRINGS = helper.make_tensor_value_info("names", TensorProto.STRING, ["n"])
SCORES = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
PLACES = helper.make_tensor_value_info("places", TensorProto.INT64, ["n"])
DICTIONARIES = helper.make_value_info(
    "dictionaries",
    helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    ),
)


def written(folder: Path, outputs: list[Any], kind: int = TensorProto.FLOAT) -> Path:
    """A classifier with some of its outputs."""
    nodes = [
        node("MatMul", "x w", "product"),
        node("Softmax", "product", "scores", axis=1),
        node("ArgMax", "product", "places", axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder",
            ["places"],
            ["names"],
            domain="ai.onnx.ml",
            keys_int64s=[0, 1, 2],
            values_strings=NAMES,
        ),
        helper.make_node(
            "ZipMap", ["scores"], ["dictionaries"], domain="ai.onnx.ml", classlabels_strings=NAMES
        ),
    ]
    inputs = [helper.make_tensor_value_info("x", kind, ["n", 6])]
    graph = helper.make_graph(nodes, "classifier", inputs, outputs, [numpy_helper.from_array(WEIGHTS, "w")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = folder / "classifier.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("outputs", "with_data"),
    [
        pytest.param([STRINGS, SCORES], True, id="strings first"),
        pytest.param([PLACES, SCORES, DICTIONARIES], True, id="dictionaries"),
        pytest.param([DICTIONARIES, STRINGS, SCORES], False, id="both"),
    ],
)
def test_scores_are_taken_and_names_left_out(
    tmp_path: Path, outputs: list[Any], with_data: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, outputs)
    np.savez(tmp_path / "rows.npz", x=ROWS)
    artifact = open_model(path, data="rows.npz" if with_data else None)
    kept = [value.name for value in outputs if value.name in ("places", "scores")]
    assert [spec.name for spec in artifact.manifest.signature.outputs] == kept
    assert artifact.manifest.signature.batching is not None
    assert artifact.manifest.signature.batching.joins
    direct = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (right,) = direct.run(["scores"], {"x": ROWS})
    for runtime in ("onnxruntime", "openvino"):
        with open_runtime(artifact, runtime, threads=1) as model:
            np.testing.assert_allclose(model.infer({"x": ROWS})["scores"], right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("outputs", [[STRINGS], [DICTIONARIES], [STRINGS, DICTIONARIES]])
def test_a_model_without_numbers_is_told(
    tmp_path: Path, outputs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=r"output '(names|dictionaries)' of the model is (text|a sequence of maps)"
    ):
        open_model(written(tmp_path, outputs))


@pytest.mark.parametrize("bare", [["scores"], ["places", "scores"], ["places"]], ids=" and ".join)
def test_outputs_whose_type_the_file_does_not_say_are_kept(
    tmp_path: Path, bare: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, [SCORES, PLACES])
    model = onnx.load(path)
    for value in model.graph.output:
        if value.name in bare:
            value.ClearField("type")
    onnx.save(model, path)
    artifact = open_model(path)
    assert [spec.name for spec in artifact.manifest.signature.outputs] == ["scores", "places"]
    direct = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores, places = direct.run(["scores", "places"], {"x": ROWS})
    with open_runtime(artifact, "onnxruntime", threads=1) as opened:
        found = opened.infer({"x": ROWS})
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["places"], places)
