"""Knowledge distillation: a student learns the labels and its teacher's softened answers.

    loss = (1 - alpha) * CE(student, labels) + alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T))

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531. The factor T^2
keeps the size of the gradient when the temperature T changes. Values have no classes to soften: their loss
is the squared distance to the teacher's. Of tokens only the positions that count teach. Unless the images
are augmented, the teacher answers each sample once and its logits are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from lissom.artifact import Artifact
from lissom.errors import ModelError
from lissom.models.data import IGNORED
from lissom.models.evaluation import predict
from lissom.models.losses import loss_for
from lissom.models.stages import Context, save_torch
from lissom.models.training import fit
from lissom.recipe import DistillConfig
from lissom.runtime.pytorch import TorchEager
from lissom.structure import factory_of, load_model

if TYPE_CHECKING:
    from lissom.models.loop import Batch


def distill(parents: Mapping[str, Artifact], config: DistillConfig, context: Context) -> Artifact:
    """Train the parent `input` to answer as the parent `teacher` does."""
    student, teacher = parents["input"], parents["teacher"]
    _check_outputs(student, teacher)
    model = load_model(student)
    hard_loss = loss_for(context.task, config)
    kind = context.data.kind
    live = config.augment.active or kind == "tokens"  # whose logits would fill the memory
    answers = _live_answers(teacher) if live else _kept_answers(teacher, context)

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        wanted = answers(batch)
        if kind == "values":
            soft = functional.mse_loss(outputs, wanted)
        else:
            counted = batch.targets != IGNORED if kind == "tokens" else slice(None)
            soft = soft_loss(outputs[counted], wanted[counted], config.temperature)
        return (1 - config.alpha) * hard_loss(outputs, batch.targets) + config.alpha * soft

    history = fit(model, context, config, loss=loss)
    return save_torch(model, factory_of(student), context, notes={"history": history})


def _kept_answers(teacher: Artifact, context: Context) -> Callable[[Batch], Tensor]:
    """The teacher's logits of every train sample, looked up by position."""
    with TorchEager(teacher) as runtime:
        logits = torch.from_numpy(predict(runtime.infer, context.data.tensors("train")))
    return lambda batch: logits[batch.positions.cpu()].to(batch.positions.device)


def _live_answers(teacher: Artifact) -> Callable[[Batch], Tensor]:
    """The teacher's logits of the batch as it was augmented."""
    model = load_model(teacher)

    @torch.no_grad()
    def answer(batch: Batch) -> Tensor:
        logits: Tensor = model.to(batch.positions.device)(*batch.inputs)
        return logits

    return answer


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(teacher || student)` of logits of shape [..., classes], averaged over all that stand before.

    >>> float(soft_loss(torch.zeros(2, 3), torch.zeros(2, 3), 4.0))
    0.0
    """
    log_student = functional.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def _check_outputs(student: Artifact, teacher: Artifact) -> None:
    wanted, found = (artifact.manifest.signature.outputs[0].shape[1:] for artifact in (student, teacher))
    if wanted != found:
        raise ModelError(
            f"the teacher {teacher.name!r} answers with shape {list(found)}, the student with {list(wanted)}",
            hint="a teacher must be trained on the same classes",
        )
