"""OpenVINO on the CPU, with the precision pinned to what was asked."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from lissom.errors import ArtifactError
from lissom.optional import require
from lissom.runtime.base import Layer, LayerTime, Runtime, executed_name
from lissom.runtime.onnx_runtime import MODEL_FILE

_COMPUTING = ("Convolution", "GroupConvolution", "MatMul", "FullyConnected", "Deconvolution")
GRAPH_FILE, WEIGHTS_FILE = "model.xml", "model.bin"
_PRECISIONS = {"bfloat16": "bf16", "float16": "f16"}


def _text(value: Any) -> str:
    """What OpenVINO keeps about a node, which it wraps in a type of its own or not."""
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


class OpenVino(Runtime):
    """A compiled model; on a CPU with bf16 OpenVINO would compute float32 in bf16 unasked."""

    name = "openvino"
    thread_safe = False

    def _open_impl(self) -> None:
        self.compiled: Any = self._compiled()
        self._request: Any = self.compiled.create_infer_request()
        places = {name: index for index, found in enumerate(self.compiled.outputs) for name in found.names}
        self._places = [(spec.name, places[spec.name]) for spec in self.signature.outputs]

    def _compiled(self, **watching: Any) -> Any:
        library: Any = require("openvino", extra="cpu")
        converted = self.artifact.manifest.format == "openvino"
        path = self.artifact.file(GRAPH_FILE if converted else MODEL_FILE)
        settings = {
            "PERFORMANCE_HINT": self.hint.upper(),
            "INFERENCE_PRECISION_HINT": _PRECISIONS.get(self.artifact.manifest.precision, "f32"),
            "INFERENCE_NUM_THREADS": self.threads,
            **({"NUM_STREAMS": 1} if self.hint == "latency" else {}),
            **watching,
        }
        try:
            return library.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as exc:
            raise ArtifactError(f"OpenVINO cannot open {path}: {str(exc).strip().splitlines()[0]}") from exc

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._request.infer(inputs, share_inputs=True)
        tensor = self._request.get_output_tensor
        return {name: tensor(place).data.copy() for name, place in self._places}

    def _layers_impl(self) -> list[Layer]:
        """The compiled graph by the kernels that were chosen; constants, inputs and outputs left out."""
        found = []
        for node in self.compiled.get_runtime_model().get_ops():
            info = {key: _text(value) for key, value in node.get_rt_info().items()}
            kind, precision = info["layerType"], executed_name(info["runtimePrecision"])
            if kind not in ("Const", "Constant", "Input", "Output"):
                layer = Layer(node.friendly_name, kind, precision, "cpu", kind in _COMPUTING)
                found.append((int(info.get("execOrder", "0")), layer))
        return [layer for _, layer in sorted(found, key=lambda each: each[0])]

    def _layer_times_impl(self, inputs: Mapping[str, np.ndarray], num_calls: int) -> list[LayerTime]:
        """By the engine's own counters; what was fused into another node is not executed by itself."""
        request = self._compiled(PERF_COUNT=True).create_infer_request()
        spent: dict[str, list[float]] = defaultdict(list)
        kinds: dict[str, tuple[str, str]] = {}
        for _ in range(num_calls):
            request.infer(inputs, share_inputs=True)
            for found in request.get_profiling_info():
                if found.status.name == "EXECUTED":
                    spent[found.node_name].append(found.real_time.total_seconds())
                    kinds[found.node_name] = found.node_type, found.exec_type.rpartition("_")[2]
        return [
            LayerTime(name, kinds[name][0], executed_name(kinds[name][1]), (name,), statistics.median(times))
            for name, times in spent.items()
        ]

    def close(self) -> None:
        """Free the compiled model."""
        self._request = self.compiled = None
