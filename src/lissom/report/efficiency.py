"""Where the time of a model goes: layer by layer against the original, and against what a machine can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lissom.bench import roofline as roofs
from lissom.bench.layers import LayerGroup, aligned
from lissom.bench.selection import ArmKey
from lissom.bench.statistics import median_latency
from lissom.report.measured_run import Run
from lissom.report.schema import LayerChange, LayerFigures, LayerTable, RooflineFigures


def roofline(run: Run, arm: ArmKey) -> RooflineFigures | None:
    """How near an arm comes to the roof; None where operations, ceilings or times are unknown."""
    work, ceilings = run.records[arm.artifact].get("work") or {}, run.ceilings
    if not work.get("flops") or ceilings is None or arm not in run.rounds:
        return None
    record = run.records[arm.artifact]
    batch = record["benchmark"]["batch_size"]
    artifact, once = run.by_name[arm.artifact], work["weight_bytes"]
    found = roofs.attained(
        batch * work["flops"],
        once + batch * (work["moved_bytes"] - once),
        median_latency(run.rounds[arm]).value / 1e3,
        roofs.Ceilings(**ceilings.model_dump()),
        _computed_in(run.figures[arm], artifact.manifest.precision),
    )
    if found is None:
        return None
    told = found._asdict()
    return RooflineFigures(**{name: told[name] for name in RooflineFigures.model_fields})


def _computed_in(figures: Mapping[str, Any], asked: str) -> str:
    """The fastest type that some product was executed in; weights of fewer bits are multiplied in float32."""
    kinds = set(figures.get("executed") or {asked})
    if kinds & {"int8", "uint8"}:
        return "int8"
    return next((kind for kind in ("float16", "bfloat16") if kind in kinds), "float32")


def layer_table(run: Run) -> LayerTable | None:
    """The chosen model against the original on the same runtime; None where one has no times of layers.

    Where the original is not executed there, the first artifact on the way to the chosen one that is.
    """
    chosen = run.chosen
    if chosen is None or not run.figures[chosen].get("layers"):
        return None
    way = [*sorted(run.reference_forms), *(artifact.name for artifact in run.lineage(chosen.artifact))]
    before = next(
        (
            arm
            for name in way
            if (arm := ArmKey(name, chosen.runtime)) != chosen and run.figures.get(arm, {}).get("layers")
        ),
        None,
    )
    if before is None:
        return None
    sides = [[LayerGroup(**group) for group in run.figures[arm]["layers"]] for arm in (before, chosen)]
    return LayerTable(
        runtime=chosen.runtime,
        before=before.artifact,
        after=chosen.artifact,
        changes=tuple(
            LayerChange(name=label, before=_figures(one), after=_figures(other))
            for label, one, other in aligned(*sides)
        ),
    )


def _figures(group: LayerGroup | None) -> LayerFigures | None:
    if group is None:
        return None
    return LayerFigures(operators=tuple(group.operators), precision=group.precision, ms=1e3 * group.seconds)
