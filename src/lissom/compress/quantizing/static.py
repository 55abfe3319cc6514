"""One static int8 model from a plan: rescale, calibrate, round, correct, and let ONNX Runtime place Q and DQ.

ONNX Runtime's quantizer does the placing; ranges are handed to it in the file in which it keeps those that it
finds itself. Everything else is a change of the float32 model before that, so that the last step is always
the same.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissom.compress.quantizing.activations import join_hard_swishes, parts_of_activations
from lissom.compress.quantizing.bias_correction import corrected
from lissom.compress.quantizing.calibration import Calibration
from lissom.compress.quantizing.graph import LAYERS, Graph, Layer, name_nodes
from lissom.compress.quantizing.observers import Range
from lissom.compress.quantizing.products import (
    add_grouped_biases,
    flatten_biases,
    free_names,
    products_from_einsum,
    separate_biases,
    store_constants,
)
from lissom.compress.quantizing.rescaling import equalized, smoothed
from lissom.compress.quantizing.rounding import Grid, adaptively_rounded
from lissom.compress.quantizing.scheme import Scheme
from lissom.errors import ModelError
from lissom.export.graphs import sort_nodes
from lissom.logs import NoProgress, Progress, quiet_quantizer
from lissom.optional import require
from lissom.runtime.layout import Layout

_UNROUNDED = ("MatMul", "Gemm")
"""Layers whose output stays as it is where layers alone are quantized."""
_MAX_CALIBRATIONS = 1
"""Kept beside those of the model as it was, and the newest."""


class Plan(NamedTuple):
    """How a model is quantized, beside its scheme.

    Attributes:
        operators: all that ONNX Runtime has in int8, or layers: convolutions and products with weights alone.
        observer: How the range of an activation is found.
        equalized: Channels of layers that follow each other get equal ranges first.
        smoothing: Share of an activation's range that moves into the weights; 0 moves nothing.
        everywhere: Smooth also where that takes a multiplication more.
        corrected: The mean that rounding adds is taken off the biases.
        rounded: Weights are rounded by AdaRound instead of to the nearest.
        per_tensor: A weight has one scale even where the scheme gives each channel one.
        exclude: Names of nodes that stay float32.
    """

    operators: str = "all"
    observer: str = "minmax"
    equalized: bool = False
    smoothing: float = 0.0
    everywhere: bool = False
    corrected: bool = False
    rounded: bool = False
    per_tensor: bool = False
    exclude: tuple[str, ...] = ()

    @property
    def _float_part(self) -> tuple[Any, ...]:
        """What decides the float32 model that is calibrated."""
        return (self.equalized, self.smoothing, self.everywhere)


class Ranges(NamedTuple):
    """What is known of the tensors of a model.

    Attributes:
        known: Ranges by name of the tensor.
        rangeless: Why the others have none, by name.
    """

    known: Mapping[str, Range]
    rangeless: Mapping[str, str]


@dataclass
class StaticQuantizer:
    """Makes int8 models of one float32 model.

    Attributes:
        model: The float32 model, as `prepared` gives it.
        samples: Calibration samples by input name, shape [samples, ...].
        scheme: How numbers become integers.
        seed: Of AdaRound.
        progress: Shows how far what takes long is.
        layout: Where the samples lie in the tensors of the model; None where on axis 0 of all.
    """

    model: Any
    samples: Mapping[str, np.ndarray]
    scheme: Scheme
    seed: int = 0
    progress: Progress = field(default_factory=NoProgress)
    layout: Layout | None = None

    def __post_init__(self) -> None:
        self._calibrations: dict[tuple[Any, ...], Calibration] = {}
        self._rounded: dict[Plan, Any] = {}
        self._grids: dict[Plan, Mapping[str, Grid]] = {}

    def build(self, plan: Plan, *, only: str | None = None) -> Any:
        """The int8 model of a plan; `only` quantizes one node and leaves the others float32."""
        calibration = self.calibration(plan)
        ranges = self._ranges(plan, calibration)
        model = calibration.model
        layers = _quantized_layers(model, plan, only)
        if plan.rounded:
            model = _with_weights(model, self._adaptively_rounded(plan, calibration, ranges), layers)
        if plan.corrected:
            own, graph = Graph(calibration.model), Graph(model)
            grids = self._grids_of(plan, calibration, ranges)
            errors = {
                layer.name: nearest(graph.array(layer.weight), grids[layer.weight]) - own.array(layer.weight)
                for layer in layers
                if layer.weight in grids
            }
            means = {name: channels.mean for name, channels in calibration.channels.items()}
            model = corrected(model, errors, means)
        calibration.rest()
        return self._quantized(model, plan, ranges, only)

    def calibration(self, plan: Plan) -> Calibration:
        """What the tensors of the float32 model of a plan hold."""
        key = plan._float_part
        if key not in self._calibrations:
            model = equalized(self.model) if plan.equalized else self.model
            if plan.smoothing:
                before = self.calibration(plan._replace(smoothing=0.0, everywhere=False))
                largest = {name: channels.largest for name, channels in before.channels.items()}
                model = smoothed(model, largest, alpha=plan.smoothing, everywhere=plan.everywhere)
            progress = NoProgress() if self._calibrations else self.progress  # one bar says how long it takes
            typed = model if model is self.model else inferred(model)  # one as large, and as good
            found = Calibration(typed, self.samples, progress, self.layout)
            kept = list(self._calibrations.items())  # each holds a model and its session: few are kept
            self._calibrations = dict(kept[:1] + kept[1:][-_MAX_CALIBRATIONS:]) | {key: found}
        return self._calibrations[key]

    def float_nodes(self, plan: Plan) -> dict[str, str]:
        """Why nodes stay in float whatever the plan says, by name."""
        calibration = self.calibration(plan)
        return rangeless_nodes(calibration.model, calibration.rangeless, plan)

    def _ranges(self, plan: Plan, calibration: Calibration) -> Ranges:
        found = calibration.ranges(plan.observer, symmetric=self.scheme.symmetric)
        return Ranges(found, calibration.rangeless)

    def _adaptively_rounded(self, plan: Plan, calibration: Calibration, ranges: Ranges) -> Any:
        """The float32 model with the weights of every layer of a plan rounded, and perhaps of more."""
        model = _of_more_layers(self._rounded, plan)
        if model is None:
            grids = self._grids_of(plan._replace(rounded=False), calibration, ranges)
            with self.progress.task("quantize: adaround", len(grids)) as advance:
                model = adaptively_rounded(
                    calibration.model, grids, calibration, seed=self.seed, advance=advance
                )
            self._rounded = {plan._replace(corrected=False): model}
        return model

    def _grids_of(self, plan: Plan, calibration: Calibration, ranges: Ranges) -> Mapping[str, Grid]:
        """What ONNX Runtime lets the weights be, of every layer of a plan and perhaps of more."""
        grids: Mapping[str, Grid] | None = _of_more_layers(self._grids, plan)
        if grids is None:
            model = calibration.model
            if plan.rounded:
                model = self._adaptively_rounded(plan, calibration, ranges)
            grids = weight_grids(model, self._quantized(model, plan, ranges, None))
            self._grids[plan._replace(corrected=False)] = grids
        return grids

    def _quantized(self, model: Any, plan: Plan, ranges: Ranges, only: str | None) -> Any:
        tool: Any = require("onnxruntime.quantization", extra="cpu")
        calibrate: Any = require("onnxruntime.quantization.calibrate", extra="cpu")
        onnx = require("onnx", extra="cpu")
        scheme, kinds = self.scheme, tool.QuantType
        method = tool.CalibrationMethod.MinMax
        values = {
            name: (np.float32(found.low), np.float32(found.high)) for name, found in ranges.known.items()
        }
        with tempfile.TemporaryDirectory() as place, quiet_quantizer():
            folder = Path(place)
            source, cache, target = folder / "float.onnx", folder / "ranges.json", folder / "int8.onnx"
            onnx.save(_without_passed(model), source)
            calibrate.save_tensors_data(
                calibrate.TensorsData(method, {name: _single(pair) for name, pair in values.items()}), cache
            )
            tool.quantize_static(
                str(source),
                str(target),
                None,
                quant_format=tool.QuantFormat.QDQ,
                op_types_to_quantize=list(LAYERS) if plan.operators == "layers" else None,
                per_channel=scheme.per_channel and not plan.per_tensor,
                reduce_range=scheme.reduce_range,
                activation_type=kinds.QInt8 if scheme.symmetric else kinds.QUInt8,
                weight_type=kinds.QInt8,
                nodes_to_quantize=[only] if only else _wanted(model, plan),
                nodes_to_exclude=[
                    *plan.exclude,
                    *rangeless_nodes(model, ranges.rangeless, plan),
                    *parts_of_activations(model),
                ],
                calibrate_method=method,
                calibration_cache_path=cache,
                extra_options=_options(scheme, plan),
            )
            made = onnx.load(target)
            sort_nodes(made.graph)
            del made.graph.output[:]
            made.graph.output.extend(model.graph.output)
            return made


def _quantized_layers(model: Any, plan: Plan, only: str | None) -> list[Layer]:
    layers = (layer for layer in Graph(model).layers if only is None or layer.name == only)
    return [layer for layer in layers if layer.name not in plan.exclude]


def _of_more_layers(known: Mapping[Plan, Any], plan: Plan) -> Any:
    """What was found for the same plan with at least its layers, each of which is rounded by itself."""
    wanted = plan._replace(corrected=False, exclude=())
    for other, found in known.items():
        if other._replace(exclude=()) == wanted and set(other.exclude) <= set(plan.exclude):
            return found
    return None


def _with_weights(model: Any, rounded: Any, layers: Sequence[Layer]) -> Any:
    """A copy of a model with the weights that some layers have in another; one of several layers stays."""
    changed = copy.deepcopy(model)
    graph, source = Graph(changed), Graph(rounded)
    for layer in layers:
        if graph.sole(layer.weight):
            graph.write(layer.weight, source.array(layer.weight))
    return changed


def _without_passed(model: Any) -> Any:
    """The model without the outputs that are its inputs, in which ONNX Runtime's quantizer sees a cycle."""
    inputs = {value.name for value in model.graph.input}
    kept = [value for value in model.graph.output if value.name not in inputs]
    if len(kept) == len(model.graph.output):
        return model
    copied = type(model)()
    copied.CopyFrom(model)
    del copied.graph.output[:]
    copied.graph.output.extend(kept)
    return copied


def prepared(path: Path) -> Any:
    """The model with norms folded into convolutions, constants computed, every value typed, every node named.

    Raises:
        ModelError: ONNX Runtime cannot read it.
    """
    onnx = require("onnx", extra="cpu")
    tool: Any = require("onnxruntime.quantization.shape_inference", extra="cpu")
    with tempfile.TemporaryDirectory() as place, quiet_quantizer():
        target = Path(place) / "prepared.onnx"
        try:
            source = _rewritten(path, Path(place))
            tool.quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        except Exception as exc:  # whatever shape inference or the optimizer stumbles over
            raise ModelError(f"the model cannot be prepared for quantization: {_first_line(exc)}") from exc
        model = onnx.load(target)
    add_grouped_biases(model)
    flatten_biases(model)
    separate_biases(model)
    join_hard_swishes(model)
    free_names(model)
    name_nodes(model)
    return model


def _rewritten(path: Path, folder: Path) -> Path:
    """The file itself, or one in `folder` where a product had to be rewritten."""
    onnx = require("onnx", extra="cpu")
    model = onnx.load(path, load_external_data=False)
    if not any(node.op_type == "Einsum" for node in model.graph.node):
        return path
    model = onnx.load(path)
    store_constants(model)
    if not products_from_einsum(model):
        return path
    onnx.save(model, folder / path.name)
    return folder / path.name


def rangeless_nodes(model: Any, rangeless: Mapping[str, str], plan: Plan) -> dict[str, str]:
    """Why nodes stay in float, by name: a tensor that they read or make has no range.

    Args:
        model: A float32 model.
        rangeless: Why tensors have no range, by name.
        plan: Says whether what a product gives is rounded too.
    """
    found = {}
    for node in model.graph.node if rangeless else ():
        rounded = plan.operators == "all" or node.op_type not in _UNROUNDED
        touched = (*node.input, *(node.output if rounded else ()))
        if tensor := next((name for name in touched if name in rangeless), ""):
            found[node.name] = f"tensor {tensor!r} has no range: {rangeless[tensor]}"
    return found


def inferred(model: Any) -> Any:
    """The model with the type of every value."""
    onnx = require("onnx", extra="cpu")
    if model.ByteSize() > _MAX_INFERRED:
        return model
    found = onnx.shape_inference.infer_shapes(model)
    found.metadata_props.extend(
        item for item in model.metadata_props if item.key not in {own.key for own in found.metadata_props}
    )
    return found


_MAX_INFERRED = 1_900_000_000
"""Bytes of a model that protobuf can still hand over."""


def weight_grids(model: Any, quantized: Any) -> dict[str, Grid]:
    """Scale and integers of the weights of the quantized layers, by name of the weight."""
    layers = {layer.name: layer for layer in Graph(model).layers}
    graph = Graph(quantized)
    grids = {}
    for node in quantized.graph.node:
        layer, maker = layers.get(node.name), graph.makers.get(node.input[1] if len(node.input) > 1 else "")
        if layer is None or maker is None or maker.op_type != "DequantizeLinear":
            continue
        integers, scale = graph.array(maker.input[0]), graph.array(maker.input[1])
        axis = next((item.i for item in maker.attribute if item.name == "axis"), layer.out_axis)
        if scale.ndim:
            scale = scale.reshape([-1 if place == axis else 1 for place in range(integers.ndim)])
        limit = int(np.abs(integers.astype(np.int64)).max())
        grids[layer.weight] = Grid(scale, -limit, limit)
    return grids


def nearest(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Values rounded to the nearest of a grid."""
    found: np.ndarray = np.clip(np.round(values / grid.scale), grid.low, grid.high) * grid.scale
    return found


def _single(pair: tuple[np.float32, np.float32]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([pair[0]], np.float32), np.array([pair[1]], np.float32)


def _wanted(model: Any, plan: Plan) -> list[str] | None:
    """Names of the nodes that may be quantized, or None for all.

    ONNX Runtime ignores `MatMulConstBOnly` in Q/DQ form: without names it would quantize products of two
    activations too, which costs attention its accuracy, and its fused kernel.
    """
    return [layer.name for layer in Graph(model).layers] if plan.operators == "layers" else None


def _options(scheme: Scheme, plan: Plan) -> dict[str, Any]:
    options: dict[str, Any] = {"WeightSymmetric": True, "ActivationSymmetric": scheme.symmetric}
    if plan.operators == "layers":
        # What follows a product computes in float32: rounding what it gives would cost time and accuracy.
        options["OpTypesToExcludeOutputQuantization"] = list(_UNROUNDED)
    if scheme.target == "tensorrt":
        options["QuantizeBias"] = False
    return options


def _first_line(exc: Exception) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0][:300]
