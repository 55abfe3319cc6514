"""The result as Markdown."""

from __future__ import annotations

from typing import Any

from gpu.catalog import BASELINE, OURS, Row

HEAD = (
    "engine",
    "batch",
    "latency, ms (95 %)",
    "against eager",
    "TFLOP/s",
    "of ceiling",
    "GB/s, at least",
    "of ceiling",
    "largest error",
    "cosine",
    "SQNR, dB",
    "same top answer",
    "memory, MB",
)
NOTES = (
    "Rounds are interleaved over the engines of a model and batch, after warm-up and with a warm cache. "
    "Stock models have seeded random weights and are timed by CUDA events, inputs and outputs on the card; "
    f"`{OURS}` rows are timed by the runtime's own clock, host memory to host memory.",
    f"Against eager: latency of `{BASELINE}` over that of the row, paired by round; of `{OURS} torch` on the "
    f"trained artifact for `{OURS}` rows. Errors are against eager float32 with the same weights, for the "
    "first samples of the batch; no SQNR means no difference.",
    "FLOPs are 2 a multiply-add, those of zeros included. GB/s are weights, inputs and outputs once a call: "
    "a lower bound, because activations move too. Ceilings are a large product of the same type, dense, and "
    "a copy on the card. Memory is what the engine took beside what was held before.",
)


def page(state: dict[str, Any]) -> list[str]:
    """The whole page."""
    machine, ceilings = state["machine"], state["ceilings"]
    products = ", ".join(
        f"{name} {value / 1e12:.3g} TFLOP/s" if value else f"{name} refused"
        for name, value in ceilings["flops"].items()
    )
    lines = [
        f"# {machine['card']}",
        "",
        f"Driver {machine['driver']}, CUDA {machine['cuda']}, torch {machine['torch']}, Python "
        f"{machine['python']}, {state['created']}. Largest clocks and power: {machine['clocks']}.",
        "",
        f"Ceilings measured here: products of {ceilings['matmul_size']} by {ceilings['matmul_size']}, "
        f"{products}; copy {ceilings['bytes_per_s'] / 1e9:.4g} GB/s.",
    ]
    for note in NOTES:
        lines += ["", note]
    for model in dict.fromkeys(row["model"] for row in state["rows"]):
        rows = [row for row in state["rows"] if row["model"] == model]
        lines += ["", f"## {model}", "", *table(rows)]
    return lines


def table(rows: list[Row]) -> list[str]:
    """Measured rows as a table, then one line for every reason why others were not."""
    lines = []
    if measured := [row for row in rows if row["status"] == "measured"]:
        lines = [f"| {' | '.join(HEAD)} |", f"|---|{'---:|' * (len(HEAD) - 1)}"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in measured]
    reasons: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        if row["status"] != "measured":
            told = f"{row['status']}: {row['reason']}".replace("|", "/")
            reasons.setdefault((row["engine"], told), []).append(row["batch"])
    if lines and reasons:
        lines.append("")
    for (engine, told), batches in reasons.items():
        lines.append(f"- {engine}, batch {', '.join(map(str, batches))}: {told}")
    return lines


def _cells(row: Row) -> list[str]:
    return [
        row["engine"],
        str(row["batch"]),
        _interval(row["latency_ms"], "{:.3f}", ""),
        _interval(row["speedup"], "{:.2f}", "x") if row.get("speedup") else "",
        _number(row.get("flops_per_s"), "{:.3g}", 1e-12),
        _number(row.get("of_flop_ceiling"), "{:.1%}"),
        _number(row.get("bytes_per_s"), "{:.3g}", 1e-9),
        _number(row.get("of_copy_ceiling"), "{:.1%}"),
        _number(row.get("max_error"), "{:.2g}"),
        _number(row.get("cosine"), "{:.6f}"),
        _number(row.get("sqnr_db"), "{:.1f}"),
        _number(row.get("agreement"), "{:.1%}"),
        _number(row.get("peak_bytes"), "{:.0f}", 1e-6),
    ]


def _interval(figure: dict[str, float], form: str, unit: str) -> str:
    value, low, high = (form.format(figure[name]) for name in ("value", "low", "high"))
    return f"{value}{unit} ({low} to {high})"


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else form.format(value * scale)
