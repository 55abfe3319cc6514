"""Knowledge distillation: a student learns the labels and what its teachers answer.

    loss = (1 - alpha) * loss of the labels + alpha * soft loss [+ hint_weight * hint]

The soft loss is that of `kind`; `distillation_losses` has the formulas. Of tokens only the positions that
count teach. With alpha 0 and no hint it is plain training.

Some students are worse for it: in published tables strong students lose by kd (Huang et al., arXiv
2205.10536). The figure to beat is therefore plain training from the same start, with the same seed, samples
and schedule: the baseline. Both are judged by the same code, and the report says which is better by the
paired scores of the report split. Nothing is chosen by them: the artifact is the student that was taught.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.artifact import Artifact
from lissom.bench.statistics import paired_drop
from lissom.compress.distillation_losses import SOFT_LOSSES, soft_binary_loss, soften
from lissom.compress.hints import Led, Listener
from lissom.compress.teachers import Answered, Teaching, alone, check_teacher, live, opened
from lissom.errors import RecipeError
from lissom.models.dataset import IGNORED
from lissom.models.evaluation import judge
from lissom.models.losses import loss_for
from lissom.models.masks import keep_zeros, recount_zeros
from lissom.models.score_tensors import class_columns, class_logits
from lissom.models.stages import Context, save_torch
from lissom.models.training import fit
from lissom.recipe import DistillConfig
from lissom.runtime.arrays import safetensors_bytes, tensor_of
from lissom.runtime.pytorch import call_model
from lissom.structure import factory_of, load_model

if TYPE_CHECKING:
    import numpy as np

    from lissom.models.loop import Batch, BatchLoss

BASELINE_PART = "baseline"
SCORES_FILE = "scores.safetensors"
"""Scores of every sample of the select and the report split, taught and not."""


def distill(parents: Mapping[str, Artifact], config: DistillConfig, context: Context) -> Artifact:
    """Train the parent `input` to answer as the parents `teacher` or `teacher-1`, `teacher-2`... do."""
    student = parents["input"]
    teachers = [parent for role, parent in parents.items() if role != "input"]
    for teacher in teachers:
        check_teacher(student, teacher)
    _check_kind(config, context)
    model, before = load_model(student), student.manifest.notes
    keep = keep_zeros(model, before)
    if config.kind == "hint":
        history = _led(model, teachers[0], config, context, keep)
    else:
        with opened(teachers, config, context) as answer:
            history = fit(model, context, config, loss=_loss(answer, config, context), after_step=keep)
    notes: dict[str, Any] = {"history": history} | recount_zeros(model, before)
    files: dict[str, bytes] = {}
    if config.baseline:
        plain = load_model(student)
        alone = fit(plain, context, config, after_step=keep_zeros(plain, before), part=BASELINE_PART)
        compared, files[SCORES_FILE] = _compare(model, plain, student, context)
        notes |= compared
        notes["baseline"]["history"] = alone
    return save_torch(model, factory_of(student), context, notes=notes, files=files)


def _check_kind(config: DistillConfig, context: Context) -> None:
    if config.kind in ("dkd", "dist") and context.data.kind == "values":
        raise RecipeError(
            f"kind {config.kind} teaches shares of classes; the labels of {context.data.source} are values",
            hint="take kind kd, which then teaches by the squared distance, or hint",
        )


def _loss(answer: Teaching, config: DistillConfig, context: Context) -> BatchLoss:
    kind, scores = context.data.kind, context.task.scores
    hard_loss = loss_for(context.task, config)

    def loss(outputs: Any, batch: Batch) -> Tensor:
        first = outputs[0] if isinstance(outputs, tuple | list) else outputs
        if scores == "sigmoids" and config.kind in ("kd", "hint"):
            soft = _soft_binary(first, answer(batch), config)
        else:
            student = first.float() if kind == "values" else class_logits(first, scores)
            teacher = answer(batch).values
            if batch.scale is not None:
                teacher = batch.scale.standardize(teacher)
            soft = _soft(student, teacher, batch.targets, config, kind)
        return (1 - config.alpha) * hard_loss(outputs, batch.targets) + config.alpha * soft

    return loss


def _soft(student: Tensor, teacher: Tensor, targets: Tensor, config: DistillConfig, kind: str) -> Tensor:
    """The loss against the teacher; rows are samples, or the tokens that count."""
    if kind == "values":
        return functional.mse_loss(student, teacher)
    if kind == "tokens":
        counted = targets != IGNORED
        student, teacher, targets = student[counted], teacher[counted], targets[counted]
    else:
        student, teacher = (logits.reshape(-1, logits.shape[-1]) for logits in (student, teacher))
    return SOFT_LOSSES[config.kind](student, teacher, targets, config)


def _soft_binary(student: Tensor, teacher: Answered, config: DistillConfig) -> Tensor:
    """The loss of a student that gives sigmoids: each class by itself."""
    found = teacher.values
    shares = (
        soften(found.exp(), config.temperature)
        if teacher.apart
        else functional.softmax(found / config.temperature, dim=-1)
    )
    columns = class_columns(student, "sigmoids")
    share = 0.5 if student.ndim < 2 or student.shape[-1] == 1 else 1.0  # both columns say the same
    return share * soft_binary_loss(columns.flatten(0, -2), shares.flatten(0, -2), config.temperature)


def _led(
    model: nn.Module,
    teacher: Artifact,
    config: DistillConfig,
    context: Context,
    after_step: Callable[[], None] | None,
) -> list[dict[str, float]]:
    """Train with a hint; the teacher answers live, since its features would be large to keep."""
    guide = load_model(teacher)
    listener = Listener(guide, str(config.teacher_layer), "teacher")
    example = [tensor_of(array) for array in context.probe_inputs().values()]
    with torch.no_grad():
        guide(*example)
    led = Led(model, str(config.student_layer), example, listener.take(), seed=context.seed)
    answered = _loss(alone(teacher, live(teacher, context, guide), context), config, context)
    tokens = context.data.kind == "tokens"

    def loss(outputs: Any, batch: Batch) -> Tensor:
        known = answered(outputs, batch)  # asks the teacher, whose features are heard meanwhile
        counted = batch.targets != IGNORED if tokens else None
        return known + config.hint_weight * led.distance(listener.take(), counted)

    history = fit(led, context, config, loss=loss, after_step=after_step)
    led.release()
    return history


def _compare(
    taught: nn.Module, plain: nn.Module, student: Artifact, context: Context
) -> tuple[dict[str, Any], bytes]:
    """Mean scores of both on the select and the report split, the gain by the teacher, and every score."""
    names, splits = ("taught", BASELINE_PART), ("select", "report")
    scores = {
        name: {split: _scores(model, student, split, context) for split in splits}
        for name, model in zip(names, (taught, plain), strict=True)
    }
    gain = paired_drop(*(scores[name]["report"] for name in names))
    notes: dict[str, Any] = {name: _means(scores[name], splits) for name in names}
    notes["gain"] = {key: float(value) for key, value in gain._asdict().items()}
    every = {f"{name}_{split}": scores[name][split] for name in names for split in splits}
    return notes, safetensors_bytes(every)


def _scores(model: nn.Module, student: Artifact, split: str, context: Context) -> np.ndarray:
    signature = student.manifest.signature
    return judge(lambda batch: call_model(model, signature, batch), context.data, split, context.task).scores


def _means(scores: Mapping[str, np.ndarray], splits: Sequence[str]) -> dict[str, Any]:
    return {split: float(scores[split].mean()) for split in splits}
