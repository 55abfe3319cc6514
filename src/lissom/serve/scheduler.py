"""When a model computes what: one queue a model, batches of what waits, deadlines kept, faults kept apart.

A batch is whatever waits when the engine is free, up to so many rows: while one is computed the next gathers,
so that the running batch is the window of the next and an idle engine waits for nobody. A model that takes
longer than a hop between threads is called in a thread of its own, and lingers a tenth of its last batch
before it takes the next: callers who were answered together come back together, and without that wait they
split into two cohorts of half the size. A faster one is called on the event loop, where a hop would cost more
than the model.

    full        more rows wait than may: refused at once, with the seconds until there is room
    too late    the deadline of a request passes, or cannot be met: answered then, and never computed
    gone        the caller gave up: dropped when the batch is formed
    faulty      a batch that raises is halved until the one request that raises is alone

Durations are read from `perf_counter`: the clock of uvloop, which deadlines go by, steps by milliseconds.

A slot is held until its computation really ends, also when everybody who asked has gone: an engine never
computes more at once than it has instances. Left out: priorities, and batches across models.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

from lissom.artifact import Batching
from lissom.runtime.layout import num_rows
from lissom.serve.joining import Run, Tensors, key_of, outcomes_of
from lissom.serve.latencies import Latencies

MAX_WAITING_BYTES = 256 * 2**20
"""Of the tensors in one queue."""
_SMOOTHING = 0.2
"""Weight of the newest batch in the rows a second that are expected."""


class Overloaded(Exception):
    """More rows wait than may; `retry_after` seconds later there should be room."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full; there should be room in {retry_after:.3f} s")
        self.retry_after = retry_after


class TooLate(Exception):
    """The deadline of a request has passed, or will have before it could be computed."""


class Closed(Exception):
    """Nothing is taken any more."""


class Limits(NamedTuple):
    """How much is computed at once, and how much may wait.

    Attributes:
        max_batch: Rows of a batch; a request with more is computed alone.
        max_waiting: Rows that may wait.
        linger: Wait before a batch is taken, as a share of the time that the last one took.
        max_delay: Seconds that this wait takes at most.
    """

    max_batch: int = 32
    max_waiting: int = 1024
    linger: float = 0.1
    max_delay: float = 0.005


@dataclass
class Counts:
    """What became of requests and rows since the start, for metrics; seconds are sums.

    Attributes:
        answered: Requests that were computed.
        rows: Of these.
        failed: Requests that raised.
        refused: Requests for which there was no room.
        expired: Requests whose deadline passed.
        dropped: Requests whose caller had gone before they were answered.
        batches: By number of rows.
        batch_seconds: That they took, by number of rows.
        last_batch: When the last one ended, seconds since 1970; 0 before the first.
        queue_seconds: That answered requests waited.
        compute_seconds: That their batches took, once for each request.
        latencies: Of answered requests, from their arrival.
    """

    answered: int = 0
    rows: int = 0
    failed: int = 0
    refused: int = 0
    expired: int = 0
    dropped: int = 0
    batches: dict[int, int] = field(default_factory=dict)
    batch_seconds: dict[int, float] = field(default_factory=dict)
    last_batch: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)

    def note_batch(self, rows: int, seconds: float) -> None:
        """A batch was computed."""
        self.batches[rows] = self.batches.get(rows, 0) + 1
        self.batch_seconds[rows] = self.batch_seconds.get(rows, 0.0) + seconds
        self.last_batch = time.time()

    def note_answer(self, rows: int, since: float, started: float, ended: float) -> None:
        """A request that came at a time of `perf_counter` was answered by a batch that started and ended."""
        self.answered += 1
        self.rows += rows
        self.queue_seconds += started - since
        self.compute_seconds += ended - started
        self.latencies.add(ended, ended - since)


class _Waiting:
    """One request in the queue."""

    __slots__ = ("deadline", "future", "inputs", "key", "queued", "rows", "since", "size", "timer")

    def __init__(
        self,
        inputs: Tensors,
        future: asyncio.Future[Tensors],
        since: float,
        deadline: float,
        batching: Batching | None,
    ) -> None:
        self.inputs = inputs
        self.future = future
        self.since = since
        self.deadline = deadline
        self.timer: asyncio.TimerHandle | None = None
        self.queued = True
        self.size = sum([array.nbytes for array in inputs.values()])
        if batching is None:
            self.rows = len(next(iter(inputs.values())))
            self.key: tuple[Any, ...] = tuple([array.shape[1:] for array in inputs.values()])
        else:
            self.rows = num_rows(inputs, batching)
            self.key = key_of(inputs, batching)


class Scheduler:
    """The queue of one model; lives on one event loop.

    Attributes:
        counts: What became of requests.
        waiting_rows: Rows in the queue.
        limits: How much is computed at once, and how much may wait.
        batches: Requests are computed together.
        num_instances: Batches that are computed at the same time.
        num_waiting: Requests in the queue.
    """

    def __init__(
        self,
        run: Run,
        limits: Limits,
        *,
        executor: Executor | None = None,
        aside: Executor | None = None,
        num_instances: int = 1,
        batches: bool = True,
        batching: Batching | None = None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            run: Computes a batch; must be callable from as many threads as there are instances.
            limits: How much at once.
            executor: Where `run` is called; None calls it on the event loop.
            aside: Where a request of more rows than a batch is computed, if not on the event loop.
            num_instances: Batches that are computed at the same time; 1 on the event loop.
            batches: False for a model whose samples may not share a call: requests are computed alone.
            batching: Where the samples lie, if not on axis 0 of every tensor; `joins` must agree with
                `batches`.
        """
        self.counts = Counts()
        self.waiting_rows, self.num_waiting = 0, 0
        self._waiting_bytes = 0
        self.limits, self.batches, self._batching = limits, batches, batching
        self._run, self._executor, self._aside = run, executor, aside
        self._queue: deque[_Waiting] = deque()
        self.num_instances = self._free = num_instances if executor is not None else 1
        self._rows_a_second = 0.0
        self._last_seconds, self._last_size = 0.0, 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, inputs: Tensors, *, deadline: float = math.inf) -> Tensors:
        """Compute one request.

        Args:
            inputs: Tensors by name, with the same number of rows.
            deadline: Time of the event loop until which an answer is of use.

        Raises:
            Overloaded: more rows wait than may.
            TooLate: the deadline has passed, or cannot be met.
            Closed: nothing is taken any more.
            Exception: whatever `run` raises for this request alone.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        request = _Waiting(inputs, loop.create_future(), perf_counter(), deadline, self._batching)
        self._admit(request, now)
        self._queue.append(request)
        self.waiting_rows += request.rows
        self.num_waiting += 1
        self._waiting_bytes += request.size
        self._idle.clear()
        if deadline < math.inf:
            request.timer = loop.call_at(deadline, self._expire, request)
        if self._free:
            self._start(loop)
        try:
            return await request.future
        finally:
            if request.timer is not None:
                request.timer.cancel()
            self._leave(request)
            request.inputs = {}  # it may stand in the queue until the batch of now is computed

    @property
    def expected_wait(self) -> float:
        """Seconds until what waits now is computed, as the last batches went; 0 while that is unknown."""
        return self.waiting_rows / self._rows_a_second if self._rows_a_second else 0.0

    def refuse_if_full(self) -> None:
        """What a request is told before anything of it is read: most of an overload ends here.

        Raises:
            Overloaded: as many rows wait as may.
        """
        if self.waiting_rows >= self.limits.max_waiting:
            self.counts.refused += 1
            raise Overloaded(self.expected_wait)

    async def close(self) -> None:
        """Take nothing more, and wait until all that waits is computed."""
        self._closed = True
        await self._idle.wait()

    def _admit(self, request: _Waiting, now: float) -> None:
        if self._closed:
            raise Closed
        rows, size = self.waiting_rows + request.rows, self._waiting_bytes + request.size
        if self.num_waiting and (rows > self.limits.max_waiting or size > MAX_WAITING_BYTES):
            self.counts.refused += 1
            raise Overloaded(self.expected_wait)
        if request.deadline <= now + (self.expected_wait if not self._free else 0.0):
            self.counts.expired += 1
            raise TooLate

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take a slot and begin to drain the queue."""
        self._free -= 1
        if self._executor is None:
            loop.call_soon(self._flush, loop)
            return
        self._begin(loop, self._drain(loop))

    def _begin(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute one batch on the event loop; the next comes after whatever else is due there."""
        if batch := self._take(loop.time()):
            if self._aside is not None and batch[0].rows > self.limits.max_batch:
                self._begin(loop, self._compute_aside(loop, self._aside, batch))
                return
            started = perf_counter()
            outcomes = outcomes_of(self._run, [request.inputs for request in batch], self._batching)
            self._settle(batch, outcomes, started, perf_counter())
        self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queue:
            loop.call_soon(self._flush, loop)
        else:
            self._release()

    async def _compute_aside(
        self, loop: asyncio.AbstractEventLoop, executor: Executor, batch: Sequence[_Waiting]
    ) -> None:
        """Compute one large request in a thread, while the event loop answers others."""
        try:
            await self._compute(loop, executor, batch)
        finally:
            self._go_on(loop)

    async def _compute(
        self, loop: asyncio.AbstractEventLoop, executor: Executor, batch: Sequence[_Waiting]
    ) -> None:
        started = perf_counter()
        inputs = [request.inputs for request in batch]
        outcomes = await loop.run_in_executor(executor, outcomes_of, self._run, inputs, self._batching)
        self._settle(batch, outcomes, started, perf_counter())

    async def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute batch after batch in a thread until nothing waits."""
        assert self._executor is not None
        try:
            while self._queue:
                await asyncio.sleep(self._linger())
                if not (batch := self._take(loop.time())):
                    continue
                await self._compute(loop, self._executor, batch)
        finally:
            self._release()

    def _linger(self) -> float:
        """Seconds to wait for others: none while requests come one by one, or a batch is full."""
        if self._last_size < 2 or self.waiting_rows >= self.limits.max_batch:
            return 0.0
        return min(self.limits.linger * self._last_seconds, self.limits.max_delay)

    def _take(self, now: float) -> list[_Waiting]:
        """What is computed next: the oldest request, and those that fit into a batch with it."""
        batch: list[_Waiting] = []
        rows = 0
        kept: deque[_Waiting] = deque()
        while self._queue:
            request = self._queue[0]
            if request.future.done() or request.deadline <= now:
                self._queue.popleft()
                self._give_up(request)
                continue
            if batch and (not self.batches or rows + request.rows > self.limits.max_batch):
                break
            self._queue.popleft()
            if batch and request.key != batch[0].key:  # of another length: it waits for its own kind
                kept.append(request)
                continue
            self._leave(request)
            rows += request.rows
            batch.append(request)
        self._queue.extendleft(reversed(kept))
        return batch

    def _leave(self, request: _Waiting) -> None:
        """The rows of a request wait no longer, though it may still stand in the queue."""
        if request.queued:
            request.queued = False
            self.waiting_rows -= request.rows
            self.num_waiting -= 1
            self._waiting_bytes -= request.size

    def _give_up(self, request: _Waiting) -> None:
        """A request that is not computed: its caller has gone, or its deadline has passed."""
        self._leave(request)
        if not request.future.done():
            self._expire(request)
        elif request.future.cancelled():
            self.counts.dropped += 1

    def _expire(self, request: _Waiting) -> None:
        if not request.future.done():
            self.counts.expired += 1
            request.future.set_exception(TooLate())

    def _settle(
        self,
        batch: Sequence[_Waiting],
        outcomes: Sequence[Tensors | Exception],
        started: float,
        ended: float,
    ) -> None:
        counts, rows = self.counts, sum(request.rows for request in batch)
        counts.note_batch(rows, ended - started)
        for request, outcome in zip(batch, outcomes, strict=True):
            if request.future.done():  # its deadline passed meanwhile, which is counted, or its caller left
                counts.dropped += request.future.cancelled()
                continue
            if isinstance(outcome, Exception):
                counts.failed += 1
                request.future.set_exception(outcome)
            else:
                counts.note_answer(request.rows, request.since, started, ended)
                request.future.set_result(outcome)
        self._last_seconds, self._last_size = ended - started, len(batch)
        pace = self.num_instances * rows / max(ended - started, 1e-6)
        self._rows_a_second += (_SMOOTHING if self._rows_a_second else 1.0) * (pace - self._rows_a_second)

    def _release(self) -> None:
        self._free += 1
        if not self._queue and self._free == self.num_instances:
            self._idle.set()
