"""Knowledge distillation: a student learns the labels and its teacher's softened answers.

    loss = (1 - alpha) * CE(student, labels) + alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T))

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv 1503.02531. The factor T^2
keeps the size of the gradient when the temperature T changes. The data are not augmented, so the
teacher answers each sample once and its logits are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lissom.artifact import Artifact
from lissom.errors import ModelError
from lissom.models.evaluation import predict
from lissom.models.stages import Context, save_torch
from lissom.models.training import fit
from lissom.recipe import DistillConfig
from lissom.runtime.pytorch import TorchEager
from lissom.structure import factory_of, load_model


def distill(parents: Mapping[str, Artifact], config: DistillConfig, context: Context) -> Artifact:
    """Train the parent `input` to answer as the parent `teacher` does."""
    student, teacher = parents["input"], parents["teacher"]
    _check_outputs(student, teacher)
    model = load_model(student)
    with TorchEager(teacher) as runtime:
        teacher_logits = torch.from_numpy(predict(runtime.infer, context.data.tensors("train")))

    def loss(outputs: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        targets = teacher_logits.to(outputs.device)[positions]
        hard = functional.cross_entropy(outputs, labels, label_smoothing=config.label_smoothing)
        return (1 - config.alpha) * hard + config.alpha * soft_loss(outputs, targets, config.temperature)

    description = f"distill {context.fields['name']}"
    history = fit(
        model,
        context.data,
        config,
        loss=loss,
        seed=context.seed,
        progress=context.progress,
        description=description,
    )
    return save_torch(model, factory_of(student), context, notes={"history": history})


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(teacher || student)` of logits of shape [batch, classes], averaged over the batch.

    >>> float(soft_loss(torch.zeros(2, 3), torch.zeros(2, 3), 4.0))
    0.0
    """
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def _check_outputs(student: Artifact, teacher: Artifact) -> None:
    wanted, found = (artifact.manifest.signature.outputs[0].shape[1:] for artifact in (student, teacher))
    if wanted != found:
        raise ModelError(
            f"the teacher {teacher.name!r} answers with shape {list(found)}, the student with {list(wanted)}",
            hint="a teacher must be trained on the same classes",
        )
