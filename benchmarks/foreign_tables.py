"""The figures of `foreign.py` as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VERBS = ("inspect", "bench", "predict", "quantize", "verify", "serve")
PEERS = ("onnxruntime", "nncf")
Row = Mapping[str, Any]


def document(rows: list[Row], number: int, here: Mapping[str, Any], day: str) -> str:
    """The page; `here` is the environment."""
    lines = [
        "# Trained files of public packages",
        "",
        f"{here['cpu']} ({', '.join(here['isa'])}), {here['cores']} cores, {day}. {counted(rows, number)} "
        f"Load of the machine when this was written: {here['load_average'][0]:.1f}.",
        "",
        *verb_table(rows),
        "",
        *sqnr_table(rows),
        "",
        *reasons(rows),
    ]
    return "\n".join(lines) + "\n"


def counted(rows: list[Row], number: int) -> str:
    """How many files each verb took."""
    done = {verb: sum(row["verbs"].get(verb, {}).get("outcome") == "ok" for row in rows) for verb in VERBS}
    told = ", ".join(f"{verb} {count}" for verb, count in done.items())
    return f"{len(rows)} of {number} files; done: {told}."


def verb_table(rows: list[Row]) -> list[str]:
    """Outcome and seconds of each verb."""
    lines = [
        "Outcome and seconds.",
        "",
        f"| file | MB | {' | '.join(VERBS)} |",
        f"|---|---:|{'---|' * len(VERBS)}",
    ]
    for row in rows:
        cells = []
        for verb in VERBS:
            found = row["verbs"].get(verb)
            seconds = f" {found['seconds']:.1f}" if found and found["seconds"] is not None else ""
            mode = f" {found['mode']}" if found and found.get("mode") else ""
            cells.append(f"{found['outcome']}{mode}{seconds}" if found else "not reached")
        kind = "" if row["kind"] == "float" else " (int8 already)"
        lines.append(f"| {row['file']}{kind} | {row['bytes'] / 1e6:.1f} | {' | '.join(cells)} |")
    return lines


def best_peer(figures: Mapping[str, Any]) -> tuple[str, float] | None:
    """The peer of the highest SQNR on an engine, with its dB."""
    found = [(peer, figures[peer]) for peer in PEERS if isinstance(figures.get(peer), float)]
    return max(found, key=lambda one: one[1], default=None)


def sqnr_table(rows: list[Row]) -> list[str]:
    """Decibel on each engine, and the ratio of latencies."""
    lines = [
        "SQNR in dB of the worst output on held-out rows; latency of lissom's int8 file over that of the",
        "float file and of the better peer, the one of the higher SQNR, same engine (below 1: faster).",
        "`same` is lissom's file where it is asked for that peer's SQNR, not for its default of 25 dB.",
        "OpenVINO has lissom's file as `lissom export --format openvino` and `lissom serve` give it to it.",
        "`short` marks more than 0.5 dB behind the better peer, `slower` an interval wholly above 1.",
        "",
        "| file | engine | lissom | same | ONNX Runtime | NNCF | over float | over peer | same over peer | |",
        "|---|---|---:|---:|---:|---:|---|---|---|---|",
    ]
    tally = {"at least its SQNR": [0, 0], "no slower": [0, 0], "no slower at its SQNR": [0, 0]}
    for row, engine, figures in compared(rows):
        best = best_peer(figures)
        times = row.get("latency", {}).get(engine, {})
        over = {name: _times(times, name, best[0] if best else "") for name in ("lissom", "same")}
        marks = []
        for name, label in (("lissom", "no slower"), ("same", "no slower at its SQNR")):
            reached = best is not None and _reaches(figures.get(name), best[1])
            if best is not None and name == "lissom":
                _count(tally["at least its SQNR"], reached)
                marks += [] if reached else ["short"]
            if over[name] is not None:
                _count(tally[label], reached and over[name][1] <= 1)
                marks += [f"{name if name == 'same' else ''} slower".strip()] if over[name][1] > 1 else []
        cells = [_decibel(figures.get(name)) for name in ("lissom", "same", *PEERS)]
        cells += [_ratio(_times(times, "lissom", "float")), _ratio(over["lissom"]), _ratio(over["same"])]
        lines.append(f"| {row['file']} | {engine} | {' | '.join(cells)} | {', '.join(marks)} |")
    told = "; ".join(f"{label} {met} of {asked}" for label, (met, asked) in tally.items())
    return [*lines, "", f"Beside the better peer, file by engine: {told}."]


def compared(rows: list[Row]) -> Iterator[tuple[Row, str, Mapping[str, Any]]]:
    """Every file and engine that has figures."""
    for row in rows:
        for engine, figures in row.get("sqnr", {}).items():
            if figures:
                yield row, engine, figures


def _reaches(figure: Any, best: float) -> bool:
    return isinstance(figure, float) and figure >= best - 0.5


def _count(tally: list[int], met: bool) -> None:
    tally[0] += met
    tally[1] += 1


def _times(times: Any, ours: str, name: str) -> Any:
    """Ratio, low and high end of one file of lissom's over another; None where it was not measured."""
    return times.get(ours, {}).get(name) if isinstance(times, dict) else None


def _decibel(value: float | str | None) -> str:
    if value is None:
        return "not made"
    return f"{value:.1f}" if isinstance(value, float) else "does not run"


def _ratio(times: Any) -> str:
    return f"{times[0]:.2f} ({times[1]:.2f} to {times[2]:.2f})" if times else ""


def reasons(rows: list[Row]) -> list[str]:
    """What was said where a verb did not go through."""
    lines = ["What was said where a verb did not go through:", ""]
    for row in rows:
        for verb, found in row["verbs"].items():
            if found["outcome"] != "ok":
                words = found["told"].replace("\n", " ")
                lines.append(f"- {row['file']}, {verb}: {found['outcome']}: {words}")
        lines += [f"- {row['file']}, peer {peer}: {why}" for peer, why in row.get("peers", {}).items()]
    return lines if len(lines) > 2 else []
