"""ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lissom.errors import ArtifactError, MachineError, RequestError
from lissom.optional import require
from lissom.runtime.base import Runtime

MODEL_FILE = "model.onnx"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(Runtime):
    """An inference session with full graph optimisation."""

    name = "onnxruntime"
    thread_safe = True
    devices = ("cpu", "cuda")

    def _open_impl(self) -> None:
        self._library: Any = require("onnxruntime", extra="cpu")
        self.session: Any = self._session(self._options())
        if (provider := _PROVIDERS[self.device]) not in self.session.get_providers():
            raise MachineError(
                f"ONNX Runtime was asked for {provider} and fell back to the CPU",
                hint="lissom doctor says why; leave --device out for the CPU",
            )
        self._names = [spec.name for spec in self.signature.outputs]

    def _options(self) -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        # Idle threads of one session would otherwise spin on the cores of the next that is measured.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def _session(self, options: Any) -> Any:
        path = self.artifact.file(MODEL_FILE)
        errors = self._library.capi.onnxruntime_pybind11_state
        faults = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf)
        try:
            return self._library.InferenceSession(str(path), options, providers=[_PROVIDERS[self.device]])
        except (*faults, errors.NotImplemented) as exc:
            raise ArtifactError(f"ONNX Runtime cannot open {path}: {exc}") from exc

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            outputs = self.session.run(self._names, dict(inputs))
        except self._library.capi.onnxruntime_pybind11_state.InvalidArgument as exc:
            # Of inputs whose dtypes and shapes were checked: an index, such as a token, that is out of range.
            raise RequestError(f"the model does not take these values: {_cause(exc)}") from exc
        return dict(zip(self._names, outputs, strict=True))

    def executed(self) -> dict[str, int]:
        """Convolutions and matrix products of the optimised graph by the type they compute in."""
        onnx = require("onnx", extra="cpu")
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            # Hardware-specific layouts would hide the operators' names.
            options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            self._session(options)
            graph = onnx.load(options.optimized_model_filepath).graph
        return dict(Counter(kind for node in graph.node if (kind := _executed_type(node))))


def _cause(exc: Exception) -> str:
    """The end of the engine's message, without the name of its node."""
    return str(exc).rpartition("Status Message: ")[2].strip().splitlines()[0]


_INTEGER = (
    *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM"),
)


def _executed_type(node: Any) -> str | None:
    kind: str = node.op_type
    if kind in _INTEGER:
        return "int8"
    if kind == "MatMulNBits":
        bits = next((item.i for item in node.attribute if item.name == "bits"), 4)
        return f"weight-int{bits}"
    if kind.removeprefix("Fused") in ("Conv", "Gemm", "MatMul", "LSTM", "GRU", "RNN"):
        return "float32"
    return None
