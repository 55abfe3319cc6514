"""The stage `quantize`: a model with fewer bits, as good as it gets, and what was tried on the way.

    static       int8 in Q/DQ form by ONNX Runtime's quantizer, which it and OpenVINO fuse. Ranges come from
                 the calibrate split alone: without calibration data there is an error, never random numbers.
    dynamic      int8 weights, ranges of activations found in every call; LSTM too.
    qat          a torch model is trained while its layers round, exported, and then static.
    weight-only  weights of 4 or 8 bits in groups, activations float32.

What a static model loses is measured on the select split; where it is too much, `Ladder` climbs.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lissom.artifact import Artifact
from lissom.compress.quantizing.dense_outputs import Judged, comparable, with_outputs_of
from lissom.compress.quantizing.dynamic import dynamic_model
from lissom.compress.quantizing.engines import Prover
from lissom.compress.quantizing.evidence import Goal, Judge, held_out
from lissom.compress.quantizing.graph import (
    RECURRENT,
    Graph,
    name_nodes,
    operator_counts,
)
from lissom.compress.quantizing.ladder import Ladder
from lissom.compress.quantizing.lean import Race, leaner
from lissom.compress.quantizing.preview import QuantizePreview, planned_layers
from lissom.compress.quantizing.scheme import scheme_of
from lissom.compress.quantizing.single_precision import in_float32
from lissom.compress.quantizing.static import Plan, StaticQuantizer, prepared
from lissom.compress.quantizing.unreached import unreached_layers
from lissom.compress.quantizing.weight_only import weight_only_model
from lissom.errors import DataError, ModelError, RecipeError, near
from lissom.export.graphs import random_nodes
from lissom.export.onnx_file import add_onnx
from lissom.export.onnx_from_torch import onnx_from_torch
from lissom.export.recognition import nested_layers, quantized_how
from lissom.models import processes
from lissom.models.data import Data
from lissom.models.stages import INT8_TOLERANCE, Context
from lissom.optional import require
from lissom.recipe import ExportConfig, QuantizeConfig
from lissom.runtime.layout import Layout
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.structure import load_model

_MIN_SAMPLES = 8
_MIN_OPSET = 13
"""The first in which a weight can have one scale for each channel."""


def quantize(parents: Mapping[str, Artifact], config: QuantizeConfig, context: Context) -> Artifact:
    """Quantize the ONNX model of the parent.

    Raises:
        DataError: the calibrate split is too small, of one class, or not finite.
        ModelError: the model is quantized already, too old, has nothing to quantize, or an excluded node is
            unknown.
    """
    parent = parents["input"]
    if config.trains:
        return _trained_first(parent, config, context)
    return _written(parent, parent.file(MODEL_FILE), config, context, {})


def _written(
    parent: Artifact, path: Path, config: QuantizeConfig, context: Context, noted: Mapping[str, Any]
) -> Artifact:
    """The artifact of an ONNX file that becomes quantized."""
    source = require("onnx", extra="cpu").load(path)
    check_model(source)
    with tempfile.TemporaryDirectory() as place:
        path = in_float32(path, Path(place))
        check_layers(require("onnx", extra="cpu").load(path), config.mode)
        model, precision, notes = _MODES[config.mode](path, parent, config, context)
    before = {**noted, "operators_before": len(source.graph.node)}
    _keep_outputs(model, source)
    with context.draft() as draft:
        signature = add_onnx(draft, model, parent.manifest.signature, context, precision=precision)
        return draft.commit(
            **context.fields,
            format="onnx",
            precision=precision,
            signature=signature,
            factory=None,
            num_parameters=parent.manifest.num_parameters,
            notes=before | operator_counts(model) | notes,
            tolerance=INT8_TOLERANCE,
        )


def _trained_first(parent: Artifact, config: QuantizeConfig, context: Context) -> Artifact:
    """Of several processes that train together, the first one writes and the others wait for it."""
    leads = processes.place().leads
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / MODEL_FILE
        history = _trained(parent, config, context, path)
        if leads:
            _written(parent, path, config, context, {"history": history})
    processes.wait()
    if leads:
        shutil.rmtree(context.work_folder, ignore_errors=True)
    return Artifact.open(context.folder)


def _trained(
    parent: Artifact, config: QuantizeConfig, context: Context, path: Path
) -> list[dict[str, float]]:
    """Train the model of the parent with rounding, and write it as ONNX; gives each epoch's figures."""
    from lissom.compress.quantizing.aware_training import train_rounded

    model = load_model(parent, plain=True)
    history = train_rounded(model, config.tuning, context, scheme_of(config))
    if processes.place().leads:
        opset = ExportConfig(name="export").opset
        found = onnx_from_torch(parent, context, opset=opset, model=model)
        require("onnx", extra="cpu").save(found, path)
    return history


def preview(parents: Mapping[str, Artifact], config: QuantizeConfig, context: Context) -> QuantizePreview:
    """What would be quantized: the plain model is made, and forgotten."""
    parent = parents["input"]
    if config.trains:
        raise RecipeError(
            "a dry run of qat would train the model", hint="--mode static --dry-run lists the same layers"
        )
    with tempfile.TemporaryDirectory() as place:
        return _previewed(in_float32(parent.file(MODEL_FILE), Path(place)), parent, config, context)


def _previewed(path: Path, parent: Artifact, config: QuantizeConfig, context: Context) -> QuantizePreview:
    source = require("onnx", extra="cpu").load(path)
    check_model(source)
    check_layers(source, config.mode)
    plain = config.model_copy(update={"ladder": False, "skip_slow": False})
    if config.mode == "static":
        model, precision, notes = _static(path, parent, plain, context, prove=False)
    else:
        model, precision, notes = _MODES[config.mode](path, parent, plain, context)
    reasons = {found["name"]: found["why"] for found in notes.get("float_nodes", ())}
    layers = planned_layers(prepared(path), model, mode=config.mode, exclude=config.exclude, reasons=reasons)
    number = min(config.num_samples, len(calibrating(context.data))) if config.mode == "static" else 0
    return QuantizePreview(
        config.mode,
        precision,
        notes.get("target", ""),
        notes.get("validated_here", True),
        number,
        (path.stat().st_size, model.ByteSize()),
        tuple(layers),
    )


Made = tuple[Any, str, dict[str, Any]]
"""A model, its precision, and what is noted of it."""


def _static(
    path: Path, parent: Artifact, config: QuantizeConfig, context: Context, *, prove: bool = True
) -> Made:
    ladder, judged = ladder_of(path, parent, config, context)
    first = first_plan(ladder.quantizer.model, config)
    first = first._replace(exclude=(*first.exclude, *judged.counted))
    _check_plan(ladder.quantizer.model, first)
    ladder.climb(first, rungs=None if config.ladder else ())
    if prove:
        ladder.prover = Prover(ladder.judge, ladder.goal, context, judged.signature)
        ladder.settle(search=config.ladder)
    scheme = ladder.quantizer.scheme
    # What is timed are the runtimes of this processor, which say nothing of TensorRT.
    timed = config.skip_slow and scheme.here and scheme.target != "tensorrt"
    offered = tuple(proof.runtime for proof in ladder.proofs if not proof.fault)
    variants = leaner(ladder, Race(context, judged.signature, offered)) if timed else []
    plan, model = ladder.plan, ladder.model
    if not operator_counts(model)["computing_int8"]:
        kept = ladder.quantizer.float_nodes(plan)
        raise _nothing_to_quantize(ladder.quantizer.model, "static", kept=kept)
    if judged.instead:
        model = with_outputs_of(model, prepared(path))
    notes = {
        "target": scheme.target,
        "validated_here": scheme.here,
        "reduce_range": scheme.reduce_range,
        "plan": plan._asdict(),
        "goal": ladder.goal._asdict(),
        "goal_reached": ladder.reached,
        "judged_on": ladder.judge.split,
        "judged_samples": ladder.judge.number,
        "held_out": len(held_out(context.data)),
        "parent_score": ladder.judge.score,
        "rungs": [trial.document() for trial in ladder.trials],
        "engines": [proof.document() for proof in ladder.proofs],
        "arithmetic": "exact" if scheme.exact else "native",
        "timed": [variant.document() for variant in variants],
    }
    if kept := ladder.quantizer.float_nodes(plan):
        notes["float_nodes"] = [{"name": name, "why": why} for name, why in kept.items()]
    if judged.instead:
        notes["judged_by"] = [spec.name for spec in judged.signature.outputs]
    if random := random_nodes(ladder.quantizer.model):
        notes["random_nodes"] = random
    if ladder.worst:
        notes["worst_layers"] = [{"name": name, "sqnr_db": sqnr} for name, sqnr in ladder.worst[:8]]
    return model, "int8", notes


def _dynamic(path: Path, parent: Artifact, config: QuantizeConfig, context: Context) -> Made:
    del parent, context
    scheme = scheme_of(config)
    whole = prepared(path)
    _check_excluded(whole, config)
    model = dynamic_model(whole, config, reduce_range=scheme.reduce_range)
    if not operator_counts(model)["computing_int8"]:
        raise _nothing_to_quantize(model, "dynamic")
    wanted = [node for node in model.graph.node if node.name not in config.exclude]
    kept = sorted({node.op_type for node in wanted if node.op_type in RECURRENT})
    notes = {"target": scheme.target, "validated_here": scheme.here, "reduce_range": scheme.reduce_range}
    return model, "int8", notes | ({"kept_float": kept} if kept else {})


def _weight_only(path: Path, parent: Artifact, config: QuantizeConfig, context: Context) -> Made:
    del parent, context
    model = require("onnx", extra="cpu").load(path)
    name_nodes(model)
    _check_excluded(model, config)
    model, number = weight_only_model(model, config)
    if not number:
        raise _nothing_to_quantize(model, "weight-only")
    precision = f"weight-int{config.bits}"
    return model, precision, {"weights_in_groups": number, "group_size": config.group_size}


_MODES: dict[str, Callable[[Path, Artifact, QuantizeConfig, Context], Made]] = {
    "static": _static,
    "qat": _static,
    "dynamic": _dynamic,
    "weight-only": _weight_only,
}


def ladder_of(
    path: Path, parent: Artifact, config: QuantizeConfig, context: Context
) -> tuple[Ladder, Judged]:
    """The ladder of a float32 ONNX file, before it is climbed, and what it compares.

    Raises:
        DataError: the calibrate split is too small, or of one class.
        ModelError: the model cannot be prepared, or an excluded node is unknown.
    """
    model = prepared(path)
    _check_excluded(model, config)
    samples = calibration_samples(context, config.num_samples)
    scheme = scheme_of(config)
    samples = Layout(parent.manifest.signature).with_state_samples(samples)
    judged = Judged(model, parent.manifest.signature)
    if context.data.dataset.labels is None:  # else a task scores the answers themselves
        judged = comparable(*judged[:2], samples)
    layout = Layout(judged.signature)
    quantizer = StaticQuantizer(judged.model, samples, scheme, context.seed, context.progress, layout)
    outputs = tuple(spec.name for spec in judged.signature.outputs)
    judge = Judge(judged.model, outputs, context.data, context.task, layout, scheme.exact)
    goal = Goal(config.max_select_drop, config.min_agreement, config.min_sqnr_db)
    return Ladder(quantizer, judge, goal, context.progress), judged


def first_plan(model: Any, config: QuantizeConfig) -> Plan:
    """Where the climb starts."""
    kinds = {node.op_type for node in model.graph.node}
    convolutional = "Conv" in kinds and "LayerNormalization" not in kinds
    operators = config.operators if config.operators != "auto" else "all" if convolutional else "layers"
    return Plan(operators=operators, observer=config.calibration, exclude=config.exclude)


def calibrating(data: Data) -> np.ndarray:
    """Places in the calibrate split of the samples that give ranges."""
    return np.setdiff1d(np.arange(len(data.indices["calibrate"])), held_out(data))


def calibration_samples(context: Context, num_samples: int) -> dict[str, np.ndarray]:
    """At most `num_samples` of the calibrate split, evenly spaced, without those that judge.

    Raises:
        DataError: there are fewer than 8, or all are of one class though the data have several.
    """
    data = context.data
    tensors = data.tensors("calibrate")
    places = calibrating(data)
    number = len(places)
    if number < _MIN_SAMPLES:
        raise DataError(
            f"{data.source}: {number} calibration samples are too few; {_MIN_SAMPLES} are needed",
            hint="add samples to the calibrate split",
        )
    chosen = places[np.unique(np.linspace(0, number - 1, min(num_samples, number)).round().astype(np.int64))]
    if data.kind == "classes" and data.dataset.labels is not None and data.num_classes > 1:
        classes = np.unique(data.labels("calibrate")[chosen])
        if len(classes) == 1:
            name = data.dataset.label_names[classes[0]]
            raise DataError(
                f"{data.source}: every calibration sample is of class {name!r}",
                hint="ranges would hold for that class alone: put samples of every class into the split",
            )
    return {name: array[chosen] for name, array in tensors.items()}


def check_model(model: Any) -> None:
    """Refuse a model that cannot be quantized.

    Raises:
        ModelError: it is quantized already, or its operator set is too old.
    """
    if how := quantized_how(model):
        raise ModelError(
            f"the model is quantized already: {how}",
            hint="start from the float32 model, such as the export stage; this one can be served",
        )
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise ModelError(
            f"the model uses operator set {opset}; {_MIN_OPSET} is the oldest that can be quantized",
            hint="onnx.save(onnx.version_converter.convert_version(onnx.load(FILE), 17), 'newer.onnx')",
        )


def check_layers(model: Any, mode: str) -> None:
    """Refuse a model without anything that a mode quantizes, before any work is done.

    Raises:
        ModelError: saying what the model has, and what to type instead.
    """
    kinds = {node.op_type for node in model.graph.node}
    if not kinds & set(_QUANTIZED_BY[mode]):
        raise _nothing_to_quantize(model, mode)


def _check_plan(model: Any, plan: Plan) -> None:
    """Refuse a model in which a plan quantizes no layer, before it is calibrated."""
    names = [layer.name for layer in Graph(model).layers]
    if plan.operators == "all":
        names += [node.name for node in model.graph.node if node.op_type == "MatMul"]
    if not set(names) - set(plan.exclude):
        raise _nothing_to_quantize(model, "static")


def _keep_outputs(model: Any, source: Any) -> None:
    """Describe outputs as the parent does: shape inference may have put sizes in the place of named axes."""
    described = {value.name: value for value in source.graph.output}
    for value in model.graph.output:
        if value.name in described:
            value.CopyFrom(described[value.name])


def _check_excluded(model: Any, config: QuantizeConfig) -> None:
    names = {node.name for node in model.graph.node}
    for name in config.exclude:
        if name not in names:
            raise ModelError(f"exclude names {name!r}, which is no node of the model", hint=near(name, names))


_QUANTIZED_BY = {
    "static": ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"),
    "qat": ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"),
    "dynamic": ("MatMul", "Gemm", "LSTM", "Attention", "Einsum"),
    "weight-only": ("MatMul", "Gemm", "Einsum"),
}
"""Operators that a mode may quantize, where they have weights."""
_ADVICE = {
    "LSTM": "--mode dynamic quantizes LSTM",
    "Conv": "--mode static quantizes convolutions",
    "ConvTranspose": "--mode static quantizes convolutions",
}


def _nothing_to_quantize(model: Any, mode: str, *, kept: Mapping[str, str] | None = None) -> ModelError:
    """Why a mode found nothing, by what the model has, and what to type instead.

    Args:
        model: The float32 model.
        mode: Of the quantization.
        kept: Why nodes stay in float, by name.
    """
    names = [name for name in _QUANTIZED_BY[mode] if name != "Einsum"]
    layers = Graph(model).layers
    counts = Counter(node.op_type for node in model.graph.node if node.op_type in RECURRENT)
    counts += Counter(layer.op_type for layer in layers)
    others = {kind: number for kind, number in counts.items() if kind not in names}
    has = [f"{number} {kind}" for kind, number in others.items()]
    nested = Counter(f"{layer.op_type} inside {layer.around}" for layer in nested_layers(model))
    has += [f"{number} {name}" for name, number in nested.items()]
    unreached = unreached_layers(model)
    has += unreached
    reason = f"the model has none of them with {'float32 ' if unreached else ''}weights of its own"
    if own := [layer.name for layer in layers if layer.op_type in names]:
        why = next((kept[name] for name in own if name in (kept or {})), "") if kept else ""
        reason = f"all of them stay in float, {own[0]!r} because {why}" if why else "all of them are excluded"
    hints = list(dict.fromkeys(_ADVICE[kind] for kind in others if kind in _ADVICE))
    if any("with weights of" in one for one in unreached):
        hints.append("only float32 weights are quantized: export the model in float32")
    return ModelError(
        f"mode {mode} finds nothing to quantize: it quantizes {_listed(names)}, and {reason}"
        f"{f'; it has {_listed(has)}' if has else ''}",
        hint="; ".join(hints) or _FLOAT_ADVICE,
    )


_FLOAT_ADVICE = "the model stays in float: lissom bench compares the engines that execute it"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
