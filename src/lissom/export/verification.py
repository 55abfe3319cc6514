"""Parity: whether a converted model computes what it was made from.

Each output is compared with the parent's on the same inputs. Inputs come from the select split; for
floating point conversions also from a fuzz set (zeros, extremes, noise, batches of one), because a
conversion must hold everywhere, while a quantized model is only meant for inputs like its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lissom.artifact import Signature
from lissom.errors import ArtifactError
from lissom.models.data import Data
from lissom.runtime.base import Runtime


class ParityLimit(NamedTuple):
    """What a precision is held to."""

    max_relative_error: float | None
    """Largest absolute error over the largest absolute value of the parent's output."""
    min_cosine: float
    min_sqnr_db: float
    min_agreement: float
    fuzz: bool

    def __str__(self) -> str:
        error = (
            f"error <= {self.max_relative_error:g} of the output's range, " if self.max_relative_error else ""
        )
        similar = f"cosine >= {self.min_cosine:g}, SQNR >= {self.min_sqnr_db:g} dB"
        return f"{error}{similar}, top-1 >= {self.min_agreement:.1%}"


_ROUNDING = 1e-6
"""Outputs that differ by less than this share are equal but for float32 rounding."""

LIMITS: dict[str, ParityLimit] = {
    "float32": ParityLimit(1e-4, 0.99999, 70.0, 0.995, True),
    "float16": ParityLimit(1e-2, 0.9999, 40.0, 0.99, True),
    "bfloat16": ParityLimit(5e-2, 0.999, 25.0, 0.98, True),
    "int8": ParityLimit(None, 0.98, 13.0, 0.97, False),
}


class Parity(NamedTuple):
    """How far one output is from the parent's, over all inputs; errors are None where it is not finite."""

    output: str
    max_abs_error: float | None
    mean_abs_error: float | None
    cosine: float | None
    sqnr_db: float | None
    top1_agreement: float
    passed: bool
    limit: str


def verify(parent: Runtime, child: Runtime, data: Data) -> list[Parity]:
    """Compare two opened artifacts, output by output.

    Raises:
        ArtifactError: their signatures differ, so that they cannot be compared.
    """
    if parent.signature != child.signature:
        raise ArtifactError(
            f"{parent.artifact.name!r} and {child.artifact.name!r} have different signatures: "
            f"{_shown(parent.signature)} and {_shown(child.signature)}"
        )
    limit = LIMITS[child.artifact.manifest.precision]
    batches = _batches(
        data, parent.signature, fuzz=limit.fuzz, any_size=parent.any_batch_size and child.any_batch_size
    )
    pairs = [(parent.infer(batch), child.infer(batch)) for batch in batches]
    return [
        compare(
            spec.name,
            np.concatenate([wanted[spec.name] for wanted, _ in pairs]),
            np.concatenate([found[spec.name] for _, found in pairs]),
            limit,
        )
        for spec in parent.signature.outputs
    ]


def compare(name: str, wanted: np.ndarray, found: np.ndarray, limit: ParityLimit) -> Parity:
    """Compare one output of shape [samples, ...] with the parent's, in float64."""
    if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        return Parity(name, None, None, None, None, _agreement(wanted, found), False, str(limit))
    reference, error = wanted.astype(np.float64), found.astype(np.float64) - wanted.astype(np.float64)
    signal, noise = float(np.sum(reference**2)), float(np.sum(error**2))
    norms = float(np.linalg.norm(reference)) * float(np.linalg.norm(found.astype(np.float64)))
    cosine = float(np.vdot(reference, found)) / norms if norms else float(signal == noise)
    sqnr = None if noise == 0 else 10 * float(np.log10(signal / noise)) if signal else 0.0
    agreement = _agreement(wanted, found)
    largest = float(np.abs(error).max(initial=0.0))
    scale = float(np.abs(reference).max(initial=0.0)) or 1.0
    within = limit.max_relative_error is None or largest <= limit.max_relative_error * scale
    passed = (
        within
        and cosine >= limit.min_cosine
        and (sqnr is None or sqnr >= limit.min_sqnr_db)
        and agreement >= limit.min_agreement
    )
    return Parity(name, largest, float(np.abs(error).mean()), cosine, sqnr, agreement, passed, str(limit))


def fuzz_inputs(
    signature: Signature, like: Mapping[str, np.ndarray], *, sizes: Sequence[int] = (1, 3), seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Zeros, both extremes of the data, and noise over their range, in batches of every size."""
    generator = np.random.default_rng(seed)
    batches = []
    for size in sizes:
        for kind in ("zeros", "low", "high", "noise"):
            batch = {}
            for spec in signature.inputs:
                array = like[spec.name]
                shape = (size, *array.shape[1:])
                low, high = float(array.min()), float(array.max())
                values = {
                    "zeros": np.zeros(shape),
                    "low": np.full(shape, low),
                    "high": np.full(shape, high),
                    "noise": generator.uniform(low, high, shape),
                }[kind]
                batch[spec.name] = values.astype(spec.dtype)
            batches.append(batch)
    return batches


def _batches(data: Data, signature: Signature, *, fuzz: bool, any_size: bool) -> list[dict[str, np.ndarray]]:
    tensors = data.tensors("select" if len(data.indices["select"]) else "calibrate")
    num_samples = len(next(iter(tensors.values())))
    size = 64 if any_size else 1
    starts = range(0, num_samples, size)
    batches = [{name: array[start : start + size] for name, array in tensors.items()} for start in starts]
    return batches + (fuzz_inputs(signature, tensors, sizes=(1, 3) if any_size else (1,)) if fuzz else [])


def _agreement(wanted: np.ndarray, found: np.ndarray) -> float:
    """Share of samples with the same highest output; ties within rounding count as the same."""
    if wanted.ndim < 2 or wanted.shape[-1] < 2:
        return 1.0
    rows, other = wanted.reshape(-1, wanted.shape[-1]), found.reshape(-1, wanted.shape[-1])
    chosen = rows[np.arange(len(rows)), other.argmax(axis=1)]
    highest = rows.max(axis=1)
    tied = highest - chosen <= _ROUNDING * np.abs(highest)
    return float(np.mean(tied & np.isfinite(other).all(axis=1)))


def _shown(signature: Signature) -> str:
    inputs = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in signature.inputs)
    outputs = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in signature.outputs)
    return f"({inputs}) -> ({outputs})"
