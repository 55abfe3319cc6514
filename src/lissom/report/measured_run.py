"""A measured run, before it is judged: which arms there are, what they answered, which may be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lissom.artifact import Artifact
from lissom.bench.selection import ArmKey, choose, fastest
from lissom.bench.statistics import Estimate, ratio, round_medians, widened
from lissom.bench.watch import unfit
from lissom.errors import RequestError
from lissom.models.data import Data
from lissom.recipe import Recipe
from lissom.report.opening import reference_of
from lissom.report.schema import Ceilings, Control, Interval
from lissom.runtime.availability import unfit_runtimes


@dataclass(frozen=True)
class Run:
    """What a report is built from.

    Attributes:
        recipe: The recipe.
        artifacts: Artifact of every stage, in order.
        records: Evidence of one measurement, by artifact.
        data: The data; only hashes and labels are used.
        measurement: Key of the evidence.
    """

    recipe: Recipe
    artifacts: Sequence[Artifact]
    records: Mapping[str, Mapping[str, Any]]
    data: Data
    measurement: str

    @cached_property
    def by_name(self) -> dict[str, Artifact]:
        """Artifacts by the name of their stage."""
        return {artifact.name: artifact for artifact in self.artifacts}

    @cached_property
    def reference(self) -> Artifact:
        """The original: the first artifact, or the last that training it further gave."""
        return reference_of(self.artifacts)

    @cached_property
    def figures(self) -> dict[ArmKey, Mapping[str, Any]]:
        """What was measured of every arm."""
        return {
            ArmKey(artifact.name, runtime): figures
            for artifact in self.artifacts
            for runtime, figures in self.records[artifact.name]["runtimes"].items()
        }

    @cached_property
    def rounds(self) -> dict[ArmKey, list[list[float]]]:
        """Latencies of every arm that was timed."""
        return {
            arm: figures["rounds_ms"] for arm, figures in self.figures.items() if figures.get("rounds_ms")
        }

    @cached_property
    def control(self) -> Control | None:
        """What an arm differs from itself; None in evidence of an older lissom."""
        return control_of(self.figures)

    @cached_property
    def readings(self) -> list[dict[str, Any]]:
        """The machine between rounds."""
        return list(self.records[self.artifacts[0].name].get("readings", ()))

    @cached_property
    def ceilings(self) -> Ceilings | None:
        """What the machine can do at most; None where it was not measured."""
        found = self.records[self.artifacts[0].name].get("ceilings")
        return Ceilings(**found) if found else None

    @cached_property
    def complete(self) -> bool:
        """False when the measurement was interrupted."""
        return all(record["complete"] for record in self.records.values())

    @cached_property
    def unfit(self) -> list[str]:
        """Why the times are no evidence; empty when nothing speaks against them."""
        return unfit(self.readings)

    @cached_property
    def reference_arms(self) -> list[ArmKey]:
        """The reference, as it is or only written in another format."""
        return [arm for arm in self.rounds if arm.artifact in self.reference_forms]

    @cached_property
    def reference_forms(self) -> set[str]:
        """Names of the artifacts that are the reference, as it is or only written in another format."""
        forms, precision = {self.reference.name}, self.reference.manifest.precision
        for artifact in self.artifacts[1:]:
            manifest = artifact.manifest
            written = manifest.stage == "export" and manifest.precision == precision
            if written and manifest.parents[0].name in forms:
                forms.add(artifact.name)
        return forms

    @cached_property
    def reference_best(self) -> ArmKey | None:
        """The reference on its fastest runtime."""
        return fastest({arm: self.rounds[arm] for arm in self.reference_arms})

    def scores(self, arm: ArmKey, split: str) -> np.ndarray | None:
        """How good the answers of an arm are, shape [samples]; None without labels.

        True where an answer is right, or floats with 1 for a perfect answer.
        """
        return None if self.data.dataset.labels is None else scores_in(self.figures[arm], split)

    @cached_property
    def score_name(self) -> str:
        """What the mean score is called."""
        return str(self.records[self.artifacts[0].name].get("score_name", "accuracy"))

    @cached_property
    def eager(self) -> ArmKey | None:
        """The reference in torch eager, when it was measured."""
        return next((arm for arm in self.reference_arms if arm.runtime == "torch"), None)

    @cached_property
    def trusted(self) -> ArmKey:
        """The arm whose right answers must not be lost: the reference, in torch eager when measured."""
        if not self.reference_arms:
            raise RequestError(
                f"the original ({self.reference.name}) could not be measured on any runtime of the benchmark",
                hint="add torch to benchmark.runtimes; lissom doctor says what works here",
            )
        return self.eager or self.reference_arms[0]

    @cached_property
    def eligibility(self) -> dict[ArmKey, tuple[bool, str]]:
        """Whether each arm may be chosen, and why."""
        return {arm: _eligibility(self, arm) for arm in self.figures}

    @cached_property
    def chosen(self) -> ArmKey | None:
        """The arm to ship: the fastest eligible one; else the fastest of the last stage, which then fails.

        The original itself is only a candidate where the recipe makes nothing else.
        """
        sizes = {artifact.name: artifact.size_bytes for artifact in self.artifacts}
        last = {arm: rounds for arm, rounds in self.rounds.items() if arm.artifact == self.artifacts[-1].name}
        changed = {
            arm: rounds for arm, rounds in self.rounds.items() if arm.artifact not in self.reference_forms
        }
        candidates = last if self.recipe.ship == "last" else changed or self.rounds
        eligible = {arm: rounds for arm, rounds in candidates.items() if self.eligibility[arm][0]}
        return choose(eligible or last or self.rounds, sizes)

    def lineage(self, name: str) -> list[Artifact]:
        """The artifacts from the reference to the one called `name`."""
        path = [self.by_name[name]]
        while (
            parent := next((p.name for p in path[0].manifest.parents if p.role == "input"), None)
        ) in self.by_name:
            path.insert(0, self.by_name[str(parent)])
        return path


def _eligibility(run: Run, arm: ArmKey) -> tuple[bool, str]:
    figures = run.figures[arm]
    if figures["error"]:
        return False, str(figures["error"])
    if fault := unfit_runtimes(run.by_name[arm.artifact].manifest).get(arm.runtime):
        return False, f"not offered on {arm.runtime}: {fault}"
    if not all(output["passed"] for output in figures.get("parity", {}).get("outputs", ())):
        return False, f"differs from {figures['parity']['against']}"
    reference, scores = run.scores(run.trusted, "select"), run.scores(arm, "select")
    if reference is None or scores is None:
        return True, "measured; no labels to judge accuracy by"
    drop, budget = float(reference.mean() - scores.mean()), run.recipe.gates.accuracy.max_drop
    within = drop <= budget + 1e-12
    relation = "within" if within else "beyond"
    return (
        within,
        f"loses {drop * 100:.2f} points on the select split, {relation} the budget of {budget * 100:g}",
    )


def control_of(figures: Mapping[ArmKey, Mapping[str, Any]]) -> Control | None:
    """The arm that was timed twice; None where none was."""
    for arm, found in figures.items():
        if found.get("rounds_ms") and (again := found.get("control_ms")):
            rounds = round_medians(found["rounds_ms"]) / round_medians(again)
            return Control(
                artifact=arm.artifact,
                runtime=arm.runtime,
                ratio=interval(ratio(found["rounds_ms"], again)),
                rounds=tuple(rounds.tolist()),
            )
    return None


def scores_in(figures: Mapping[str, Any], split: str) -> np.ndarray | None:
    """How good the answers of an arm are, bool or float, shape [samples]; None where it has none."""
    found = figures.get("scores", {}).get(split)
    if found is None:
        return None
    scores = np.asarray(found)
    return scores.astype(bool) if scores.dtype.kind == "i" else scores


def beyond_noise(speedup: Estimate, control: Control | None) -> Estimate:
    """A speed-up, less sure where the control says that the machine makes differences of its own."""
    if control is None:
        return speedup
    return widened(speedup, Estimate(control.ratio.value, control.ratio.low, control.ratio.high))


def interval(estimate: Estimate) -> Interval:
    """An estimate as reports hold it."""
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high)
