"""ONNX to OpenVINO's IR: a graph and its weights as two files, loaded without converting."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lissom.artifact import Signature
from lissom.errors import ModelError
from lissom.export.onnx_file import name_axes, strip
from lissom.optional import require
from lissom.runtime.open_vino import GRAPH_FILE, WEIGHTS_FILE, reason_of
from lissom.runtime.open_vino_rounding import drop_roundings


def openvino_from_onnx(model: Any, signature: Signature) -> Mapping[str, bytes]:
    """The files of the IR by name.

    Raises:
        ModelError: OpenVINO has no form for an operator, which the message names.
    """
    library: Any = require("openvino", extra="cpu")
    onnx = require("onnx", extra="cpu")
    strip(model)
    name_axes(model, signature)
    with tempfile.TemporaryDirectory() as place:
        source, graph = Path(place) / "model.onnx", Path(place) / GRAPH_FILE
        onnx.save(model, source)
        try:
            converted = library.Core().read_model(source)
            drop_roundings(converted)
            converted.set_friendly_name("lissom")
            library.save_model(converted, graph, compress_to_fp16=False)
        except RuntimeError as exc:
            raise ModelError(f"OpenVINO cannot convert the model: {reason_of(exc)}") from exc
        return {name: (Path(place) / name).read_bytes() for name in (GRAPH_FILE, WEIGHTS_FILE)}
