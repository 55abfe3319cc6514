"""The verb that asks a server that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lissom.cli.options import DryRun, Seed
from lissom.cli.output import Outcome, writable
from lissom.cli.progress import TerminalProgress
from lissom.cli.registration import verb
from lissom.cli.views.load import load_planned, loaded
from lissom.options import LoadOptions


@verb
def load(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of a server, such as http://127.0.0.1:3000.")],
    model: Annotated[str | None, typer.Option("--model", help="Name of the model. [the only one]")] = None,
    rates: Annotated[
        list[float] | None,
        typer.Option("--rate", help="Queries a second; may be repeated. [shares of what it can do]"),
    ] = None,
    slo_ms: Annotated[
        float | None, typer.Option("--slo-ms", help="Latency that 99 % of the queries are to have.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of each rate.")] = 10.0,
    connections: Annotated[
        int, typer.Option("--connections", min=1, max=512, help="That are open at once.")
    ] = 64,
    timeout_ms: Annotated[
        float, typer.Option("--timeout-ms", min=1, help="After which a query is given up, from its plan.")
    ] = 5000.0,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="Samples that are asked. [random numbers that fit]"),
    ] = None,
    json_body: Annotated[
        bool, typer.Option("--json-body", help="Send tensors as JSON in the place of binary.")
    ] = False,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="Key of the server. [environment: LISSOM_API_KEY]")
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Write load.json and load.html there.")
    ] = None,
    dry_run: DryRun = False,
) -> Outcome:
    """Measure how a server answers at rates. Each query goes at its planned time, whoever is late.

    Latency counts from the plan. Without --rate the server is asked in a closed loop first, then at 20 to
    95 % of that; with --slo-ms the highest rate is looked for, too, at which 99 % of all queries are answered
    in time. A query that is refused, late or lost is none of them. Ctrl-C keeps what was measured.

    \b
    lissom load http://127.0.0.1:3000 --slo-ms 20
    lissom load http://127.0.0.1:3000 --model digits --rate 100 --rate 400 --seconds 30 --out runs/load
    lissom load http://127.0.0.1:3000 --json-body --dry-run
    """
    from lissom import verbs

    if out is not None:
        with writable(out):
            pass
    request: LoadOptions = {
        "model": model,
        "rates": tuple(rates or ()),
        "slo_ms": slo_ms,
        "seconds": seconds,
        "connections": connections,
        "timeout_ms": timeout_ms,
        "data": data,
        "json_body": json_body,
        "api_key": api_key,
        "seed": seed,
    }
    if dry_run:
        return load_planned(verbs.plan_load(url, **request))
    return loaded(verbs.load(url, out=out, progress=TerminalProgress(), **request), out)
