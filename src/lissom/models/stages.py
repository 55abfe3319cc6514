"""What every stage gets (`Context`), and how a torch model becomes an artifact."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lissom.artifact import (
    WORK_PREFIX,
    Artifact,
    Draft,
    Factory,
    Signature,
    TensorSpec,
    Tolerance,
    canonical_json,
)
from lissom.causes import told
from lissom.errors import ArtifactError, ModelError, RaggedAnswers
from lissom.factories import locate
from lissom.logs import Progress, log
from lissom.models.data import Data
from lissom.models.evaluation import answers, predict
from lissom.models.input_ranges import input_ranges
from lissom.models.processes import place, wait
from lissom.models.score_kinds import SAID, kind_of_torch
from lissom.models.tasks import Task, task_of
from lissom.runtime.arrays import safetensors_bytes, tensor_of
from lissom.runtime.differences import difference
from lissom.runtime.layout import Layout
from lissom.runtime.probe import PROBE_FILE, probe_bytes
from lissom.runtime.pytorch import call_model, is_lookup
from lissom.runtime.scores import ScoreKind
from lissom.runtime.signatures import prove_fixed_signature, prove_signature
from lissom.structure import (
    STRUCTURE_FILE,
    WEIGHTS_FILE,
    load_weights,
    rebuild,
    record,
    weights_bytes,
)

if TYPE_CHECKING:
    from torch import nn

    from lissom.recipe import ModelConfig

NUM_PROBE = 8
PREDICTIONS_FILE = "predictions.safetensors"
FLOAT32_TOLERANCE = Tolerance(absolute=1e-4, relative=1e-3)
INT8_TOLERANCE = Tolerance(absolute=0.5, relative=0.1)
TOLERANCES = {
    "float32": FLOAT32_TOLERANCE,
    "float16": Tolerance(absolute=0.02, relative=0.02),
    "bfloat16": Tolerance(absolute=0.1, relative=0.1),
    "int8": INT8_TOLERANCE,
}
"""How far a model of a precision may be from its probe on another machine."""


@dataclass(frozen=True)
class Context:
    """What a stage may use beside its parents and its config.

    Attributes:
        folder: Where the artifact is written, under its final name.
        fields: Fields of the manifest that are known before the stage runs.
        model: The model of the recipe.
        data: The data with their splits.
        seed: Seed of everything random.
        progress: Shows how far the stage is.
    """

    folder: Path
    fields: Mapping[str, Any]
    model: ModelConfig
    data: Data
    seed: int
    progress: Progress

    @cached_property
    def task(self) -> Task:
        """What the model is trained to do."""
        return task_of(self.fields["task"], self.data, self.fields.get("scores", "logits"))

    def with_data(self, data: Data) -> Context:
        """The same with the data as a model takes them, which may give an input its name."""
        known = {one.input for one in self.fields.get("input_ranges", ())}
        renamed = known != {*data.dataset.inputs}
        ranges = {"input_ranges": input_ranges(data)} if known and renamed else {}
        return replace(self, data=data, fields={**self.fields, **ranges})

    def with_scores(self, scores: ScoreKind) -> Context:
        """The same for a model whose first output holds these scores."""
        return replace(self, fields={**self.fields, "scores": scores})

    @property
    def work_folder(self) -> Path:
        """Where a training keeps its checkpoints until the artifact is written."""
        return self.folder.parent / f"{WORK_PREFIX}{self.folder.name}"

    def draft(self) -> Draft:
        """The artifact of this stage, to be filled."""
        return Draft(self.folder)

    def probe_inputs(self) -> dict[str, np.ndarray]:
        """A few preprocessed samples on which a reloaded model must reproduce its outputs."""
        split = next(name for name in ("select", "calibrate", "train") if len(self.data.indices[name]))
        return {name: array[:NUM_PROBE] for name, array in self.data.tensors(split).items()}

    def call_inputs(self, signature: Signature) -> dict[str, np.ndarray]:
        """The same, or as many of them as a model takes in a call where it takes no other number."""
        inputs, layout = self.probe_inputs(), Layout(signature)
        return inputs if layout.size is None else next(layout.groups(inputs)).tensors


def save_torch(
    model: nn.Module,
    factory: Factory,
    context: Context,
    *,
    notes: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write a torch model as an artifact, and prove that what was written is what was meant.

    Where several processes train together, the first one writes and the others wait for it.

    Args:
        model: The model.
        factory: What built it before it was changed.
        context: Of the stage.
        notes: Figures that the stage reports.
        files: Further files of the payload by name.

    Raises:
        ArtifactError: the model, rebuilt from the written files, gives other bits on the probe.
    """
    if place().leads:
        _write_torch(model, factory, context, notes, files or {})
    wait()
    if place().leads:
        shutil.rmtree(context.work_folder, ignore_errors=True)
    return Artifact.open(context.folder)


def _write_torch(
    model: nn.Module,
    factory: Factory,
    context: Context,
    notes: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    model.eval()
    structure = record(model, factory)
    weights = weights_bytes(model)
    inputs = context.probe_inputs()
    signature = signature_of(
        model, context.data, inputs, output_name=context.task.output_name, outputs=factory.outputs
    )
    signature = _proven(model, factory, signature, inputs)
    layout = Layout(signature)
    context = context.with_scores(_scores_of(model, signature, context))
    asked, outputs = layout.answered(lambda batch: call_model(model, signature, batch), inputs)
    _check_reload(load_weights(rebuild(factory, structure), weights), signature, asked, outputs)
    with context.draft() as draft:
        draft.add(WEIGHTS_FILE, weights)
        draft.add(STRUCTURE_FILE, canonical_json(structure))
        draft.add(PROBE_FILE, probe_bytes(asked, outputs))
        call = partial(_checked_call, model, signature)
        add_predictions(draft, lambda samples: layout.infer_samples(call, samples), context)
        for name, content in files.items():
            draft.add(name, content)
        draft.commit(
            **context.fields,
            format="torch",
            precision=_precision(model),
            signature=signature,
            factory=locate(factory, context.folder),
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            notes={**notes, **_folded(structure)},
            tolerance=FLOAT32_TOLERANCE,
        )


def _proven(
    model: nn.Module, factory: Factory, signature: Signature, inputs: Mapping[str, np.ndarray]
) -> Signature:
    """The signature with the axes of the samples that are found on the model."""

    def call(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return call_model(model, signature, batch)

    if factory.samples_per_call:
        axes = {spec.name: 0 for spec in signature.inputs}
        return prove_fixed_signature(call, signature, inputs, axes, factory.samples_per_call)
    return prove_signature(call, signature, inputs, precision=_precision(model))


def _scores_of(model: nn.Module, signature: Signature, context: Context) -> ScoreKind:
    """What the first output holds: what was found before, unless the model does not keep to it."""
    known: ScoreKind | None = context.fields.get("scores")
    if known == "logits":
        return known
    found = kind_of_torch(model, signature, context.data, context.fields["task"])
    if known is None:
        tell_kind(found, context)
    elif found != known:
        log.warning("%s: the outputs were %s and now are %s", context.fields["name"], known, found)
    return found


def tell_kind(kind: ScoreKind, context: Context) -> None:
    """Log once what a model gives where it is no logits, which most models give."""
    if kind != "logits":
        log.info("%s: %s", context.fields["name"], SAID[kind])


def _folded(structure: Mapping[str, Any]) -> dict[str, Any]:
    """A note of layers whose computed weights were written down."""
    names = list(structure.get("folded", ()))
    if names:
        log.warning(
            "weights that %s computed at each call (a norm, a parametrization) are plain weights now",
            ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
        )
    return {"folded": names} if names else {}


def add_predictions(draft: Draft, call: Any, context: Context) -> None:
    """Store labels and outputs of every sample of the report split, when there is one.

    Of outputs with a value at each position, which would be large, only the answers are stored.
    """
    data = context.data
    if not len(data.indices["report"]):
        return
    one = {name: array[:1] for name, array in data.tensors("report").items()}
    small = next(iter(call(one).values())).ndim <= 2
    try:
        found = (
            {"outputs": predict(call, data.tensors("report"))}
            if small
            else {"answers": answers(call, data, "report", context.task)}
        )
    except RaggedAnswers as exc:
        log.warning("%s: no predictions are stored: %s", context.fields["name"], exc)
        return
    draft.add(PREDICTIONS_FILE, safetensors_bytes({**found, "labels": data.labels("report")}))


def signature_of(
    model: nn.Module,
    data: Data,
    inputs: Mapping[str, np.ndarray],
    *,
    output_name: str = "logits",
    outputs: Sequence[str] = (),
) -> Signature:
    """Names, dtypes and shapes; the batch may vary.

    Outputs have the names that the forward gives them (`outputs`), else one is called `output_name`, and
    several output_0, output_1...
    """
    tensors = call_positionally(model, data, inputs)
    several = [f"output_{index}" for index in range(len(tensors))]
    names = outputs or ([output_name] if len(tensors) == 1 else several)
    specs = tuple(
        TensorSpec(
            name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=("batch", *tensor.shape[1:])
        )
        for name, tensor in zip(names, tensors, strict=True)
    )
    return Signature(inputs=data.input_specs, outputs=specs)


def call_positionally(model: nn.Module, data: Data, inputs: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
    """Outputs of the model for inputs in the order of the data, as a list.

    Raises:
        ModelError: the model does not take them, or gives something else than tensors.
    """
    with torch.inference_mode():
        outputs = call(model, data, inputs)
    tensors = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"the model gives a {type(tensor).__name__}, not a tensor or a tuple of them")
    return tensors


def call(model: nn.Module, data: Data, inputs: Mapping[str, np.ndarray]) -> Any:
    """What the forward gives for inputs in the order of the data.

    Raises:
        ModelError: the model does not take them.
    """
    arguments = [tensor_of(inputs[spec.name]) for spec in data.input_specs]
    try:
        with torch.no_grad():
            return model(*arguments)
    except Exception as exc:  # the user's forward may raise anything; what it says is what matters
        if (
            isinstance(exc, IndexError)
            and is_lookup(exc)
            and any(spec.dtype == "int64" for spec in data.input_specs)
        ):
            raise ModelError(
                f"the model cannot look up an index of the data:{told(exc)}",
                hint="build it with a larger vocab_size, or check the data",
            ) from exc
        shapes = ", ".join(f"{spec.name} {list(spec.shape[1:])}" for spec in data.input_specs)
        raise ModelError(
            f"the model does not take the samples of {data.source} ({shapes}):{told(exc)}",
            hint="set model.kwargs in the recipe so that the first layer fits the data",
        ) from exc


def _checked_call(
    model: nn.Module, signature: Signature, batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    try:
        return call_model(model, signature, batch)
    except Exception as exc:  # the user's forward may raise anything
        size = len(next(iter(batch.values())))
        raise ModelError(
            f"the model ran on {NUM_PROBE} samples, but not on {size}:{told(exc)}",
            hint="the forward must take any batch size",
        ) from exc


def _check_reload(
    model: nn.Module,
    signature: Signature,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
) -> None:
    found = Layout(signature).infer_samples(lambda batch: call_model(model, signature, batch), inputs)
    for name, again in found.items():
        if not np.array_equal(again, outputs[name], equal_nan=True):
            raise ArtifactError(
                f"the reloaded model differs from the one in memory at output {name!r}: "
                f"{difference(outputs[name], again)}; it is not written",
                hint="state outside parameters, buffers and int attributes is not stored; make it a buffer",
            )


def _precision(model: nn.Module) -> str:
    return next((str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()), "float32")
