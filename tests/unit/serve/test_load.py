"""Queries go at their planned times, and every one of them is counted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tests.unit.serve.fake_server import METADATA, Answer, Request, Step, echo, in_json, model, serving

from lissom.errors import RequestError, ServerError
from lissom.serve import load as load_module
from lissom.serve.generator import Outcome, send_planned
from lissom.serve.load import Load, LoadRequest, Prepared, measure, prepare

BUSY = in_json({"error": "full"}, 429, Retry_After="1")


def prepared(url: str, samples: Mapping[str, np.ndarray] | None = None, **options: Any) -> Prepared:
    return prepare(LoadRequest(url, **options), samples, "random numbers")


def loaded(answer: Answer, **options: Any) -> Load:
    with serving(model(answer)) as server:
        return measure(prepared(server.url, **options))


def after(number: int, *steps: Step) -> Answer:
    """Echo, but for one request, which gets other steps first."""
    return lambda request: list(steps) if request.number == number else echo(request)


def test_every_query_of_the_plan_is_sent_and_answered() -> None:
    found = loaded(echo, rates=(200.0, 100.0), seconds=1.0)
    assert [one.rate for one in found.figures] == [100.0, 200.0]
    for one in found.figures:
        assert one.count(Outcome.OK) == one.num_planned == one.rate
        assert one.holds
        assert one.goodput > 0.5 * one.rate
        assert len(one.percentiles) == 3
    assert found.highest == 200.0
    assert any("share this machine" in remark for remark in found.remarks)


def test_a_stall_is_seen_from_the_plan_also_by_the_queries_behind_it() -> None:
    lock = threading.Lock()

    def stalls(request: Request) -> list[Step]:
        with lock:
            if request.number == 60:
                time.sleep(0.3)
            return echo(request)

    (one,) = loaded(stalls, rates=(200.0,), seconds=1.0, connections=4).figures
    assert one.count(Outcome.OK) == 200
    slow = one.latencies_ms(Outcome.OK)
    assert 250 < (one.percentile_ms(0.99) or 0) < 1500
    assert (slow > 100).sum() > 20  # not one alone
    assert one.sent.num_waited > 20


def test_refusals_are_counted_and_timed_apart() -> None:
    def refuses(request: Request) -> list[Step]:
        return [BUSY] if request.number > 10 and request.number % 2 else [0.02, *echo(request)]

    (one,) = loaded(refuses, rates=(100.0,), seconds=1.0).figures
    assert one.count(Outcome.OK) + one.count(Outcome.REFUSED) == 100
    assert 30 < one.count(Outcome.REFUSED) < 60
    assert one.refusals_p99_ms is not None
    assert (one.percentile_ms(0.5) or 0) >= 20
    assert not one.holds


def test_what_is_never_answered_is_timed_out_and_its_connection_replaced() -> None:
    with serving(model(after(20, 3.0))) as server:
        started = time.monotonic()
        found = measure(prepared(server.url, rates=(50.0,), seconds=1.0, timeout_ms=200, connections=2))
        assert time.monotonic() - started < 4
        (one,) = found.figures
        assert one.count(Outcome.TIMED_OUT) == 1
        assert one.count(Outcome.OK) == 49
        assert one.sent.statuses == {"no answer": 1}
        assert server.num_connections >= 4  # one of preparing, two, one more


def test_a_server_that_falls_silent_does_not_hang_the_tool() -> None:
    def silent(request: Request) -> list[Step]:
        return [30.0] if request.number > 20 else echo(request)

    started = time.monotonic()
    (one,) = loaded(silent, rates=(100.0,), seconds=1.0, timeout_ms=300, connections=4).figures
    assert time.monotonic() - started < 4
    assert one.count(Outcome.TIMED_OUT) > 60
    assert one.count(Outcome.OK) + one.count(Outcome.TIMED_OUT) == one.num_planned


def test_resets_and_errors_are_failures_by_their_names() -> None:
    def breaks(request: Request) -> list[Step]:
        if request.number == 30:
            return [b"HTTP/1.1 200 OK\r\nContent-Le", None]
        if request.number == 40:
            return [in_json({"error": "bug"}, 500)]
        if request.number == 50:
            return [b"nonsense\r\n\r\n"]
        return echo(request)

    (one,) = loaded(breaks, rates=(100.0,), seconds=1.0).figures
    assert one.count(Outcome.FAILED) == 3
    assert one.sent.statuses == {"broken connection": 1, "500": 1, "no HTTP": 1}
    assert one.count(Outcome.OK) == 97


def test_a_connection_that_is_closed_between_queries_costs_none() -> None:
    def closes(request: Request) -> list[Step]:
        return [*echo(request), 0.01, None]

    (one,) = loaded(closes, rates=(50.0,), seconds=1.0, connections=4).figures
    assert one.count(Outcome.OK) == 50


def test_answers_in_chunks_and_without_keeping_the_connection_are_read() -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    whole = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

    def answer(request: Request) -> list[Step]:
        if request.number < 3:
            return echo(request)
        return [chunks[:50], 0.001, chunks[50:]] if request.number % 2 else [whole, None]

    (one,) = loaded(answer, rates=(50.0,), seconds=1.0).figures
    assert one.count(Outcome.OK) == 50


def test_without_rates_shares_of_a_closed_loop_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "CAPACITY_SECONDS", 0.3)
    found = loaded(lambda request: [0.01, *echo(request)], seconds=0.2)
    assert found.capacity is not None
    assert 50 < found.capacity < 1800
    assert [one.rate / found.capacity for one in found.figures] == pytest.approx(
        list(load_module.SHARES_OF_CAPACITY)
    )


def test_the_highest_rate_in_time_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "CAPACITY_SECONDS", 0.5)
    lock = threading.Lock()

    def one_at_a_time(request: Request) -> list[Step]:
        with lock:
            time.sleep(0.004)
        return echo(request)

    found = loaded(one_at_a_time, slo_ms=60.0, seconds=0.3)
    assert 6 < len(found.figures) <= 6 + load_module.MAX_SEARCHED
    assert found.capacity is not None
    assert found.highest is None or found.highest < 2 * found.capacity
    document = found.document()
    assert document["highest"] == found.highest
    assert "api_key" not in json.dumps(document)
    assert sum(len(one["latencies_ms"]) for one in document["figures"]) == sum(
        one.count(Outcome.OK) for one in found.figures
    )


def test_bodies_are_json_where_that_is_asked() -> None:
    seen: list[Request] = []

    def sees(request: Request) -> list[Step]:
        seen.append(request)
        return [in_json({"outputs": []})] if request.number > 2 else echo(request)

    found = loaded(sees, rates=(50.0,), seconds=0.2, json_body=True, api_key="k")
    document = json.loads(seen[-1].body)
    assert document["inputs"][0]["datatype"] == "FP32"
    assert len(document["inputs"][0]["data"]) == 4
    assert seen[-1].headers["authorization"] == "Bearer k"
    assert found.figures[0].count(Outcome.OK) == 10


def test_samples_are_sent_in_turn() -> None:
    samples = {"x": np.arange(12).reshape(3, 4), "other": np.zeros(3)}
    with serving(model(echo)) as server:
        found = prepared(server.url, samples)
    assert len(found.target.messages) == 3
    assert found.target.messages[1].endswith(np.float32([4, 5, 6, 7]).tobytes())


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ({"y": np.zeros((2, 4))}, "has no 'x'"),
        ({"x": np.zeros((2, 5))}, r"the shape \[5\], the model takes \[4\]"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples: dict[str, np.ndarray], said: str) -> None:
    with serving(model(echo)) as server, pytest.raises(RequestError, match=said):
        prepared(server.url, samples)


def test_what_cannot_be_asked_is_refused_before() -> None:
    with serving(model(echo)) as server:
        for options in ({"model": "nope"}, {"rates": (0.0,)}, {"slo_ms": 6000.0}, {"seconds": 0.0}):
            with pytest.raises(RequestError):
                prepared(server.url, **options)
    with pytest.raises(ServerError, match="cannot be reached"):
        prepared(server.url)
    with (
        serving(model(lambda request: [in_json({"error": "wrong"}, 400)])) as server,
        pytest.raises(RequestError, match="does not take these queries: wrong"),
    ):
        prepared(server.url)


def test_axes_of_free_size_are_remarked() -> None:
    inputs = [{"name": "x", "datatype": "INT64", "shape": [-1, -1]}]

    def answer(request: Request) -> list[Step]:
        if request.path == "/v2/models/tiny":
            return [in_json({**METADATA, "inputs": inputs})]
        return model(echo)(request)

    with serving(answer) as server:
        found = prepared(server.url)
    assert any("of x were taken as 16" in remark for remark in found.remarks)


def test_the_generator_says_how_late_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(model(echo)) as server:
        ready = prepared(server.url, rates=(100.0,), seconds=0.5)
        sent = send_planned(ready.target, np.full(50, 0.01), connections=8, timeout=2.0)
    assert sent.complete
    assert (sent.lateness >= 0).all()
    assert (sent.outcomes == Outcome.OK).all()
    late = sent._replace(lateness=np.full(50, 0.004))
    monkeypatch.setattr(load_module, "send_planned", lambda *given, **options: late)
    assert any("the generator itself was late" in remark for remark in measure(ready).remarks)
