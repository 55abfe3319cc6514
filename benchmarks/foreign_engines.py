"""ONNX files opened by ONNX Runtime and OpenVINO themselves: SQNR and latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from foreign_peers import feeds

from lissom.bench.statistics import ratio
from lissom.runtime.open_vino_rounding import drop_roundings

ENGINES = ("onnxruntime", "openvino")
OURS = {"lissom", "same"}
"""Files that lissom makes: by default, and where it is asked for no more than the better peer has."""
_ROUNDS, _ROUND_SECONDS = 24, 0.02
_ENOUGH_SQNR = 200.0
"""Given for outputs without an error."""


class OrtFile:
    """A file opened by ONNX Runtime itself."""

    def __init__(self, path: Path, *, ours: bool = False) -> None:
        import onnxruntime

        del ours  # read like any other

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.outputs = [one.name for one in self._session.get_outputs()]
        self.inputs = {one.name for one in self._session.get_inputs()}

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: tensor for name, tensor in inputs.items() if name in self.inputs}
        return dict(zip(self.outputs, self._session.run(None, given), strict=True))


class OpenVinoFile:
    """A file opened by OpenVINO itself, computing in float32 where it computes in floating point.

    One of lissom's is read as lissom reads it when it serves or exports it.
    """

    def __init__(self, path: Path, *, ours: bool = False) -> None:
        import openvino

        core, settings = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
        model = core.read_model(str(path))
        if ours:
            drop_roundings(model)
        self._compiled = core.compile_model(model, "CPU", settings)
        self.inputs = {name for one in self._compiled.inputs for name in one.names}
        # A tensor may have names of inner nodes beside that of the output.
        self.outputs = {value.name for value in onnx.load(str(path)).graph.output}

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: tensor for name, tensor in inputs.items() if name in self.inputs}
        found = self._compiled(given)
        named = ((name, one) for one in self._compiled.outputs for name in one.names)
        return {name: np.array(found[one]) for name, one in named if name in self.outputs}


OPEN: dict[str, Callable[..., Any]] = {"onnxruntime": OrtFile, "openvino": OpenVinoFile}


def sqnr(
    before: Path, after: Path, arrays: Mapping[str, np.ndarray], engine: str, *, ours: bool = False
) -> float:
    """Decibel of the worst floating-point output over the held-out rows, float file and int8 file alike."""
    float_call, int8_call = OPEN[engine](before), OPEN[engine](after, ours=ours)
    signal_power: dict[str, float] = {}
    noise_power: dict[str, float] = {}
    for inputs in feeds(onnx.load(str(before)), dict(arrays)):
        wanted, found = float_call(inputs), int8_call(inputs)
        for name, tensor in wanted.items():
            if tensor.dtype.kind != "f":
                continue
            one, other = tensor.astype(np.float64), found[name].astype(np.float64).reshape(tensor.shape)
            signal_power[name] = signal_power.get(name, 0.0) + float(np.square(one).sum())
            noise_power[name] = noise_power.get(name, 0.0) + float(np.square(one - other).sum())
    figures = [
        _ENOUGH_SQNR if not noise else 10 * float(np.log10(max(signal_power[name], 1e-300) / noise))
        for name, noise in noise_power.items()
    ]
    return min(figures)


def sqnrs(
    model: Path, paths: Mapping[str, Path], arrays: Mapping[str, np.ndarray], engine: str
) -> dict[str, float | str]:
    """Of every int8 file on one engine."""
    return {
        name: outcome(partial(sqnr, model, path, arrays, engine, ours=name in OURS))
        for name, path in paths.items()
    }


def latencies(model: Path, paths: Mapping[str, Path], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How many times as slow each of lissom's int8 files is as the float file and each peer's, by engine."""
    if not OURS & set(paths):
        return {}
    inputs = next(feeds(onnx.load(str(model)), dict(arrays)))
    found: dict[str, Any] = {}
    for engine in ENGINES:
        calls = {}
        for name, path in {"float": model, **paths}.items():
            with suppress(Exception):  # a peer may write a file that its own engine does not open
                call = OPEN[engine](path, ours=name in OURS)
                call(inputs)
                calls[name] = call
        rounds = interleaved(calls, inputs)
        others = {name: times for name, times in rounds.items() if name not in OURS}
        found[engine] = {
            one: {name: list(ratio(rounds[one], times)) for name, times in others.items()}
            for one in sorted(OURS & set(rounds))
        }
    return found


def interleaved(calls: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> dict[str, list[list[float]]]:
    """Milliseconds of every call by round, every file in every round."""
    rounds: dict[str, list[list[float]]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call(inputs)
    for index in range(_ROUNDS):
        for name in list(calls)[:: 1 if index % 2 else -1]:
            call, spent, limit = calls[name], [], time.perf_counter() + _ROUND_SECONDS
            call(inputs)
            while len(spent) < 3 or time.perf_counter() < limit:
                started = time.perf_counter()
                call(inputs)
                spent.append((time.perf_counter() - started) * 1e3)
            rounds[name].append(spent)
    return rounds


def outcome(run: Callable[[], float]) -> float | str:
    """A figure, or why there is none."""
    try:
        return round(run(), 2)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}".splitlines()[0][:160]
