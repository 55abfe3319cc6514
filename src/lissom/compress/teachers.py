"""Teachers: what they answer to a batch, asked once and kept on disk.

    <run folder>/.teachers/<key>.safetensors

The key is the hash of what decides the answers: the teacher's digest, the train split and, when images are
augmented, how, by which seed and in which batches. A run that goes on, a rerun, and another student in the
same folder therefore find them.

Without augmentation there is one row a train sample. With augmentation every epoch shows other images, and
an answer is kept under a fingerprint of the very pixels that were asked about: the sum of bits_i * w_i
modulo 2^64 with fixed random w, which does not depend on the order of summation. The images are those of an
earlier training when seed, batches and whatever else draws random numbers in a step (dropout) are the same;
where they are not, the fingerprint is not found and the teacher answers anew: nothing wrong can be read.

Several teachers answer as one whose softened answers are the mean of theirs: its logits are
T log sum_k w_k softmax(z_k / T). Teachers compute in float32, also where the student trains in less. Answers
that would take more than `MAX_BYTES` are not kept.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from lissom.artifact import TEACHERS_NAME, Artifact, content_id, write_atomic
from lissom.errors import DiskFull, ModelError
from lissom.logs import log
from lissom.models.evaluation import BATCH_SIZE, TOKEN_BATCH_SIZE, predict
from lissom.models.processes import place
from lissom.models.score_tensors import class_logits
from lissom.models.stages import Context
from lissom.recipe import DistillConfig
from lissom.runtime.arrays import tensor_of
from lissom.runtime.pytorch import call_model
from lissom.structure import load_model

if TYPE_CHECKING:
    from lissom.models.loop import Batch

Answer = Callable[["Batch"], Tensor]
"""First output of a teacher for a batch, on the device of the batch."""


class Answered(NamedTuple):
    """What all teachers answer to a batch.

    Attributes:
        values: Logits of the classes, whatever the teachers give, or values to be predicted; float32.
        apart: True where a class has a share by itself: the values are logarithms of sigmoids.
    """

    values: Tensor
    apart: bool = False


Teaching = Callable[["Batch"], Answered]
"""What all teachers together answer to a batch."""

MAX_BYTES = 256_000_000
"""Size of one teacher's answers up to which they are kept, in memory and on disk."""


def check_teacher(student: Artifact, teacher: Artifact) -> None:
    """Refuse a teacher that cannot teach this student.

    Raises:
        ModelError: task, classes or outputs of the two differ.
    """
    made_for = {"task": teacher.manifest.task, "labels": list(teacher.manifest.labels)}
    made_for |= teacher.manifest.notes.get("made_for", {})
    if made_for["task"] != student.manifest.task:
        raise ModelError(
            f"the teacher {teacher.name!r} was made for {made_for['task']}, "
            f"the student is for {student.manifest.task}",
            hint="train a teacher on the task and the data of the student",
        )
    wanted, found = list(student.manifest.labels), made_for["labels"]
    if wanted and found and wanted != found:
        place = next((i for i, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), -1)
        first = f"; class {place} is {found[place]!r} to it, {wanted[place]!r} here" if place >= 0 else ""
        raise ModelError(
            f"the teacher {teacher.name!r} knows {len(found)} classes, which are not the {len(wanted)} of "
            f"the data in the same order{first}",
            hint="a teacher must be trained on the same classes, in the same order",
        )
    ours, theirs = (artifact.manifest.signature.outputs for artifact in (student, teacher))
    if len(ours) != len(theirs):
        raise ModelError(
            f"the teacher {teacher.name!r} gives {len(theirs)} outputs, the student {len(ours)}",
            hint="a teacher must be trained for the same task",
        )
    classes = student.manifest.task == "classification"
    if _columns(ours[0].shape, classes) != _columns(theirs[0].shape, classes):
        raise ModelError(
            f"the teacher {teacher.name!r} answers with shape {list(theirs[0].shape[1:])}, the student with "
            f"{list(ours[0].shape[1:])}",
            hint="a teacher must be trained on the same classes",
        )


def _columns(shape: Sequence[int | str], classes: bool) -> tuple[int | str, ...]:
    """Sizes of an answer; a single column tells two classes apart as two columns do."""
    sizes = tuple(shape[1:])
    return (2,) if classes and sizes in ((), (1,)) else sizes


@contextmanager
def opened(teachers: Sequence[Artifact], config: DistillConfig, context: Context) -> Iterator[Teaching]:
    """What all teachers answer together; what is new of it is kept when the context ends.

    Raises:
        ModelError: an answer is not finite; the message names the sample.
    """
    weights = config.teacher_weights or (1.0,) * len(teachers)
    with ExitStack() as stack:
        answers = [
            alone(teacher, stack.enter_context(_answers(teacher, config, context)), context)
            for teacher in teachers
        ]

        def together(batch: Batch) -> Answered:
            given = [answer(batch) for answer in answers]
            if len(given) == 1:
                return given[0]
            temperature = None if context.data.kind == "values" else config.temperature
            return Answered(averaged([one.values for one in given], weights, temperature))

        yield together


def alone(teacher: Artifact, answer: Answer, context: Context) -> Teaching:
    """A teacher's answers as logits, of what its first output holds."""
    scores = teacher.manifest.scores

    def found(batch: Batch) -> Answered:
        if context.data.kind == "values":
            return Answered(answer(batch).float())
        return Answered(class_logits(answer(batch), scores), scores == "sigmoids")

    return found


def averaged(answers: Sequence[Tensor], weights: Sequence[float], temperature: float | None) -> Tensor:
    """One answer whose softened shares are the weighted mean of those of several, or whose values are.

    Args:
        answers: Logits or values of shape [samples, ...].
        weights: Of each, above 0; what they sum to does not matter.
        temperature: That softens; None for values.
    """
    if len(answers) == 1:
        return answers[0]
    stacked = torch.stack(list(answers))
    shares = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device)
    shares = (shares / shares.sum()).reshape(-1, *[1] * (stacked.ndim - 1))
    if temperature is None:
        return (shares * stacked).sum(dim=0)
    softened = functional.log_softmax(stacked / temperature, dim=-1)
    return temperature * (softened + shares.log()).logsumexp(dim=0)


def live(teacher: Artifact, context: Context, model: nn.Module | None = None) -> Answer:
    """A teacher that answers every batch anew, as it was augmented."""
    asked = load_model(teacher, plain=True) if model is None else model

    @torch.no_grad()
    def answer(batch: Batch) -> Tensor:
        device = batch.positions.device
        with torch.autocast(device.type, enabled=False):
            outputs = asked.to(device)(*batch.inputs)
        found: Tensor = outputs[0] if isinstance(outputs, tuple | list) else outputs
        _check_finite(found, batch.positions, teacher, context)
        return found

    return answer


@contextmanager
def _answers(teacher: Artifact, config: DistillConfig, context: Context) -> Iterator[Answer]:
    """One teacher: from disk where its answers fit there, else live."""
    num_rows = len(context.data.indices["train"])
    if not config.augment.active:
        if _num_bytes(teacher, num_rows) > MAX_BYTES:
            yield live(teacher, context)
        else:
            rows = _every_answer(teacher, context)
            yield lambda batch: rows[batch.positions.cpu()].to(batch.positions.device)
        return
    if _num_bytes(teacher, num_rows * config.epochs) > MAX_BYTES:
        yield live(teacher, context)
        return
    here = place()
    store = _Store.of(
        context,
        teacher,
        augment=config.augment.model_dump(mode="json"),
        seed=context.seed,
        batch_size=config.batch_size,
        process=[here.rank, here.world],
    )
    recorded = _Recorded(live(teacher, context), store)
    try:
        yield recorded
    finally:
        recorded.keep()


def _num_bytes(teacher: Artifact, num_rows: int) -> float:
    """Size of so many answers of float32; endless where a size is not known."""
    sizes = teacher.manifest.signature.outputs[0].shape[1:]
    known = [size for size in sizes if isinstance(size, int)]
    return 4.0 * num_rows * math.prod(known) if len(known) == len(sizes) else math.inf


def _every_answer(teacher: Artifact, context: Context) -> Tensor:
    """First output of every train sample, from disk or asked now."""
    store = _Store.of(context, teacher)
    if (kept := store.read()) is not None:
        return kept["answers"]
    inputs, model = context.data.tensors("train"), load_model(teacher, plain=True)
    num_samples = len(context.data.indices["train"])
    with context.progress.task(f"ask {teacher.name}", num_samples) as advance:

        def call(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = call_model(model, teacher.manifest.signature, batch)
            advance(len(next(iter(batch.values()))))
            return outputs

        batch_size = TOKEN_BATCH_SIZE if context.data.kind == "tokens" else BATCH_SIZE
        found = tensor_of(predict(call, inputs, batch_size=batch_size))
    _check_finite(found, torch.arange(num_samples), teacher, context)
    if place().leads:
        store.write({"answers": found})
    return found


class _Recorded:
    """A teacher whose answers are found again by the fingerprint of what it was asked."""

    def __init__(self, ask: Answer, store: _Store) -> None:
        self._ask, self._store = ask, store
        kept = store.read() or {}
        self._prints, self._rows = kept.get("prints", torch.empty(0, dtype=torch.int64)), kept.get("answers")
        self._new: list[tuple[Tensor, Tensor]] = []

    def __call__(self, batch: Batch) -> Tensor:
        prints = fingerprints(batch.inputs[0]).cpu()
        if (found := self._find(prints)) is not None:
            return found.to(batch.positions.device)
        answers = self._ask(batch)
        self._new.append((prints, answers.float().cpu()))
        return answers

    def keep(self) -> None:
        """Write what was asked in addition to what was found."""
        if not self._new:
            return
        old = [] if self._rows is None else [(self._prints, self._rows)]
        prints, rows = (torch.cat(parts) for parts in zip(*old, *self._new, strict=True))
        if rows.numel() * 4 > MAX_BYTES:
            return
        unique, first = np.unique(prints.numpy(), return_index=True)
        self._store.write({"prints": tensor_of(unique), "answers": rows[tensor_of(first)]})

    def _find(self, prints: Tensor) -> Tensor | None:
        """The rows of a batch, when all of them are there."""
        if self._rows is None:
            return None
        rows = torch.searchsorted(self._prints, prints).clamp(max=len(self._prints) - 1)
        return self._rows[rows] if torch.equal(self._prints[rows], prints) else None


def fingerprints(images: Tensor) -> Tensor:
    """64 bits of every sample of a float32 batch, shape [batch]; equal bits give equal fingerprints."""
    bits = images.contiguous().view(torch.int32).flatten(1).long()
    return (bits * _weights(bits.shape[1]).to(images.device)).sum(dim=1)


@functools.lru_cache(maxsize=4)
def _weights(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(-(2**62), 2**62, (number,), generator=generator) * 2 + 1


class _Store:
    """One file of answers, trusted when its hash is right."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    @classmethod
    def of(cls, context: Context, teacher: Artifact, **drawn: Any) -> _Store:
        """The file of a teacher; `drawn` says what decides the samples beside the split."""
        train = context.data.split_hashes["train"]
        key = content_id({"teacher": teacher.digest, "train": train, "drawn": drawn})
        return cls(context.folder.parent / TEACHERS_NAME / f"{key[:32]}.safetensors", key)

    def read(self) -> dict[str, Tensor] | None:
        """The tensors, or None when there are none or they are damaged, which is logged."""
        if not self._path.exists():
            return None
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except (safetensors.SafetensorError, OSError) as exc:
            log.warning("%s is damaged (%s); the teacher is asked again", self._path, exc)
            return None
        if said != self._metadata(tensors):
            log.warning("%s is damaged (its hash is wrong); the teacher is asked again", self._path)
            return None
        return tensors

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors at once; a full disk is no reason to stop a training."""
        self._path.parent.mkdir(exist_ok=True)
        content = safetensors.torch.save(dict(tensors), self._metadata(tensors))
        try:
            write_atomic(self._path, content)
        except DiskFull as exc:
            log.warning("the answers of the teacher are not kept: %s", exc)

    def _metadata(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(f"{name} {list(tensors[name].shape)} {tensors[name].dtype}\n".encode())
            digest.update(tensors[name].contiguous().numpy().tobytes())
        return {"key": self._key, "sha256": digest.hexdigest()}


def _check_finite(answers: Tensor, positions: Tensor, teacher: Artifact, context: Context) -> None:
    finite = torch.isfinite(answers).reshape(len(answers), -1).all(dim=1)
    if not finite.all():
        wrong = positions[~finite].cpu()
        sample = int(context.data.indices["train"][int(wrong[0])])
        raise ModelError(
            f"the teacher {teacher.name!r} answers sample {sample} of {context.data.source} with NaN or "
            f"infinity ({len(wrong)} of {len(answers)} samples that it was asked about)",
            hint="train the teacher again at a lower learning rate, or leave the sample out",
        )
