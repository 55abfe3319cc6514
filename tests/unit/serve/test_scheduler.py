"""The scheduler: every request gets its own rows, limits hold, and what nobody waits for is not computed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.serve.scheduler import (
    Closed,
    Limits,
    Overloaded,
    Scheduler,
    TooLate,
    outcomes_of,
)

Tensors = Mapping[str, np.ndarray]


class Model:
    """Doubles what it is given, and remembers what that was; waits for its gate, when it has one."""

    def __init__(self, *, gated: bool = False, seconds: float = 0.0) -> None:
        self.seen: list[np.ndarray] = []
        self.gate = threading.Event()
        self.seconds, self.most_at_once, self._at_once = seconds, 0, 0
        if not gated:
            self.gate.set()

    def __call__(self, inputs: Tensors) -> dict[str, np.ndarray]:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        assert self.gate.wait(10)
        time.sleep(self.seconds)
        self.seen.append(inputs["x"])
        self._at_once -= 1
        if (inputs["x"] == POISON).any():
            raise ValueError("poison")
        return {"y": 2 * inputs["x"]}

    @property
    def rows(self) -> list[int]:
        return [len(array) for array in self.seen]


POISON = 666.0


def rows(*values: float, width: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}


def in_thread(test: Callable[[ThreadPoolExecutor], Awaitable[None]]) -> None:
    with ThreadPoolExecutor(4) as executor:
        asyncio.run(asyncio.wait_for(test(executor), 30))  # type: ignore[arg-type]


async def gathered(scheduler: Scheduler, requests: Sequence[Tensors]) -> list[Any]:
    tasks = [scheduler.submit(one) for one in requests]
    return await asyncio.gather(*tasks, return_exceptions=True)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=40),
    max_batch=st.integers(1, 12),
    threaded=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_request_gets_its_own_rows_and_no_batch_exceeds_the_limit(
    sizes: list[tuple[int, int]], max_batch: int, threaded: bool
) -> None:
    model = Model()
    requests = [
        rows(*range(10 * number, 10 * number + size), width=width)
        for number, (size, width) in enumerate(sizes)
    ]

    async def test(executor: ThreadPoolExecutor) -> None:
        limits = Limits(max_batch=max_batch, max_waiting=1000)
        scheduler = Scheduler(model, limits, executor=executor if threaded else None)
        for request, answer in zip(requests, await gathered(scheduler, requests), strict=True):
            assert np.array_equal(answer["y"], 2 * request["x"])
        assert scheduler.waiting_rows == 0
        assert sum(size * number for size, number in scheduler.counts.batches.items()) == sum(model.rows)

    in_thread(test)
    assert sum(model.rows) == sum(size for size, _ in sizes)
    assert all(size <= max(max_batch, max(one for one, _ in sizes)) for size in model.rows)
    assert all(size <= max_batch or size in {one for one, _ in sizes} for size in model.rows)


def test_what_waits_while_a_batch_is_computed_is_the_next_batch() -> None:
    model = Model(gated=True)

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=8), executor=executor)
        first = asyncio.create_task(scheduler.submit(rows(1)))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(scheduler.submit(rows(value))) for value in range(2, 7)]
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, *rest)

    in_thread(test)
    assert model.rows == [1, 5]


def test_requests_of_other_lengths_keep_their_order_and_are_computed_apart() -> None:
    model = Model()

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=8))
        await gathered(scheduler, [rows(1), rows(2, width=3), rows(3), rows(4, width=3)])

    in_thread(test)
    assert [array.shape for array in model.seen] == [(2, 1), (2, 3)]


def test_a_model_without_an_axis_of_samples_computes_requests_alone() -> None:
    model = Model()

    async def test(executor: ThreadPoolExecutor) -> None:
        await gathered(Scheduler(model, Limits(), batches=False), [rows(1), rows(2)])

    in_thread(test)
    assert model.rows == [1, 1]


@given(st.lists(st.booleans(), min_size=1, max_size=16))
@settings(max_examples=30, deadline=None)
def test_a_faulty_request_fails_alone(faulty: list[bool]) -> None:
    requests = [rows(POISON if one else number) for number, one in enumerate(faulty)]

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(Model(), Limits(max_batch=16))
        answers = await gathered(scheduler, requests)
        for one, request, answer in zip(faulty, requests, answers, strict=True):
            if one:
                assert isinstance(answer, ValueError)
            else:
                assert np.array_equal(answer["y"], 2 * request["x"])
        assert (scheduler.counts.failed, scheduler.counts.answered) == (
            sum(faulty),
            len(faulty) - sum(faulty),
        )

    in_thread(test)


def test_more_rows_than_may_wait_are_refused_at_once_and_told_when_to_come_back() -> None:
    model = Model(gated=True, seconds=0.02)

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=2, max_waiting=4), executor=executor)
        model.gate.set()
        await scheduler.submit(rows(0))
        model.gate.clear()
        held = [asyncio.create_task(scheduler.submit(rows(1)))]
        await asyncio.sleep(0.05)
        held += [asyncio.create_task(scheduler.submit(rows(value))) for value in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await scheduler.submit(rows(9))
        assert caught.value.retry_after > 0
        assert scheduler.counts.refused == 1
        model.gate.set()
        await asyncio.gather(*held)
        await scheduler.submit(rows(9))

    in_thread(test)


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(Model(), Limits(max_batch=2, max_waiting=4))
        assert len((await scheduler.submit(rows(*range(9))))["y"]) == 9

    in_thread(test)


def test_callers_who_have_gone_are_not_computed() -> None:
    model = Model(gated=True)

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=8), executor=executor)
        first = asyncio.create_task(scheduler.submit(rows(1)))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(scheduler.submit(rows(value))) for value in (2, 3, 4)]
        await asyncio.sleep(0)
        others[1].cancel()
        await asyncio.sleep(0)
        assert scheduler.waiting_rows == 2
        model.gate.set()
        await asyncio.gather(first, others[0], others[2])
        assert scheduler.counts.dropped == 1

    in_thread(test)
    assert [array.ravel().tolist() for array in model.seen] == [[1.0], [2.0, 4.0]]


def test_a_deadline_is_answered_when_it_passes_and_the_slot_is_held_until_the_work_ends() -> None:
    model = Model(gated=True)

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=1), executor=executor)
        loop = asyncio.get_running_loop()
        running = asyncio.create_task(scheduler.submit(rows(1), deadline=loop.time() + 0.05))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(scheduler.submit(rows(2), deadline=loop.time() + 0.05))
        started = loop.time()
        for task in (running, waiting):
            with pytest.raises(TooLate):
                await task
        assert loop.time() - started < 5
        after = asyncio.create_task(scheduler.submit(rows(3)))
        await asyncio.sleep(0.02)
        assert model.seen == []
        model.gate.set()
        await after
        assert scheduler.counts.expired == 2

    in_thread(test)
    assert [array.ravel().tolist() for array in model.seen] == [[1.0], [3.0]]
    assert model.most_at_once == 1


def test_a_deadline_that_cannot_be_met_is_refused_before_anything_is_computed() -> None:
    model = Model(seconds=0.05)

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=1), executor=executor)
        loop = asyncio.get_running_loop()
        await scheduler.submit(rows(0))
        held = [asyncio.create_task(scheduler.submit(rows(value))) for value in range(10)]
        await asyncio.sleep(0.01)
        with pytest.raises(TooLate):
            await scheduler.submit(rows(99), deadline=loop.time() + 0.05)
        await asyncio.gather(*held)
        with pytest.raises(TooLate):
            await scheduler.submit(rows(99), deadline=loop.time() - 1)

    in_thread(test)
    assert 99.0 not in np.concatenate([array.ravel() for array in model.seen])


def test_as_many_batches_are_computed_at_once_as_there_are_instances() -> None:
    model = Model(seconds=0.02)

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=1), executor=executor, num_instances=2)
        await gathered(scheduler, [rows(value) for value in range(10)])

    in_thread(test)
    assert model.most_at_once == 2


def test_closing_waits_for_what_waits_and_takes_nothing_more() -> None:
    model = Model(seconds=0.01)

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=1), executor=executor)
        held = [asyncio.create_task(scheduler.submit(rows(value))) for value in range(5)]
        await asyncio.sleep(0)
        await scheduler.close()
        assert all(task.done() for task in held)
        with pytest.raises(Closed):
            await scheduler.submit(rows(9))

    in_thread(test)
    assert len(model.seen) == 5


def test_the_event_loop_answers_others_between_batches() -> None:
    model = Model(seconds=0.01)
    ticks = []

    async def test(executor: ThreadPoolExecutor) -> None:
        scheduler = Scheduler(model, Limits(max_batch=1))
        tasks = [asyncio.create_task(scheduler.submit(rows(value))) for value in range(5)]
        while not all(task.done() for task in tasks):
            ticks.append(len(model.seen))
            await asyncio.sleep(0)

    in_thread(test)
    assert len(set(ticks)) >= 4


def test_outputs_of_another_length_are_no_answer() -> None:
    (first, second) = outcomes_of(lambda inputs: {"y": inputs["x"].sum(axis=0)}, [rows(1), rows(2)])
    assert not isinstance(first, Exception)  # alone, whatever it gives is its own
    assert not isinstance(second, Exception)


def test_a_large_request_is_computed_beside_the_event_loop() -> None:
    model = Model(gated=True)

    async def scenario() -> list[int]:
        with ThreadPoolExecutor(1) as aside:
            scheduler = Scheduler(model, Limits(max_batch=2), aside=aside)
            large = asyncio.create_task(scheduler.submit(rows(1.0, 2.0, 3.0)))
            await asyncio.sleep(0.05)  # the loop is free, and the slot is held
            small = asyncio.create_task(scheduler.submit(rows(4.0)))
            await asyncio.sleep(0.05)
            assert not small.done()
            assert scheduler.num_waiting == 1
            model.gate.set()
            found = [len((await one)["y"]) for one in (large, small)]
            await scheduler.close()
            return found

    assert asyncio.run(scenario()) == [3, 1]
    assert model.rows == [3, 1]


def test_what_waits_is_bounded_in_bytes_and_forgotten_with_its_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lissom.serve.scheduler.MAX_WAITING_BYTES", 8)
    model = Model(gated=True)

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            scheduler = Scheduler(model, Limits(max_batch=1), executor=executor)
            busy = asyncio.create_task(scheduler.submit(rows(1.0)))
            await asyncio.sleep(0.05)
            late = asyncio.get_running_loop().time() + 0.05
            waiting = asyncio.create_task(scheduler.submit(rows(2.0, 2.0), deadline=late))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await scheduler.submit(rows(3.0, 3.0))
            with pytest.raises(TooLate):
                await waiting
            assert [request.inputs for request in scheduler._queue] == [{}]
            assert scheduler._waiting_bytes == 0
            model.gate.set()
            await busy
            await scheduler.close()

    asyncio.run(scenario())
