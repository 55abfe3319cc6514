"""How models look: those that are built in, what is known of one, what it answers, and where it runs."""

from __future__ import annotations

import csv
import io
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.cli.output import Outcome, table, write_in
from lissom.cli.progress import TerminalProgress
from lissom.cli.views.words import kwarg_options, size
from lissom.options import ServeOptions
from lissom.report.wording import lower_is_better, metric_title, shortened

if TYPE_CHECKING:
    import numpy as np

    from lissom.artifact import Artifact
    from lissom.models.data import Data
    from lissom.runtime.base import Layer

MAX_CLASSES = 40
"""Classes up to which the most confused ones are named."""
NUM_CONFUSED = 10


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


def inspected(artifact: Artifact) -> Outcome:
    """What the manifest says."""
    from lissom.models.score_kinds import CLASSIFYING, SAID
    from lissom.runtime.layout import describe_batching

    manifest = artifact.manifest
    batching = manifest.signature.batching
    rows = [
        ["path", str(artifact.path)],
        ["id", manifest.id],
        ["digest", artifact.digest],
        [
            "made by",
            f"stage {manifest.name} ({manifest.stage}) of recipe {manifest.recipe}, seed {manifest.seed}",
        ],
        ["format", f"{manifest.format}, {manifest.precision}"],
        ["size", size(artifact.size_bytes)],
        ["parameters", f"{manifest.num_parameters:,}" if manifest.num_parameters is not None else "unknown"],
        [
            "inputs",
            "; ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in manifest.signature.inputs),
        ],
        [
            "outputs",
            "; ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in manifest.signature.outputs),
        ],
        ["batching", describe_batching(batching) if batching else "not proven"],
        ["labels", ", ".join(manifest.labels) or "none"],
        *([["scores", SAID[manifest.scores]]] if manifest.task in CLASSIFYING else []),
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


def executed(artifact: Artifact, layers: Sequence[Layer] | None, runtime: str | None) -> Outcome:
    """Every operator as an engine executes it, and how many there are of each type."""
    told = {"runtime": runtime, "layers": None if layers is None else [layer._asdict() for layer in layers]}
    if layers is None:
        return Outcome([f"{runtime} does not say what it executes"], artifact=artifact, extra=told)
    rows = [
        [shortened(layer.name, 60), layer.operator, layer.precision or "-", layer.place] for layer in layers
    ]
    counts = Counter(layer.precision for layer in layers if layer.computes)
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "none"
    return Outcome(
        [
            *table(["layer", "operator", "computes in", "on"], rows),
            "",
            f"convolutions and products: {summary}",
        ],
        artifact=artifact,
        extra=told,
    )


def predicted(
    source: Path | Artifact,
    data: str | None,
    runtime: str | None,
    out: Path | None,
    *,
    allow_nonfinite: bool = False,
) -> Outcome:
    """Labels or values of samples; the first ten as text, all of them as CSV with --out."""
    from lissom import verbs

    artifact = verbs.open_model(source, data=data)
    signature = artifact.manifest.signature
    states = signature.batching.states if signature.batching else ()
    samples = verbs.load_data(data or artifact.manifest.data, signature.inputs, states)
    split = next(name for name in ("report", "calibrate", "select", "train") if len(samples.indices[name]))
    labels, outputs = verbs.predict(
        artifact, samples.raw(split), runtime=runtime, allow_nonfinite=allow_nonfinite
    )
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


def evaluated(source: Path | Artifact, data: str | None, split: str, runtime: str | None) -> Outcome:
    """Metrics of a split as a table and, of few classes, the most frequent errors."""
    from lissom import verbs

    artifact = verbs.open_model(source, data=data)
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


def key_made(file: Path | None, name: str, *, admin: bool) -> Outcome:
    """A new key, which is shown this once."""
    from lissom.errors import RequestError
    from lissom.serve.keys import add_key

    if file is None:
        raise RequestError(
            "a key needs a file to stand in", hint=f"lissom serve --new-key {name} --keys FILE"
        )
    key = add_key(file, name, is_admin=admin)
    lines = [f"{name}  {key}", "", f"shown this once; {file} holds its hash", "Authorization: Bearer KEY"]
    return Outcome(lines, extra={"name": name, "key": key, "admin": admin})


def served(artifacts: Sequence[str], options: ServeOptions) -> Outcome:
    """Serve until Ctrl-C; says where once the models answer."""
    from lissom import verbs

    def ready(url: str) -> None:
        names = ", ".join(artifacts)
        print(f"serving {names} at {url} (Ctrl-C ends it)", file=sys.stderr)
        print(f"  {_first_request(url, options)}", file=sys.stderr, flush=True)

    exit_code = verbs.serve(
        artifacts,
        on_ready=ready,
        on_log=lambda line: print(line, file=sys.stderr, flush=True),
        **options,
    )
    return Outcome(["stopped"], ok=exit_code == 0)


def _first_request(url: str, options: ServeOptions) -> str:
    """What to type next."""
    certificate, authority = options.get("tls_cert"), options.get("tls_ca")
    if certificate is None:
        return f"{url}/ in a browser, or: curl -s {url}/v2"
    shown = "" if authority is None else " --cert CERT --key KEY"
    place = f"https://NAME:{url.rpartition(':')[2]}/v2"
    return f"curl -s --cacert {certificate}{shown} {place}  (NAME as in the certificate)"


def examined() -> Outcome:
    """The state of every runtime, what the processor has for it, and what gets in its way."""
    from lissom import verbs
    from lissom.runtime.conflicts import conflicts
    from lissom.runtime.machine import compiler_version, cuda_version, machine

    found, here, known = verbs.doctor(progress=TerminalProgress()), machine(), conflicts()
    threads = {True: "several", False: "one", None: "-"}
    rows = [
        [row.runtime, row.device, row.version, threads[row.thread_safe], row.state, row.reason]
        for row in found
    ]
    lines = [
        *table(["runtime", "device", "version", "threads", "state", ""], rows),
        "",
        f"cpu       {here['cpu']}, {here['cores']} cores, {', '.join(here['isa'])}",
        *(f"          {line}" for line in _instruction_sets(here["isa"], here["architecture"])),
        f"memory    {(here['memory_bytes'] or 0) / 2**30:.1f} GiB",
        f"gpu       {', '.join(here['gpus']) or 'none'}",
        f"cuda      {cuda_version() or 'none: torch is built for the CPU'}",
        f"compiler  {compiler_version() or 'none: apt-get install g++'}",
    ]
    for conflict in known:
        lines += ["", f"conflict  {conflict.what}", f"          {conflict.mend}"]
    return Outcome(
        lines,
        extra={
            "runtimes": [row._asdict() for row in found],
            "machine": {**here, "compiler": compiler_version(), "cuda": cuda_version()},
            "conflicts": [conflict._asdict() for conflict in known],
        },
    )


def _instruction_sets(flags: Sequence[str], architecture: str) -> list[str]:
    """What the processor's instruction sets mean for a model of fewer bits."""
    eight = any("vnni" in flag or flag == "amx_int8" for flag in flags) or not architecture.startswith("x86")
    bfloat16 = {"avx512_bf16", "amx_bf16"} & {*flags}
    return [
        "int8: 8-bit weights" if eight else "int8: 7-bit weights, because without VNNI sums overflow",
        "bfloat16: computed by the processor" if bfloat16 else "bfloat16: not computed by the processor",
    ]


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


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)


def _count(value: int | None) -> str:
    """A number with three digits and its unit.

    >>> _count(124_430_592), _count(96_637_959_168), _count(81), _count(None)
    ('124 M', '96.6 G', '81', '-')
    """
    if value is None:
        return "-"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{float(f'{value / scale:.3g}'):g} {unit}"
    return str(value)
