"""How a server under load looks: a row a rate, the highest that holds, and what to know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lissom.cli.output import Outcome, table
from lissom.cli.views.words import duration

if TYPE_CHECKING:
    from lissom.serve.load import Load, Prepared


def load_planned(found: Prepared) -> Outcome:
    """What would be asked, and how long."""
    from lissom.serve.load import CAPACITY_SECONDS, MAX_SEARCHED, SHARES_OF_CAPACITY

    request = found.request
    if request.rates:
        rates = f"{', '.join(f'{rate:g}' for rate in request.rates)} queries a second"
    else:
        shares = ", ".join(f"{100 * share:.0f}" for share in SHARES_OF_CAPACITY)
        rates = f"{shares} % of what a closed loop gets in {CAPACITY_SECONDS:g} s"
    searched = request.slo_ms is not None and not request.rates
    size = max(len(message) for message in found.target.messages)
    lines = [
        f"{request.model} at {request.url}, which answers",
        f"queries: {found.samples}, {size:,} bytes each, {'JSON' if request.json_body else 'binary'}",
        f"rates: {rates}, {duration(request.seconds)} each, over {request.connections} connections",
        *([f"and at most {MAX_SEARCHED} more, for {request.slo_ms:g} ms"] if searched else []),
        *found.remarks,
        f"about {duration(found.seconds)}",
    ]
    told = {"model": request.model, "rates": list(request.rates), "seconds": found.seconds, "num_bytes": size}
    return Outcome(lines, extra=told)


def loaded(found: Load, out: Path | None) -> Outcome:
    """Latency and what became of the queries at every rate; the page, where one was drawn."""
    from lissom.report.load_page import HEADER, HTML_FILE, JSON_FILE, rows, told

    lines = [told(found), "", *table(list(HEADER), rows(found), right=range(len(HEADER)))]
    lines += ["", *found.remarks] if found.remarks else []
    lines += [] if found.complete else ["", "interrupted: fewer queries than were asked for"]
    lines += ["", f"page: {out / HTML_FILE}"] if out is not None else []
    document = found.document()
    kept = [
        {key: value for key, value in one.items() if key not in ("latencies_ms", "refusals_ms")}
        for one in document["figures"]
    ]
    files = {"page": str(out / HTML_FILE), "json": str(out / JSON_FILE)} if out is not None else {}
    extra = {"load": {**files, **document, "schema": None, "figures": kept, "summary": told(found)}}
    return Outcome(lines, out=out, extra=extra, interrupted=not found.complete)
