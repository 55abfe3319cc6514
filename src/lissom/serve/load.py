"""How a server that runs answers at rates: queries planned as MLPerf's Server plans them, over HTTP.

Without rates that are given, a short closed loop says about what the server can do, and shares of that are
asked. With a latency that is wanted, the highest rate is looked for at which 99 % of all planned queries are
answered within it: a query that is refused, late or lost is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

import numpy as np

from lissom.bench.percentiles import Percentile, percentiles
from lissom.bench.scenarios import arrivals
from lissom.bench.statistics import percentile
from lissom.errors import RequestError, ServerError, near
from lissom.logs import NoProgress, Progress
from lissom.serve.client import Client
from lissom.serve.generator import Outcome, Sent, Target, request_bytes, send_in_turn, send_planned
from lissom.serve.messages import Address, address_of, headers_of, infer_body, model_path
from lissom.serve.queries import queries_of, random_queries

LOAD_SCHEMA = "lissom.load/1"
SHARES_OF_CAPACITY = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
SHARE_IN_TIME = 0.99
CAPACITY_SECONDS = 2.0
CAPACITY_CONNECTIONS = 16
MAX_SEARCHED = 6
"""Rates that are asked beside the shares to find the highest that is answered in time."""
_CLOSE_ENOUGH, _STEP = 1.05, 1.25
_LATE_GENERATOR = 1e-3
_LEAST_QUERIES = 100


class LoadRequest(NamedTuple):
    """What is asked, and how.

    Attributes:
        url: Of the server.
        model: Default: the only one.
        rates: Queries a second; none to look for them.
        slo_ms: Latency that 99 % of the queries are to have; None for no verdict.
        seconds: Of each rate.
        connections: That are open at once.
        timeout_ms: After which a query is given up, from its plan.
        json_body: Tensors as JSON.
        api_key: Default: from the environment.
        seed: Of random numbers and gaps.
    """

    url: str
    model: str | None = None
    rates: tuple[float, ...] = ()
    slo_ms: float | None = None
    seconds: float = 10.0
    connections: int = 64
    timeout_ms: float = 5000.0
    json_body: bool = False
    api_key: str | None = None
    seed: int = 0


class AtRate(NamedTuple):
    """What one rate gave.

    Attributes:
        rate: Queries a second that were planned.
        sent: Every query.
        slo_ms: Latency that was wanted.
    """

    rate: float
    sent: Sent
    slo_ms: float | None

    @property
    def num_planned(self) -> int:
        """Queries whose fate is known."""
        return int((self.sent.outcomes != Outcome.PENDING).sum())

    def count(self, outcome: Outcome) -> int:
        """Queries that ended so."""
        return int((self.sent.outcomes == outcome).sum())

    def latencies_ms(self, *outcomes: Outcome) -> np.ndarray:
        """From the plan to the end of the queries that ended so."""
        return 1e3 * self.sent.latencies[np.isin(self.sent.outcomes, outcomes)]

    @property
    def percentiles(self) -> list[Percentile]:
        """In milliseconds, of answers; a query that timed out took at least so long. Empty without any."""
        found = self.latencies_ms(Outcome.OK, Outcome.TIMED_OUT)
        return percentiles(found, (0.5, 0.9, 0.99)) if len(found) else []

    def percentile_ms(self, share: float) -> float | None:
        """One of the percentiles."""
        found = self.latencies_ms(Outcome.OK, Outcome.TIMED_OUT)
        return percentile(found, share) if len(found) else None

    @property
    def refusals_p99_ms(self) -> float | None:
        """How long a caller waits to be refused, 99 of 100 times at most."""
        found = self.latencies_ms(Outcome.REFUSED)
        return percentile(found, 0.99) if len(found) else None

    @property
    def share_in_time(self) -> float:
        """Of all planned queries, those with an answer, and with one within the latency that was wanted."""
        found = self.latencies_ms(Outcome.OK)
        good = len(found) if self.slo_ms is None else int((found <= self.slo_ms).sum())
        return good / self.num_planned if self.num_planned else 0.0

    @property
    def goodput(self) -> float:
        """Queries a second that were answered, in time where a latency was wanted."""
        return self.share_in_time * self.num_planned / self.sent.seconds if self.sent.seconds else 0.0

    @property
    def holds(self) -> bool:
        """True when 99 % of all planned queries were answered, in time where a latency was wanted."""
        return self.share_in_time >= SHARE_IN_TIME

    @property
    def lateness_p99_ms(self) -> float:
        """By which the generator itself came late, 99 of 100 times at most."""
        known = self.sent.lateness[self.sent.outcomes != Outcome.PENDING]
        return 1e3 * percentile(known, 0.99) if len(known) else 0.0


class Load(NamedTuple):
    """What a server did at every rate.

    Attributes:
        request: What was asked; the model is named.
        metadata: What the server says of the model.
        num_bytes: Of one query.
        samples: Where the samples are from.
        capacity: Answers a second of a closed loop; None where rates were given.
        figures: By rate, the lowest first.
        remarks: What to know of the figures.
        complete: False when it was interrupted.
    """

    request: LoadRequest
    metadata: Mapping[str, Any]
    num_bytes: int
    samples: str
    capacity: float | None
    figures: tuple[AtRate, ...]
    remarks: tuple[str, ...]
    complete: bool

    @property
    def highest(self) -> float | None:
        """The highest rate that held; None where none did."""
        return max((one.rate for one in self.figures if one.holds), default=None)

    def document(self) -> dict[str, Any]:
        """As JSON, with every latency."""
        request = {key: value for key, value in self.request._asdict().items() if key != "api_key"}
        return {
            "schema": LOAD_SCHEMA,
            "request": {**request, "rates": list(self.request.rates)},
            "metadata": dict(self.metadata),
            "num_bytes": self.num_bytes,
            "samples": self.samples,
            "capacity": self.capacity,
            "highest": self.highest,
            "figures": [figures_document(one) for one in self.figures],
            "remarks": list(self.remarks),
            "complete": self.complete,
        }


class Prepared(NamedTuple):
    """A server that was found, and queries for it."""

    request: LoadRequest
    metadata: Mapping[str, Any]
    target: Target
    samples: str
    remarks: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """About how long it takes, the search included."""
        request = self.request
        many = len(request.rates) or len(SHARES_OF_CAPACITY) + MAX_SEARCHED * (request.slo_ms is not None)
        return many * request.seconds + (0.0 if request.rates else CAPACITY_SECONDS)


def prepare(request: LoadRequest, samples: Mapping[str, np.ndarray] | None, source: str) -> Prepared:
    """Find the model, make queries, and ask one of them.

    Args:
        request: What is to be asked.
        samples: Tensors of shape [samples, ...] by input name; None for random numbers.
        source: Where they are from.

    Raises:
        RequestError: the URL is none, the model is not there, or does not take the samples.
        ServerError: the server cannot be reached.
    """
    _check(request)
    address = address_of(request.url)
    with Client(request.url, api_key=request.api_key, timeout=request.timeout_ms / 1e3, retries=1) as client:
        name = request.model or _only_model(client)
        metadata = _metadata(client, name)
        if samples is None:
            queries, remarks = random_queries(metadata, request.seed)
        else:
            queries, remarks = queries_of(metadata, samples, source), []
        try:
            client.infer(name, queries[0])
        except ServerError as exc:
            if exc.status is not None and 400 <= exc.status < 500 and exc.status != 429:
                raise RequestError(f"model {name!r} does not take these queries: {exc.message}") from exc
            raise
    path, common = f"{model_path(name)}/infer", headers_of(address, request.api_key)
    messages = []
    for query in queries:
        body, headers = infer_body(query, as_json=request.json_body)
        messages.append(request_bytes(address, path, body, {**common, **headers}))
    if _is_here(address):
        remarks.append("server and generator share this machine: each takes time from the other")
    named = request._replace(model=name)
    return Prepared(named, metadata, Target(address, messages), source, tuple(remarks))


def measure(prepared: Prepared, *, progress: Progress | None = None) -> Load:
    """Ask at every rate; Ctrl-C keeps what was measured.

    Raises:
        ServerError: the server cannot be reached, or answers nothing.
        KeyboardInterrupt: nothing was measured yet.
    """
    request, target = prepared.request, prepared.target
    rates, capacity = request.rates, None
    shown = progress or NoProgress()
    if not rates:
        capacity = _capacity(prepared)
        rates = tuple(share * capacity for share in SHARES_OF_CAPACITY)
    found: list[AtRate] = []
    with shown.task("ask at rates", len(rates)) as advance:
        for rate in sorted(rates):
            found.append(_at_rate(prepared, rate, len(found)))
            advance(1)
            if not found[-1].sent.complete:
                break
    if request.slo_ms is not None and not request.rates and found[-1].sent.complete:
        with shown.task("look for the highest rate", MAX_SEARCHED) as advance:
            for rate in _searched(found):
                found.append(_at_rate(prepared, rate, len(found)))
                advance(1)
                if not found[-1].sent.complete:
                    break
    complete = found[-1].sent.complete
    figures = tuple(sorted((one for one in found if one.num_planned), key=lambda one: one.rate))
    if not figures:
        raise KeyboardInterrupt
    remarks = (*prepared.remarks, *_remarks(figures, request))
    size = max(len(message) for message in target.messages)
    return Load(request, prepared.metadata, size, prepared.samples, capacity, figures, remarks, complete)


def figures_document(one: AtRate) -> dict[str, Any]:
    """What one rate gave, as JSON."""
    return {
        "rate": one.rate,
        "num_planned": one.num_planned,
        "num_ok": one.count(Outcome.OK),
        "num_refused": one.count(Outcome.REFUSED),
        "num_timed_out": one.count(Outcome.TIMED_OUT),
        "num_failed": one.count(Outcome.FAILED),
        "statuses": one.sent.statuses,
        "goodput": one.goodput,
        "share_in_time": one.share_in_time,
        "holds": one.holds,
        "percentiles_ms": [found._asdict() for found in one.percentiles],
        "refusals_p99_ms": one.refusals_p99_ms,
        "lateness_p99_ms": one.lateness_p99_ms,
        "num_waited": one.sent.num_waited,
        "seconds": one.sent.seconds,
        "complete": one.sent.complete,
        "latencies_ms": [round(value, 3) for value in one.latencies_ms(Outcome.OK).tolist()],
        "refusals_ms": [round(value, 3) for value in one.latencies_ms(Outcome.REFUSED).tolist()],
    }


def _check(request: LoadRequest) -> None:
    for name, value in (("--rate", min(request.rates, default=1.0)), ("--seconds", request.seconds)):
        if not 0 < value < math.inf:
            raise RequestError(f"{name} is {value:g}; a number above 0 was expected")
    if request.slo_ms is not None and request.slo_ms >= request.timeout_ms:
        raise RequestError(
            f"--slo-ms {request.slo_ms:g} is not below --timeout-ms {request.timeout_ms:g}",
            hint="a query is given up before it could be late",
        )


def _only_model(client: Client) -> str:
    names = [entry["name"] for entry in client.models() if entry.get("state", "READY") == "READY"]
    if len(names) != 1:
        told = f"serves {', '.join(names)}" if names else "serves no model"
        raise RequestError(f"the server {told}", hint="name one with --model NAME")
    return str(names[0])


def _metadata(client: Client, name: str) -> dict[str, Any]:
    try:
        return client.metadata(name)
    except ServerError as exc:
        if exc.status != 404:
            raise
        try:
            hint = near(name, [entry["name"] for entry in client.models()])
        except ServerError:
            hint = ""
        raise RequestError(f"the server has no model {name!r}: {exc.message}", hint=hint) from exc


def _capacity(prepared: Prepared) -> float:
    request = prepared.request
    connections = min(request.connections, CAPACITY_CONNECTIONS)
    try:
        found = send_in_turn(
            prepared.target, CAPACITY_SECONDS, connections=connections, timeout=request.timeout_ms / 1e3
        )
    except OSError as exc:
        raise _unreachable(request, exc) from exc
    if not found:
        raise ServerError(f"{request.url} answered no query in {CAPACITY_SECONDS:g} s")
    return found


def _at_rate(prepared: Prepared, rate: float, turn: int) -> AtRate:
    request = prepared.request
    plan = arrivals(rate, request.seconds, request.seed + turn)
    try:
        sent = send_planned(
            prepared.target, plan, connections=request.connections, timeout=request.timeout_ms / 1e3
        )
    except OSError as exc:
        raise _unreachable(request, exc) from exc
    return AtRate(rate, sent, request.slo_ms)


def _unreachable(request: LoadRequest, exc: OSError) -> ServerError:
    return ServerError(f"{request.url} cannot be reached: {exc}", hint="is it still running?")


def _searched(found: list[AtRate]) -> Iterator[float]:
    """Rates between the highest that held and the next that did not; `found` grows meanwhile."""
    for _ in range(MAX_SEARCHED):
        held = max((one.rate for one in found if one.holds), default=None)
        above = held or 0.0
        failed = min((one.rate for one in found if one.rate > above), default=None)
        if failed is None:
            assert held is not None
            yield held * _STEP
        elif held is None:
            yield failed / 2
        elif failed / held < _CLOSE_ENOUGH:
            return
        else:
            yield math.sqrt(held * failed)


def _remarks(figures: Sequence[AtRate], request: LoadRequest) -> Iterator[str]:
    few = [one for one in figures if one.num_planned < _LEAST_QUERIES]
    if few:
        yield (
            f"up to {few[-1].rate:.4g} queries a second there were fewer than {_LEAST_QUERIES}, too few to "
            "tell of 99 %; more are given by --seconds"
        )
    highest = max((one.rate for one in figures if one.holds), default=0.0)
    if below := sum(not one.holds for one in figures if one.rate < highest):
        yield (
            f"{below} of the rates below the highest that held did not: stalls, of the server or of this "
            "machine, hit any rate; more is known with longer --seconds"
        )
    late = [one for one in figures if one.lateness_p99_ms > 1e3 * _LATE_GENERATOR]
    if late:
        worst = max(one.lateness_p99_ms for one in late)
        many = f"{len(late)} of {len(figures)} rates" if len(figures) > 1 else "the rate"
        yield (
            f"the generator itself was late at {many}, 1 query in 100 by up to {worst:.1f} ms: such "
            "latencies are its own too"
        )
    waited = [one for one in figures if one.sent.num_waited > 0.01 * one.num_planned]
    if waited:
        yield (
            f"from {waited[0].rate:.4g} queries a second on, queries waited for one of the "
            f"{request.connections} connections; more are given by --connections"
        )


def _is_here(address: Address) -> bool:
    if address.host == "localhost":
        return True
    try:
        return ip_address(address.host).is_loopback
    except ValueError:
        return False
