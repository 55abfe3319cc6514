"""The report of a run: a pure function of its manifests, their evidence, the recipe and the split hashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lissom.artifact import Artifact
from lissom.bench.disturbance import HonestRatio, honest_ratio
from lissom.bench.energy import Energy
from lissom.bench.percentiles import percentiles
from lissom.bench.selection import ArmKey, fastest
from lissom.bench.statistics import (
    Estimate,
    drop_upper_bound,
    median_latency,
    paired_drop,
    percentile,
)
from lissom.logs import tried
from lissom.optional import version
from lissom.report import gates
from lissom.report.answers import predictions_of
from lissom.report.efficiency import layer_table, roofline
from lissom.report.guessing import find_guess, guess_gate, guess_sentence
from lissom.report.measured_run import Run, beyond_noise, interval
from lissom.report.remarks import control_remark, disturbed_remarks, find_remarks, machine_remarks
from lissom.report.schema import (
    AccuracyFigures,
    Arm,
    BatchFigures,
    EnergyFigures,
    Gate,
    LatencyFigures,
    LoadFigures,
    ParityFigures,
    PercentileFigures,
    Report,
    SplitRow,
    StageRow,
    Step,
    Verdict,
)
from lissom.report.wording import size_change


def build_report(
    run: Run,
    *,
    allow: Iterable[str],
    command: Sequence[str],
    folder: Path,
    pair: Mapping[str, Any] | None = None,
) -> Report:
    """Judge a measured run.

    Args:
        run: What was measured.
        allow: Gates that may fail.
        command: That made the run.
        folder: Of the run.
        pair: What `lissom.report.pair` measured of the chosen arm and the original.
    """
    further = pair or {}
    judged = [gate.model_copy(update={"allowed": gate.name in set(allow)}) for gate in _gates(run)]
    chosen = run.chosen
    record = run.records[run.artifacts[0].name]
    arms = tuple(_arm(run, arm) for arm in run.figures)
    steps: tuple[Step, ...] = tried("the steps", lambda: tuple(_steps(run, chosen)), ())
    return Report(
        name=run.recipe.name,
        created=str(record["finished"]),
        complete=run.complete and further.get("complete", True),
        lissom=version("lissom"),
        command=tuple(command),
        out=str(folder),
        recipe=run.recipe.model_dump(mode="json", by_alias=True),
        measurement=run.measurement,
        environment=dict(record["environment"]),
        data=run.data.source,
        task=run.artifacts[0].manifest.task,
        score_name=run.score_name,
        labels=run.artifacts[0].manifest.labels,
        splits=_splits(run),
        verdict=_verdict(run, judged, chosen),
        control=run.control,
        unfit=tuple(run.unfit),
        readings=tuple(run.readings),
        ceilings=run.ceilings,
        layers=tried("the table of layers", lambda: layer_table(run), None),
        batches=tuple(_batch(found) for found in further.get("batches", ())),
        load=tuple(LoadFigures(**found) for found in further.get("load", ())),
        slo_ms=run.recipe.benchmark.slo_ms,
        remarks=(
            *(f"{told}." for told in run.data.missing_classes(("select", "report"))),
            *find_remarks(
                run.artifacts,
                run.lineage(chosen.artifact) if chosen else (),
                runtime=chosen.runtime if chosen else None,
                score_name=run.score_name,
            ),
            *((control_remark(run.control),) if run.control else ()),
            *machine_remarks(run.unfit, run.readings),
            *_disturbances(run, chosen),
        ),
        gates=tuple(judged),
        stages=tuple(_stage_row(run, artifact, folder) for artifact in run.artifacts),
        arms=arms,
        waterfall=steps,
        predictions=predictions_of(run, further.get("flips", ())),
    )


def _batch(found: Mapping[str, Any]) -> BatchFigures:
    if found["error"] or not found["rounds_ms"]:
        return BatchFigures(**found, median_ms=None, samples_per_second=None)
    median = median_latency(found["rounds_ms"])
    rate = 1e3 * found["batch_size"] / median.value
    return BatchFigures(**found, median_ms=interval(median), samples_per_second=rate)


def _gates(run: Run) -> list[Gate]:
    chosen = run.chosen
    if chosen is None:
        return [*gates.none_chosen_gates("no model could be timed"), gates.splits_gate(run.data.overlap())]
    lineage = run.lineage(chosen.artifact)
    figures = run.figures[chosen]
    best = run.reference_best
    names = (_named(best) if best else "", _named(chosen))
    speedup = _speedup(run, best, chosen)
    faster = beyond_noise(speedup, run.control) if speedup else None
    guess = find_guess(run)
    if chosen.artifact == run.reference.name:
        compared = [gates.uncompared_gate(name) for name in ("accuracy", "not-slower")]
    else:
        compared = [
            gates.accuracy_gate(
                run.scores(run.trusted, "report"),
                run.scores(chosen, "report"),
                run.recipe.gates,
                score_name=run.score_name,
            ),
            gates.not_slower_gate(
                faster, run.recipe.gates, names, unfit=[*run.unfit, *_disturbed(run, best, chosen)]
            ),
        ]
    if guess is not None and guess.trained and compared[0].state != "fail":
        compared[0] = guess_gate(guess, run.score_name)
    return [
        gates.reload_gate(lineage, run.records),
        gates.parity_gate(lineage, run.records, chosen.runtime),
        *compared,
        gates.precision_gate(
            run.by_name[chosen.artifact], figures.get("executed"), figures.get("elsewhere", ())
        ),
        gates.splits_gate(run.data.overlap()),
    ]


def _speedup(run: Run, before: ArmKey | None, after: ArmKey | None) -> Estimate | None:
    if before is None or after is None or before not in run.rounds or after not in run.rounds:
        return None
    return honest(run, before, after).estimate


def honest(run: Run, before: ArmKey, after: ArmKey) -> HonestRatio:
    """How many times as fast an arm is as another, as far as what disturbed them lets it be known."""
    return honest_ratio(run.figures[before], run.figures[after], run.readings, list(run.figures.values()))


def _disturbed(run: Run, before: ArmKey | None, after: ArmKey | None) -> list[str]:
    """Why the ratio of two arms is withheld; empty where it is told."""
    if before is None or after is None or before not in run.rounds or after not in run.rounds:
        return []
    found = honest(run, before, after)
    return [] if found.estimate is not None else [found.reason]


def _disturbances(run: Run, chosen: ArmKey | None) -> Iterator[str]:
    """Remarks on the arms that the headline compares."""
    if chosen is None:
        return
    reasons, withheld = {}, []
    for before in dict.fromkeys((run.reference_best, run.eager)):
        if before is None or before == chosen or before not in run.rounds or chosen not in run.rounds:
            continue
        found = honest(run, before, chosen)
        if found.reason:
            name = f"{_named(chosen)} beside {_named(before)}"
            reasons[name] = found.reason
            withheld += [name] if found.estimate is None else []
    yield from disturbed_remarks(reasons, withheld)


def _arm(run: Run, arm: ArmKey) -> Arm:
    figures = run.figures[arm]
    eligible, reason = run.eligibility[arm]
    return Arm(
        artifact=arm.artifact,
        runtime=arm.runtime,
        version=figures["version"],
        error=figures["error"],
        precision_requested=run.by_name[arm.artifact].manifest.precision,
        precision_executed=figures.get("executed"),
        open_ms=figures.get("open_ms"),
        first_ms=figures.get("first_ms"),
        warmup=figures.get("warmup"),
        memory=figures.get("memory"),
        energy=tuple(_energy(figures.get("energy"))),
        roofline=tried("the roof", lambda: roofline(run, arm), None),
        accuracy=_accuracy(run, arm),
        metrics=figures.get("metrics", {}),
        latency=_latency(run.rounds.get(arm), figures),
        speedup_eager=interval(eager) if (eager := _speedup(run, run.eager, arm)) else None,
        parity=_parity(run, arm),
        eligible=eligible,
        reason=reason,
        chosen=arm == run.chosen,
    )


def _energy(found: Mapping[str, Any] | None) -> Iterator[EnergyFigures]:
    if found is None:
        return
    counted = Energy(**found)
    for counter, (joules, above_idle) in counted.of_a_call().items():
        yield EnergyFigures(
            counter=counter,
            joules=joules,
            above_idle_joules=above_idle,
            num_calls=counted.num_calls,
            seconds=counted.seconds,
        )


def _accuracy(run: Run, arm: ArmKey) -> AccuracyFigures | None:
    reference, scores, select = (
        run.scores(run.trusted, "report"),
        run.scores(arm, "report"),
        run.scores(arm, "select"),
    )
    if reference is None or scores is None or select is None:
        return None
    return AccuracyFigures(
        select=float(select.mean()),
        report=float(scores.mean()),
        drop=interval(paired_drop(reference, scores)),
        upper_bound=drop_upper_bound(reference, scores),
        num_lost=int(np.sum(scores < reference)),
        num_gained=int(np.sum(scores > reference)),
        num_flipped=_num_flipped(run, arm),
    )


def _num_flipped(run: Run, arm: ArmKey) -> int:
    """Samples whose class changed; where the answers are no classes, samples whose score did."""
    kind = "predictions" if run.data.kind == "classes" else "scores"
    before, after = (run.figures[one].get(kind, {}).get("report", ()) for one in (run.trusted, arm))
    return sum(one != other for one, other in zip(before, after, strict=True))


def _latency(rounds: list[list[float]] | None, figures: Mapping[str, Any]) -> LatencyFigures | None:
    if not rounds:
        return None
    samples = np.concatenate([np.asarray(samples) for samples in rounds])
    return LatencyFigures(
        median_ms=interval(median_latency(rounds)),
        p90_ms=percentile(samples, 0.9),
        num_samples=len(samples),
        rounds_ms=tuple(tuple(samples) for samples in rounds),
        percentiles=percentile_figures(samples),
        threads=figures.get("threads"),
        load=figures.get("load"),
    )


def percentile_figures(samples: np.ndarray) -> tuple[PercentileFigures, ...]:
    """Percentiles of milliseconds in the order in which they were measured, with their bounds."""
    return tuple(
        PercentileFigures(
            share=found.share,
            value_ms=found.value,
            bound_ms=found.bound,
            needed=found.needed,
            clustered=found.clustered,
        )
        for found in percentiles(samples)
    )


def _parity(run: Run, arm: ArmKey) -> ParityFigures | None:
    parity = run.figures[arm].get("parity")
    if parity is None:
        return None
    worst = max(parity["outputs"], key=lambda output: (not output["passed"], output["max_abs_error"] or 0.0))
    # The gate and the verb tell how many values are not finite; the schema of reports stays as it is.
    figures = {key: value for key, value in worst.items() if key not in ("output", "nonfinite")}
    return ParityFigures(
        against=parity["against"], precision=run.by_name[arm.artifact].manifest.precision, **figures
    )


def _verdict(run: Run, judged: Sequence[Gate], chosen: ArmKey | None) -> Verdict:
    failed = [gate.name for gate in judged if gate.state == "fail" and not gate.allowed]
    best = run.reference_best
    speedup = _speedup(run, best, chosen)
    eager = _speedup(run, run.eager, chosen)
    size = run.reference.size_bytes / run.by_name[chosen.artifact].size_bytes if chosen else None
    return Verdict(
        ok=not failed,
        sentence=_sentence(run, judged, chosen, size),
        reference=run.reference.name,
        reference_artifact=best.artifact if best else None,
        reference_runtime=best.runtime if best else None,
        artifact=chosen.artifact if chosen else None,
        runtime=chosen.runtime if chosen else None,
        speedup=interval(speedup) if speedup else None,
        speedup_eager=interval(eager) if eager else None,
        size_ratio=size,
    )


def _sentence(run: Run, judged: Sequence[Gate], chosen: ArmKey | None, size: float | None) -> str:
    if chosen is None or size is None:
        return "No model could be measured."
    scores = run.scores(chosen, "report")
    parts = [_named(chosen)]
    if chosen.artifact != run.reference.name:
        parts += _compared(run, judged, chosen, size)
    elif scores is not None:
        share = f"{scores.mean():.1%}"
        right = scores.dtype == bool
        parts.append(
            f"right on {share} of {len(scores)} samples"
            if right
            else f"{run.score_name} {share} on {len(scores)} samples"
        )
    failed = [gate.name for gate in judged if gate.state == "fail" and not gate.allowed]
    allowed = [gate.name for gate in judged if gate.state == "fail" and gate.allowed]
    open_ = [gate.name for gate in judged if gate.state == "inconclusive"]
    end = f"FAILED: {', '.join(failed)}" if failed else "gates passed"
    end = end if run.complete else f"INTERRUPTED, few rounds; {end}"
    end += f", {', '.join(open_)} inconclusive" if open_ else ""
    end += f", {', '.join(allowed)} failed but allowed" if allowed else ""
    sentence = f"{parts[0]}: {'; '.join([*parts[1:], end])}."
    guess = find_guess(run)
    return f"{guess_sentence(guess, run.score_name)}. {sentence}" if guess else sentence


def _compared(run: Run, judged: Sequence[Gate], chosen: ArmKey, size: float) -> Iterator[str]:
    """What the chosen arm gains and loses against the reference."""
    resized, word = size_change(size)
    yield f"{resized:.1f}x {word}"
    if speedup := _speedup(run, run.reference_best, chosen):
        yield f"{_times(speedup)} as fast as the original at its best ({_named(run.reference_best)})"
    if eager := _speedup(run, run.eager, chosen):
        yield f"{_times(eager)} as fast as in torch eager"
    if _disturbed(run, run.reference_best, chosen) or _disturbed(run, run.eager, chosen):
        yield "how fast it is cannot all be told beside other work on this machine"
    reference, scores = run.scores(run.trusted, "report"), run.scores(chosen, "report")
    if reference is not None and scores is not None:
        drop = paired_drop(reference, scores)
        proof = next(gate.reason for gate in judged if gate.name == "accuracy").partition(":")[0]
        value, low, high = (0.0 - share * 100 for share in (drop.value, drop.high, drop.low))
        change = f"{value:+.2f} points (95 % {low:+.2f} to {high:+.2f})"
        yield f"{run.score_name} {change}, {proof}"


def _times(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}x (95 % {estimate.low:.2f} to {estimate.high:.2f})"


def _named(arm: ArmKey | None) -> str:
    return f"{arm.artifact} on {arm.runtime}" if arm else "nothing"


def _steps(run: Run, chosen: ArmKey | None) -> Iterable[Step]:
    for artifact in run.lineage(chosen.artifact) if chosen else ():
        arms = {arm: rounds for arm, rounds in run.rounds.items() if arm.artifact == artifact.name}
        eager = ArmKey(artifact.name, "torch")
        arm = eager if eager in arms else fastest(arms)
        scores = run.scores(arm, "report") if arm else None
        yield Step(
            stage=artifact.name,
            runtime=arm.runtime if arm else "",
            size_bytes=artifact.size_bytes,
            latency_ms=median_latency(arms[arm]).value if arm else None,
            accuracy=float(scores.mean()) if scores is not None else None,
        )


def _stage_row(run: Run, artifact: Artifact, folder: Path) -> StageRow:
    manifest, work = artifact.manifest, run.records[artifact.name].get("work") or {}
    path = (
        artifact.path.relative_to(folder.resolve())
        if artifact.path.is_relative_to(folder.resolve())
        else artifact.path
    )
    return StageRow(
        name=manifest.name,
        stage=manifest.stage,
        parents=tuple(parent.name for parent in manifest.parents),
        id=manifest.id,
        digest=artifact.digest,
        path=str(path),
        format=manifest.format,
        precision=manifest.precision,
        size_bytes=artifact.size_bytes,
        num_parameters=manifest.num_parameters,
        flops=work.get("flops"),
        moved_bytes=work.get("moved_bytes"),
        notes=manifest.notes,
    )


def _splits(run: Run) -> dict[str, SplitRow]:
    return {
        split: SplitRow(sha256=digest, num_samples=len(run.data.indices[split]))
        for split, digest in run.data.split_hashes.items()
    }
