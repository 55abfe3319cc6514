"""Which arm is shipped: the fastest that keeps the budget, by measurement, steady against noise.

First the artifact. Each stands for itself with its fastest runtime; one that is surely slower than the
fastest by more than 5 % is out, and of those that remain the smallest is taken. Then its runtime: those
whose latency interval lies within 5 % of its fastest are tied, and the order openvino, onnxruntime,
aotinductor, inductor, torch decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lissom.bench.statistics import ratio
from lissom.registry import RUNTIMES

TIE = 1.05
ORDER = tuple(RUNTIMES)

Rounds = Sequence[Sequence[float]]


class ArmKey(NamedTuple):
    """One artifact on one runtime."""

    artifact: str
    runtime: str


def fastest(rounds: Mapping[ArmKey, Rounds]) -> ArmKey | None:
    """The arm with the lowest latency."""
    arms = list(rounds)
    if not arms:
        return None
    best = arms[0]
    for arm in arms[1:]:
        if ratio(rounds[best], rounds[arm]).value > 1:
            best = arm
    return best


def choose(rounds: Mapping[ArmKey, Rounds], sizes: Mapping[str, int]) -> ArmKey | None:
    """The arm to ship.

    Args:
        rounds: Latencies of every eligible arm, by round.
        sizes: Bytes of each artifact.
    """
    names = dict.fromkeys(arm.artifact for arm in rounds)
    best_of = {name: best for name in names if (best := fastest(_of(name, rounds))) is not None}
    best = fastest({arm: rounds[arm] for arm in best_of.values()})
    if best is None:
        return None
    near = [
        name for name, arm in best_of.items() if arm == best or ratio(rounds[arm], rounds[best]).low <= TIE
    ]
    chosen = min(near, key=lambda name: sizes[name])
    own = best_of[chosen]
    tied = [arm for arm in _of(chosen, rounds) if arm == own or ratio(rounds[arm], rounds[own]).high <= TIE]
    return min(tied, key=lambda arm: ORDER.index(arm.runtime))


def is_decided(rounds: Mapping[ArmKey, Rounds]) -> bool:
    """True when the fastest runtime of every artifact is surely at most 5 % behind any other of it."""
    for artifact in dict.fromkeys(arm.artifact for arm in rounds):
        own = _of(artifact, rounds)
        best = fastest(own)
        assert best is not None
        if any(ratio(own[arm], own[best]).low < 1 / TIE for arm in own if arm != best):
            return False
    return True


def _of(artifact: str, rounds: Mapping[ArmKey, Rounds]) -> dict[ArmKey, Rounds]:
    return {arm: samples for arm, samples in rounds.items() if arm.artifact == artifact}
