"""Queries sent to a server when they were planned, whether or not it has answered those before.

Latency counts from the planned time: while a server stalls, the queries that should have come are late
already, and a client that waits for answers before it sends would not have sent them. One process does it, by
an event loop and plain sockets: a query is bytes that were made before, an answer is read no further than its
status and its length. The loop waits with select(), whose timer is finer than the millisecond of epoll. How
late the generator itself was is part of the result.

A query that finds no free connection waits for one, and its clock runs. After the time limit, from its plan,
it counts as timed out; its connection, on which the answer may still come, is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import selectors
import ssl
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from lissom.serve.messages import Address

MAX_CONNECTIONS = 512
"""select() takes no more than about a thousand files."""
_LOOK_SECONDS = 0.02
_MAX_SENT_AGAIN = 3
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})")
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked")
_END = b"\r\n\r\n"
_REFUSALS = (429, 503)
_TOO_LATE = (408, 504)


class Outcome(IntEnum):
    """What became of a query."""

    PENDING = 0
    OK = 1
    REFUSED = 2
    TIMED_OUT = 3
    FAILED = 4


class Sent(NamedTuple):
    """What was measured of the queries of one plan, in its order.

    Attributes:
        plan: When each was planned, seconds from the start.
        latencies: Seconds from the plan until the answer, or until it was given up.
        outcomes: `Outcome` of each; PENDING only where the asking was interrupted.
        lateness: Seconds by which the generator came to it late.
        num_waited: Queries that found every connection busy.
        statuses: Answers that are neither OK nor refusals by HTTP status, and what else failed by its name.
        seconds: From the start to the last answer.
        complete: False when it was interrupted.
    """

    plan: np.ndarray
    latencies: np.ndarray
    outcomes: np.ndarray
    lateness: np.ndarray
    num_waited: int
    statuses: dict[str, int]
    seconds: float
    complete: bool


class Target(NamedTuple):
    """Where queries go, and what they are."""

    address: Address
    messages: Sequence[bytes]
    """Whole requests, sent in turn."""


def send_planned(target: Target, plan: np.ndarray, *, connections: int, timeout: float) -> Sent:
    """Send queries at their times; ends at the latest `timeout` seconds after the last of them.

    Args:
        target: Whom.
        plan: Ascending times, seconds from the start.
        connections: That are open at once.
        timeout: Seconds from its plan after which a query is given up.

    Raises:
        OSError: no connection could be opened before the first query.
    """
    return _run(_Sender(target, connections, timeout), plan)


def send_in_turn(target: Target, seconds: float, *, connections: int, timeout: float) -> float:
    """Answers a second when each of `connections` callers sends its next query when the last is answered.

    Raises:
        OSError: as `send_planned`.
    """
    sender = _Sender(target, connections, timeout)
    with _loop() as loop:
        loop.run_until_complete(sender.saturate(seconds))
        return sender.num_ok / seconds


def request_bytes(address: Address, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A whole POST as it goes over the wire."""
    lines = [
        f"POST {address.prefix}{path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


def _run(sender: _Sender, plan: np.ndarray) -> Sent:
    complete = True
    with _loop() as loop:
        try:
            loop.run_until_complete(sender.follow(plan))
        except KeyboardInterrupt:
            complete = False
            sender.end()
    return sender.result(complete)


@contextlib.contextmanager
def _loop() -> Iterator[asyncio.SelectorEventLoop]:
    """An event loop of its own with a fine timer; garbage is collected before, not during."""
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield loop
    finally:
        if collects:
            gc.enable()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class _Connection(asyncio.Protocol):
    """One connection: asked one query at a time."""

    def __init__(self, sender: _Sender) -> None:
        self.sender = sender
        self.transport: asyncio.Transport | None = None
        self.query: int | None = None
        self.num_answers = 0
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, query: int, message: bytes) -> None:
        self.query = query
        self.buffer.clear()
        assert self.transport is not None
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.query is None:
            self.close()  # an answer to nothing
            return
        try:
            found = _parsed(self.buffer)
        except ValueError:
            self.sender.lost(self, "no HTTP")
            self.close()
            return
        if found is None:
            return
        status, closes = found
        self.num_answers += 1
        query, self.query = self.query, None
        if closes:
            self.close()
        self.sender.answered(self, query, status, is_free=not closes)

    def connection_lost(self, exc: Exception | None) -> None:
        self.sender.lost(self, "broken connection")

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Sender:
    """Sends, and books what comes back."""

    def __init__(self, target: Target, connections: int, timeout: float) -> None:
        self._target, self._most, self._timeout = target, min(connections, MAX_CONNECTIONS), timeout
        self._free: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening = 0
        self._waiting: deque[int] = deque()
        self._sent_on: dict[int, _Connection] = {}
        self._sent_again: Counter[int] = Counter()
        self._tls = ssl.create_default_context() if target.address.is_tls else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._statuses: Counter[str] = Counter()
        self._num_waited = 0
        self._next = self._oldest = self._left = 0
        self._started = 0.0
        self._endless = False
        self.num_ok = 0

    async def follow(self, plan: np.ndarray) -> None:
        """Send every query of a plan, and wait for what becomes of it."""
        await self._begin(plan)
        self._left = len(plan)
        if self._left:
            self._dispatch()
            self._look()
            await self._done
        self.end()

    async def saturate(self, seconds: float) -> None:
        """Keep every connection busy for a time."""
        self._endless = True
        await self._begin(np.zeros(1 << 20))
        self._timeout = seconds + self._timeout
        for query in range(self._most):
            self._next = query + 1
            self._ask(query)
        await asyncio.sleep(seconds)
        self._endless = False
        self.end()

    def result(self, complete: bool) -> Sent:
        """What was found until now."""
        known = self.outcomes != Outcome.PENDING
        ends = (self.plan + self.latencies)[known]
        return Sent(
            self.plan,
            self.latencies,
            self.outcomes,
            self.lateness,
            self._num_waited,
            dict(self._statuses),
            float(ends.max()) if len(ends) else 0.0,
            complete,
        )

    def answered(self, connection: _Connection, query: int, status: int, *, is_free: bool) -> None:
        """Book an answer, and give the connection to whoever waits."""
        self._sent_on.pop(query, None)
        if status == 200:
            self.num_ok += 1
            self._book(query, Outcome.OK)
        elif status in _REFUSALS:
            self._book(query, Outcome.REFUSED)
        else:
            self._statuses[str(status)] += 1
            self._book(query, Outcome.TIMED_OUT if status in _TOO_LATE else Outcome.FAILED)
        if self._endless and self._next < len(self.plan):
            self._waiting.append(self._next)
            self._next += 1
        if is_free:
            self._offer(connection)
            return
        self._open.discard(connection)
        if self._waiting:
            self._open_another()

    def lost(self, connection: _Connection, why: str) -> None:
        """A connection is gone; a query that it was kept too long for is sent again."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._free.remove(connection)
        query, connection.query = connection.query, None
        if query is None:
            return
        self._sent_on.pop(query, None)
        if connection.num_answers and not connection.buffer and self._sent_again[query] < _MAX_SENT_AGAIN:
            self._sent_again[query] += 1
            self._waiting.appendleft(query)
            self._open_another()
        else:
            self._statuses[why] += 1
            self._book(query, Outcome.FAILED)

    async def _begin(self, plan: np.ndarray) -> None:
        self._running = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._running.create_future()
        self.plan = plan
        self.times = plan.tolist()
        self.latencies, self.lateness = np.zeros(len(plan)), np.zeros(len(plan))
        self.outcomes = np.zeros(len(plan), dtype=np.uint8)
        for _ in range(self._most):
            self._free.append(await asyncio.wait_for(self._connect(), self._timeout))
        self._started = self._running.time()

    def end(self) -> None:
        """Close every connection; what is under way is not booked."""
        for task in self._tasks:
            task.cancel()
        for connection in list(self._open):
            connection.query = None
            connection.close()

    async def _connect(self) -> _Connection:
        address = self._target.address
        _, connection = await self._running.create_connection(
            lambda: _Connection(self), address.host, address.port, ssl=self._tls
        )
        self._open.add(connection)
        return connection

    def _now(self) -> float:
        return self._running.time() - self._started

    def _dispatch(self) -> None:
        """Send what is due, and come back for the next."""
        now = self._now()
        while self._next < len(self.times) and self.times[self._next] <= now:
            query = self._next
            self._next += 1
            self.lateness[query] = now - self.times[query]
            self._ask(query)
            now = self._now()
        if self._next < len(self.times):
            self._running.call_at(self._started + self.times[self._next], self._dispatch)

    def _ask(self, query: int) -> None:
        if self._free and not self._waiting:
            self._send(self._free.pop(), query)
            return
        self._num_waited += len(self._open) + self._opening >= self._most
        self._waiting.append(query)
        self._open_another()

    def _send(self, connection: _Connection, query: int) -> None:
        self._sent_on[query] = connection
        messages = self._target.messages
        connection.send(query, messages[query % len(messages)])

    def _offer(self, connection: _Connection) -> None:
        """A connection takes the next that waits, or is free."""
        while self._waiting:
            query = self._waiting.popleft()
            if self.outcomes[query] == Outcome.PENDING:
                self._send(connection, query)
                return
        self._free.append(connection)

    def _open_another(self) -> None:
        if len(self._open) + self._opening < self._most:
            self._opening += 1
            task = self._running.create_task(self._opened())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _opened(self) -> None:
        try:
            connection = await self._connect()
        except OSError:
            if self._waiting:
                query = self._waiting.popleft()
                self._statuses["no connection"] += 1
                self._book(query, Outcome.FAILED)
        else:
            self._offer(connection)
        finally:
            self._opening -= 1
        if self._waiting:
            self._open_another()

    def _book(self, query: int, outcome: Outcome) -> None:
        if self.outcomes[query] != Outcome.PENDING:
            return
        self.latencies[query] = self._now() - self.times[query]
        self.outcomes[query] = outcome
        self._left -= 1
        if self._left == 0 and not self._done.done():
            self._done.set_result(None)

    def _look(self) -> None:
        """Give up what took too long, the oldest first."""
        limit = self._now() - self._timeout
        while self._oldest < self._next and self.times[self._oldest] <= limit:
            query = self._oldest
            self._oldest += 1
            if self.outcomes[query] != Outcome.PENDING:
                continue
            connection = self._sent_on.pop(query, None)
            self._statuses["no answer" if connection is not None else "no free connection"] += 1
            self._book(query, Outcome.TIMED_OUT)
            if connection is not None:
                connection.query = None
                self._open.discard(connection)
                connection.close()
                self._open_another()
        if self._waiting:
            self._open_another()
        if self._left:
            self._running.call_later(_LOOK_SECONDS, self._look)


def _parsed(buffer: bytearray) -> tuple[int, bool] | None:
    """Status of a whole answer, and whether the connection ends with it; None while it is not whole.

    Raises:
        ValueError: it is no HTTP, or its length is not known.
    """
    end = buffer.find(_END)
    if end < 0:
        if len(buffer) > 1 << 16:
            raise ValueError("a head without an end")
        return None
    head = bytes(buffer[: end + 2]).lower()
    if not head.startswith(b"http/1."):
        raise ValueError("no HTTP")
    status, start = int(head[9:12]), end + len(_END)
    if found := _LENGTH.search(head):
        whole = len(buffer) >= start + int(found[1])
    elif _CHUNKED.search(head):
        whole = _chunks_end(buffer, start)
    elif status in (204, 304):
        whole = True
    else:
        raise ValueError("an answer without a length")
    return (status, _CLOSES.search(head) is not None) if whole else None


def _chunks_end(buffer: bytearray, place: int) -> bool:
    """True when the last chunk is there."""
    while (line := buffer.find(b"\r\n", place)) >= 0:
        size = int(bytes(buffer[place:line]).partition(b";")[0], 16)
        if size == 0:
            return buffer.find(_END, line) >= 0
        place = line + 2 + size + 2
    return False
