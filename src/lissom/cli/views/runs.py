"""How recipes and runs look: what they would do, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.cli.output import Outcome, table
from lissom.cli.views.words import command, duration, size

if TYPE_CHECKING:
    from lissom.compress.pruning import Preview
    from lissom.compress.quantizing.preview import QuantizePreview
    from lissom.pipeline import Estimate, Result
    from lissom.recipe import Recipe
    from lissom.report.schema import Gate, Report


def finished(result: Result) -> Outcome:
    """A run: its gates, the verdict, where the report is, and how to serve the result."""
    report = result.report
    lines = [*_gate_lines(report.gates), "", report.verdict.sentence, *report.remarks, ""]
    lines += [f"report  {result.out / 'report.html'}", f"model   {result.out / 'artifact'}"]
    lines += [f"serve   {command('serve', str(result.out / 'artifact'))}"]
    extra = {
        "verdict": report.verdict.model_dump(mode="json"),
        "remarks": list(report.remarks),
        "reused": list(result.reused),
    }
    return Outcome(lines, result.ok, result.out, result.artifact, report.gates, extra)


def checked(recipe: Recipe) -> Outcome:
    """A valid recipe: its stages in order."""
    rows = [
        [
            stage.name,
            stage.stage,
            ", ".join(f"{name}" for name in stage.sources.values()) or "-",
            _settings(stage),
        ]
        for stage in recipe.stages
    ]
    lines = [
        f"{recipe.name}: {len(rows)} stages hold together",
        "",
        *table(["stage", "kind", "from", "settings"], rows),
    ]
    return Outcome(lines, extra={"recipe": recipe.model_dump(mode="json", by_alias=True)})


def estimated(recipe: Recipe, estimate: Estimate) -> Outcome:
    """A dry run: what would be made, what is there, and what it would cost."""
    rows = [
        [
            stage.name,
            stage.kind,
            "on disk" if stage.reused else "to make",
            duration(stage.seconds),
            size(stage.size_bytes),
        ]
        for stage in estimate.stages
    ]
    rows.append(["", "measure and report", "", duration(estimate.measure_seconds), ""])
    lines = table(["stage", "kind", "state", "time", "disk"], rows, right=[3, 4])
    lines += ["", f"about {duration(estimate.seconds)} and {size(estimate.size_bytes)}; nothing was written"]
    return Outcome(lines, extra={"estimate": estimate.document()})


def prune_planned(preview: Preview) -> Outcome:
    """A dry run of pruning: what would go, layer by layer, and what that would save."""
    widths = {**preview.removed.get("channels", {}), **preview.removed.get("ranks", {})}
    gone = preview.removed.get("blocks", {}).get("removed", ())
    rows = [
        [name, str(now), str(then), f"-{1 - then / now:.0%}", *_layer_time(preview, name)]
        for name, (now, then) in widths.items()
    ]
    rows += [[name, "", "removed", "", *_layer_time(preview, name)] for name in gone]
    headings = ["layer", "now", "then", "", *(["of the time", "then"] if preview.layer_times else [])]
    lines = table(headings, rows, right=range(1, len(headings))) if rows else []
    layers = preview.removed.get("sparsity", {}).get("layers", {})
    lines += (
        table(["layer", "zeros"], [[name, f"{share:.0%}"] for name, share in layers.items()])
        if layers
        else []
    )
    lines += _proof_lines(preview.removed.get("proof", {}))
    lines += [
        "",
        f"multiply-adds  {_saved(*preview.macs)}",
        f"parameters     {_saved(*preview.parameters)}",
        f"latency        {_latency(preview)} on {preview.runtime} against the whole model",
        "",
        "before any training; nothing was written",
    ]
    return Outcome(lines, extra={"preview": asdict(preview)})


def _proof_lines(proof: dict[str, Any]) -> list[str]:
    """What stays whole and why, and how near the rest is to the model with those parts at zero."""
    if not proof:
        return []
    rows = [[name, reason] for name, reason in proof["left"].items()]
    lines = ["", *table(["stays whole", "why"], rows)] if rows else []
    return [
        *lines,
        "",
        f"proof          differs by {proof['error']:.1e} from the model without those parts, in float64",
    ]


def quantize_planned(preview: QuantizePreview) -> Outcome:
    """A dry run of quantizing: every layer, its weights, and why it stays as it is."""
    rows = [
        [
            layer.name,
            layer.op_type,
            f"{layer.num_weights:,}" if layer.num_weights else "",
            preview.precision if layer.quantized else "float32",
            layer.why,
        ]
        for layer in preview.layers
    ]
    number = sum(layer.quantized for layer in preview.layers)
    lines = table(["layer", "", "weights", "precision", "why"], rows, right=(2,))
    lines += ["", f"{number} of {len(preview.layers)} layers, {_saved(*preview.size_bytes)} bytes"]
    if preview.num_samples:
        lines.append(f"ranges of activations from {preview.num_samples} samples of the calibrate split")
    if preview.target:
        elsewhere = "" if preview.validated_here else "; not validated here: this machine is another"
        lines.append(f"for {preview.target}{elsewhere}")
    return Outcome([*lines, "nothing was written"], extra={"preview": asdict(preview)})


def reported(report: Report, folder: Path) -> Outcome:
    """A report that was drawn again."""
    lines = [*_gate_lines(report.gates), "", report.verdict.sentence, *report.remarks, ""]
    lines.append(f"report  {folder / 'report.html'}")
    extra = {"verdict": report.verdict.model_dump(), "remarks": list(report.remarks)}
    return Outcome(lines, report.verdict.ok, folder, gates=report.gates, extra=extra)


def reported_several(reports: Sequence[Report], folder: Path) -> Outcome:
    """Several runs, the oldest first; a run that failed is told, and no failure of this."""
    from lissom.report.exemplars import exemplars_of, population
    from lissom.report.history import CSV_FILE, HTML_FILE

    rows = [
        [
            report.name,
            report.created[:16].replace("T", " "),
            "pass" if report.verdict.ok else "FAIL",
            " on ".join(word for word in (report.verdict.artifact, report.verdict.runtime) if word),
            f"{report.verdict.speedup.value:.2f}x" if report.verdict.speedup else "",
        ]
        for report in reports
    ]
    lines = table(["run", "measured", "gates", "chosen", "speed-up"], rows, right=[4])
    found = exemplars_of(population(reports))
    if found:
        number, seeds = f"{len(found.found):,} of {found.num_samples:,}", len(found.seeds)
        lines += ["", f"exemplars  {number} samples change their usual answer over {seeds} seeds"]
    lines += ["", f"page  {folder / HTML_FILE}", f"csv   {folder / CSV_FILE}"]
    told = [
        {"name": report.name, "created": report.created, "verdict": report.verdict.model_dump(mode="json")}
        for report in reports
    ]
    return Outcome(lines, out=folder, extra={"runs": told, "exemplars": found.document() if found else None})


def cleaned(removed: Sequence[Path], folder: Path, *, dry_run: bool) -> Outcome:
    """What was removed, or would be."""
    word = "would remove" if dry_run else "removed"
    lines = [f"{word} {path.name}" for path in removed] or [f"{folder} is clean"]
    return Outcome(lines, out=folder, extra={"removed": [str(path) for path in removed]})


def _gate_lines(gates: Sequence[Gate]) -> list[str]:
    rows = [[gate.name, _state(gate), gate.measured, gate.reason] for gate in gates]
    return table(["gate", "state", "measured", ""], rows)


def _state(gate: Gate) -> str:
    if gate.state != "fail":
        return gate.state
    return "fail, allowed" if gate.allowed else "FAIL"


def _settings(stage: Any) -> str:
    shown = stage.model_dump(mode="json", exclude={"stage", "name", "from_", "teacher"}, exclude_none=True)
    text = ", ".join(f"{key}={value}" for key, value in shown.items() if value not in ([], {}))
    return text if len(text) <= 90 else text[:87] + "..."


def _layer_time(preview: Preview, name: str) -> list[str]:
    return [f"{share:.1%}" for share in preview.layer_times.get(name, ())]


def _latency(preview: Preview) -> str:
    predicted = "" if preview.predicted is None else f"{preview.predicted - 1:+.0%} predicted, "
    return f"{predicted}{preview.latency - 1:+.0%} measured"


def _saved(before: float, after: float) -> str:
    return f"{after / before - 1:+.0%}, {before:,.0f} to {after:,.0f}"
