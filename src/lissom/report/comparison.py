"""Two reports against each other: did a change make the model slower, less accurate or larger?

Latency is compared between two sessions, and a machine differs from itself by more than most changes. Where
both reports timed the same model, such as the original, each is held against it in its own session, and
the ratios are compared; otherwise times are compared as they are, and neither a pass nor an improvement is
claimed. Other work does not meet all models alike: where it disturbed one of them in either session, the
change is widened or withheld. Accuracy is paired by sample, by the hashes that both reports hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lissom.bench.disturbance import HonestRatio, Measured, honest_change
from lissom.bench.statistics import Estimate, Flips, flips
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
        speedup: How much faster it became; None where it was not timed in both, or other work hides it.
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
        held = any(gate.name == "not-slower" and gate.state == "pass" for gate in self.gates)
        faster = self.speedup is not None and self.speedup.low > 1
        return "better" if held and faster else "inconclusive"


def compare(before: Report, after: Report, limits: GatesConfig, *, allow: Sequence[str] = ()) -> Comparison:
    """Compare the chosen arms of two reports.

    Raises:
        RequestError: they are of other tasks or classes, have no sample in common, or one has no chosen arm.
            Where `accuracy` is allowed to fail, reports without a common sample are compared by the rest.
    """
    one, other = _chosen(before), _chosen(after)
    _check_comparable(before, after)
    controlled, honest, notes = _speedup(before, after, one, other)
    speedup = honest.estimate
    scores = _paired(before, after, one, other, strict="accuracy" not in allow)
    reference, candidate = scores or (None, None)
    names = (arm_name(one), arm_name(other))
    judged = (
        accuracy_gate(reference, candidate, limits, score_name=after.score_name),
        _speed_gate(honest, limits, names, controlled=controlled, unfit=_unfit(before, after)),
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


def _speedup(before: Report, after: Report, one: Arm, other: Arm) -> tuple[bool, HonestRatio, list[str]]:
    """Whether the same model stands beside both; how much faster it became; what speaks against that."""
    if one.latency is None or other.latency is None:
        return False, HonestRatio(None), ["one of the models was not timed"]
    controls = _controls(before, after) or (None, None)
    first, second = (
        _measured(report, arm, beside)
        for report, arm, beside in zip((before, after), (one, other), controls, strict=True)
    )
    found, controlled = honest_change(first, second), controls[0] is not None
    notes = []
    if not controlled:
        notes = ["the reports timed no model in common: what the machine did between them is in the latency"]
    if found.reason:
        told = "is less sure" if found.estimate else "is not told"
        notes.append(f"how much faster it became {told}: in one of the sessions {found.reason}")
    return controlled, found, notes


def _measured(report: Report, arm: Arm, beside: Arm | None) -> Measured:
    """An arm in its session, as far as the report tells what happened to it."""
    twin = report.control and find_arm(report, report.control.artifact, report.control.runtime)
    control = [{"control_ms": twin.latency.rounds_ms}] if twin and twin.latency else []
    cores = report.environment.get("cores")
    return Measured(
        _figures(arm),
        _figures(beside) if beside is not None else None,
        report.readings,
        control,
        cores if isinstance(cores, int) else None,
    )


def _figures(arm: Arm) -> dict[str, Any]:
    assert arm.latency is not None
    return {
        "rounds_ms": arm.latency.rounds_ms,
        "threads": arm.latency.threads,
        "load": arm.latency.load,
    }


def _controls(before: Report, after: Report) -> tuple[Arm, Arm] | None:
    """The same model on the same runtime in both sessions, on the same kind of machine."""
    if any(before.environment.get(key) != after.environment.get(key) for key in _MACHINE):
        return None
    ours = {row.digest: row.name for row in before.stages}
    for row in after.stages:
        for arm in after.arms:
            if arm.artifact != row.name or arm.chosen or arm.latency is None or row.digest not in ours:
                continue
            earlier = find_arm(before, ours[row.digest], arm.runtime)
            if earlier and earlier.latency and not earlier.chosen and earlier.version == arm.version:
                return earlier, arm
    return None


def _unfit(before: Report, after: Report) -> list[str]:
    """Why the times of either session are no evidence."""
    return [
        f"{reason} in the {which} session"
        for which, report in (("earlier", before), ("later", after))
        for reason in report.unfit
    ]


def _speed_gate(
    found: HonestRatio,
    limits: GatesConfig,
    names: tuple[str, str],
    *,
    controlled: bool,
    unfit: Sequence[str],
) -> Gate:
    reasons = [*unfit, *([found.reason] if found.reason and found.estimate is None else [])]
    gate = not_slower_gate(found.estimate, limits, names, unfit=reasons)
    if found.estimate is None or reasons:
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
    if one.latency and other.latency:
        medians = [f"{arm.latency.median_ms.value:.3f} ms" for arm in arms if arm.latency]
        faster = "speed not told"
        if speedup:
            faster = f"speed {speedup.value:.3f}x ({speedup.low:.3f} to {speedup.high:.3f})"
        lines.append(Line("median latency", medians[0], medians[1], faster))
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
