"""Two reports against each other: did a change make the model slower, less accurate or larger?

Latency is compared between two sessions, and a machine differs from itself by more than most changes. Where
both reports timed the same model, such as the original, each is held against it in its own session, and
the ratios are compared; otherwise times are compared as they are, and a pass is not claimed. Accuracy is
paired by sample, by the hashes that both reports hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lissom.bench.statistics import Estimate, Flips, change, change_of_ratio, flips
from lissom.errors import RequestError
from lissom.recipe import GatesConfig
from lissom.report.gates import accuracy_gate, not_slower_gate
from lissom.report.reading import arm_name, chosen_arm, find_arm, is_classification, stage_row
from lissom.report.schema import Arm, Gate, Report
from lissom.report.wording import ABSENT

_MACHINE = ("cpu", "architecture", "isa", "cores")


class Line(NamedTuple):
    """One figure of both reports.

    Attributes:
        name: What it is.
        before: In the older report.
        after: In the newer one.
        change: From one to the other, with its interval where it has one.
    """

    name: str
    before: str
    after: str
    change: str


class Comparison(NamedTuple):
    """What became of a model.

    Attributes:
        names: Of the two arms that were chosen.
        gates: accuracy and not-slower, and those of the newer report that failed.
        lines: Figures side by side.
        notes: What a reader should know beside them.
        speedup: How much faster it became; None where it was not timed in both.
        flips: Samples that became wrong and right; None without labels that both have.
        baseline: The file that the newer report was kept as; None where it was not.
    """

    names: tuple[str, str]
    gates: tuple[Gate, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    speedup: Estimate | None
    flips: Flips | None
    baseline: Path | None = None

    @property
    def ok(self) -> bool:
        """True when no gate failed, or every failure was allowed."""
        return all(gate.state != "fail" or gate.allowed for gate in self.gates)

    @property
    def verdict(self) -> str:
        """Worse when a gate failed, better when it is surely faster, inconclusive otherwise."""
        if any(gate.state == "fail" for gate in self.gates):
            return "worse"
        return "better" if self.speedup is not None and self.speedup.low > 1 else "inconclusive"


def compare(before: Report, after: Report, limits: GatesConfig, *, allow: Sequence[str] = ()) -> Comparison:
    """Compare the chosen arms of two reports.

    Raises:
        RequestError: they are of other tasks or classes, have no sample in common, or one has no chosen arm.
            Where `accuracy` is allowed to fail, reports without a common sample are compared by the rest.
    """
    one, other = _chosen(before), _chosen(after)
    _check_comparable(before, after)
    speedup, notes = _speedup(before, after, one, other)
    scores = _paired(before, after, one, other, strict="accuracy" not in allow)
    reference, candidate = scores or (None, None)
    names = (arm_name(one), arm_name(other))
    judged = (
        accuracy_gate(reference, candidate, limits, score_name=after.score_name),
        _speed_gate(speedup, limits, names, controlled=not notes),
        *(
            gate
            for gate in after.gates
            if gate.state == "fail" and gate.name not in ("accuracy", "not-slower")
        ),
    )
    gates = tuple(gate.model_copy(update={"allowed": gate.name in allow}) for gate in judged)
    changed = flips(*scores) if scores and scores[0].dtype == bool else None
    lines = _lines(before, after, (one, other), speedup, changed)
    notes += [] if scores else ["no sample with a label is in both reports, so accuracy was not compared"]
    return Comparison(names, gates, tuple(lines), (*notes, *_surroundings(before, after)), speedup, changed)


def alone(report: Report, *, allow: Sequence[str] = ()) -> Comparison:
    """A report that nothing earlier is held against: its own gates, and figures of its chosen arm.

    Raises:
        RequestError: it has no chosen arm.
    """
    arm = _chosen(report)
    gates = tuple(gate.model_copy(update={"allowed": gate.name in allow}) for gate in report.gates)
    lines = _lines(report, report, (arm, arm), None, None)
    shown = tuple(line._replace(before="", change="") for line in lines)
    return Comparison((arm_name(arm), arm_name(arm)), gates, shown, (), None, None)


def _chosen(report: Report) -> Arm:
    found = chosen_arm(report)
    if found is None:
        raise RequestError(
            f"the report {report.name!r} has no chosen model", hint="run it again until one is chosen"
        )
    return found


def _check_comparable(before: Report, after: Report) -> None:
    for what in ("task", "labels", "score_name"):
        one, other = getattr(before, what), getattr(after, what)
        if one != other:
            raise RequestError(
                f"the reports cannot be compared: {what} was {_shown(one)} and is {_shown(other)}",
                hint="compare reports of models for the same data",
            )


def _shown(value: str | Sequence[str]) -> str:
    text = value if isinstance(value, str) else ", ".join(value) or "none"
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _speedup(before: Report, after: Report, one: Arm, other: Arm) -> tuple[Estimate | None, list[str]]:
    """How much faster it became, and what is to be said against that."""
    if one.latency is None or other.latency is None:
        return None, ["one of the models was not timed"]
    controls = _controls(before, after)
    if controls is None:
        note = "the reports timed no model in common: what the machine did between them is in the latency"
        return change(one.latency.rounds_ms, other.latency.rounds_ms), [note]
    pairs = zip(controls, (one.latency.rounds_ms, other.latency.rounds_ms), strict=True)
    first, second = pairs
    return change_of_ratio(first, second), []


def _controls(before: Report, after: Report) -> tuple[Sequence[Sequence[float]], ...] | None:
    """Rounds of the same model on the same runtime in both sessions, on the same kind of machine."""
    if any(before.environment.get(key) != after.environment.get(key) for key in _MACHINE):
        return None
    ours = {row.digest: row.name for row in before.stages}
    for row in after.stages:
        for arm in after.arms:
            if arm.artifact != row.name or arm.chosen or arm.latency is None or row.digest not in ours:
                continue
            earlier = find_arm(before, ours[row.digest], arm.runtime)
            if earlier and earlier.latency and not earlier.chosen and earlier.version == arm.version:
                return earlier.latency.rounds_ms, arm.latency.rounds_ms
    return None


def _speed_gate(
    speedup: Estimate | None, limits: GatesConfig, names: tuple[str, str], *, controlled: bool
) -> Gate:
    gate = not_slower_gate(speedup, limits, names)
    if speedup is None:
        return gate
    held = "each against the model that both sessions timed" if controlled else "times of two sessions"
    reason = f"{names[1]} against {names[0]}, {held}"
    state = "inconclusive" if not controlled and gate.state == "pass" else gate.state
    return gate.model_copy(update={"reason": reason, "state": state})


def _paired(
    before: Report, after: Report, one: Arm, other: Arm, *, strict: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores of the samples that both reports hold, in one order; None where there are none."""
    found = [_scores(report, arm) for report, arm in ((before, one), (after, other))]
    if found[0] is None or found[1] is None:
        return None
    places = [{name: place for place, name in enumerate(r.predictions.samples)} for r in (before, after)]
    common = [name for name in places[0] if name in places[1]]
    if not common and strict:
        raise RequestError(
            "the reports have no sample in common, so accuracy cannot be compared",
            hint="run both on the same data; --allow accuracy compares what else they hold",
        )
    if not common:
        return None
    first, second = (
        scores[[place[name] for name in common]]
        for scores, place in zip(found, places, strict=True)
        if scores is not None
    )
    return first, second


def _scores(report: Report, arm: Arm) -> np.ndarray | None:
    """Score of every sample of the report split."""
    key, told = f"{arm.artifact}/{arm.runtime}", report.predictions
    if key in told.scores:
        return np.asarray(told.scores[key], dtype=np.float64)
    if key in told.arms and told.labels and is_classification(report):
        right: np.ndarray = np.asarray(told.arms[key]) == np.asarray(told.labels)
        return right
    return None


def _lines(
    before: Report, after: Report, arms: tuple[Arm, Arm], speedup: Estimate | None, changed: Flips | None
) -> list[Line]:
    one, other = arms
    lines = [Line("model", arm_name(one), arm_name(other), "")]
    if one.latency and other.latency and speedup:
        medians = [f"{arm.latency.median_ms.value:.3f} ms" for arm in arms if arm.latency]
        faster = f"{speedup.value:.3f}x ({speedup.low:.3f} to {speedup.high:.3f})"
        lines.append(Line("median latency", medians[0], medians[1], f"speed {faster}"))
    if one.accuracy and other.accuracy:
        drop = 100 * (other.accuracy.report - one.accuracy.report)
        shares = [f"{arm.accuracy.report:.2%}" for arm in arms if arm.accuracy]
        lines.append(Line(after.score_name, shares[0], shares[1], f"{drop:+.2f} points"))
    sizes = [
        row.size_bytes if (row := stage_row(r, a.artifact)) else 0 for r, a in ((before, one), (after, other))
    ]
    if all(sizes):
        grown = f"{100 * (sizes[1] / sizes[0] - 1):+.1f} %"
        lines.append(Line("size", f"{sizes[0]:,} bytes", f"{sizes[1]:,} bytes", grown))
    if changed is not None:
        told = f"{changed.lost} lost, {changed.gained} gained; McNemar p = {changed.p_value:.3g}"
        lines.append(Line("answers", "", "", told))
    return lines


def _surroundings(before: Report, after: Report) -> list[str]:
    """What differs around the models."""
    notes = []
    for key in _MACHINE:
        one, other = before.environment.get(key), after.environment.get(key)
        if one != other:
            notes.append(f"{key} was {_told(one)} and is {_told(other)}")
    versions = [report.environment.get("versions") or {} for report in (before, after)]
    for name in sorted({*versions[0], *versions[1]}):
        pair = [found.get(name, "absent") for found in versions]
        if pair[0] != pair[1]:
            notes.append(f"{name} was {pair[0]} and is {pair[1]}")
    return notes


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown_of(found: Comparison, titles: tuple[str, str]) -> str:
    """For a pull request."""
    marks = {"pass": "pass", "fail": "**fail**", "inconclusive": "inconclusive", "skipped": "skipped"}
    lines = [
        f"### {found.verdict.capitalize()}: {titles[1]} against {titles[0]}",
        "",
        "| | before | after | change |",
        "|---|---|---|---|",
        *(f"| {' | '.join(_cell(part) for part in line)} |" for line in found.lines),
        "",
        "| gate | state | measured | limit | reason |",
        "|---|---|---|---|---|",
        *(
            f"| {gate.name} | {marks[gate.state]}{' (allowed)' if gate.allowed else ''} "
            f"| {_cell(gate.measured)} | {_cell(gate.limit)} | {_cell(gate.reason)} |"
            for gate in found.gates
        ),
    ]
    lines += ["", *(f"- {note}" for note in found.notes)] if found.notes else []
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ") or ABSENT
