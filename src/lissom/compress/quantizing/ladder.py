"""The ladder: rungs that cost more and more, climbed until the int8 model is good enough.

    plain             extremes of the calibrate split
    observer          other ranges of the activations
    bias-correction   the mean that rounding adds is taken off the biases
    smoothing         SmoothQuant, where the division can be folded away, then everywhere
    mixed-precision   the layers that hurt most stay float32, at most a quarter of them
    equalisation      equal ranges of the channels of layers that follow each other
    adaround          every weight is rounded up or down for its layer's output
    more-float        as many layers stay float32 as it takes
    engines           where the best model does not hold on an engine, other places of Q and DQ nodes

Every model is measured on the select split; what does not help is taken back. With labels the climb ends
where the goal is reached. Without labels noise is all that is known of accuracy, and the rungs that cost no
time at inference, observer and bias-correction, are climbed to their end, for either place of Q and DQ nodes
(all operators, or layers alone). A ladder that is climbed to
its end without reaching its goal says so, and gives the best model that it found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lissom.compress.quantizing.engines import Proof, all_hold, worst_db
from lissom.compress.quantizing.evidence import Figures, Goal, Judge, helps
from lissom.compress.quantizing.graph import Graph
from lissom.compress.quantizing.observers import OBSERVERS
from lissom.compress.quantizing.rescaling import can_be_equalized, can_be_smoothed
from lissom.compress.quantizing.static import Plan, StaticQuantizer
from lissom.logs import Progress

_ALPHAS = (0.5, 0.75)
_WORTH_DB = 1.0
"""Less noise that further layers in float32 must bring, where that does not reach the goal."""
_BETTER_DB = 0.5
"""Less noise on the worst engine that another placement must bring."""
_GIVEN_DB = 0.5
"""What a faster model may lose without labels."""
_FREE = ("observer", "bias-correction")
"""Rungs that cost no time at inference."""
_FEW = 0.25
"""Share of the layers that mixed precision may leave in float32 before other rungs were tried."""


class Trial(NamedTuple):
    """One model that was tried.

    Attributes:
        rung: Name of the rung.
        what: What the model has that the one before has not.
        figures: On the select split.
        kept: True when it was better than the best before.
    """

    rung: str
    what: str
    figures: Figures
    kept: bool

    def document(self) -> dict[str, Any]:
        """As JSON."""
        figures = {key: value for key, value in self.figures._asdict().items() if key != "scores"}
        return {"rung": self.rung, "what": self.what, "figures": figures, "kept": self.kept}


@dataclass
class Ladder:
    """Climbs from a first plan.

    Attributes:
        quantizer: Makes the models.
        judge: Measures them.
        goal: What is good enough.
        progress: Shows how far the climb is.
        trials: What was tried so far.
    """

    quantizer: StaticQuantizer
    judge: Judge
    goal: Goal
    progress: Progress
    trials: list[Trial] = field(default_factory=list)
    prover: Callable[[Any, Figures], tuple[Proof, ...]] | None = None
    """Compares a model with float32 on every engine, given its figures by the judge."""
    proofs: tuple[Proof, ...] = ()
    """Those of the best model."""
    worst: tuple[tuple[str, float], ...] = ()
    """Layers by their noise alone, decibel, the worst first; found when mixed precision is tried."""

    def climb(self, first: Plan, *, rungs: Sequence[str] | None = None) -> tuple[Plan, Any]:
        """The best plan, and its model; they stay as `plan` and `model`."""
        self.first = first
        self.plan, self.model, self.best = first, *self._measured("plain", "", first)
        wanted = [name for name in RUNGS if rungs is None or name in rungs]
        with self.progress.task("quantize: climb", len(wanted)) as advance:
            for name in wanted:
                for what, plan in RUNGS[name](self) if not self._done(name) else ():
                    self._try(name, what, plan)
                    if self._done(name) and name != "more-float":  # which ends when it found the fewest
                        break
                advance(1)
        return self.plan, self.model

    def _done(self, rung: str) -> bool:
        """True when a rung need not be climbed, or not any further."""
        return self.reached and (self.judge.labelled or rung not in _FREE)

    @property
    def reached(self) -> bool:
        """True when the best model is good enough."""
        return self.goal.reached(self.best)

    def replace(self, plan: Plan, model: Any, *, faster: bool = True) -> bool:
        """Take another model for the best where it is good enough.

        Args:
            plan: Of the model.
            model: What may take the place of the best.
            faster: It is, so that it may have more noise: with labels any within the goal, without labels
                0.5 dB of it. Else it must have less.
        """
        figures = self.judge(model)
        lost = self.reached and not self.goal.reached(figures)
        if faster:
            given = 0.0 if not self.reached else math.inf if self.judge.labelled else _GIVEN_DB
            good = not lost and figures.sqnr_db >= self.best.sqnr_db - given
        else:
            good = not lost and figures.sqnr_db >= self.best.sqnr_db + _WORTH_DB and helps(self.best, figures)
        return good and self._hold(plan, model, figures)

    def settle(self, *, search: bool) -> None:
        """Prove the best model on every engine.

        Args:
            search: Where it does not hold on one, look for a placement that does.
        """
        if self.prover is None:
            return
        self.proofs = self.prover(self.model, self.best)
        for what, plan in _placements(self) if search else ():
            if all_hold(self.proofs):
                break
            model, figures = self._measured("engines", what, plan)
            lost = self.reached and not self.goal.reached(figures)
            if not lost and self._hold(plan, model, figures, better=True):
                self.trials[-1] = self.trials[-1]._replace(kept=True)

    def _hold(self, plan: Plan, model: Any, figures: Figures, *, better: bool = False) -> bool:
        """Take a model for the best where it holds on every engine, or is no worse on the worst of them."""
        proofs = self.prover(model, figures) if self.prover is not None else ()
        before = worst_db(self.proofs) + (_BETTER_DB if better else 0.0) if proofs else 0.0
        good = (not better and all_hold(proofs)) or (bool(proofs) and worst_db(proofs) >= before)
        if good:
            self.plan, self.model, self.best, self.proofs = plan, model, figures, proofs
        return good

    def _try(self, rung: str, what: str, plan: Plan) -> None:
        model, figures = self._measured(rung, what, plan)
        slight = len(plan.exclude) > len(self.plan.exclude) and (
            figures.sqnr_db < self.best.sqnr_db + _WORTH_DB and not self.goal.reached(figures)
        )
        fewer = len(plan.exclude) < len(self.plan.exclude) and self.goal.reached(figures)
        if fewer or (helps(self.best, figures) and not slight):
            self.plan, self.model, self.best = plan, model, figures
            self.trials[-1] = self.trials[-1]._replace(kept=True)

    def _measured(self, rung: str, what: str, plan: Plan) -> tuple[Any, Figures]:
        model = self.quantizer.build(plan)
        figures = self.judge(model)
        self.trials.append(Trial(rung, what, figures, kept=rung == "plain"))
        return model, figures

    def sensitive(self) -> tuple[tuple[str, float], ...]:
        """Names of the quantized layers, those first that add most noise when they alone are quantized."""
        if not self.worst:
            layers = Graph(self.quantizer.calibration(self.plan).model).layers
            names = [layer.name for layer in layers if layer.name not in self.plan.exclude]
            found = []
            with self.progress.task("quantize: sensitivity", len(names)) as advance:
                for name in names:
                    found.append((name, self.judge.noise_db(self.quantizer.build(self.plan, only=name))))
                    advance(1)
            self.worst = tuple(sorted(found, key=lambda item: item[1]))
        return self.worst


Candidates = Iterator[tuple[str, Plan]]


def _placements(ladder: Ladder) -> Candidates:
    """Other places of Q and DQ nodes, for an engine that reads those of the best model otherwise."""
    other = "layers" if ladder.plan.operators == "all" else "all"
    yield f"operators: {other}", ladder.plan._replace(operators=other)
    yield "one scale a weight", ladder.plan._replace(per_tensor=True)
    yield from _excluding(ladder, int(_FEW * len(Graph(ladder.quantizer.model).layers)))


def _observer(ladder: Ladder) -> Candidates:
    first = ladder.plan
    other = "layers" if first.operators == "all" else "all"
    for operators in (first.operators,) if ladder.judge.labelled else (first.operators, other):
        for observer in OBSERVERS:
            plan = first._replace(operators=operators, observer=observer)
            if plan != first:
                told = observer if operators == first.operators else f"operators: {operators}, {observer}"
                yield told, plan


def _bias_correction(ladder: Ladder) -> Candidates:
    yield "", ladder.plan._replace(corrected=True)


def _smoothing(ladder: Ladder) -> Candidates:
    if not can_be_smoothed(ladder.quantizer.model):
        return
    for everywhere in (False, True):
        for alpha in _ALPHAS:
            where = "everywhere" if everywhere else "folded"
            smoothed = {"smoothing": alpha, "everywhere": everywhere}
            yield from _with_observers(ladder, f"alpha {alpha:g}, {where}", smoothed)


def _mixed_precision(ladder: Ladder) -> Candidates:
    yield from _depthwise(ladder)
    yield from _excluding(ladder, int(_FEW * len(Graph(ladder.quantizer.model).layers)))


def _depthwise(ladder: Ladder) -> Candidates:
    """Depthwise convolutions in float32: their channels have ranges of their own, and few products."""
    graph = Graph(ladder.quantizer.model)
    grouped = (layer for layer in graph.layers if layer.op_type == "Conv" and layer.groups > 1)
    names = [layer.name for layer in grouped if graph.array(layer.weight).shape[1] == 1]
    if names and len(names) < len(graph.layers):
        chosen = tuple(dict.fromkeys((*ladder.plan.exclude, *names)))
        for corrected in (False, True):
            told = "depthwise layers, bias-correction" if corrected else "depthwise layers"
            yield told, ladder.plan._replace(operators="layers", exclude=chosen, corrected=corrected)


def _equalisation(ladder: Ladder) -> Candidates:
    if can_be_equalized(ladder.quantizer.model):
        yield from _with_observers(ladder, "", {"equalized": True})


def _with_observers(ladder: Ladder, what: str, changed: Mapping[str, Any]) -> Candidates:
    """With the observer that suits the outliers so far, and with the first: without them it may be better."""
    for observer in dict.fromkeys((ladder.plan.observer, ladder.first.observer)):
        told = what if observer == ladder.plan.observer else f"{what}, {observer}".removeprefix(", ")
        yield told, ladder.plan._replace(observer=observer, **changed)


def _adaround(ladder: Ladder) -> Candidates:
    yield "", ladder.plan._replace(rounded=True)


def _more_float(ladder: Ladder) -> Candidates:
    """1, 2, 4 and so on until the goal is reached, then bisected: as few layers in float32 as it takes.

    The operators between layers are in float32 too: integers between them would be nothing but noise.
    """
    first, names = ladder.plan, _quantized(ladder)
    most = len(names) - 1
    short, enough, number = 0, most + 1, min(1, most)
    while short < number < enough:
        yield _in_float(first._replace(operators="layers"), names[:number])
        if ladder.goal.reached(ladder.trials[-1].figures):
            enough = number
        else:
            short = number
        number = min(2 * short, most) if enough > most else (short + enough) // 2


def _excluding(ladder: Ladder, most: int) -> Candidates:
    """1, 2, 4 and so on of the worst layers in float32, at most `most`; one at least stays quantized."""
    first, names = ladder.plan, _quantized(ladder)
    most = min(most, len(names) - 1)
    doubled = [1 << power for power in range(most.bit_length())]
    for number in dict.fromkeys((*doubled, most) if most > 0 else ()):
        yield _in_float(first, names[:number])


def _quantized(ladder: Ladder) -> list[str]:
    """Layers that the best plan quantizes, the worst first."""
    return [name for name, _ in ladder.sensitive() if name not in ladder.plan.exclude]


def _in_float(plan: Plan, names: Sequence[str]) -> tuple[str, Plan]:
    """A plan with further layers in float32, and how it is told."""
    told = names[0] if len(names) == 1 else f"{len(names)} layers, down to {names[-1]}"
    return told, plan._replace(exclude=(*plan.exclude, *names))


RUNGS: dict[str, Callable[[Ladder], Candidates]] = {
    "observer": _observer,
    "bias-correction": _bias_correction,
    "smoothing": _smoothing,
    "mixed-precision": _mixed_precision,
    "equalisation": _equalisation,
    "adaround": _adaround,
    "more-float": _more_float,
}
