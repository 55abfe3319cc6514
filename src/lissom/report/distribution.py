"""The plots of the distribution of latency: all calls, and the slow ones on an axis that spreads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lissom.report.drawing import Drawing, escaped, figure_json, light, linear_axis, log_axis
from lissom.report.reading import arm_name, is_reference
from lissom.report.schema import Arm, LatencyFigures, Report
from lissom.report.wording import milliseconds, shortened

NUM_QUANTILES = 200
_NUM_TAIL = 60
_TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)


def draw_distribution(report: Report) -> Drawing | None:
    """Share of calls that took at most a time, one line an arm; None when nothing was measured."""
    measured = _measured(report)
    if not measured:
        return None
    lines = [(arm, quantiles(latency)) for arm, latency in measured]
    layout = {
        "xaxis": _time_axis(measured),
        "yaxis": linear_axis("share of calls, %", range=[0, 102], dtick=25, ticksuffix=" "),
    }
    traces = []
    for arm, times in lines:
        shares = [round(100 * (index + 0.5) / len(times), 2) for index in range(len(times))]
        told = "%{y:.0f} % of calls within %{x:.3~g} ms"
        traces.append(_line(report, arm, times, shares, told))
    label = "Distribution of the time of one call, by arm. " + " ".join(
        f"{arm_name(arm)}: median {milliseconds(latency.median_ms.value)}, "
        f"90 % within {milliseconds(latency.p90_ms)}."
        for arm, latency in measured
    )
    return Drawing("distribution", figure_json(traces, layout), 400, label)


def draw_tail(report: Report) -> Drawing | None:
    """Percentile against time, each further nine as far as the one before; None when nothing was measured."""
    measured = _measured(report)
    if not measured:
        return None
    lines = [(arm, latency, *tail(latency)) for arm, latency in measured]
    furthest = max(nines(shares[-1]) for *_, shares, _ in lines)
    ticks = [share for share in _TICKS if nines(share) <= furthest + 0.05]
    layout = {
        "xaxis": _time_axis(measured),
        "yaxis": linear_axis(
            "percentile of the calls",
            range=[0, 1.03 * furthest],
            tickvals=[nines(share) for share in ticks],
            ticktext=[f"{100 * share:g} " for share in ticks],
        ),
    }
    traces = []
    for arm, latency, shares, own in lines:
        told = "%{customdata} % of calls within %{x:.3~g} ms"
        trace = _line(report, arm, own, [nines(share) for share in shares], told)
        reached = [100 * (share + 1 / len(_calls(latency))) for share in shares]
        traces.append(trace | {"customdata": [f"{share:.4g}" for share in reached]})
    label = "The slow calls, by arm. " + " ".join(
        f"{arm_name(arm)}: slowest {milliseconds(own[-1])}." for arm, *_, own in lines
    )
    return Drawing("tail", figure_json(traces, layout), 400, label)


def quantiles(latency: LatencyFigures) -> list[float]:
    """Times at evenly spaced shares of the calls, at most `NUM_QUANTILES` of them."""
    times = _calls(latency)
    if len(times) <= NUM_QUANTILES:
        return times
    return [times[int((index + 0.5) / NUM_QUANTILES * len(times))] for index in range(NUM_QUANTILES)]


def tail(latency: LatencyFigures) -> tuple[list[float], list[float]]:
    """Shares of the calls at which nines are evenly spaced, as far as there are calls, and their times."""
    times = _calls(latency)
    furthest = nines(1 - 1 / (len(times) + 1))
    ranks = dict.fromkeys(
        min(len(times) - 1, int(len(times) * (1 - 10 ** (-furthest * step / _NUM_TAIL))))
        for step in range(_NUM_TAIL + 1)
    )
    return [rank / len(times) for rank in ranks], [times[rank] for rank in ranks]


def nines(share: float) -> float:
    """How many nines a share has, a number that need not be whole.

    >>> round(nines(0.9), 9), round(nines(0.999), 9), nines(0.0)
    (1.0, 3.0, 0.0)
    """
    return 0.0 - math.log10(1 - share)


def _measured(report: Report) -> list[tuple[Arm, LatencyFigures]]:
    """Arms that were timed, those that matter last, so that they are drawn over the others."""
    measured = [(arm, arm.latency) for arm in report.arms if arm.latency]
    return sorted(measured, key=lambda pair: (pair[0].chosen, is_reference(report, pair[0])))


def _time_axis(measured: Sequence[tuple[Arm, LatencyFigures]]) -> dict[str, Any]:
    """The same for both plots, so that a time stands at one place in both."""
    calls = [time for _, latency in measured for one_round in latency.rounds_ms for time in one_round]
    return log_axis("time of one call, ms", calls, pad=0.05)


def _calls(latency: LatencyFigures) -> list[float]:
    return sorted(time for one_round in latency.rounds_ms for time in one_round)


def _line(report: Report, arm: Arm, x: Sequence[float], y: Sequence[float], told: str) -> dict[str, Any]:
    """One arm; figures have the digits that a plot can show."""
    colour = "accent" if arm.chosen else "ink" if is_reference(report, arm) else "mute"
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [float(f"{value:.4g}") for value in x],
        "y": [float(f"{value:.4g}") for value in y],
        "line": {"color": light(colour), "width": 1.2 if colour == "mute" else 2.4},
        "hovertemplate": f"<b>{escaped(shortened(arm_name(arm), 60))}</b><br>{told}<extra></extra>",
    }
