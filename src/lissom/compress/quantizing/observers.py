"""Observers: which range of an activation 256 steps are spread over.

A narrow range has fine steps and clips what lies beyond; a wide one clips nothing and rounds coarsely.

    minmax          everything that was seen
    moving-average  extremes of each sample, averaged with a constant of 0.01: one sample does not decide
    sample-mean     mean of the extremes of each sample: all count alike, and the largest are clipped
    percentile      cuts one ten-thousandth of the values, half at each end
    mse             least squared error of values that are clipped and rounded
    entropy         least Kullback-Leibler divergence between values before and after (Migacz, GTC 2017)

The last three read a histogram. A range always holds zero, which an integer then stands for exactly:
padding and the zeros after a ReLU must not become something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

OBSERVERS = ("minmax", "moving-average", "sample-mean", "percentile", "entropy", "mse")
NUM_BINS = 2048
CLIPPED = 1e-4
"""Share of the values that `percentile` leaves outside."""
_SHARES = np.linspace(0.2, 1.0, 41)
"""Of each end of the range, tried by mse and entropy."""


class Range(NamedTuple):
    """Smallest and largest value that the integers stand for."""

    low: float
    high: float


class Seen(NamedTuple):
    """What is known of one tensor.

    Attributes:
        extremes: Smallest and largest value.
        averaged: The same, averaged over samples.
        total: Sums of the smallest and the largest value of each sample.
        number: Samples that were seen.
        counts: Values in each of `NUM_BINS` equal bins between the extremes; None until it is asked for.
    """

    extremes: Range
    averaged: Range
    total: Range
    number: int
    counts: np.ndarray | None = None


def needs_histogram(observer: str) -> bool:
    """True when values must be seen twice."""
    return observer in ("percentile", "entropy", "mse")


def find_range(observer: str, seen: Seen, *, symmetric: bool, steps: int = 255) -> Range:
    """The range of a tensor.

    Args:
        observer: One of `OBSERVERS`.
        seen: What is known of the tensor.
        symmetric: True when zero is to lie in the middle.
        steps: Between the smallest and the largest integer.
    """
    if observer == "moving-average":
        return _around_zero(seen.averaged, symmetric)
    if observer == "sample-mean":
        return _around_zero(Range(seen.total.low / seen.number, seen.total.high / seen.number), symmetric)
    if observer == "minmax" or seen.counts is None or seen.extremes.low == seen.extremes.high:
        return _around_zero(seen.extremes, symmetric)
    edges = np.linspace(*seen.extremes, NUM_BINS + 1)
    centres, counts = (edges[:-1] + edges[1:]) / 2, seen.counts
    if observer == "percentile":
        return _around_zero(_percentile(edges, counts), symmetric)
    error = _squared_error if observer == "mse" else _divergence
    return _searched(
        _around_zero(seen.extremes, symmetric),
        symmetric,
        lambda found: error(centres, counts, found, steps),
    )


def _around_zero(found: Range, symmetric: bool) -> Range:
    low, high = min(0.0, float(found.low)), max(0.0, float(found.high))
    if symmetric:
        high = max(-low, high)
        low = -high
    return Range(low, high)


def _percentile(edges: np.ndarray, counts: np.ndarray) -> Range:
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    low = edges[max(0, int(np.searchsorted(below, CLIPPED / 2, side="right")) - 1)]
    high = edges[min(len(edges) - 1, int(np.searchsorted(below, 1 - CLIPPED / 2, side="left")))]
    return Range(float(low), float(high))


def _searched(whole: Range, symmetric: bool, error: Callable[[Range], float]) -> Range:
    """The best shares of both ends, one after the other, twice."""
    if symmetric:
        return min((Range(whole.low * share, whole.high * share) for share in _SHARES), key=error)
    best = whole
    for _ in range(2):
        if whole.high > 0:
            best = min((Range(best.low, whole.high * share) for share in _SHARES), key=error)
        if whole.low < 0:
            best = min((Range(whole.low * share, best.high) for share in _SHARES), key=error)
    return best


def _squared_error(centres: np.ndarray, counts: np.ndarray, found: Range, steps: int) -> float:
    """Of clipping, and of rounding by up to half a step."""
    scale = (found.high - found.low) / steps
    if scale <= 0:
        return math.inf
    clipped = centres - np.clip(centres, found.low, found.high)
    rounded = np.where(clipped == 0, scale**2 / 12, 0.0)
    return float(np.sum(counts * (clipped**2 + rounded)))


def _divergence(centres: np.ndarray, counts: np.ndarray, found: Range, steps: int) -> float:
    """Of the histogram, its clipped values put into the outer bins, from what the steps can tell apart."""
    scale = (found.high - found.low) / steps
    inside = np.flatnonzero((centres >= found.low) & (centres <= found.high))
    if scale <= 0 or not len(inside):
        return math.inf
    own = counts[inside].astype(np.float64)
    reference = own.copy()
    reference[0] += counts[: inside[0]].sum()
    reference[-1] += counts[inside[-1] + 1 :].sum()
    integers = np.round((centres[inside] - found.low) / scale).astype(np.int64)
    totals, filled = np.bincount(integers, weights=own), np.bincount(integers, weights=own > 0)
    merged = np.where(own > 0, totals[integers] / np.maximum(filled[integers], 1), 0.0)
    p, q = reference / reference.sum(), np.maximum(merged / max(merged.sum(), 1.0), 1e-9)
    kept = p > 0
    return float(np.sum(p[kept] * np.log(p[kept] / q[kept])))
