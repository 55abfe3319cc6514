"""The choice is the fastest that is also small, and noise does not change it."""

from __future__ import annotations

import itertools

import pytest

from lissom.bench.selection import ORDER, ArmKey, choose, fastest, is_decided

Arms = dict[ArmKey, list[list[float]]]


def rounds(milliseconds: float, *, noise: float = 0.001, phase: int = 0) -> list[list[float]]:
    """Twelve rounds around a latency, with a spread of about `noise`."""
    return [[milliseconds * (1 + noise * ((index * 5 + phase) % 12 - 5.5) / 5.5)] for index in range(12)]


def arms(**latencies: float) -> Arms:
    """Arms called `artifact__runtime`."""
    return {ArmKey(*name.split("__")): rounds(value) for name, value in latencies.items()}


def test_nothing_to_choose_from_gives_nothing() -> None:
    assert fastest({}) is None
    assert choose({}, {}) is None


def test_the_fastest_arm_is_found_in_any_order() -> None:
    found = arms(a__torch=3.0, a__openvino=1.0, b__torch=2.0)
    for order in itertools.permutations(found):
        assert fastest({arm: found[arm] for arm in order}) == ("a", "openvino")


def test_an_only_arm_is_chosen() -> None:
    assert choose(arms(a__torch=3.0), {"a": 10}) == ("a", "torch")


def test_a_surely_slower_artifact_is_out_however_small() -> None:
    found = arms(big__onnxruntime=1.0, small__onnxruntime=1.2)
    assert choose(found, {"big": 1000, "small": 1}) == ("big", "onnxruntime")


def test_of_artifacts_that_are_as_fast_the_smallest_is_taken() -> None:
    found = arms(big__onnxruntime=1.0, small__onnxruntime=1.02, slow__onnxruntime=3.0)
    assert choose(found, {"big": 1000, "small": 1, "slow": 0}) == ("small", "onnxruntime")


def test_an_artifact_that_may_be_as_fast_is_not_out() -> None:
    found = {
        ArmKey("big", "onnxruntime"): rounds(1.0),
        ArmKey("small", "onnxruntime"): rounds(1.2, noise=0.6),
    }
    assert choose(found, {"big": 1000, "small": 1}) == ("small", "onnxruntime")


def test_an_artifact_stands_for_itself_with_its_fastest_runtime() -> None:
    found = arms(big__onnxruntime=1.0, small__onnxruntime=9.0, small__openvino=1.0)
    assert choose(found, {"big": 1000, "small": 1}) == ("small", "openvino")


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise(ORDER)))
def test_runtimes_that_are_tied_are_decided_by_the_order(first: str, second: str) -> None:
    found = {ArmKey("a", second): rounds(1.0), ArmKey("a", first): rounds(1.01)}
    assert choose(found, {"a": 1}) == ("a", first)


def test_a_runtime_is_tied_only_when_it_surely_is() -> None:
    found = {ArmKey("a", "torch"): rounds(1.0), ArmKey("a", "openvino"): rounds(1.03, noise=0.3)}
    assert choose(found, {"a": 1}) == ("a", "torch")
    found = {ArmKey("a", "torch"): rounds(1.0), ArmKey("a", "openvino"): rounds(1.2)}
    assert choose(found, {"a": 1}) == ("a", "torch")


def test_noise_and_order_do_not_change_the_choice() -> None:
    sizes = {"big": 1000, "small": 1}
    chosen = set()
    for phase in range(12):
        found = {
            ArmKey("big", "openvino"): rounds(1.0, noise=0.02, phase=phase),
            ArmKey("small", "onnxruntime"): rounds(1.005, noise=0.02, phase=phase + 3),
            ArmKey("small", "openvino"): rounds(1.0, noise=0.02, phase=phase + 7),
        }
        chosen |= {
            choose({arm: found[arm] for arm in order}, sizes) for order in itertools.permutations(found)
        }
    assert chosen == {("small", "openvino")}


def test_it_is_decided_when_no_other_runtime_of_an_artifact_can_be_much_faster() -> None:
    assert is_decided(arms(a__torch=3.0, a__openvino=1.0, b__torch=1.001))
    assert is_decided(arms(a__onnxruntime=1.0, a__openvino=1.01))  # tied, and either will do
    unsure = {
        ArmKey("a", "onnxruntime"): rounds(1.0, noise=0.4),
        ArmKey("a", "openvino"): rounds(1.02, noise=0.4, phase=6),
    }
    assert not is_decided(unsure)
    assert is_decided({**arms(a__onnxruntime=1.0), ArmKey("b", "openvino"): rounds(1.0, noise=0.4)})
