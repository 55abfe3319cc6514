"""How far two outputs are apart, where NaN and infinity count: what all other comparisons are made of.

An error is a difference of two numbers. Where one output has a number and the other NaN or infinity there is
none, and leaving such places out would call the two equal; so they are counted, and told beside the error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """Two outputs of one name, or of one model, compared value by value.

    Attributes:
        max_abs_error: Largest error where both have numbers; NaN where the shapes differ.
        nonfinite: Values that are NaN or infinite in one output and a number, or another such value, in the
            other.
        num_values: Values of the first output.
        shapes: Both, where they differ; else None.
    """

    max_abs_error: float
    nonfinite: int
    num_values: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def __str__(self) -> str:
        """What is different, as a part of a sentence.

        >>> print(Difference(0.25, 0, 8))
        the outputs differ by up to 0.25
        >>> print(Difference(0.0, 1, 8))
        1 of 8 values is NaN or infinite in one output alone, the others differ by up to 0
        """
        if self.shapes:
            return f"the outputs have the shapes {list(self.shapes[0])} and {list(self.shapes[1])}"
        if not self.nonfinite:
            return f"the outputs differ by up to {self.max_abs_error:.3g}"
        verb = "is" if self.nonfinite == 1 else "are"
        return (
            f"{self.nonfinite} of {self.num_values} values {verb} NaN or infinite in one output alone, "
            f"the others differ by up to {self.max_abs_error:.3g}"
        )


def difference(wanted: np.ndarray, found: np.ndarray) -> Difference:
    """Compare two outputs in float64.

    >>> difference(np.array([1.0, np.nan]), np.array([1.5, np.nan]))[:2]
    (0.5, 0)
    >>> difference(np.array([1.0, -np.inf]), np.array([np.nan, np.inf]))[:2]
    (0.0, 2)
    """
    if wanted.shape != found.shape:
        return Difference(float("nan"), 0, wanted.size, (wanted.shape, found.shape))
    apart = unlike(wanted, found)
    numbers = np.isfinite(wanted) & np.isfinite(found)
    errors = np.abs(wanted[numbers].astype(np.float64) - found[numbers].astype(np.float64))
    return Difference(float(errors.max(initial=0.0)), int(apart.sum()), wanted.size)


def unlike(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Where a value is NaN or infinite in one output and something else in the other, of one shape."""
    same = (wanted == found) | (np.isnan(wanted) & np.isnan(found))
    both = np.isfinite(wanted) & np.isfinite(found)
    apart: np.ndarray = ~same & ~both
    return apart


def worst(differences: list[Difference]) -> Difference:
    """All outputs of a model taken together.

    >>> worst([Difference(0.5, 0, 4), Difference(0.1, 2, 3)])
    Difference(max_abs_error=0.5, nonfinite=2, num_values=7, shapes=None)
    """
    for one in differences:
        if one.shapes:
            return one
    return Difference(
        max((one.max_abs_error for one in differences), default=0.0),
        sum(one.nonfinite for one in differences),
        sum(one.num_values for one in differences),
    )
