"""What a quantized model is judged by while it is being made: the select split, against its parent.

With labels, the score that is lost counts, and how often the answer is the parent's; without labels, the
signal-to-noise ratio of every output. Where the data have no select split, a quarter of the calibrate split
is held out for it: on samples that a range was made from, the range that clips nothing always looks best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lissom.bench.statistics import paired_drop
from lissom.compress.quantizing.graph import with_fixed_noise
from lissom.export.graphs import random_nodes
from lissom.export.onnx_file import caller, open_session
from lissom.export.verification import LIMITS, Comparison
from lissom.models.data import Data
from lissom.models.evaluation import BATCH_SIZE, TOKEN_BATCH_SIZE, judge
from lissom.models.tasks import Task
from lissom.runtime.layout import Layout

Answers = Mapping[str, np.ndarray]
Call = Callable[[Mapping[str, np.ndarray]], Answers]

_MAX_KEPT_BYTES = 256_000_000
"""Outputs of the parent are kept up to this, and computed anew beyond."""
_FEW = 128
"""Samples on which single layers are compared."""
_HELD_OUT, _FEWEST_SHARED = 4, 24
"""Every fourth calibration sample judges where nothing else does, if there are so many."""
_LIMIT = LIMITS["int8"]
_HEADROOM_DB = 1.0
"""What must be had above the goal, because the engine that is chosen in the end rounds otherwise."""


class Figures(NamedTuple):
    """How near a model is to its parent.

    Attributes:
        sqnr_db: Of the worst output; 200 where there is no noise.
        cosine: Of the worst output.
        agreement: Share of rows whose highest output is the parent's; of the worst output.
        score: Mean score; None without labels.
        drop: Score of the parent minus it.
        scores: Of every sample.
    """

    sqnr_db: float
    cosine: float
    agreement: float
    score: float | None = None
    drop: float | None = None
    scores: np.ndarray | None = None


class Goal(NamedTuple):
    """What is good enough.

    Attributes:
        max_drop: Score that may be lost; 0.01 is one point.
        min_agreement: With labels of classes or tokens.
        min_sqnr_db: Without labels.
    """

    max_drop: float
    min_agreement: float
    min_sqnr_db: float

    def reached(self, figures: Figures) -> bool:
        """True when a model is good enough."""
        if figures.drop is None:
            return figures.sqnr_db >= self.min_sqnr_db + _HEADROOM_DB
        return figures.drop <= self.max_drop + 1e-12 and figures.agreement >= self.min_agreement


def helps(before: Figures, after: Figures) -> bool:
    """True when a model is better: by its scores where they surely differ, else by its noise."""
    if before.scores is not None and after.scores is not None:
        drop = paired_drop(before.scores, after.scores)
        if drop.low > 0 or drop.high < 0:
            return drop.high < 0
    return after.sqnr_db > before.sqnr_db + 0.1


def held_out(data: Data) -> np.ndarray:
    """Places in the calibrate split of the samples that judge and give no range.

    None where the data have a select split, or so few samples that all must do both.
    """
    number = len(data.indices["calibrate"])
    if len(data.indices["select"]) or number < _FEWEST_SHARED:
        return np.zeros(0, dtype=np.int64)
    return np.arange(_HELD_OUT - 1, number, _HELD_OUT)


@dataclass(frozen=True)
class Judge:
    """Compares models with their parent.

    Attributes:
        parent: ONNX model that others are compared with.
        outputs: Names of its outputs.
        data: The data.
        task: What the model does.
        layout: Where the samples lie in the tensors of the models; None where on axis 0 of all.
        exact: Integer products are added up exactly, as on the target, whatever this machine does.
        max_samples: At most so many samples, where they have no labels.
    """

    parent: Any
    outputs: tuple[str, ...]
    data: Data
    task: Task
    layout: Layout | None = None
    exact: bool = False
    max_samples: int = 256

    @property
    def split(self) -> str:
        """The split that is looked at."""
        return "select" if len(self.data.indices["select"]) else "calibrate"

    @property
    def chooses(self) -> bool:
        """False where a model gives numbers, of which the highest means nothing."""
        return self.data.kind != "values"

    @property
    def labelled(self) -> bool:
        """True when there are scores."""
        return self.data.dataset.labels is not None and self.split == "select"

    def __call__(self, model: Any) -> Figures:
        """The figures of a model."""
        call = self._caller(model)
        comparisons = {name: Comparison() for name in self.outputs}
        wanted, random = iter(self._wanted), bool(random_nodes(self.parent))
        parents = self._caller(self.parent) if random and not self._keeps else self._call

        def watched(batch: Mapping[str, np.ndarray]) -> Answers:
            found = call(batch)
            parent = next(wanted, None) if self._keeps else parents(batch)
            assert parent is not None
            for name, comparison in comparisons.items():
                comparison.add(parent[name], found[name])
            return found

        scores = None
        if self.labelled:
            scores = judge(watched, self.data, self.split, self.task).scores
        else:
            for batch in self.batches():
                watched(batch)
        return self._figures(comparisons, scores)

    def _figures(self, comparisons: Mapping[str, Comparison], scores: np.ndarray | None) -> Figures:
        parities = [comparison.parity(name, _LIMIT) for name, comparison in comparisons.items()]
        finite = all(parity.max_abs_error is not None for parity in parities)
        figures = Figures(
            min((200.0 if p.sqnr_db is None else p.sqnr_db) for p in parities) if finite else -200.0,
            min(p.cosine or 0.0 for p in parities),
            min(p.top1_agreement for p in parities) if self.chooses else 1.0,
        )
        if scores is None:
            return figures
        drop = float(self._parent_scores.mean() - scores.mean())
        return figures._replace(score=float(scores.mean()), drop=drop, scores=scores)

    def noise_db(self, model: Any) -> float:
        """Signal-to-noise ratio of the worst output on a few samples, which tells layers apart as well."""
        call = self._caller(model)
        return self.compare([(parent, call(batch)) for batch, parent in self._few]).sqnr_db

    def compare(self, answers: Iterable[tuple[Answers, Answers]]) -> Figures:
        """The figures of answers that were computed elsewhere: pairs of the parent's and a model's."""
        comparisons = {name: Comparison() for name in self.outputs}
        for parent, found in answers:
            for name, comparison in comparisons.items():
                comparison.add(parent[name], found[name])
        return self._figures(comparisons, None)

    def _caller(self, model: Any) -> Call:
        """Answers of a model to samples; its noise, where it draws any, is that of every other model."""
        fixed = with_fixed_noise(model)
        session = open_session(fixed.SerializeToString(), exact=self.exact)
        call, layout = caller(session, list(self.outputs)), self.layout
        return call if layout is None else lambda batch: layout.infer_samples(call, batch)

    @cached_property
    def _few(self) -> list[tuple[dict[str, np.ndarray], Answers]]:
        call = self._caller(self.parent)
        return [(batch, call(batch)) for batch in self.batches(number=min(_FEW, self._available))]

    @cached_property
    def score(self) -> float | None:
        """Mean score of the parent; None without labels."""
        return float(self._parent_scores.mean()) if self.labelled else None

    @cached_property
    def _call(self) -> Call:
        return self._caller(self.parent)

    @cached_property
    def _parent_scores(self) -> np.ndarray:
        return judge(self._caller(self.parent), self.data, self.split, self.task).scores

    @cached_property
    def _keeps(self) -> bool:
        first = self._caller(self.parent)(next(iter(self.batches(1))))
        size = sum(int(array.nbytes) for array in first.values())
        return size * self.number <= _MAX_KEPT_BYTES

    @cached_property
    def _wanted(self) -> list[Answers]:
        return [self._call(batch) for batch in self.batches()] if self._keeps else []

    @property
    def number(self) -> int:
        """Samples on which models are judged."""
        return self._available if self.labelled else min(self._available, self.max_samples)

    def batches(self, size: int | None = None, number: int | None = None) -> Any:
        """Samples of the split, as `judge` cuts them: `number` of them in batches of `size`."""
        size = size or (TOKEN_BATCH_SIZE if self.data.kind == "tokens" else BATCH_SIZE)
        number = number or self.number
        for start in range(0, number, size):
            stop = min(start + size, number)
            yield {name: array[start:stop] for name, array in self._tensors.items()}

    @cached_property
    def _tensors(self) -> Mapping[str, np.ndarray]:
        """Those of the split that judge."""
        tensors, chosen = self.data.tensors(self.split), held_out(self.data)
        return {name: array[chosen] for name, array in tensors.items()} if len(chosen) else tensors

    @property
    def _available(self) -> int:
        return len(held_out(self.data)) or len(self.data.indices[self.split])
