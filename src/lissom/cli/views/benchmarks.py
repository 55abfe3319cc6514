"""How benchmarks look: times and verdicts, sweeps, scenarios, and two reports side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.cli.output import Outcome, table, write_in
from lissom.cli.views.words import duration

if TYPE_CHECKING:
    from lissom.bench.percentiles import Percentile
    from lissom.bench.scenarios import Asked
    from lissom.bench.selection import ArmKey
    from lissom.bench.sweeps import Point, Setting
    from lissom.report.comparison import Comparison
    from lissom.report.judging import JudgedArm, Judgement
    from lissom.report.schema import Gate


def bench_planned(arms: Sequence[tuple[str, str]], seconds: float) -> Outcome:
    """The arms that a benchmark would time."""
    lines = [*table(["artifact", "runtime"], [list(arm) for arm in arms]), "", f"about {duration(seconds)}"]
    return Outcome(lines, extra={"arms": [list(arm) for arm in arms], "seconds": seconds})


def benched(found: Judgement) -> Outcome:
    """Latency and verdict of every arm against the base; then what it costs to begin; then what to know."""
    rows = [_arm_row(judged, found.base) for judged in found.arms]
    base = f"against {found.base.artifact} on {found.base.runtime}" if found.base else "against"
    times = ["median ms", "95 %", "p99 at most"]
    header = ["artifact", "runtime", *times, base, "verdict", "points", "lost, gained"]
    lines = table(header, rows, right=[2, 4, 7])
    lines += ["", *_cold_starts(found.arms)]
    lines += ["", *_gate_lines(found.gates)] if found.gates else []
    remarks = [*_other_answers(found.arms), *found.remarks]
    lines += ["", *remarks] if remarks else []
    lines += (
        [] if found.complete else ["", "interrupted: few rounds; what was measured is kept, not used again"]
    )
    told = [_arm_document(judged) for judged in found.arms]
    extra = {"arms": told, "remarks": remarks, "complete": found.complete}
    ok = all(gate.state != "fail" or gate.allowed for gate in found.gates)
    return Outcome(lines, ok, gates=found.gates, extra=extra, interrupted=not found.complete)


def _other_answers(arms: Sequence[JudgedArm]) -> list[str]:
    """Engines that compute something else than what was stored when an artifact was made."""
    return [
        f"{judged.arm.artifact} on {judged.arm.runtime} gives other answers than those that were stored when "
        f"it was made ({judged.figures['probe']['told']}): its time is that of another model."
        for judged in arms
        if not judged.figures.get("probe", {"passed": True})["passed"]
    ]


def _arm_row(judged: JudgedArm, base: ArmKey | None) -> list[str]:
    name, runtime = judged.arm
    if judged.latency is None or judged.p99 is None:
        return [name, runtime, judged.figures["error"] or "", *[""] * 6]
    median, p99 = judged.latency, judged.p99
    row = [
        name,
        runtime,
        f"{median.value:.4f}",
        f"{median.low:.4f} to {median.high:.4f}",
        f"{p99.bound:.4f}" if p99.bound is not None else f"needs {p99.needed:,} calls",
    ]
    if judged.speedup is None:
        return [*row, "the base" if judged.arm == base else "", "", "", ""]
    faster = judged.speedup
    changed = judged.flips
    return [
        *row,
        f"{faster.value:.3f}x ({faster.low:.3f} to {faster.high:.3f})",
        judged.verdict or "withheld",
        f"{0.0 - 100 * judged.drop.value:+.2f}" if judged.drop else "",
        f"{changed.lost}, {changed.gained} (p = {changed.p_value:.2g})" if changed else "",
    ]


def _cold_starts(arms: Sequence[JudgedArm]) -> list[str]:
    """Load, compile, first inference, warm-up; memory of process and card; energy where it was counted."""
    times = ["open ms", "first ms", "warm-up calls"]
    header = ["artifact", "runtime", *times, "peak MB"]
    of_card = any(judged.figures.get("memory", {}).get("device_bytes") for judged in arms)
    counted = any(judged.figures.get("energy") for judged in arms)
    header += ["card MB"] * of_card + ["mJ a call"] * counted
    rows = []
    for judged in arms:
        figures = judged.figures
        if "open_ms" not in figures:
            continue
        memory, warm = figures["memory"], figures.get("warmup")
        unsteady = "" if warm is None or warm["stationary"] else ", not steady"
        rows.append(
            [
                *judged.arm,
                f"{figures['open_ms']:.1f}",
                f"{figures['first_ms']:.3f}",
                f"{warm['num_calls']}{unsteady}" if warm else "",
                _megabytes(memory["peak_bytes"]),
                *[_megabytes(memory["device_bytes"])] * of_card,
                *[_millijoules(figures.get("energy"))] * counted,
            ]
        )
    return table(header, rows, right=range(2, len(header))) if rows else []


def _arm_document(judged: JudgedArm) -> dict[str, Any]:
    """An arm with nothing rounded."""
    figures = judged.figures
    kept = ("error", "open_ms", "first_ms", "memory", "warmup", "energy", "executed", "probe", "rounds_ms")
    return {
        "artifact": judged.arm.artifact,
        "runtime": judged.arm.runtime,
        **{name: figures.get(name) for name in kept},
        "median_ms": judged.latency._asdict() if judged.latency else None,
        "p99_ms": judged.p99._asdict() if judged.p99 else None,
        "speedup": judged.speedup._asdict() if judged.speedup else None,
        "verdict": judged.verdict,
        "drop": judged.drop._asdict() if judged.drop else None,
        "flips": judged.flips._asdict() if judged.flips else None,
    }


def swept(points: Mapping[Setting, Point]) -> Outcome:
    """Latency and throughput by batch size and threads; the most samples a second of each arm are marked."""
    best: dict[ArmKey, float] = {}
    for setting, point in points.items():
        best[setting.arm] = max(best.get(setting.arm, 0.0), point.samples_per_second or 0.0)
    rows, told = [], []
    for setting, point in sorted(points.items(), key=lambda item: (*item[0].arm, *item[0][1:])):
        first = [*setting.arm, str(setting.threads), str(setting.batch_size)]
        told.append(
            {
                "artifact": setting.arm.artifact,
                "runtime": setting.arm.runtime,
                "threads": setting.threads,
                "batch_size": setting.batch_size,
                "median_ms": point.latency._asdict() if point.latency else None,
                "samples_per_second": point.samples_per_second,
                "error": point.error,
                "rounds_ms": point.rounds_ms,
            }
        )
        if point.latency is None or point.samples_per_second is None:
            rows.append([*first, point.error or "", "", "", ""])
            continue
        mark = "most" if point.samples_per_second == best[setting.arm] else ""
        interval = f"{point.latency.low:.4f} to {point.latency.high:.4f}"
        rows.append(
            [*first, f"{point.latency.value:.4f}", interval, f"{point.samples_per_second:,.0f}", mark]
        )
    header = ["artifact", "runtime", "threads", "batch", "median ms", "95 %", "samples/s", ""]
    return Outcome(table(header, rows, right=[2, 3, 4, 6]), extra={"points": told})


def _gate_lines(gates: Sequence[Gate]) -> list[str]:
    rows = [
        [gate.name, gate.state + " (allowed)" * gate.allowed, gate.measured, gate.reason] for gate in gates
    ]
    return table(["gate", "state", "measured", "reason"], rows)


def _millijoules(spent: Mapping[str, Any] | None) -> str:
    return f"{1e3 * sum(spent['joules'].values()) / spent['num_calls']:.3g}" if spent else ""


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def asked(found: Mapping[ArmKey, Asked]) -> Outcome:
    """What a scenario measured of every arm; a percentile with too few queries has no bound."""
    rows, arms = [], []
    for arm, one in found.items():
        figures = one.percentiles() if len(one.latencies) else []
        rows.append([*arm, *_asked_cells(one, figures)])
        arms.append(
            {
                "artifact": arm.artifact,
                "runtime": arm.runtime,
                "scenario": one.scenario,
                "samples_per_query": one.samples_per_query,
                "rate": one.rate,
                "seconds": one.seconds,
                "samples_per_second": one.samples_per_second,
                "kept_up": one.kept_up,
                "error": one.error,
                "complete": one.complete,
                "percentiles": [figure._asdict() for figure in figures],
                "latencies_s": one.latencies.tolist(),
            }
        )
    header = ["artifact", "runtime", "queries", "samples/s", "p50 ms", "p90 ms", "p99 ms", "p99 at most", ""]
    complete = all(one.complete for one in found.values())
    lines = table(header, rows, right=range(2, 8))
    lines += [] if complete else ["", "interrupted: fewer turns than were asked for"]
    return Outcome(lines, extra={"arms": arms}, interrupted=not complete)


def _asked_cells(one: Asked, figures: Sequence[Percentile]) -> list[str]:
    if not figures:
        return ["0", "", "", "", "", "", one.error or ""]
    high = figures[-1]
    bound = f"{1e3 * high.bound:.3f}" if high.bound is not None else f"needs {high.needed:,} queries"
    return [
        f"{len(one.latencies):,}",
        f"{one.samples_per_second:.4g}",
        *(f"{1e3 * figure.value:.3f}" for figure in figures),
        bound,
        one.error or ("" if one.kept_up else "overloaded"),
    ]


def compared(found: Comparison, titles: tuple[str, str], out: Path | None) -> Outcome:
    """Two reports side by side, and the gates; with a folder also for a pull request and for CI."""
    from lissom.artifact import canonical_json
    from lissom.report.comparison import markdown_of
    from lissom.report.exports import junit_of

    lines = [
        found.verdict,
        "",
        *table(["", "before", "after", "change"], [list(line) for line in found.lines]),
        "",
        *_gate_lines(found.gates),
        *(["", *(f"note: {note}" for note in found.notes)] if found.notes else []),
        *(["", f"baseline {found.baseline} is now that of {titles[1]}"] if found.baseline else []),
    ]
    told = {
        "verdict": found.verdict,
        "speedup": found.speedup._asdict() if found.speedup else None,
        "flips": found.flips._asdict() if found.flips else None,
        "lines": [line._asdict() for line in found.lines],
        "notes": list(found.notes),
        "baseline": str(found.baseline) if found.baseline else None,
    }
    if out is not None:
        gates = [gate.model_dump(mode="json") for gate in found.gates]
        document = {"schema": "lissom.comparison/1", "ok": found.ok, **told, "gates": gates}
        write_in(out, "compare.json", canonical_json(document))
        write_in(out, "compare.md", markdown_of(found, titles).encode())
        junit = junit_of(found.gates, suite="lissom compare", name="lissom.compare")
        write_in(out, "junit.xml", junit)
    return Outcome(lines, found.ok, gates=found.gates, extra=told)
