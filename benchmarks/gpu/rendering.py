"""The result as one JSON and one Markdown, both written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gpu.ceilings import BYTES
from lissom.bench.statistics import median_latency, ratio

Row = dict[str, Any]


def write(state: dict[str, Any], path: Path) -> None:
    for suffix, text in (
        (".json", json.dumps(state, indent=1) + "\n"),
        (".md", "\n".join(page(state)) + "\n"),
    ):
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(text)
        temporary.replace(path.with_suffix(suffix))


def page(state: dict[str, Any]) -> list[str]:
    machine, ceilings = state["machine"], state["ceilings"]
    lines = [
        f"# {machine['card']}",
        "",
        f"Driver {machine['driver']}, CUDA {machine['cuda']}, torch {machine['torch']}, {state['date']}. "
        f"Clocks: {machine['clocks']}.",
        "",
        "Ceilings measured here: "
        + ", ".join(
            f"{name} {value / 1e12:.3g} TFLOP/s" if value else f"{name} refused"
            for name, value in ceilings["flops"].items()
        )
        + f"; copy {ceilings['bytes_per_s'] / 1e9:.4g} GB/s.",
        "",
        "Latency of one batch by CUDA events, engines of a model and batch interleaved; `lissom ...` rows by "
        "the clock, host memory to host memory. Bytes are weights, inputs and outputs: the least that moves.",
    ]
    models = dict.fromkeys(row["model"] for row in state["rows"])
    for model in models:
        lines += [
            "",
            f"## {model}",
            "",
            *table([row for row in state["rows"] if row["model"] == model], ceilings),
        ]
    return lines


def table(rows: list[Row], ceilings: dict[str, Any]) -> list[str]:
    lines = [
        "| engine | batch | latency, ms (95 %) | against eager | of FLOP ceiling | of copy ceiling "
        "| SQNR, dB | same top answer | memory, MB |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    baselines = {row["batch"]: row for row in rows if row["engine"] == "eager float32" and "rounds_ms" in row}
    for row in sorted(rows, key=lambda row: row["batch"]):
        if "rounds_ms" not in row:
            lines.append(
                f"| {row['engine']} | {row['batch']} | {row['status']}: {row['reason']} | | | | | | |"
            )
            continue
        lines.append(_line(row, baselines.get(row["batch"]), ceilings))
    return lines


def _line(row: Row, baseline: Row | None, ceilings: dict[str, Any]) -> str:
    latency = median_latency(row["rounds_ms"])
    cells = [
        row["engine"]
        if row["status"] == "measured"
        else f"{row['engine']} ({row['status']}: {row['reason']})",
        str(row["batch"]),
        f"{latency.value:.3f} ({latency.low:.3f} to {latency.high:.3f})",
        _speedup(row, baseline),
        _share(row.get("flops"), latency.value, ceilings["flops"].get(row.get("precision"))),
        _share(row.get("bytes"), latency.value, ceilings["bytes_per_s"]),
        _number(row.get("sqnr_db"), "{:.1f}"),
        _number(row.get("agreement"), "{:.1%}"),
        _number(row.get("peak_bytes"), "{:.0f}", 1e-6),
    ]
    return f"| {' | '.join(cells)} |"


def _speedup(row: Row, baseline: Row | None) -> str:
    if baseline is None or baseline is row or len(baseline["rounds_ms"]) != len(row["rounds_ms"]):
        return ""
    found = ratio(baseline["rounds_ms"], row["rounds_ms"])
    return f"{found.value:.2f}x ({found.low:.2f} to {found.high:.2f})"


def _share(work: float | None, milliseconds: float, ceiling: float | None) -> str:
    return f"{work / (milliseconds / 1e3) / ceiling:.0%}" if work and ceiling else ""


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else form.format(value * scale)


def bytes_moved(num_parameters: int, num_values: int, precision: str) -> int:
    """Weights in their type; inputs and outputs as float32."""
    return num_parameters * BYTES[precision] + num_values * 4
