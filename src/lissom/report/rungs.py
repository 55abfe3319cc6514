"""What the stage `quantize` tried, rung by rung, and what it kept, in words.

Everything is read from the notes of the stage: `rungs`, `timed`, `plan`, `goal`, `worst_layers` and the
counts of operators. Figures are of the split that the notes name, against the model that was quantized.
`plan`, `goal_reached` and the counts are of the shipped model. That is the last trial that was kept, unless
one of the variants that were timed afterwards took its place; of those the notes hold no figures but times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lissom.report.reading import SHARES, score_title
from lissom.report.schema import Report, StageRow
from lissom.report.wording import (
    NO_NOISE_DB,
    count,
    decibel,
    listed,
    noise_words,
    noisy_layers,
    percent,
    points,
)

_TITLES = {
    "plain": "plain int8",
    "bias-correction": "bias correction",
    "mixed-precision": "mixed precision",
    "adaround": "AdaRound",
    "more-float": "more in float32",
    "engines": "placement for every engine",
}
_VARIANTS = {
    "operators: all": "all operators in int8",
    "operators: layers": "layers alone in int8",
}


class Trial(NamedTuple):
    """One model that was tried.

    Attributes:
        title: Its rung, in words.
        what: What it has that the model before has not; may be empty.
        sqnr_db: Signal to quantization noise of the worst output.
        agreement: Share of answers that are the parent's; None where outputs are no answers.
        score: Mean score; None without labels.
        drop: Score of the parent minus it.
        kept: True when it was better than the best before.
    """

    title: str
    what: str
    sqnr_db: float
    agreement: float | None
    score: float | None
    drop: float | None
    kept: bool

    @property
    def name(self) -> str:
        """Rung, and what is new."""
        return f"{self.title}: {self.what}" if self.what else self.title

    @property
    def is_drawn(self) -> bool:
        """True when there is a noise to draw."""
        return abs(self.sqnr_db) < NO_NOISE_DB


def climbed_stages(report: Report) -> list[StageRow]:
    """The quantize stages that say what they tried."""
    return [row for row in report.stages if row.stage == "quantize" and row.notes.get("rungs")]


def trials_of(report: Report, row: StageRow) -> list[Trial]:
    """What a stage tried, in order."""
    answers = report.task in SHARES
    return [
        Trial(
            _TITLES.get(rung["rung"], rung["rung"]),
            rung["what"],
            rung["figures"]["sqnr_db"],
            rung["figures"]["agreement"] if answers else None,
            rung["figures"].get("score"),
            rung["figures"].get("drop"),
            rung["kept"],
        )
        for rung in row.notes["rungs"]
    ]


def best_row(trials: Sequence[Trial]) -> int:
    """Which trial is the best: the last that was kept."""
    return max((number for number, trial in enumerate(trials) if trial.kept), default=0)


def best_word(notes: Mapping[str, Any]) -> str:
    """What the best trial is: it is shipped only where no faster variant took its place.

    >>> best_word({"timed": [{"kept": False}]}), best_word({"timed": [{"kept": True}]})
    ('shipped', 'best')
    """
    return "best" if _taken(notes) else "shipped"


def taken_words(notes: Mapping[str, Any]) -> str:
    """What the shipped model has that the best trial has not; empty where that trial is shipped.

    >>> taken_words({"timed": [{"what": "operators: layers", "kept": True}]})
    'layers alone in int8'
    """
    return listed([_variant_words(variant) for variant in _taken(notes)])


def plan_words(plan: Mapping[str, Any]) -> str:
    r"""What a plan has beyond plain int8; empty when it has nothing.

    >>> plan_words({"observer": "mse", "corrected": True, "exclude": ["a", "b"]})
    'observer mse, bias correction and 2\xa0layers in float32'
    """
    observer, alpha, exclude = plan.get("observer", "minmax"), plan.get("smoothing"), plan.get("exclude", ())
    where = "everywhere" if plan.get("everywhere") else "folded"
    parts = {
        f"observer {observer}": observer != "minmax",
        "equalisation": plan.get("equalized"),
        f"smoothing of {alpha} {where}": alpha,
        "bias correction": plan.get("corrected"),
        "AdaRound": plan.get("rounded"),
        f"{count(len(exclude), 'layer')} in float32": exclude,
    }
    return listed([words for words, present in parts.items() if present])


def told(report: Report, row: StageRow) -> str:
    """What was tried, what came out, and whether that is good enough."""
    trials, taken = trials_of(report, row), bool(_taken(row.notes))
    words = "" if taken else plan_words(row.notes.get("plan", {}))
    first, best = trials[0], trials[best_row(trials)]
    ingredients = f", with {words}" if words else ""
    name = "plain int8" if best is first else "the best of them"
    if len(trials) == 1:
        nothing = "no other rung" if row.notes.get("timed") else "nothing else"
        found = f"Plain int8 {_fidelity(first)}{ingredients}; {nothing} was tried."
    else:
        rungs = count(len({trial.title for trial in trials}), "rung")
        found = f"{count(len(trials), 'model')} on {rungs} were tried. Plain int8 {_fidelity(first)}"
        subject = name if taken else "the shipped model"
        better = f", {subject} {_fidelity(best, brief=True)}{ingredients}."
        found += better if best is not first else f"{ingredients}, and no other was better."
    sentences = (found, _shipped_told(row.notes, name), _goal_told(row.notes, first))
    return " ".join(sentence for sentence in sentences if sentence)


def goal_words(goal: Mapping[str, float], *, labelled: bool, answers: bool = True) -> str:
    r"""What is good enough.

    >>> goal = {"max_drop": 0.005, "min_agreement": 0.99, "min_sqnr_db": 25.0}
    >>> goal_words(goal, labelled=True)
    'a drop of at most 0.5 points and at least 99.0\xa0% of the answers kept'
    >>> goal_words(goal, labelled=False)
    'an SQNR of at least 25.0\xa0dB'
    """
    if not labelled:
        return f"an SQNR of at least {decibel(goal['min_sqnr_db'])}"
    kept = f" and at least {percent(goal['min_agreement'])} of the answers kept" if answers else ""
    return f"a drop of at most {points(goal['max_drop'])} points{kept}"


def operators_told(notes: Mapping[str, Any]) -> str:
    """What became of the graph; empty for notes without counts.

    >>> notes = {"operators_before": 245, "operators": 476, "quantize": 95, "dequantize": 130}
    >>> operators_told(notes | {"computing": 55, "computing_int8": 47})
    '47 of 55 layers compute in int8. The graph had 245 operators and has 476, of them 95 Q and 130 DQ.'
    """
    wanted = ("operators_before", "operators", "quantize", "dequantize", "computing", "computing_int8")
    if not set(wanted) <= set(notes):
        return ""
    before, after, quantize, dequantize, computing, integers = (f"{notes[key]:,}" for key in wanted)
    timed = "; ".join(_timed_words(variant) for variant in notes.get("timed", ()))
    return (
        f"{integers} of {computing} layers compute in int8. The graph had {before} operators and has "
        f"{after}, of them {quantize} Q and {dequantize} DQ."
        f"{f' Timed on this machine, each against the best before it: {timed}.' if timed else ''}"
    )


def _timed_words(variant: Mapping[str, Any]) -> str:
    """How fast a variant is, and what became of it.

    >>> speedup = {"value": 1.04, "low": 0.94, "high": 1.15}
    >>> _timed_words({"what": "last layer in float32", "speedup": speedup, "kept": False})
    'last layer in float32 1.04x (0.94 to 1.15), not taken'
    """
    outcome = "taken" if variant["kept"] else "not taken"
    return f"{_variant_words(variant)} {_speedup_words(variant)}, {outcome}"


def _variant_words(variant: Mapping[str, Any]) -> str:
    what: str = variant["what"]
    return _VARIANTS.get(what, what)


def _speedup_words(variant: Mapping[str, Any]) -> str:
    speedup = variant["speedup"]
    return f"{speedup['value']:.2f}x ({speedup['low']:.2f} to {speedup['high']:.2f})"


def columns_of(report: Report, trials: Sequence[Trial]) -> tuple[str, ...]:
    """Titles of the figures that the trials have."""
    labelled = trials[0].drop is not None
    return (
        *((score_title(report), "Drop") if labelled else ()),
        *(("Agreement",) if trials[0].agreement is not None else ()),
        "SQNR",
    )


def figures_of(trial: Trial) -> tuple[str, ...]:
    """The figures of a trial, in the order of `columns_of`."""
    scores = (
        (percent(trial.score), points(trial.drop))
        if trial.score is not None and trial.drop is not None
        else ()
    )
    agreement = () if trial.agreement is None else (percent(trial.agreement),)
    return (*scores, *agreement, noise_words(trial.sqnr_db))


class EngineRow(NamedTuple):
    """The shipped model on one engine, against float32 there.

    Attributes:
        title: The engine, and its arithmetic where that is not this machine's.
        sqnr_db: Of the worst output; None where the engine does not execute the model.
        agreement: Share of answers that are those of float32; None where outputs are no answers.
        num_samples: On which it was compared.
        fault: Why the model is not offered on it; empty where it is.
    """

    title: str
    sqnr_db: float | None
    agreement: float | None
    num_samples: int
    fault: str


def engines_of(report: Report, row: StageRow) -> list[EngineRow]:
    """The engines on which a stage proved its file; none in older reports."""
    answers = report.task in SHARES
    return [
        EngineRow(
            proof["runtime"] + (", exact arithmetic" if proof["arithmetic"] == "exact" else ""),
            proof["sqnr_db"],
            proof["agreement"] if answers else None,
            proof["num_samples"],
            proof["fault"],
        )
        for proof in row.notes.get("engines", ())
    ]


def engines_told(report: Report, row: StageRow) -> str:
    """How near the shipped model is to float32 on each engine, and on which it is not offered."""
    parts = [
        f"{engine.title} {'does not run it' if engine.sqnr_db is None else noise_words(engine.sqnr_db)}"
        + (f" (not offered: {engine.fault})" if engine.fault else "")
        for engine in engines_of(report, row)
    ]
    against = f"Against float32 on the same engine: {listed(parts)}." if parts else ""
    return " ".join(sentence for sentence in (arithmetic_told(row.notes), against) if sentence)


def arithmetic_told(notes: Mapping[str, Any]) -> str:
    """By which arithmetic models were judged, where it is not that of this machine.

    >>> arithmetic_told({"arithmetic": "exact", "target": "arm"})
    'The target is arm: models were judged by exact integer arithmetic, not by this machine.'
    >>> arithmetic_told({"arithmetic": "native", "target": "x86"})
    ''
    """
    if notes.get("arithmetic") != "exact":
        return ""
    target = notes.get("target", "another machine")
    return f"The target is {target}: models were judged by exact integer arithmetic, not by this machine."


def _fidelity(trial: Trial, *, brief: bool = False) -> str:
    """How near a model is to its parent, by what counts for it."""
    if trial.drop is not None and trial.agreement is not None:
        return percent(trial.agreement) if brief else f"kept {percent(trial.agreement)} of the answers"
    noise = noise_words(trial.sqnr_db)
    return noise if brief else f"had an SQNR of {noise}"


def _taken(notes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Variants that took the place of the best trial, each of the one before it."""
    return [variant for variant in notes.get("timed", ()) if variant["kept"]]


def _shipped_told(notes: Mapping[str, Any], name: str) -> str:
    """What the shipped model is, where it is no trial; `name` is that of the best one."""
    taken, words = _taken(notes), plan_words(notes.get("plan", {}))
    if not taken:
        return ""
    nearer = any(variant.get("gain_db") for variant in taken)
    why = "it is faster" if len(taken) == 1 else "each made it faster"
    if nearer:
        why = "it has less noise and is no slower" if len(taken) == 1 else "each has less noise or is faster"
    speedups = listed([_speedup_words(variant) for variant in taken])
    altogether = f" Altogether it has {words}." if words else ""
    return (
        f"The shipped model is {name} with {taken_words(notes)}, taken because {why}: {speedups}.{altogether}"
    )


def _goal_told(notes: Mapping[str, Any], first: Trial) -> str:
    words = goal_words(notes["goal"], labelled=first.drop is not None, answers=first.agreement is not None)
    reached, split = notes["goal_reached"], notes.get("judged_on", "select")
    noisiest = "" if reached else noisy_layers(notes.get("worst_layers", ()))
    sources = listed(notes.get("judged_by", ()))
    judged = f" Its outputs differ in shape from sample to sample: compared are {sources}." if sources else ""
    return (
        f"On the {split} split the goal was {'' if reached else 'not '}reached: {words}.{judged}"
        f"{f' The noisiest layers: {noisiest}.' if noisiest else ''}"
    )
