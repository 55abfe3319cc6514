"""OpenVINO on the CPU, with the precision pinned to what was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lissom.errors import ArtifactError, RequestError
from lissom.optional import require
from lissom.runtime.base import Layer, LayerTime, Runtime, executed_name
from lissom.runtime.lookups import check_lookups, lookups
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.open_vino_rounding import drop_roundings

_COMPUTING = ("Convolution", "GroupConvolution", "MatMul", "FullyConnected", "Deconvolution")
GRAPH_FILE, WEIGHTS_FILE = "model.xml", "model.bin"
_PRECISIONS = {"bfloat16": "bf16", "float16": "f16"}
_PLACES = ("Exception from ", "FrontEnd API failed", "While validating ", "Summary:")
"""How lines of an error begin that say where it was raised."""
_CHECK = re.compile(r"\s*Check '.*' failed at \S+:\d+:?")
"""The condition that did not hold, in OpenVINO's own code."""
_MOST_CHARACTERS = 400
_FIRST_CALLS = 3
"""Calls that prepare weights and memory, hundreds of times slower than those that follow."""


def _text(value: Any) -> str:
    """What OpenVINO keeps about a node, which it wraps in a type of its own or not."""
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def reason_of(exc: BaseException) -> str:
    r"""What OpenVINO complains of: its first lines only say where in its own code, its last one sums it up.

    >>> reason_of(RuntimeError("Exception from a.cpp:1:\nCheck 'b' failed at c.cpp:2:\nunknown rank\n"))
    'unknown rank'
    """
    lines = [_CHECK.sub("", line).strip().removeprefix("-- ") for line in str(exc).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_PLACES)]
    told = telling[:1] + telling[-1:] if len(telling) > 1 else telling or lines[:1]
    return " ".join(dict.fromkeys(told))[:_MOST_CHARACTERS] or type(exc).__name__


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
            "INFERENCE_PRECISION_HINT": _precision_hint(library, self.artifact.manifest.precision),
            "INFERENCE_NUM_THREADS": self.threads,
            **({"NUM_STREAMS": 1} if self.hint == "latency" else {}),
            **watching,
        }
        try:
            core = library.Core()
            model = core.read_model(str(path))
            drop_roundings(model)
            self._lookups = lookups(model)
            return core.compile_model(model, "CPU", settings)
        except RuntimeError as exc:
            raise ArtifactError(f"OpenVINO cannot open {path}: {reason_of(exc)}") from exc

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        check_lookups(self._lookups, inputs)
        try:
            self._request.infer(inputs, share_inputs=True)
        except RuntimeError as exc:  # an index out of range, or a size that the graph cannot have
            raise RequestError(f"the model does not take these values: {reason_of(exc)}") from exc
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
        """By the engine's own counters; what was fused into another node is not executed by itself.

        A counter is the mean of all calls since the model was compiled, in whole microseconds, so that the
        first ones have to be taken out of it. What takes less than one counts as not run, except in the first
        call, which is slow. One stream, because every stream counts for itself.
        """
        compiled = self._compiled(PERF_COUNT=True, NUM_STREAMS=1)
        request = compiled.create_infer_request()
        counted: list[dict[str, Any]] = []
        for calls in (1, _FIRST_CALLS - 1, num_calls):
            for _ in range(calls):
                request.infer(inputs, share_inputs=True)
            counted.append({found.node_name: found for found in request.get_profiling_info()})
        _, first, last = counted
        fused = _fused_names(compiled)
        return [
            LayerTime(
                name,
                found.node_type,
                executed_name(found.exec_type.rpartition("_")[2]),
                (name, *fused.get(name, ())),
                _mean_seconds(first.get(name), found, num_calls),
            )
            for name, found in last.items()
            if "EXECUTED" in {one[name].status.name for one in counted if name in one}
        ]

    def close(self) -> None:
        """Free the compiled model."""
        self._request = self.compiled = None


def _precision_hint(library: Any, precision: str) -> str:
    """In which floats OpenVINO shall compute; asked for f16 where it has none, it would take bf16."""
    wanted = _PRECISIONS.get(precision, "f32")
    can = library.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") if wanted == "f16" else ["FP16"]
    return wanted if "FP16" in can else "f32"


def _fused_names(compiled: Any) -> dict[str, tuple[str, ...]]:
    """Nodes of the given model that each node of a compiled one stands for, the last of them first."""
    nodes = compiled.get_runtime_model().get_ops()
    told = {node.friendly_name: _text(node.get_rt_info()["originalLayersNames"]) for node in nodes}
    return {name: tuple(part for part in text.split(",")[::-1] if part) for name, text in told.items()}


def _mean_seconds(first: Any | None, last: Any, num_calls: int) -> float:
    """Mean of the calls after the first ones, of counters that hold the mean of all so far."""
    before = _FIRST_CALLS * first.real_time.total_seconds() if first is not None else 0.0
    total: float = (_FIRST_CALLS + num_calls) * last.real_time.total_seconds()
    return max(total - before, 0.0) / num_calls
