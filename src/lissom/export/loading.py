"""The stage `load`: a model from elsewhere becomes the first artifact of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lissom.artifact import MANIFEST_NAME, Artifact, Signature, TensorSpec
from lissom.errors import ArtifactError
from lissom.export.batch_axes import settle_axes
from lissom.export.external_data import load_onnx, read_graph
from lissom.export.graphs import all_graphs, all_nodes, random_nodes
from lissom.export.missing_values import accept_missing
from lissom.export.normalisation import check_tensors, input_specs, normalise
from lissom.export.onnx_file import add_onnx
from lissom.export.output_kinds import kind_of_onnx
from lissom.export.recognition import computes_integers, scaled_weights
from lissom.export.recurrent_states import possible_states
from lissom.factories import build
from lissom.logs import log
from lissom.models.data import Data
from lissom.models.data_sources import load_data
from lissom.models.formats import RESERVED, has_reserved
from lissom.models.forward import is_plain, required_inputs, taken_by_torch
from lissom.models.loading import factory_for, take_by_name
from lissom.models.masks import recount_zeros
from lissom.models.stages import FLOAT32_TOLERANCE, TOLERANCES, Context, save_torch, tell_kind
from lissom.models.training import starting_model
from lissom.optional import require
from lissom.recipe import LoadConfig, ModelConfig
from lissom.runtime.isolation import prove_file
from lissom.runtime.layout import given_inputs, sample_specs
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.structure import factory_of, load_model


def load(parents: Mapping[str, Artifact], config: LoadConfig, context: Context) -> Artifact:
    """Take a model as it is: an artifact, an `.onnx` file, or a factory with weights."""
    source = Path(context.model.source)
    if (source / MANIFEST_NAME).is_file():
        return _from_artifact(Artifact.open(source), context)
    if source.suffix == ".onnx":
        return _from_onnx_file(source, context)
    model, factory = starting_model(parents, context)
    context = context.with_data(taken_by_torch(model, context.data))
    return save_torch(model, factory, context, notes={})


def data_for_model(source: str, config: ModelConfig) -> Data:
    """DATA as a model takes them: by its names, in its order and its dtypes.

    Raises:
        LissomError: the data or the model cannot be read, or the arrays are not the inputs of the model.
    """
    return accept_missing(_data_by_inputs(source, config), config)


def _data_by_inputs(source: str, config: ModelConfig) -> Data:
    """DATA by the names, in the order and the dtypes of a model's inputs."""
    declared, optional = declared_inputs(config)
    if declared or config.format != "torch":
        return load_data(source, declared, optional)
    data = load_data(source)
    if is_plain(data) and not has_reserved(source):
        return data
    with torch.random.fork_rng(devices=[]):
        model = build(factory_for(config, data))
    take_by_name(model, data)
    needed = required_inputs(model)
    if data.dataset.labels is not None and {*needed} & {*RESERVED} and len(needed) > 1:
        data = load_data(source, [TensorSpec(name=name, dtype="float32", shape=()) for name in needed])
        data = replace(data, taken=(), _tensors={})
    return taken_by_torch(model, data)


def declared_inputs(config: ModelConfig) -> tuple[tuple[TensorSpec, ...], set[str]]:
    """What an artifact or an ONNX file says of its inputs, and those that may be left out: recurrent states.

    Both are empty for a torch model, which says nothing.
    """
    source = Path(config.source)
    if (source / MANIFEST_NAME).is_file():
        signature = Artifact.open(source).manifest.signature
        return sample_specs(signature), set(signature.batching.states if signature.batching else ())
    if source.suffix != ".onnx":
        return (), set()
    graph = read_graph(source)
    check_tensors(graph)
    return input_specs(graph), possible_states(graph)


def _from_artifact(artifact: Artifact, context: Context) -> Artifact:
    inputs = given_inputs(artifact.manifest.signature, context.data.dataset.inputs)
    context = context.with_data(context.data.taken_by(inputs))
    given = context.data.input_specs
    if inputs != given:
        raise ArtifactError(
            f"{artifact.path.name} takes {_shown(inputs)}, but {context.data.source} gives {_shown(given)}",
            hint=f"the artifact was made with --data {artifact.manifest.data}",
        )
    if artifact.manifest.input_ranges:  # older artifacts do not say what they give
        context = context.with_scores(artifact.manifest.scores)
    context = replace(context, fields={**context.fields, "foreign": artifact.manifest.foreign})
    if artifact.manifest.format == "torch":
        model = load_model(artifact)
        notes = _made_for(artifact, context) | recount_zeros(model, artifact.manifest.notes)
        return save_torch(model, factory_of(artifact), context, notes=notes)
    if artifact.manifest.format != "onnx":
        raise ArtifactError(
            f"{artifact.name!r} is compiled for {artifact.manifest.format} and cannot be worked on",
            hint=f"start from what it was made of, {artifact.manifest.parents[0].name!r}",
        )
    onnx_model = load_onnx(artifact.file(MODEL_FILE))
    return _save_onnx(onnx_model, artifact.manifest.signature, context, precision=artifact.manifest.precision)


def _made_for(artifact: Artifact, context: Context) -> dict[str, Any]:
    """Task and classes of an artifact where the data have others, which a teacher must not."""
    task, labels = artifact.manifest.task, artifact.manifest.labels
    if task == context.fields["task"] and labels == tuple(context.fields["labels"]):
        return {}
    return {"made_for": {"task": task, "labels": list(labels)}}


def _from_onnx_file(path: Path, context: Context) -> Artifact:
    prove_file(path)
    model, changes = normalise(load_onnx(path))
    for change in changes:
        log.info("%s: %s", path, change)
    context = context.with_data(context.data.taken_by(input_specs(model), possible_states(model)))
    precision, data = precision_of(model), context.data
    model, signature = settle_axes(
        model, data.input_specs, context.probe_inputs(), source=data.source, precision=precision
    )
    return _save_onnx(model, signature, context, precision=precision, changes=changes)


def precision_of(model: Any) -> str:
    """What a file of somebody else computes in, by its operators and by the type of most of its weights."""
    if computes_integers(model):
        return "int8"
    bits = [item.i for node in all_nodes(model) for item in node.attribute if item.name == "bits"]
    if any(node.op_type == "MatMulNBits" for node in all_nodes(model)):
        return f"weight-int{min(bits, default=4)}"
    if scaled_weights(model):
        return "weight-int8"
    onnx = require("onnx", extra="cpu")
    counts = Counter[int]()
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            counts[tensor.data_type] += _num_elements(tensor)
    half = counts[onnx.TensorProto.FLOAT16] > counts[onnx.TensorProto.FLOAT]
    return "float16" if half else "float32"


def _save_onnx(
    model: Any, signature: Signature, context: Context, *, precision: str, changes: Sequence[str] = ()
) -> Artifact:
    tolerance = TOLERANCES.get(precision, FLOAT32_TOLERANCE)
    sizes = [_num_elements(tensor) for graph in all_graphs(model.graph) for tensor in graph.initializer]
    if "scores" not in context.fields:
        context = context.with_scores(kind_of_onnx(model, signature, context.data, context.fields["task"]))
        tell_kind(context.fields["scores"], context)
    told = {"changes": list(changes), "random_nodes": random_nodes(model)}
    notes = {"operators": len(model.graph.node)} | {name: found for name, found in told.items() if found}
    with context.draft() as draft:
        signature = add_onnx(draft, model, signature, context, precision=precision)
        return draft.commit(
            **context.fields,
            format="onnx",
            precision=precision,
            signature=signature,
            factory=None,
            num_parameters=sum(sizes),
            notes=notes,
            tolerance=tolerance,
        )


def _num_elements(tensor: Any) -> int:
    return math.prod(tensor.dims)


def _shown(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in specs)
