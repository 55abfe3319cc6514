"""Comparison in float64: two models that ought to compute the same, on the same samples.

Casts inside the forward are widened too, as those of a norm that computes in float32, so that what is left
of a difference is rounding of about 1e-16, and anything above the tolerance is a fault.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lissom.compress.provenance import tensors_of, widen
from lissom.errors import ModelError

TOLERANCE = 1e-6
"""Largest difference in float64, as a share of the largest number in the outputs."""


def prove_equal(
    wanted: nn.Module, found: nn.Module, example: Sequence[Tensor], changed: Sequence[str], problem: str
) -> float:
    """Largest difference of two models, which are not changed.

    Args:
        wanted: What is right.
        found: What it is compared with.
        example: Positional inputs.
        changed: Names of the modules in which they differ.
        problem: What is said where they are not equal.

    Raises:
        ModelError: they are not equal.
    """
    with in_double():
        right = outputs_in_double(copy.deepcopy(wanted), example)
        error = difference(right, outputs_in_double(copy.deepcopy(found), example))
    if not error <= TOLERANCE:
        raise ModelError(
            f"{problem}: their outputs differ by {error:.2g} of the largest",
            hint=f"prune.exclude one of {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}",
        )
    return error


def outputs_in_double(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What a model gives in float64; it is changed to that type."""
    with torch.inference_mode(), Widened():  # type: ignore[no-untyped-call]
        return list(tensors_of(model.double()(*doubled(inputs))))


def doubled(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Floating-point inputs in float64, others as they are."""
    return [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]


def difference(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Largest difference of two lists of outputs, as a share of the largest number; else infinite."""
    if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in found]:
        return float("inf")
    errors = [0.0]
    for one, other in zip(wanted, found, strict=True):
        one, other = one.double(), other.double()
        finite = one.isfinite()
        if not torch.equal(one[~finite].nan_to_num(), other[~finite].nan_to_num()):
            return float("inf")
        size = one[finite].abs().max().clamp(min=1e-30) if finite.any() else torch.ones(())
        errors.append(float((one[finite] - other[finite]).abs().max() / size) if finite.any() else 0.0)
    return max(errors)


class Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries out in float64 what is cast to a narrower type."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry out one operation."""
        return func(*widen(args), **{name: widen(value) for name, value in (kwargs or {}).items()})


@contextmanager
def in_double() -> Iterator[None]:
    """New tensors are float64, and random numbers are the same each time."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)
