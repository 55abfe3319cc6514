"""How long answers took: counts by duration since the start, for metrics, and the latest, for the page."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

BOUNDS_MS = (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
"""Upper ends of the counts; one more holds what took longer."""
_LATEST = 2048
_RECENT_SECONDS = 10.0


class Latencies:
    """Of the requests of one model, from their arrival in the queue to their answer.

    Attributes:
        counts: Requests by duration: at most each of `BOUNDS_MS`, then more.
        seconds: Their sum.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_MS) + 1)
        self.seconds = 0.0
        self._latest: deque[tuple[float, float]] = deque(maxlen=_LATEST)

    def add(self, now: float, seconds: float) -> None:
        """Note one request that was answered at a time of `perf_counter`."""
        self.counts[bisect_left(BOUNDS_MS, 1e3 * seconds)] += 1
        self.seconds += seconds
        self._latest.append((now, seconds))

    def recent(self, now: float) -> dict[str, float] | None:
        """`p50` and `p99`, milliseconds, and `requests_per_second` of the last seconds; None without any."""
        found = [(when, seconds) for when, seconds in self._latest if now - when <= _RECENT_SECONDS]
        if not found:
            return None
        ordered = sorted(seconds for _, seconds in found)
        whole = len(found) == _LATEST  # then they are all of the time since the first of them
        span = max(now - found[0][0], 1e-3) if whole else _RECENT_SECONDS
        return {
            "p50": 1e3 * ordered[(len(ordered) - 1) // 2],
            "p99": 1e3 * ordered[int(0.99 * (len(ordered) - 1))],
            "requests_per_second": len(found) / span,
        }
