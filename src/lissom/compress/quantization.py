"""Static int8 quantization of an ONNX model in Q/DQ form, by ONNX Runtime's quantizer.

Activations are uint8 with a zero point, weights int8 and symmetric, which is what both ONNX Runtime and
OpenVINO fuse on x86. Ranges come from the calibrate split alone: without calibration data there is an
error, never random numbers. On x86 without VNNI two int8 products can saturate 16 bits, so weights
are held to 7 bits there (`reduce_range`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from lissom.artifact import Artifact
from lissom.errors import DataError, ModelError, near
from lissom.export.onnx_file import add_onnx
from lissom.logs import quiet_libraries
from lissom.models.stages import INT8_TOLERANCE, Context
from lissom.optional import require
from lissom.recipe import QuantizeConfig
from lissom.runtime.machine import has_vnni
from lissom.runtime.onnx_runtime import MODEL_FILE

_MIN_SAMPLES = 8


def quantize(parents: Mapping[str, Artifact], config: QuantizeConfig, context: Context) -> Artifact:
    """Quantize the ONNX model of the parent."""
    parent = parents["input"]
    reduce_range = not has_vnni() if config.reduce_range is None else config.reduce_range
    with context.progress.task(f"quantize {context.fields['name']}", 1) as advance:
        model = quantized_model(parent, config, context, reduce_range=reduce_range)
        advance(1)
    with context.draft() as draft:
        add_onnx(draft, model, parent.manifest.signature, context)
        return draft.commit(
            **context.fields,
            format="onnx",
            precision="int8",
            signature=parent.manifest.signature,
            factory=None,
            num_parameters=parent.manifest.num_parameters,
            notes=_operator_counts(model) | {"reduce_range": reduce_range},
            tolerance=INT8_TOLERANCE,
        )


def quantized_model(parent: Artifact, config: QuantizeConfig, context: Context, *, reduce_range: bool) -> Any:
    """The quantized ONNX ModelProto.

    Raises:
        DataError: the calibrate split is too small.
        ModelError: the model is quantized already, or an excluded node is unknown.
    """
    onnx = require("onnx", extra="cpu")
    tool = require("onnxruntime.quantization", extra="cpu")
    shape_inference = require("onnxruntime.quantization.shape_inference", extra="cpu")
    source = parent.file(MODEL_FILE)
    _check_nodes(onnx.load(source).graph, config)
    methods = tool.CalibrationMethod
    method = {"minmax": methods.MinMax, "percentile": methods.Percentile, "entropy": methods.Entropy}[
        config.calibration
    ]
    # ONNX Runtime's calibrators print their progress; stdout is ours.
    with tempfile.TemporaryDirectory() as folder, quiet_libraries(), redirect_stdout(StringIO()):
        prepared, target = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        tool.quantize_static(
            str(prepared),
            str(target),
            calibration_reader(context, config.num_samples),
            quant_format=tool.QuantFormat.QDQ,
            per_channel=config.per_channel,
            reduce_range=reduce_range,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            nodes_to_exclude=list(config.exclude),
            calibrate_method=method,
        )
        return onnx.load(target)


def calibration_reader(context: Context, num_samples: int) -> Any:
    """Feeds samples of the calibrate split one by one to ONNX Runtime's calibrator.

    Raises:
        DataError: there are fewer than 8.
    """
    tensors = context.data.tensors("calibrate")
    found = min(num_samples, len(next(iter(tensors.values()))))
    if found < _MIN_SAMPLES:
        raise DataError(
            f"{context.data.source}: {found} calibration samples are too few; {_MIN_SAMPLES} are needed",
            hint="add samples to the calibrate split",
        )
    samples = iter({name: array[i : i + 1] for name, array in tensors.items()} for i in range(found))

    class Reader(require("onnxruntime.quantization", extra="cpu").CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feed: Iterator[dict[str, np.ndarray]]) -> None:
            self._feed = feed

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feed, None)

    return Reader(samples)


def _check_nodes(graph: Any, config: QuantizeConfig) -> None:
    names = {node.name for node in graph.node}
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        raise ModelError("the model is quantized already", hint="start from the export stage")
    for name in config.exclude:
        if name not in names:
            raise ModelError(f"exclude names {name!r}, which is no node of the model", hint=near(name, names))


def _operator_counts(model: Any) -> dict[str, Any]:
    nodes = model.graph.node
    kinds = [node.op_type for node in nodes]
    dequantized = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    computing = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    return {
        "operators": len(kinds),
        "quantize": kinds.count("QuantizeLinear"),
        "dequantize": kinds.count("DequantizeLinear"),
        "computing": len(computing),
        "computing_int8": sum(dequantized.issuperset(node.input[:2]) for node in computing),
    }
