"""What one process says to the others, and when it waits for them."""

from __future__ import annotations

import pytest
import torch.distributed

from lissom.models import processes
from lissom.models.processes import Place, agree, announced, taking_part, wait


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the leader of two says, which nobody hears."""
    found: list[str] = []
    monkeypatch.setattr(processes, "place", lambda: Place(0, 2, 2))
    monkeypatch.setattr(processes, "_join", lambda: None)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda message, src: found.append(f"{message}"))
    monkeypatch.setattr(torch.distributed, "barrier", lambda: found.append("barrier"))
    return found


def test_nobody_is_waited_for_in_a_stage_that_the_leader_makes_alone(said: list[str]) -> None:
    wait()
    assert agree(lambda: 2.5) == 2.5
    assert said == []


def test_all_are_waited_for_in_a_stage_that_was_announced(said: list[str]) -> None:
    with announced(3):
        wait()
        assert agree(lambda: 2.5) == 2.5
    wait()
    assert said == ["tensor([3])", "barrier", "tensor([2.5000], dtype=torch.float64)"]


def test_what_the_leader_measures_waits_for_nobody(said: list[str]) -> None:
    def measure() -> float:
        wait()
        return agree(lambda: 1.5)

    with taking_part():
        assert agree(measure) == 1.5
        assert len(said) == 1
        wait()
    assert said[1:] == ["barrier"]
