"""What a student loses by answering otherwise than its teacher.

Let p = softmax(teacher / T) and q = softmax(student / T) be the answers softened by the temperature T. The
factor T^2 keeps the size of the gradient when T changes. Every loss is a mean over the samples, or over the
tokens that count.

kd     T^2 KL(p || q)                                   Hinton, Vinyals, Dean, arXiv 1503.02531

dkd    T^2 (alpha TCKD + beta NCKD)                     Zhao et al., arXiv 2203.08679
           TCKD = KL of (p_t, 1 - p_t) against (q_t, 1 - q_t) for the right class t
           NCKD = KL of p against q among the other classes alone, each rescaled to sum to one
       KL(p || q) = TCKD + (1 - p_t) NCKD: where a teacher is sure of the right class, kd hardly teaches
       how it sees the others, and dkd does.

dist   T^2 (beta inter + gamma intra)                   Huang et al., arXiv 2205.10536
           inter = 1 - Pearson's r of p and q over the classes of a sample, averaged over the samples
           intra = 1 - Pearson's r of p and q over the samples of a batch, averaged over the classes
       A strong teacher's answers differ from the student's in scale and place more than in order; a
       correlation looks at order alone. It does not shrink when T grows, so that the factor T^2, which
       is that of the authors' code, makes a higher T weigh more: take 1 where the teacher is very sure.

hint   mean of (r(student's features) - teacher's features)^2          Romero et al., arXiv 1412.6550
       with a learned linear map r of the channels; see `hints`. It comes on top of kd, in the same training
       and not in one of its own before it.

A model that gives probabilities has their logarithms for logits. A student that gives a sigmoid a class is
taught each class by itself: kd is then T^2 times the sum over the classes of the divergence of (p, 1 - p)
against (q, 1 - q), with the sigmoids softened by T as the softmax is above; dkd and dist, which are about one
distribution over the classes, see its sigmoids rescaled to sum to one.

Values have no classes to soften: their loss is the squared distance to the teacher's. Left out: the linear
warm-up of dkd over the first epochs, for which `warmup_epochs` of the learning rate stands in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lissom.models.score_tensors import log_of
from lissom.recipe import DistillConfig

SoftLoss = Callable[[Tensor, Tensor, Tensor, DistillConfig], Tensor]
"""(logits of the student, of the teacher, targets, config) to a scalar; rows are samples."""


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(teacher || student)` of logits of shape [samples, classes], averaged over the samples.

    >>> float(soft_loss(torch.zeros(2, 3), torch.zeros(2, 3), 4.0))
    0.0
    """
    return temperature**2 * _divergence(_log_shares(student, temperature), _log_shares(teacher, temperature))


def soft_binary_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T^2` times the summed divergence of each class by itself, of sigmoids [samples, classes].

    Args:
        student: Its sigmoids, softened here.
        teacher: Shares of the classes, softened already.
        temperature: T.
    """
    present, absent = _log_sigmoids(student, temperature)
    given = torch.xlogy(teacher, teacher) + torch.xlogy(1 - teacher, 1 - teacher)
    divergences = given - teacher * present - (1 - teacher) * absent
    return temperature**2 * divergences.sum(dim=-1).mean()


def soften(sigmoids: Tensor, temperature: float) -> Tensor:
    """Sigmoids as they would be of logits divided by the temperature."""
    return _log_sigmoids(sigmoids, temperature)[0].exp()


def decoupled_loss(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    temperature: float,
    *,
    target_weight: float,
    non_target_weight: float,
) -> Tensor:
    """`T^2 (alpha TCKD + beta NCKD)` of logits of shape [samples, classes].

    Args:
        student: Its logits.
        teacher: Its logits.
        targets: Index of the right class, shape [samples].
        temperature: T.
        target_weight: alpha.
        non_target_weight: beta.
    """
    right = functional.one_hot(targets, student.shape[-1]).bool()
    parts = [_decoupled(_log_shares(logits, temperature), right) for logits in (student, teacher)]
    (student_target, student_others), (teacher_target, teacher_others) = parts
    target_part = _divergence(student_target, teacher_target)
    others_part = _divergence(student_others, teacher_others)
    return temperature**2 * (target_weight * target_part + non_target_weight * others_part)


def correlation_loss(
    student: Tensor, teacher: Tensor, temperature: float, *, inter_weight: float, intra_weight: float
) -> Tensor:
    """`T^2 (beta inter + gamma intra)` of logits of shape [samples, classes]."""
    q, p = (functional.softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    inter = 1 - _correlation(q, p, dim=1).mean()
    intra = 1 - _correlation(q, p, dim=0).mean()
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def _kd(student: Tensor, teacher: Tensor, targets: Tensor, config: DistillConfig) -> Tensor:
    return soft_loss(student, teacher, config.temperature)


def _dkd(student: Tensor, teacher: Tensor, targets: Tensor, config: DistillConfig) -> Tensor:
    return decoupled_loss(
        student,
        teacher,
        targets,
        config.temperature,
        target_weight=config.target_weight,
        non_target_weight=config.non_target_weight,
    )


def _dist(student: Tensor, teacher: Tensor, targets: Tensor, config: DistillConfig) -> Tensor:
    return correlation_loss(
        student,
        teacher,
        config.temperature,
        inter_weight=config.inter_weight,
        intra_weight=config.intra_weight,
    )


SOFT_LOSSES: dict[str, SoftLoss] = {"kd": _kd, "dkd": _dkd, "dist": _dist, "hint": _kd}


def _log_shares(logits: Tensor, temperature: float) -> Tensor:
    return functional.log_softmax(logits / temperature, dim=-1)


def _log_sigmoids(sigmoids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logarithms of softened sigmoids, and of what they leave."""
    logits = (log_of(sigmoids) - log_of(1 - sigmoids)) / temperature
    return functional.logsigmoid(logits), functional.logsigmoid(-logits)


def _divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL(teacher || student) of logarithms of shares, averaged over the rows."""
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def _decoupled(log_shares: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the shares of the right class and of all others, and of each other among the others."""
    target = log_shares[right]
    others = log_shares[~right].reshape(len(log_shares), -1)
    together = others.logsumexp(dim=-1)
    return torch.stack([target, together], dim=-1), others - together[:, None]


def _correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Pearson's r along an axis; 0 where one of them is constant, which has no direction to be led in."""
    directions = []
    for shares in (one, other):
        centred = shares - shares.mean(dim=dim, keepdim=True)
        norm = centred.square().sum(dim=dim, keepdim=True)
        rounding = (4 * torch.finfo(norm.dtype).eps) ** 2 * shares.square().sum(dim=dim, keepdim=True)
        varies = norm > rounding
        directions.append(torch.where(varies, centred / torch.where(varies, norm, 1.0).sqrt(), 0.0))
    return (directions[0] * directions[1]).sum(dim=dim)
