"""Several processes that train one model together, as `torchrun` starts them.

    torchrun --nproc-per-node 2 -m lissom run recipes/digits.yaml

The first process, the leader, does everything. The others, the followers, hear from it which stage trains
next, take part in that stage, and otherwise wait. What is said is one number, never a pickled object.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import NamedTuple

_PATIENCE = timedelta(days=7)
"""How long a follower waits for the leader, which measures and exports in between."""
_FINISHED = -1
_TOGETHER: ContextVar[bool] = ContextVar("together", default=False)
"""True while a stage is made by every process."""


class Place(NamedTuple):
    """Where this process stands among those that train together."""

    rank: int
    world: int
    local_world: int

    @property
    def leads(self) -> bool:
        """True for the process that writes."""
        return self.rank == 0


def place() -> Place:
    """The place that torchrun gave this process; alone without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if world == 1:
        return Place(0, 1, 1)
    return Place(int(os.environ["RANK"]), world, int(os.environ["LOCAL_WORLD_SIZE"]))


@contextmanager
def announced(stage: int) -> Iterator[None]:
    """Tell the followers that the stage of this index is made now, by all, until the context ends."""
    _broadcast(stage)
    with taking_part():
        yield


@contextmanager
def taking_part() -> Iterator[None]:
    """Every process makes one stage; outside of it the leader is alone and nobody is waited for."""
    with _together(True):
        yield


def finish() -> None:
    """Tell the followers that everything is written."""
    _broadcast(_FINISHED)


def next_stage() -> int | None:
    """Wait for the leader: the index of the stage that trains now, or None when everything is written."""
    index = _broadcast(_FINISHED)
    return None if index == _FINISHED else index


def agree(measure: Callable[[], float]) -> float:
    """What the leader measures alone, for every process that takes part."""
    import torch
    import torch.distributed as distributed

    here = place()
    if here.world == 1 or not _TOGETHER.get():
        return measure()
    _join()
    with _together(False):
        measured = measure() if here.leads else 0.0
    message = torch.tensor([measured], dtype=torch.float64)
    distributed.broadcast(message, src=0)
    return float(message)


def wait() -> None:
    """Wait until every process that takes part is here."""
    import torch.distributed as distributed

    if place().world > 1 and _TOGETHER.get():
        distributed.barrier()


@contextmanager
def _together(value: bool) -> Iterator[None]:
    token = _TOGETHER.set(value)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def _broadcast(number: int) -> int:
    import torch
    import torch.distributed as distributed

    if place().world == 1:
        return number
    _join()
    message = torch.tensor([number])
    distributed.broadcast(message, src=0)
    return int(message)


def _join() -> None:
    import torch
    import torch.distributed as distributed

    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        # Threads of gloo that outlive the interpreter abort the process.
        atexit.register(_part)


def _part() -> None:
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
