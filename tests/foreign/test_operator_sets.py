"""Old operator sets are converted where the answers stay what onnxruntime gives for the original file."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lissom.export.graphs import default_opset
from lissom.export.normalisation import OLDEST_OPSET, normalise

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def resize(operator: str, mode: str, scale: float, opset: int) -> Any:
    """A file that makes a picture larger or smaller."""
    scales = [1.0, 1.0, scale, scale]
    if opset < 9:  # the scales are an attribute
        return file([helper.make_node(operator, ["x"], ["y"], mode=mode, scales=scales)], opset)
    constant = numpy_helper.from_array(np.array(scales, np.float32), "scales")
    return file([helper.make_node(operator, ["x", "scales"], ["y"], mode=mode)], opset, [constant])


def file(nodes: list[Any], opset: int, constants: list[Any] | None = None) -> Any:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        constants or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)
    onnx.checker.check_model(model)
    return model


def answer(model: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": IMAGE})[0]
    return found


RESIZED = {
    "linear upsampling, scales as an attribute": ("Upsample", "linear", 2.0, 7),
    "linear upsampling": ("Upsample", "linear", 2.0, 9),
    "nearest upsampling by a fraction": ("Upsample", "nearest", 1.5, 9),
    "linear resizing": ("Resize", "linear", 2.0, 10),
    "nearest resizing to less": ("Resize", "nearest", 0.6, 10),
}


@pytest.mark.parametrize("name", RESIZED)
def test_resizing_reads_the_places_that_it_read_before(name: str) -> None:
    model = resize(*RESIZED[name])
    found = normalise(model).model
    assert default_opset(found) >= OLDEST_OPSET
    np.testing.assert_allclose(answer(found), answer(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [1, 2])
def test_what_works_on_flattened_axes_answers_as_before(operator: str, axis: int) -> None:
    model = file([helper.make_node(operator, ["x"], ["y"], axis=axis)], 11)
    np.testing.assert_allclose(answer(normalise(model).model), answer(model), rtol=1e-5, atol=1e-6)
