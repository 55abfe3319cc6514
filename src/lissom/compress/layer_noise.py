"""Layer noise: what it costs when one layer alone computes in int8.

A layer is a node of the ONNX graph that multiplies by weights: a convolution or a product. Each is quantized
on a copy of the model, as the stage `quantize` would at first, with all others in float32. On the select
split, or on the calibrate split where the data have no other,

    sqnr        10 log10 of the power of the float32 outputs over that of the error, of the worst output
    agreement   share of answers that stay the same
    drop        score of the float32 model minus that of the copy, with labels

A layer with a small ratio is the first that should stay float32. Errors do not simply add up: some cancel,
and a layer that is harmless alone can be hurt by the noise of those before it. What the whole model loses is
measured by `quantize`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lissom.artifact import Artifact, sweep_temporary
from lissom.compress.measurements import MEASURED_NAME, context_of, keep, kept
from lissom.compress.quantization import check_model, first_plan, ladder_of
from lissom.compress.quantizing.evidence import Judge
from lissom.compress.quantizing.graph import Graph, Layer
from lissom.compress.quantizing.static import Plan, StaticQuantizer
from lissom.errors import ModelError
from lissom.logs import Progress
from lissom.models.data import Data
from lissom.models.stages import Context
from lissom.optional import require, version
from lissom.recipe import QuantizeConfig
from lissom.runtime.machine import machine
from lissom.runtime.onnx_runtime import MODEL_FILE

LAYER_NOISE_SCHEMA = "lissom.layer-noise/1"
NO_NOISE_DB = 200.0
"""Stands for outputs that are equal; its negative for outputs that are not finite."""


class NoisyLayer(NamedTuple):
    """One layer, when it alone computes in int8.

    Attributes:
        name: Of the node.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        num_weights: That it multiplies by.
        sqnr_db: Of the worst output; 200 where nothing changes, -200 where an output is not finite.
        agreement: Share of answers that stay the same.
        score: Mean score; None without labels.
        drop: Score of the float32 model minus it; None without labels.
    """

    name: str
    op_type: str
    num_weights: int
    sqnr_db: float
    agreement: float
    score: float | None
    drop: float | None


@dataclass(frozen=True)
class LayerNoise:
    """Every layer of a model, the noisiest first.

    Attributes:
        model: MODEL, without the folders above it.
        data: DATA.
        target: Machine whose integers are used: x86 or arm.
        machine: The processor that it was measured on, and its cores.
        split: What it was measured on: select or calibrate.
        num_samples: Samples of it that were looked at.
        score_name: What the mean score is called.
        score: Of the float32 model; None without labels.
        layers: The layers.
    """

    model: str
    data: str
    target: str
    machine: str
    split: str
    num_samples: int
    score_name: str
    score: float | None
    layers: tuple[NoisyLayer, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        layers = [layer._asdict() for layer in self.layers]
        found: dict[str, Any] = json.loads(json.dumps({**asdict(self), "layers": layers}))
        return {"schema": LAYER_NOISE_SCHEMA, **found}


class LayerPlan(NamedTuple):
    """A layer that would be measured, unless it was."""

    name: str
    op_type: str
    num_weights: int
    is_measured: bool


class NoisePlan(NamedTuple):
    """What a run would measure, and about how many seconds it would take."""

    layers: tuple[LayerPlan, ...]
    seconds: float


@dataclass(frozen=True)
class NoiseStudy:
    """A model whose layers are to be measured.

    Attributes:
        name: MODEL, without the folders above it.
        artifact: The ONNX model.
        context: As a stage that starts from the artifact would have it.
        config: How the stage would quantize it; its ladder is not climbed.
        folder: Where measurements are kept.
        plan: The first of the ladder, with nothing excluded: a layer alone is the same whatever else is.
        quantizer: Makes the copies.
        judge: Compares them with the float32 model.
        layers: Of the model, in its order.
    """

    name: str
    artifact: Artifact
    context: Context
    config: QuantizeConfig
    folder: Path
    plan: Plan
    quantizer: StaticQuantizer
    judge: Judge
    layers: Sequence[Layer]

    def num_weights(self, layer: Layer) -> int:
        """That a layer multiplies by."""
        return int(Graph(self.quantizer.model).array(layer.weight).size)


def study_of(
    artifact: Artifact, data: Data, config: QuantizeConfig, *, name: str, folder: Path
) -> NoiseStudy:
    """Find the layers of a model.

    Args:
        artifact: A float32 ONNX model.
        data: As the artifact takes them.
        config: Of mode static; what it excludes is not measured.
        name: What the model is called.
        folder: Of the run.

    Raises:
        DataError: the calibrate split is too small, or of one class.
        ModelError: the model is quantized already, too old, has no layer, or an excluded node is unknown.
    """
    path = artifact.file(MODEL_FILE)
    check_model(require("onnx", extra="cpu").load(path))
    context = context_of(artifact, data)
    ladder, _ = ladder_of(path, artifact, config, context)
    model = ladder.quantizer.model
    layers = [layer for layer in Graph(model).layers if layer.name not in config.exclude]
    if not layers:
        hint = "exclude fewer nodes" if config.exclude else "`lissom quantize --mode dynamic` quantizes LSTM"
        raise ModelError("no convolution or product with weights is left to quantize", hint=hint)
    plan = first_plan(model, config)._replace(exclude=())
    folder = folder / MEASURED_NAME
    return NoiseStudy(name, artifact, context, config, folder, plan, ladder.quantizer, ladder.judge, layers)


def plan(study: NoiseStudy) -> NoisePlan:
    """What `measure` would do; nothing is written."""
    layers = [
        LayerPlan(
            layer.name,
            layer.op_type,
            study.num_weights(layer),
            kept(study.folder, _inputs(study, layer), _Figures) is not None,
        )
        for layer in study.layers
    ]
    missing = [layer.name for layer in layers if not layer.is_measured]
    return NoisePlan(tuple(layers), _seconds(study, missing) if missing else 0.0)


def measure(study: NoiseStudy, *, progress: Progress) -> LayerNoise:
    """Measure every layer, or read what was measured before."""
    study.folder.mkdir(parents=True, exist_ok=True)
    sweep_temporary(study.folder)
    found = []
    with progress.task("sensitivity", len(study.layers)) as advance:
        for layer in study.layers:
            found.append(_noisy(study, layer))
            advance(1)
    judge, here = study.judge, machine()
    number = len(judge.data.indices[judge.split])
    return LayerNoise(
        study.name,
        study.context.data.source,
        study.quantizer.scheme.target,
        f"{here['cpu']}, {here['cores']} cores",
        judge.split,
        number if judge.labelled else min(number, judge.max_samples),
        study.context.task.score_name,
        judge.score,
        tuple(sorted(found, key=lambda layer: layer.sqnr_db)),
    )


def _noisy(study: NoiseStudy, layer: Layer) -> NoisyLayer:
    """One measurement, from the disk where it is there."""
    inputs = _inputs(study, layer)
    figures = kept(study.folder, inputs, _Figures)
    if figures is None:
        found = study.judge(study.quantizer.build(study.plan, only=layer.name))
        figures = keep(study.folder, inputs, _Figures(found.sqnr_db, found.agreement, found.score))
    whole = study.judge.score
    drop = None if whole is None or figures.score is None else whole - figures.score
    return NoisyLayer(layer.name, layer.op_type, study.num_weights(layer), *figures, drop)


class _Figures(NamedTuple):
    """What one measurement gives, as it is kept."""

    sqnr_db: float
    agreement: float
    score: float | None


def _seconds(study: NoiseStudy, missing: Sequence[str]) -> float:
    """Of measuring what is missing, from the first of it: ranges and the float32 model are needed once."""
    started = time.perf_counter()
    study.quantizer.calibration(study.plan)
    calibrated = time.perf_counter()
    model = study.quantizer.build(study.plan, only=missing[0])
    built = time.perf_counter()
    study.judge(model)
    judged_first = time.perf_counter()
    study.judge(model)
    judged = time.perf_counter()
    once = calibrated - started + judged_first - built
    return once + (built - calibrated + judged - judged_first) * len(missing)


def _inputs(study: NoiseStudy, layer: Layer) -> dict[str, Any]:
    """All that decides a measurement."""
    splits, here = study.context.data.split_hashes, machine()
    return {
        "study": LAYER_NOISE_SCHEMA,
        "model": study.artifact.digest,
        "task": study.context.fields["task"],
        "splits": {name: splits[name] for name in ("calibrate", "select")},
        "layer": layer.name,
        "scheme": study.quantizer.scheme._asdict(),
        "plan": study.plan._asdict(),
        "num_samples": study.config.num_samples,
        "tools": {name: version(name) for name in ("lissom", "onnx", "onnxruntime")},
        "machine": {key: here[key] for key in ("cpu", "isa")},
    }
