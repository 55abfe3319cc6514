"""ONNX Runtime on the CPU, or on a GPU through CUDA."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lissom.errors import ArtifactError, MachineError, RequestError
from lissom.optional import require
from lissom.runtime.base import Layer, LayerTime, Runtime

MODEL_FILE = "model.onnx"
_TIMED = "_kernel_time"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(Runtime):
    """An inference session with full graph optimisation."""

    name = "onnxruntime"
    thread_safe = True
    devices = ("cpu", "cuda")

    def _open_impl(self) -> None:
        self._library: Any = require("onnxruntime", extra="cpu")
        if self.device == "cuda":
            _load_cuda(self._library)
        self.session: Any = self._session(self._options())
        if self.provider not in self.session.get_providers():
            raise MachineError(
                f"ONNX Runtime was asked for {self.provider} and fell back to the CPU",
                hint="lissom doctor says why; leave --device out for the CPU",
            )
        self._names = [spec.name for spec in self.signature.outputs]
        state = self._library.capi.onnxruntime_pybind11_state
        # Of inputs whose dtypes and shapes were checked: an index, such as a token, that is out of range, or
        # a size that the graph cannot have.
        self._faults = (state.InvalidArgument, state.Fail, state.RuntimeException)

    @property
    def provider(self) -> str:
        """The execution provider that was asked for."""
        return _PROVIDERS[self.device]

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
            return self._library.InferenceSession(str(path), options, providers=[self.provider])
        except (*faults, errors.NotImplemented) as exc:
            raise ArtifactError(f"ONNX Runtime cannot open {path}: {exc}") from exc

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            outputs = self.session.run(self._names, inputs)
        except self._faults as exc:
            raise RequestError(f"the model does not take these values: {_cause(exc)}") from exc
        return dict(zip(self._names, outputs, strict=True))

    def _layers_impl(self) -> list[Layer]:
        """The optimised graph, each node with the execution provider that it was given to."""
        onnx = require("onnx", extra="cpu")
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            # Hardware-specific layouts would hide the operators' names.
            options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            session = self._session(options)
            graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
        places = {
            node.name: part.ep_name
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        }
        # A fused node has a name of its own; what was fused was given to the provider that was asked for.
        return [
            Layer(node.name, node.op_type, kind or "", places.get(node.name, self.provider), bool(kind))
            for node, kind in zip(graph.node, _executed_types(graph), strict=True)
        ]

    def _layer_times_impl(self, inputs: Mapping[str, np.ndarray], num_calls: int) -> list[LayerTime]:
        """By the engine's own profile of the graph that it executes."""
        onnx = require("onnx", extra="cpu")
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.optimized_model_filepath = str(Path(folder) / "executed.onnx")
            options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
            session = self._session(options)
            for _ in range(num_calls):
                session.run(self._names, inputs)
            events = json.loads(Path(session.end_profiling()).read_bytes())
            graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
        spent: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_TIMED):
                spent[event["name"].removesuffix(_TIMED)].append(event["dur"] / 1e6)
        return [
            LayerTime(
                node.name,
                node.op_type,
                kind or "",
                (*node.output, node.name),
                statistics.median(spent[node.name]),
            )
            for node, kind in zip(graph.node, _executed_types(graph), strict=True)
            if node.name in spent
        ]

    def elsewhere(self) -> list[str]:
        """Convolutions and products that were left to the CPU; shapes are computed there on purpose."""
        layers = (self.layers() or ()) if self.device != "cpu" else ()
        return [layer.name for layer in layers if layer.computes and layer.place != self.provider]


def _load_cuda(library: Any) -> None:
    """Load CUDA and cuDNN where pip has put them; what is missing shows when the session is opened."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        library.preload_dlls()


def _cause(exc: Exception) -> str:
    """The end of the engine's message, without the name of its node."""
    return str(exc).rpartition("Status Message: ")[2].strip().splitlines()[0]


_INTEGER = (
    *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM"),
)


_FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""Floating types by their number in ONNX."""


def _executed_types(graph: Any) -> list[str | None]:
    """The type in which each node multiplies, in order; None for one that does not.

    Types are known of inputs, weights and casts; every other operator gives what it reads.
    """
    known = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = []
    for node in graph.node:
        read = next((known[name] for name in node.input if known.get(name) in _FLOATS), 1)
        made = next((item.i for item in node.attribute if item.name == "to"), read)
        known |= dict.fromkeys(node.output, made if node.op_type == "Cast" else read)
        found.append(_executed_type(node, _FLOATS[read]))
    return found


def _executed_type(node: Any, floating: str) -> str | None:
    kind: str = node.op_type
    if kind in _INTEGER:
        return "int8"
    if kind == "MatMulNBits":
        bits = next((item.i for item in node.attribute if item.name == "bits"), 4)
        return f"weight-int{bits}"
    if kind.removeprefix("Fused") in ("Conv", "Gemm", "MatMul", "LSTM", "GRU", "RNN"):
        return floating
    return None
