"""How a model is asked, by the names of MLPerf: one after the other, in groups, as they come, all at once.

    SingleStream  the next query when the last is answered: what one user waits
    MultiStream   the same with 8 samples a query: what a camera rig waits
    Server        queries at times that were planned before, with exponential gaps: what many users wait
    Offline       large batches without a pause: how many samples a second

The latency of a query of Server is counted from the time at which it was planned, not from when it was sent:
while the model stalls, the queries that should have come are late already. Clients that count from the
sending miss that, by a factor of a hundred and more.

Samples are drawn from those that are given, in turn, so that no cache holds the one that is asked.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from lissom.bench.percentiles import Percentile, percentiles
from lissom.bench.timing import Arm, round_order
from lissom.errors import RequestError, near
from lissom.logs import Advance, Progress
from lissom.runtime.base import Runtime

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]
SCENARIOS: tuple[Scenario, ...] = ("SingleStream", "MultiStream", "Server", "Offline")
SAMPLES_PER_QUERY: Mapping[Scenario, int] = {"SingleStream": 1, "MultiStream": 8, "Server": 1, "Offline": 32}
_TURNS = 4
_LATE, _SLACK = 0.01, 0.05
"""Share of the plan, and seconds, by which the last answer may be late; beyond, latencies grow for ever."""

Tensors = Mapping[str, np.ndarray]


def scenario_called(name: str) -> Scenario:
    """The scenario of a name, in any case.

    Raises:
        RequestError: there is none.

    >>> scenario_called("singlestream")
    'SingleStream'
    """
    for scenario in SCENARIOS:
        if scenario.lower() == name.lower():
            return scenario
    raise RequestError(f"no scenario is called {name!r}", hint=near(name, SCENARIOS))


class Asked(NamedTuple):
    """What a scenario measured.

    Attributes:
        scenario: Its name.
        samples_per_query: Batch of one call.
        latencies: Seconds of every query, in the order in which they were planned.
        seconds: From the first plan to the last answer.
        rate: Queries a second that were asked for; None where the next waits for the last.
        planned: Seconds until the last query was to come; None where the next waits for the last.
        error: What ended the asking before its time.
        complete: False when it was interrupted.
        turns: Plans that were asked one after the other.
    """

    scenario: Scenario
    samples_per_query: int
    latencies: np.ndarray
    seconds: float
    rate: float | None = None
    planned: float | None = None
    error: str | None = None
    complete: bool = True
    turns: int = 1

    @property
    def samples_per_second(self) -> float:
        """What was answered."""
        return len(self.latencies) * self.samples_per_query / self.seconds if self.seconds else 0.0

    @property
    def kept_up(self) -> bool:
        """False when queries came faster than they were answered."""
        if self.planned is None:
            return True
        # the last query of a plan takes its time even where nothing waits before it
        due = self.planned + self.turns * float(self.latencies.min(initial=math.inf))
        return self.seconds <= due + max(_LATE * self.planned, _SLACK)

    def percentiles(self, shares: tuple[float, ...] = (0.5, 0.9, 0.99)) -> list[Percentile]:
        """Of the latencies, with bounds; seconds."""
        return percentiles(self.latencies, shares)


def ask(
    runtime: Runtime,
    samples: Tensors,
    scenario: Scenario,
    *,
    seconds: float,
    samples_per_query: int | None = None,
    rate: float | None = None,
    workers: int = 1,
    seed: int = 0,
    patience: float = math.inf,
) -> Asked:
    """Ask a runtime as a scenario does.

    Args:
        runtime: An open runtime; called once before anything is counted.
        samples: Tensors after preprocessing, shape [samples, ...], by input name.
        scenario: How it is asked.
        seconds: About how long; at least three queries are made.
        samples_per_query: Default: 1, and 8 in MultiStream, 32 in Offline.
        rate: Server: queries a second.
        workers: Server: queries that are computed at once; more than one takes a runtime that allows it.
        seed: Server: of the gaps.
        patience: Server: what is not answered after so many times `seconds` is not asked any more; the plan
            was not kept up with then.

    Raises:
        ValueError: Server without a rate, or several workers for a runtime that takes one.
    """
    check_request(scenario, [runtime], rate=rate, workers=workers)
    size = samples_per_query or SAMPLES_PER_QUERY[scenario]
    batches = _batches(samples, size)
    runtime.infer_batch(next(batches))
    if scenario != "Server":
        return _one_after_another(runtime, batches, scenario, size, seconds)
    assert rate is not None
    plan = arrivals(rate, seconds, seed)
    found = answered(
        plan, lambda batch: runtime.infer_batch(batch), batches, workers=workers, until=patience * seconds
    )
    known = np.isfinite(found)
    return Asked(scenario, size, (found - plan)[known], float(found[known].max()), rate, float(plan[-1]))


def check_request(
    scenario: Scenario, runtimes: Iterable[Runtime], *, rate: float | None, workers: int
) -> None:
    """Refuse what cannot be asked, before anything is.

    Raises:
        ValueError: Server without a rate, or several workers for a runtime that takes one call.
    """
    if scenario != "Server":
        return
    if rate is None or rate <= 0:
        raise ValueError("Server needs a rate: queries a second")
    single = next((runtime.name for runtime in runtimes if not runtime.thread_safe), None)
    if workers > 1 and single is not None:
        raise ValueError(f"{single} takes one call at a time")


def ask_in_turn(
    arms: Mapping[Arm, Runtime],
    samples: Tensors,
    scenario: Scenario,
    *,
    seconds: float,
    progress: Progress,
    rate: float | None = None,
    workers: int = 1,
    samples_per_query: int | None = None,
) -> dict[Arm, Asked]:
    """Ask several runtimes in four turns each, in an order that turns, so that the machine's drift hits all.

    What an arm raises ends that arm alone: it keeps the turns before, and says the error. Ctrl-C keeps the
    turns that every arm has come to.

    Args:
        arms: Opened runtimes with one signature.
        samples: Tensors after preprocessing, shape [samples, ...], by input name.
        scenario: How they are asked.
        seconds: Of each arm, over all its turns.
        progress: Advanced by one after each turn.
        rate: Server: queries a second.
        workers: Server: queries that are computed at once.
        samples_per_query: See `ask`.

    Raises:
        ValueError: as `ask`.
    """
    check_request(scenario, arms.values(), rate=rate, workers=workers)
    parts: dict[Arm, list[Asked]] = {arm: [] for arm in arms}
    errors: dict[Arm, str] = {}
    complete = True

    def turned(turn: int, advance: Advance) -> None:
        for arm in round_order(list(arms), turn):
            if arm not in errors:
                try:
                    found = ask(
                        arms[arm],
                        samples,
                        scenario,
                        seconds=seconds / _TURNS,
                        rate=rate,
                        workers=workers,
                        samples_per_query=samples_per_query,
                        seed=turn,
                    )
                    parts[arm].append(found)
                except Exception as exc:
                    errors[arm] = f"{type(exc).__name__}: {exc}"
            advance(1)

    with progress.task(f"bench: {scenario}", _TURNS * len(arms)) as advance:
        try:
            for turn in range(_TURNS):
                turned(turn, advance)
        except KeyboardInterrupt:
            whole = min((len(found) for arm, found in parts.items() if arm not in errors), default=0)
            if not whole:
                raise
            complete = False
            parts = {arm: found[:whole] for arm, found in parts.items()}
    size = samples_per_query or SAMPLES_PER_QUERY[scenario]
    return {
        arm: joined(found or [Asked(scenario, size, np.empty(0), 0.0, rate)])._replace(
            error=errors.get(arm), complete=complete
        )
        for arm, found in parts.items()
    }


def joined(parts: Sequence[Asked]) -> Asked:
    """Several turns of one arm as one."""
    return parts[0]._replace(
        latencies=np.concatenate([part.latencies for part in parts]),
        seconds=sum(part.seconds for part in parts),
        planned=sum(part.planned or 0.0 for part in parts) or None,
        turns=len(parts),
    )


def arrivals(rate: float, seconds: float, seed: int = 0) -> np.ndarray:
    """Times at which queries are planned, seconds from the start: a Poisson process, at least three of it.

    >>> arrivals(1000.0, 1.0).shape[0] in range(900, 1100)
    True
    """
    number = max(3, round(rate * seconds))
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, number))


def answered(
    plan: np.ndarray,
    call: Callable[[Tensors], object],
    batches: Iterator[Tensors],
    *,
    workers: int = 1,
    until: float = math.inf,
) -> np.ndarray:
    """When each planned query was answered, seconds from the start; the plan does not wait for answers.

    A query that was not asked because the time was up has NaN.

    Args:
        plan: Ascending times, seconds from the start.
        call: Answers one query.
        batches: What is asked.
        workers: Queries that are computed at once.
        until: Seconds from the start after which none but the first is asked.
    """
    done, queries, lock = np.full(len(plan), np.nan), iter(range(len(plan))), threading.Lock()
    faults: list[BaseException] = []
    started = time.perf_counter()

    def work() -> None:
        while not faults:
            with lock:
                index, batch = next(queries, None), next(batches)
            if index is None or (index and time.perf_counter() - started > until):
                return
            _sleep_until(started + float(plan[index]))
            try:
                call(batch)
            except BaseException as exc:
                faults.append(exc)
                raise
            done[index] = time.perf_counter() - started

    others = [threading.Thread(target=_quietly(work), daemon=True) for _ in range(workers - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    if faults:
        raise faults[0]
    return done


def _quietly(work: Callable[[], None]) -> Callable[[], None]:
    """What a thread raises is raised again by the one that started it."""

    def run() -> None:
        try:
            work()
        except BaseException:
            return

    return run


def _sleep_until(moment: float) -> None:
    """Sleep, and wake within microseconds: the last millisecond is waited out."""
    while (left := moment - time.perf_counter()) > 0:
        if left > 0.001:
            time.sleep(left - 0.001)


def _one_after_another(
    runtime: Runtime, batches: Iterator[Tensors], scenario: Scenario, size: int, seconds: float
) -> Asked:
    latencies: list[float] = []
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or len(latencies) < 3:
        batch = next(batches)
        begun = time.perf_counter()
        runtime.infer_batch(batch)
        latencies.append(time.perf_counter() - begun)
    return Asked(scenario, size, np.array(latencies), elapsed)


def _batches(samples: Tensors, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the samples in turn, from the first again after the last."""
    number = len(next(iter(samples.values())))
    tiled = {name: np.resize(array, (max(number, size), *array.shape[1:])) for name, array in samples.items()}
    starts = range(0, max(number, size) - size + 1, size)
    cut = [{name: array[start : start + size].copy() for name, array in tiled.items()} for start in starts]
    return itertools.cycle(cut)
