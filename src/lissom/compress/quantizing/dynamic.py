"""Dynamic int8 by ONNX Runtime: weights are stored as int8, ranges of activations are found in every call.

Products and LSTM are quantized. GRU and RNN have no int8 form there and stay float32. Convolutions stay too:
finding the range of an image in every call costs more than the int8 convolution saves.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lissom.logs import quiet_quantizer
from lissom.optional import require
from lissom.recipe import QuantizeConfig

_OPERATORS = ["MatMul", "Gemm", "LSTM", "Attention"]


def dynamic_model(model: Any, config: QuantizeConfig, *, reduce_range: bool) -> Any:
    """The int8 model of a float32 one, as `prepared` gives it."""
    onnx = require("onnx", extra="cpu")
    tool: Any = require("onnxruntime.quantization", extra="cpu")
    with tempfile.TemporaryDirectory() as place, quiet_quantizer():
        target = Path(place) / "int8.onnx"
        tool.quantize_dynamic(
            model,
            str(target),
            op_types_to_quantize=_OPERATORS,
            per_channel=config.per_channel,
            reduce_range=reduce_range,
            weight_type=tool.QuantType.QInt8,
            nodes_to_exclude=list(config.exclude),
            extra_options={"WeightSymmetric": True, "MatMulConstBOnly": True},
        )
        return onnx.load(target)
