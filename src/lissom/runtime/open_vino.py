"""OpenVINO on the CPU, with the precision pinned to what was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from lissom.errors import ArtifactError
from lissom.optional import require
from lissom.runtime.base import Runtime, executed_name
from lissom.runtime.onnx_runtime import MODEL_FILE

_COMPUTING = ("Convolution", "GroupConvolution", "MatMul", "FullyConnected", "Deconvolution")


class OpenVino(Runtime):
    """A model compiled for low latency; on a CPU with bf16 OpenVINO would compute float32 in bf16 unasked."""

    name = "openvino"
    thread_safe = False

    def _open_impl(self) -> None:
        library: Any = require("openvino", extra="cpu")
        path = self.artifact.file(MODEL_FILE)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
        }
        try:
            self.compiled: Any = library.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as exc:
            raise ArtifactError(f"OpenVINO cannot open {path}: {str(exc).strip().splitlines()[0]}") from exc
        self._request: Any = self.compiled.create_infer_request()
        self._names = [spec.name for spec in self.signature.outputs]

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._request.infer(dict(inputs), share_inputs=True)
        return {name: self._request.get_tensor(name).data.copy() for name in self._names}

    def executed(self) -> dict[str, int]:
        """Convolutions and matrix products of the compiled graph by the type of their kernel."""
        counts: Counter[str] = Counter()
        for node in self.compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if (
                str(
                    info["layerType"].astype(str)
                    if hasattr(info["layerType"], "astype")
                    else info["layerType"]
                )
                in _COMPUTING
            ):
                counts[executed_name(str(info["runtimePrecision"].astype(str)))] += 1
        return dict(counts)

    def close(self) -> None:
        """Free the compiled model."""
        self._request = self.compiled = None
