"""How outcomes look: text for people, and the further keys of the JSON document."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.cli.output import Outcome, table, write_in
from lissom.errors import RequestError
from lissom.report.wording import NO_BREAK, lower_is_better, metric_title, points, shortened

if TYPE_CHECKING:
    import numpy as np

    from lissom.artifact import Artifact
    from lissom.compress.layer_noise import LayerNoise, NoisePlan, NoisyLayer
    from lissom.compress.pruning import Preview
    from lissom.compress.quantizing.preview import QuantizePreview
    from lissom.compress.sensitivity import GroupTrials, Plan, Sensitivity
    from lissom.export.verification import Parity
    from lissom.models.data import Data
    from lissom.pipeline import Estimate, Result
    from lissom.recipe import Recipe
    from lissom.report.schema import Gate, Report

MAX_CLASSES = 40
"""Classes up to which the most confused ones are named."""
NUM_CONFUSED = 10


def finished(result: Result) -> Outcome:
    """A run: its gates, the verdict, where the report is, and how to serve the result."""
    report = result.report
    lines = [*_gate_lines(report.gates), "", report.verdict.sentence, *report.remarks, ""]
    lines += [f"report  {result.out / 'report.html'}", f"model   {result.out / 'artifact'}"]
    lines += [f"serve   {_command('serve', str(result.out / 'artifact'))}"]
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
            _seconds(stage.seconds),
            _size(stage.size_bytes),
        ]
        for stage in estimate.stages
    ]
    rows.append(["", "measure and report", "", _seconds(estimate.measure_seconds), ""])
    lines = table(["stage", "kind", "state", "time", "disk"], rows, right=[3, 4])
    lines += ["", f"about {_seconds(estimate.seconds)} and {_size(estimate.size_bytes)}; nothing was written"]
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
    lines += [
        "",
        f"multiply-adds  {_saved(*preview.macs)}",
        f"parameters     {_saved(*preview.parameters)}",
        f"latency        {_latency(preview)} on {preview.runtime} against the whole model",
        "",
        "before any training; nothing was written",
    ]
    return Outcome(lines, extra={"preview": asdict(preview)})


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


def _layer_time(preview: Preview, name: str) -> list[str]:
    return [f"{share:.1%}" for share in preview.layer_times.get(name, ())]


def _latency(preview: Preview) -> str:
    predicted = "" if preview.predicted is None else f"{preview.predicted - 1:+.0%} predicted, "
    return f"{predicted}{preview.latency - 1:+.0%} measured"


def _saved(before: float, after: float) -> str:
    return f"{after / before - 1:+.0%}, {before:,.0f} to {after:,.0f}"


def sensitivity_planned(plan: Plan) -> Outcome:
    """A dry run of a sensitivity: its groups, and how long they would take."""
    rows = [
        [group.name, str(len(group.layers)), " -> ".join(map(str, group.channels)), str(len(group.missing))]
        for group in plan.groups
    ]
    lines = table(["group", "layers", "channels", "to measure"], rows, right=[1, 3])
    number = sum(len(group.missing) for group in plan.groups)
    lines += ["", f"{number} to measure on {plan.runtime}, about {_seconds(plan.seconds)}"]
    lines.append("nothing was written")
    groups = [group._asdict() for group in plan.groups]
    return Outcome(lines, extra={"runtime": plan.runtime, "groups": groups, "seconds": plan.seconds})


def sensitivity_measured(found: Sensitivity, folder: Path) -> Outcome:
    """What every group costs and saves, those first that can go cheaply."""
    from lissom.report.sensitivity_page import HTML_FILE, JSON_FILE, summary

    shares = [f"{trial.share:.0%}" for trial in found.groups[0].shares]
    header = ["group", "layers", "channels", *(part for share in shares for part in (f"at {share}", "saved"))]
    rows = [
        [
            shortened(group.name, 32),
            str(len(group.layers)),
            " -> ".join(str(width) for width in _channels(group)),
            *(
                part
                for trial in group.shares
                for part in (f"{-100 * trial.drop:+.1f}", f"{1 - trial.latency_share:.0%}")
            ),
        ]
        for group in found.groups
    ]
    lines = table(header, rows, right=[1, *range(3, len(header))])
    lines += ["", summary(found).replace(NO_BREAK, " ")]
    lines += [f"points of {found.score_name}, without training; latency saved on {found.runtime}", ""]
    lines += [f"page  {folder / HTML_FILE}", f"json  {folder / JSON_FILE}"]
    extra = {key: value for key, value in found.document().items() if key != "schema"}
    return Outcome(lines, out=folder, extra=extra)


def noise_planned(plan: NoisePlan) -> Outcome:
    """A dry run of a sensitivity to int8: its layers, and how long they would take."""
    rows = [
        [
            layer.name,
            layer.op_type,
            f"{layer.num_weights:,}",
            "on disk" if layer.is_measured else "to measure",
        ]
        for layer in plan.layers
    ]
    number = sum(not layer.is_measured for layer in plan.layers)
    lines = table(["layer", "op", "weights", "state"], rows, right=[2])
    lines += ["", f"{number} of {len(rows)} layers to measure, about {_seconds(plan.seconds)}"]
    lines.append("nothing was written")
    layers = [layer._asdict() for layer in plan.layers]
    return Outcome(lines, extra={"layers": layers, "seconds": plan.seconds})


def noise_measured(found: LayerNoise, folder: Path, words: Sequence[str]) -> Outcome:
    """What every layer costs in int8 alone, the noisiest first.

    Args:
        found: The layers.
        folder: Of the page and the JSON.
        words: Model, data and options from which `quantize` would start.
    """
    from lissom.report.layer_noise_page import HTML_FILE, JSON_FILE, summary

    header = ["layer", "op", "weights", "SQNR dB", "agreement %"]
    header += [] if found.score is None else ["drop, points"]
    rows = [_noise_row(layer) for layer in found.layers]
    lines = table(header, rows, right=range(2, len(header)))
    lines += ["", summary(found).replace(NO_BREAK, " "), ""]
    lines += [f"page  {folder / HTML_FILE}", f"json  {folder / JSON_FILE}"]
    worst = ["--exclude", found.layers[0].name] if len(found.layers) > 1 else []
    lines.append(f"next  {_command('quantize', *words, *worst)}")
    extra = {key: value for key, value in found.document().items() if key != "schema"}
    return Outcome(lines, out=folder, extra=extra)


def _noise_row(layer: NoisyLayer) -> list[str]:
    from lissom.report.layer_noise_page import noise

    drop = [] if layer.drop is None else [points(layer.drop)]
    agreement = f"{100 * layer.agreement:.1f}"
    return [layer.name, layer.op_type, f"{layer.num_weights:,}", noise(layer), agreement, *drop]


def _channels(group: GroupTrials) -> list[int]:
    """Channels of the whole model, and after each share."""
    return [group.shares[0].channels[0], *(trial.channels[1] for trial in group.shares)]


def verified(parities: Sequence[Parity], allow: Sequence[str]) -> Outcome:
    """Parity of two artifacts as a table and a gate."""
    from lissom.report.schema import Gate

    rows = [
        [
            p.output,
            _figure(p.max_abs_error, ".3g"),
            _figure(p.mean_abs_error, ".3g"),
            _figure(p.cosine, ".6f"),
            _decibel(p.sqnr_db),
            f"{p.top1_agreement:.2%}",
            "pass" if p.passed else "FAIL",
        ]
        for p in parities
    ]
    header = ["output", "max error", "mean error", "cosine", "SQNR", "top-1", ""]
    passed = all(parity.passed for parity in parities)
    worst = max(parities, key=lambda parity: (not parity.passed, parity.max_abs_error or 0.0))
    gate = Gate(
        name="parity",
        state="pass" if passed else "fail",
        measured=f"max error {_figure(worst.max_abs_error, '.3g')}",
        limit=worst.limit,
        reason=f"output {worst.output!r}",
        allowed="parity" in allow,
    )
    lines = [*table(header, rows, right=[1, 2, 3, 4, 5]), "", f"limit: {worst.limit}"]
    extra = {"outputs": [parity._asdict() for parity in parities]}
    return Outcome(lines, passed or gate.allowed, gates=[gate], extra=extra)


def bench_planned(arms: Sequence[tuple[str, str]], seconds: float) -> Outcome:
    """The arms that a benchmark would time."""
    lines = [*table(["artifact", "runtime"], [list(arm) for arm in arms]), "", f"about {_seconds(seconds)}"]
    return Outcome(lines, extra={"arms": [list(arm) for arm in arms], "seconds": seconds})


def benched(records: Mapping[str, Mapping[str, Any]]) -> Outcome:
    """Latencies of every arm, with their intervals, against the first."""
    from lissom.bench.statistics import median_latency, ratio

    arms = {
        (name, runtime): figures
        for name, record in records.items()
        for runtime, figures in record["runtimes"].items()
    }
    timed = {arm: figures["rounds_ms"] for arm, figures in arms.items() if figures.get("rounds_ms")}
    first = next(iter(timed.values()), None)
    rows = []
    for (name, runtime), figures in arms.items():
        if (rounds := timed.get((name, runtime))) is None or first is None:
            rows.append([name, runtime, figures["error"] or "", "", ""])
            continue
        latency, speedup = median_latency(rounds), ratio(first, rounds)
        interval = f"{latency.low:.4f} to {latency.high:.4f}"
        rows.append([name, runtime, f"{latency.value:.4f}", interval, f"{speedup.value:.2f}x"])
    lines = table(
        ["artifact", "runtime", "median ms", "95 % interval", "against first"], rows, right=[2, 3, 4]
    )
    summary = [
        dict(zip(("artifact", "runtime", "median_ms", "interval", "against_first"), row, strict=True))
        for row in rows
    ]
    return Outcome(lines, extra={"arms": summary})


def reported(report: Report, folder: Path) -> Outcome:
    """A report that was drawn again."""
    lines = [*_gate_lines(report.gates), "", report.verdict.sentence, *report.remarks, ""]
    lines.append(f"report  {folder / 'report.html'}")
    extra = {"verdict": report.verdict.model_dump(), "remarks": list(report.remarks)}
    return Outcome(lines, report.verdict.ok, folder, gates=report.gates, extra=extra)


def inspected(artifact: Artifact) -> Outcome:
    """What the manifest says."""
    manifest = artifact.manifest
    rows = [
        ["path", str(artifact.path)],
        ["id", manifest.id],
        ["digest", artifact.digest],
        [
            "made by",
            f"stage {manifest.name} ({manifest.stage}) of recipe {manifest.recipe}, seed {manifest.seed}",
        ],
        ["format", f"{manifest.format}, {manifest.precision}"],
        ["size", _size(artifact.size_bytes)],
        ["parameters", f"{manifest.num_parameters:,}" if manifest.num_parameters is not None else "unknown"],
        [
            "inputs",
            "; ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in manifest.signature.inputs),
        ],
        [
            "outputs",
            "; ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in manifest.signature.outputs),
        ],
        ["labels", ", ".join(manifest.labels) or "none"],
        ["parents", ", ".join(f"{parent.name} ({parent.role})" for parent in manifest.parents) or "none"],
        ["data", manifest.data],
        ["tools", ", ".join(f"{name} {found}" for name, found in manifest.tools.items())],
        ["made on", f"{manifest.made_on.get('cpu')} ({', '.join(manifest.made_on.get('isa', []))})"],
        ["evidence", f"{len(artifact.evidence())} records"],
    ]
    lines = [f"{key:<11} {value}" for key, value in rows]
    lines += ["", "every file matches its hash"]
    return Outcome(
        lines, artifact=artifact, extra={"manifest": manifest.model_dump(mode="json", by_alias=True)}
    )


def predicted(path: Path, data: str | None, runtime: str | None, out: Path | None) -> Outcome:
    """Labels or values of samples; the first ten as text, all of them as CSV with --out."""
    from lissom import verbs
    from lissom.artifact import Artifact

    artifact = Artifact.open(path)
    samples = verbs.load_data(data or artifact.manifest.data)
    split = next(name for name in ("report", "calibrate", "select", "train") if len(samples.indices[name]))
    labels, outputs = verbs.predict(artifact, samples.raw(split), runtime=runtime)
    header = ["sample", "label", "score"] if labels else ["sample", "output"]
    rows = [
        [str(place), *([labels[place], f"{row.max():.4f}"] if labels else [_numbers(row)])]
        for place, row in enumerate(outputs)
    ]
    shown = [[shortened(cell, 60) for cell in row] for row in rows[:10]]
    lines = table(header, shown, right=[0, 2] if labels else [0])
    if len(rows) > 10:
        lines.append(f"... and {len(rows) - 10} more; --out DIR writes them all")
    extra: dict[str, Any] = {"labels": labels, "split": split}
    if (truth := _true_names(samples, split, artifact.manifest.labels)) and labels:
        extra["accuracy"] = sum(a == b for a, b in zip(labels, truth, strict=True)) / len(truth)
        lines.append(f"{extra['accuracy']:.2%} of {len(truth)} samples of the {split} split are right")
    if out is not None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        lines.append(f"written to {write_in(out, 'predictions.csv', text.getvalue().encode())}")
    return Outcome(lines, out=out, artifact=artifact, extra=extra)


def evaluated(path: Path, data: str | None, split: str, runtime: str | None) -> Outcome:
    """Metrics of a split as a table and, of few classes, the most frequent errors."""
    from lissom import verbs
    from lissom.artifact import Artifact

    artifact = Artifact.open(path)
    found = verbs.evaluate(artifact, data=data, split=split, runtime=runtime)
    named = {found.score_name.replace(" ", "_"): found.score} | found.metrics
    rows = [
        [metric_title(name), f"{value:.4f}", "lower is better" if lower_is_better(name) else ""]
        for name, value in named.items()
    ]
    lines = table(["metric", "value", ""], rows, right=[1])
    lines += _confused_lines(found.confusion, artifact.manifest.labels)
    lines += ["", f"{found.num_samples} samples of the {split} split of {data or artifact.manifest.data}"]
    return Outcome(lines, artifact=artifact, extra={"split": split, **asdict(found)})


def served(
    artifacts: Sequence[Path], *, host: str, port: int, runtime: str | None, threads: int | None
) -> Outcome:
    """Serve until Ctrl-C; says where once the models answer."""
    from lissom import verbs

    def ready(url: str) -> None:
        print(
            f"serving {', '.join(str(path) for path in artifacts)} at {url} (Ctrl-C ends it)", file=sys.stderr
        )
        print(f"  curl -s {url}/v2/health/ready && curl -s {url}/v2", file=sys.stderr, flush=True)

    exit_code = verbs.serve(
        artifacts,
        host=host,
        port=port,
        runtime=runtime,
        threads=threads,
        on_ready=ready,
        on_log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    return Outcome(["stopped"], ok=exit_code == 0)


def cleaned(removed: Sequence[Path], folder: Path, *, dry_run: bool) -> Outcome:
    """What was removed, or would be."""
    word = "would remove" if dry_run else "removed"
    lines = [f"{word} {path.name}" for path in removed] or [f"{folder} is clean"]
    return Outcome(lines, out=folder, extra={"removed": [str(path) for path in removed]})


def examined() -> Outcome:
    """The state of every runtime."""
    from lissom import verbs
    from lissom.runtime.machine import compiler, machine

    found = verbs.doctor()
    rows = [[row.runtime, row.version, "works" if row.works else "absent", row.reason] for row in found]
    here = machine()
    lines = table(["runtime", "version", "state", ""], rows)
    lines += [
        "",
        f"cpu       {here['cpu']}, {here['cores']} cores, {', '.join(here['isa'])}",
    ]
    lines += [
        f"gpu       {', '.join(here['gpus']) or 'none'}",
        f"compiler  {compiler() or 'none: apt-get install g++'}",
    ]
    return Outcome(lines, extra={"runtimes": [row._asdict() for row in found], "machine": here})


def listed() -> Outcome:
    """Built-in models: parameters and work of each, their arguments, and data sets."""
    from lissom import verbs
    from lissom.registry import DATASETS

    found = verbs.models()
    rows = [
        [
            row.name,
            f"{row.num_parameters:,}",
            _count(row.flops),
            _count(row.paper_parameters),
            _count(row.paper_flops),
        ]
        for row in found
    ]
    header = ["model", "parameters", "FLOPs", "paper: parameters", "FLOPs"]
    lines = [*table(header, rows, right=[1, 2, 3, 4]), ""]
    for row in found:
        paper = f"paper: {kwarg_options(row.paper_kwargs)}" if row.paper_kwargs else ""
        lines += [f"{row.name}: {row.summary}", *_wrapped(row.signature), *_wrapped(paper), ""]
    lines.append(f"data: {', '.join(DATASETS)}")
    return Outcome(lines, extra={"models": [row._asdict() for row in found], "data": list(DATASETS)})


def kwarg_options(arguments: Mapping[str, Any]) -> str:
    """Keyword arguments as words of the command line; `keyword_arguments` reads their values.

    >>> kwarg_options({"widths": (1, 2), "bias": True, "stem": "imagenet"})
    "--kwarg 'widths=[1,2]' --kwarg bias=true --kwarg stem=imagenet"
    """
    words = [
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in arguments.items()
    ]
    return " ".join(f"--kwarg {shlex.quote(word)}" for word in words)


def keyword_arguments(words: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as keyword arguments, values as YAML.

    >>> keyword_arguments(["widths=[1, 2]", "bias=true"])
    {'widths': [1, 2], 'bias': True}

    Raises:
        RequestError: a word has no equals sign.
    """
    import yaml

    arguments = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise RequestError(f"--kwarg {word!r} is not of the form KEY=VALUE")
        try:
            arguments[key] = yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise RequestError(f"--kwarg {word!r}: the value is not YAML") from exc
    return arguments


def _numbers(output: np.ndarray) -> str:
    """One sample's output: its numbers, or at each position of a sequence the number of the highest."""
    if output.ndim > 1:
        return " ".join(str(index) for index in output.argmax(axis=-1).reshape(-1))
    return " ".join(f"{value:.6g}" for value in output.reshape(-1).tolist())


def _true_names(samples: Data, split: str, known: Sequence[str]) -> list[str]:
    """The class of each sample by name, as a model with the classes `known` would call it.

    Empty where the labels are no classes, or where the model knows none of them.
    """
    names = samples.dataset.label_names
    if samples.kind != "classes" or (known and not {*names} & {*known}):
        return []
    return [names[index] if known else str(index) for index in samples.labels(split)]


def _confused_lines(confusion: list[list[int]] | None, labels: Sequence[str]) -> list[str]:
    """The most frequent errors, one a line; none where classes are too many to be told apart by name."""
    if confusion is None or len(confusion) > MAX_CLASSES:
        return []
    from numpy import array

    from lissom.models.metrics import most_confused

    names = labels if len(labels) == len(confusion) else [str(index) for index in range(len(confusion))]
    pairs = most_confused(array(confusion), NUM_CONFUSED)
    lines = [f"{names[true]} -> {names[predicted]}: {number}" for true, predicted, number in pairs]
    return ["", "most confused, true -> predicted", *lines] if lines else ["", "no class is confused"]


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


def _command(*words: str) -> str:
    """How to call this lissom again: as it was called, when that was by a path."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "lissom" and not _on_path(sys.argv[0]) else "lissom"
    return shlex.join([program, *words])


def _on_path(program: str) -> bool:
    import shutil

    found = shutil.which("lissom")
    return found is not None and Path(found).resolve() == Path(program).resolve()


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)


def _count(value: int | None) -> str:
    """A number with three digits and its unit.

    >>> _count(124_430_592), _count(96_637_959_168), _count(81), _count(None)
    ('124 M', '96.6 G', '81', '-')
    """
    if value is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{float(f'{value / size:.3g}'):g} {unit}"
    return str(value)


def _figure(value: float | None, form: str) -> str:
    return "not finite" if value is None else f"{value:{form}}"


def _decibel(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f} dB"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _size(size_bytes: float) -> str:
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    return f"{size_bytes / 1e3:.0f} kB" if size_bytes < 1e6 else f"{size_bytes / 1e6:.1f} MB"
