"""How long answers took."""

from __future__ import annotations

import pytest

from lissom.serve.latencies import BOUNDS_MS, Latencies


def test_durations_are_counted_by_their_bounds() -> None:
    found = Latencies()
    for milliseconds in (0.1, 0.25, 0.3, 5.0, 9000.0):
        found.add(0.0, milliseconds / 1e3)
    counted = dict(zip([*BOUNDS_MS, None], found.counts, strict=True))
    assert {bound: number for bound, number in counted.items() if number} == {0.25: 2, 0.5: 1, 5: 1, None: 1}
    assert found.seconds == pytest.approx(9.00565)


def test_the_latest_are_told_and_the_old_forgotten() -> None:
    found = Latencies()
    assert found.recent(0.0) is None
    found.add(0.0, 5.0)
    for step in range(100):
        found.add(50 + step / 100, (step + 1) / 1e3)
    recent = found.recent(51.0)
    assert recent == {"p50": pytest.approx(50.0), "p99": pytest.approx(99.0), "requests_per_second": 10.0}
    assert found.recent(100.0) is None


def test_the_rate_of_many_is_that_of_the_time_they_took() -> None:
    found = Latencies()
    for step in range(5000):
        found.add(step / 1000, 1e-3)
    recent = found.recent(5.0)
    assert recent is not None
    assert recent["requests_per_second"] == pytest.approx(1000, rel=0.01)
