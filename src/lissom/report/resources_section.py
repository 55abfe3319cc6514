"""What an arm takes beside time: to begin, in memory, in energy; and what the machine did meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import geometric_mean, median
from typing import Any

from lissom.report.drawing import Drawing, figure_json, light, linear_axis
from lissom.report.reading import chosen_arm, reference_arm
from lissom.report.schema import Arm, Report
from lissom.report.sections import plot
from lissom.report.tables import Cell, Column, table, text
from lissom.report.wording import ABSENT, percent, significant, size

HEADER = (
    "artifact",
    "runtime",
    "open, ms",
    "first, ms",
    "warm-up, calls",
    "memory at most",
    "memory of the card",
    "energy a call, mJ",
)


def resources(report: Report) -> str:
    """One row an arm that could be opened; columns that nothing was measured for are left out."""
    kept = _columns(report)
    titles = ("Artifact", "Runtime", "Open", "First", "Warm-up", "Memory", "Card", "Energy")
    hints = ("", "", "ms", "inference, ms", "calls", "of the process, at most", "held", "mJ a call")
    columns = [Column(titles[place], place > 1, hints[place]) for place in kept]
    rows = [
        [text(cells[place]) if place < 2 else Cell(cells[place]) for place in kept]
        for arm in report.arms
        if (cells := _cells(arm))
    ]
    if not rows:
        return ""
    caption = (
        "Before a call counts: loading and compiling, the first inference, calls until it gets no faster, "
        "and what that took of the memory. None of it is in the latency. The first arm of a runtime loads "
        "its library too, and a later one may be given memory that an earlier one gave back."
    )
    begin = f"<h3>To begin</h3>{table('resources-table', caption, columns, rows)}"
    return begin + _rounds(report) + _machine(report)


def draw_rounds(report: Report) -> Drawing | None:
    """Ratio of every round: the reference over the chosen arm as drawn from its mean, and the control.

    None where neither is known.
    """
    drawn = [(ratios, colour) for ratios, colour in _ratios(report) if ratios]
    if not drawn:
        return None
    longest = max(len(ratios) for ratios, _ in drawn)
    level = {"x": [0.5, longest + 0.5], "y": [1, 1], "line": {"color": light("pale"), "width": 1}}
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "hoverinfo": "skip", **level},
        *(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(1, len(ratios) + 1)),
                "y": ratios,
                "line": {"color": light(colour), "width": 1},
                "marker": {"size": 6, "opacity": 1, "color": light(colour)},
                "hoverinfo": "skip",
            }
            for ratios, colour in drawn
        ),
    ]
    layout = {
        "xaxis": linear_axis("round", range=[0.5, longest + 0.5]),
        "yaxis": linear_axis("", tickformat=".1%", nticks=6),
    }
    spread = max(max(ratios) - min(ratios) for ratios, _ in drawn)
    label = f"Ratios of {longest} rounds, each over the mean of all; they spread over {percent(spread)}."
    return Drawing("rounds", figure_json(traces, layout), 260, label)


def _ratios(report: Report) -> list[tuple[list[float], str]]:
    """Of the chosen arm against the reference, and of the control, each over its mean, by round."""
    chosen, reference = chosen_arm(report), reference_arm(report)
    found: list[tuple[list[float], str]] = []
    if chosen and reference and chosen != reference and chosen.latency and reference.latency:
        pairs = zip(reference.latency.rounds_ms, chosen.latency.rounds_ms, strict=False)
        own = [median(before) / median(after) for before, after in pairs]
        found.append(([value / geometric_mean(own) for value in own], "accent"))
    if report.control and report.control.rounds:
        found.append((list(report.control.rounds), "mute"))
    return found


def _rounds(report: Report) -> str:
    drawing = draw_rounds(report)
    if drawing is None:
        return ""
    keys = (
        '<span class="keys"><span class="key accent">chosen against reference</span>'
        '<span class="key mute">control</span></span>'
    )
    caption = (
        f"{keys}How far each round lies from what the whole measurement says; the control is one model "
        "opened twice, against itself. A trend or a jump is the machine’s, not a model’s."
    )
    return f"<h3>From round to round</h3>{plot(drawing, '', caption, '')}"


def resource_rows(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows as plain text."""
    kept = _columns(report)
    rows = [tuple(cells[place] for place in kept) for arm in report.arms if (cells := _cells(arm))]
    return tuple(HEADER[place] for place in kept), rows


def _columns(report: Report) -> list[int]:
    """Places of the columns in which some arm has a figure."""
    rows = [cells for arm in report.arms if (cells := _cells(arm))]
    return [place for place in range(len(HEADER)) if any(row[place] != ABSENT for row in rows)]


def _cells(arm: Arm) -> tuple[str, ...]:
    if arm.open_ms is None:
        return ()
    memory, warm = arm.memory, arm.warmup
    return (
        arm.artifact,
        arm.runtime,
        significant(arm.open_ms),
        significant(arm.first_ms) if arm.first_ms is not None else ABSENT,
        f"{warm.num_calls:,}{'' if warm.stationary else ', not steady'}" if warm else ABSENT,
        size(memory.peak_bytes) if memory and memory.peak_bytes is not None else ABSENT,
        size(memory.device_bytes) if memory and memory.device_bytes else ABSENT,
        significant(1e3 * sum(one.joules for one in arm.energy)) if arm.energy else ABSENT,
    )


def _machine(report: Report) -> str:
    """Smallest, mean and largest of what was read between rounds; empty where nothing was."""
    rows = [
        [text(name), *(Cell(value) for value in found)]
        for name, unit, read in _READ
        if (found := _range(report.readings, read, unit))
    ]
    if not rows:
        return ""
    columns = [Column("Machine"), *(Column(title, True) for title in ("least", "mean", "most"))]
    caption = f"Read {len(report.readings)} times between rounds, never while a call was timed"
    return f"<h3>What the machine did</h3>{table('readings-table', caption, columns, rows)}"


Reading = dict[str, Any]
_READ: Sequence[tuple[str, str, Callable[[Reading], float | None]]] = (
    ("clock of the cores", "MHz", lambda one: one.get("cpu_mhz")),
    ("heat of the processor", "°C", lambda one: one.get("cpu_celsius")),
    ("cores taken by other processes", "%", lambda one: _share(one.get("others"))),
    ("cores given to other machines", "%", lambda one: _share(one.get("stolen"))),
    ("clock of the card", "MHz", lambda one: (one.get("gpu") or {}).get("sm_mhz")),
    ("heat of the card", "°C", lambda one: (one.get("gpu") or {}).get("celsius")),
    ("power of the card", "W", lambda one: (one.get("gpu") or {}).get("watts")),
)


def _share(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _range(
    readings: Sequence[Reading], read: Callable[[Reading], float | None], unit: str
) -> tuple[str, str, str] | None:
    values = [value for one in readings if (value := read(one)) is not None]
    if not values:
        return None
    return (
        f"{min(values):,.0f} {unit}",
        f"{sum(values) / len(values):,.0f} {unit}",
        f"{max(values):,.0f} {unit}",
    )
