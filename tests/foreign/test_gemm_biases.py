"""A Gemm may scale its terms and hold its bias in any shape; int8 stays near the answer of numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from lissom.compress.quantizing.static import prepared

ROWS, COLUMNS, SAMPLES = 16, 12, 64
BIASES: dict[str, tuple[tuple[int, ...] | None, dict[str, Any]]] = {
    "a value a column": ((COLUMNS,), {}),
    "one row": ((1, COLUMNS), {}),
    "one row, weights turned": ((1, COLUMNS), {"transB": 1}),
    "one number": ((), {"beta": 0.5}),
    "one number in a list": ((1,), {}),
    "a value a row": ((SAMPLES, 1), {"beta": 2.0}),
    "a scaled bias": ((COLUMNS,), {"beta": 0.5}),
    "both terms scaled": ((1, COLUMNS), {"alpha": 0.25, "beta": 3.0}),
    "no bias, scaled": (None, {"alpha": 0.5}),
}


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """All samples in one batch."""

    def __init__(self, samples: np.ndarray) -> None:
        self._batches = iter([{"x": samples}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


@pytest.mark.parametrize("name", BIASES)
def test_int8_keeps_a_bias_of_any_shape_and_scale(name: str, tmp_path: Path) -> None:
    shape, options = BIASES[name]
    random = np.random.default_rng(0)
    weight = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    samples = random.normal(size=(SAMPLES, ROWS)).astype(np.float32)
    constants = {"w": np.ascontiguousarray(weight.T) if options.get("transB") else weight}
    if shape is not None:
        constants["b"] = np.asarray(10 * random.normal(size=shape), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", *constants], ["y"], name="product", **options)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SAMPLES, ROWS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SAMPLES, COLUMNS])],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(tmp_path / "gemm.onnx"))
    right = options.get("alpha", 1.0) * (samples @ weight)
    right = right + options.get("beta", 1.0) * constants.get("b", np.float32(0))

    onnx.save(prepared(tmp_path / "gemm.onnx"), str(tmp_path / "prepared.onnx"))
    np.testing.assert_allclose(answer(tmp_path / "prepared.onnx", samples), right, rtol=1e-4, atol=1e-4)
    quantize_static(
        str(tmp_path / "prepared.onnx"),
        str(tmp_path / "int8.onnx"),
        Samples(samples),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True},
    )
    found = answer(tmp_path / "int8.onnx", samples)
    assert np.square(found - right).sum() / np.square(right).sum() < 1e-3


def answer(path: Path, samples: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": samples})[0]
    return found
