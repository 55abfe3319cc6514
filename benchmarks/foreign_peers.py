"""The peers of `foreign.py`: static quantization by ONNX Runtime and by NNCF, on the same rows.

    python benchmarks/foreign_peers.py onnxruntime|nncf MODEL.onnx ROWS.npz TARGET.onnx

A process of its own, since NNCF pins other versions than lissom and either may fail on a file. Every row is
a call of its own: axis 0 of an array holds the samples. Imports nothing of lissom.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feed = dict[str, np.ndarray]
_REDUCED = "vnni" not in Path("/proc/cpuinfo").read_text()
"""Seven bits where a processor's int8 products saturate, as lissom does."""


def feeds(model: Any, arrays: Feed) -> Iterator[Feed]:
    """Inputs of one call for each row; a state that the rows do not hold begins with zeros."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for row in range(len(next(iter(arrays.values())))):
        yield {value.name: _tensor(value, arrays.get(value.name), row) for value in inputs}


def _tensor(value: Any, array: np.ndarray | None, row: int) -> np.ndarray:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    dims = kind.shape.dim
    if array is None:
        return np.zeros([dim.dim_value if dim.dim_value > 0 else 1 for dim in dims], dtype)
    return np.asarray(array[row : row + 1] if len(dims) else array[row], dtype=dtype)


def by_onnxruntime(source: str, arrays: Feed, target: str) -> None:
    """Quantize as lissom's plain settings do."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = f"{target}.prepared"
    try:
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
    except Exception:  # some files cannot be optimised; they are quantized as they are
        prepared = source
    given = feeds(onnx.load(prepared), arrays)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feed | None:
            return next(given, None)

    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
        per_channel=True,
        reduce_range=_REDUCED,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )


def by_nncf(source: str, arrays: Feed, target: str) -> None:
    """Quantize with NNCF's defaults."""
    import nncf

    model = onnx.load(source)
    rows = list(feeds(model, arrays))
    onnx.save(nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows)), target)


if __name__ == "__main__":
    peer, model_path, rows_path, target_path = sys.argv[1:]
    with np.load(rows_path) as file:
        given_rows = {name: file[name] for name in file.files}
    {"onnxruntime": by_onnxruntime, "nncf": by_nncf}[peer](model_path, given_rows, target_path)
