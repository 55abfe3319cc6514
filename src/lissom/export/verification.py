"""Parity: whether a converted model computes what it was made from.

Each output is compared with the parent's on the same inputs. Inputs come from the select split; for
floating point conversions also from a fuzz set (zeros, extremes, noise, every dynamic axis of size one),
because a conversion must hold everywhere, while a quantized model is only meant for inputs like its data.

    max relative error    largest |error| / largest |value of the parent|
    mean relative error   mean |error| / mean |value of the parent|

Shares of the whole output, not of each value: a value near zero would make any rounding look infinite. Where
the parent gives nothing but zeros the absolute error stands in. Where a copy fails, `failing_batch` is what
`bisection.first_divergence` starts from.

Outputs are read batch by batch and only sums of them kept: those of a language model on a whole split do
not fit into memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lissom.artifact import Signature, TensorSpec
from lissom.errors import ArtifactError, RequestError
from lissom.logs import log
from lissom.models.data import Data
from lissom.runtime.base import Runtime
from lissom.runtime.differences import unlike
from lissom.runtime.layout import sample_specs


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
        agreement = f", top-1 >= {self.min_agreement:.1%}" if self.min_agreement else ""
        return f"{error}{similar}{agreement}"


_ROUNDING = 1e-6
"""Outputs that differ by less than this share are equal but for float32 rounding."""

_VALUES_AT_ONCE = 1 << 20
"""Values of an output that are compared at once, 8 MB in float64."""

WEIGHT_ONLY = ("weight-int8", "weight-int4")
"""Precisions in which weights alone have fewer bits."""

LIMITS: dict[str, ParityLimit] = {
    "float32": ParityLimit(1e-4, 0.99999, 70.0, 0.995, True),
    "float16": ParityLimit(1e-2, 0.9999, 40.0, 0.99, True),
    "bfloat16": ParityLimit(5e-2, 0.999, 25.0, 0.98, True),
    "int8": ParityLimit(None, 0.98, 13.0, 0.97, False),
    "weight-int8": ParityLimit(None, 0.999, 30.0, 0.98, False),
    "weight-int4": ParityLimit(None, 0.98, 13.0, 0.9, False),
}
UNLABELLED = ParityLimit(None, 0.98, 25.0, 0.0, False)
"""Of a quantized model where the data have no labels, so that an answer may be a matter of chance."""


class Parity(NamedTuple):
    """How far one output is from the parent's, over all inputs.

    Errors are None where it is not finite, or has another shape. A -inf of both is a mask, no error.
    """

    output: str
    max_abs_error: float | None
    mean_abs_error: float | None
    cosine: float | None
    sqnr_db: float | None
    top1_agreement: float
    passed: bool
    limit: str
    nonfinite: int = 0
    """Values that are NaN or infinite in one output alone, or another such value in the other."""
    max_relative_error: float | None = None
    """Largest absolute error over the largest absolute value of the parent's output."""
    mean_relative_error: float | None = None
    """Mean absolute error over the mean absolute value of the parent's output."""


_MOST_AT_ONCE = 64
"""Samples that are compared in one call, where the engines take as many."""


def verify(parent: Runtime, child: Runtime, data: Data) -> list[Parity]:
    """Compare two opened artifacts, output by output.

    Raises:
        ArtifactError: their signatures differ, so that they cannot be compared.
    """
    if not _comparable(parent.signature, child.signature):
        raise ArtifactError(
            f"{parent.artifact.name!r} and {child.artifact.name!r} have different signatures: "
            f"{_shown(parent.signature)} and {_shown(child.signature)}"
        )
    limit = limit_of(child.artifact.manifest.precision, data)
    compared = {spec.name: Comparison() for spec in parent.signature.outputs}
    for _, wanted, found in _answers(parent, child, data, fuzz=limit.fuzz):
        for name, comparison in compared.items():
            comparison.add(wanted[name], found[name] if found else np.zeros(0))
    return [comparison.parity(name, limit) for name, comparison in compared.items()]


def _comparable(one: Signature, other: Signature) -> bool:
    """True for equal inputs and outputs; whether samples may share a call is no matter here."""
    return (one.inputs, one.outputs) == (other.inputs, other.outputs)


def limit_of(precision: str, data: Data) -> ParityLimit:
    """What a model of this precision is held to on these data."""
    limit = LIMITS[precision]
    floating = limit.max_relative_error is not None
    return limit if floating or data.dataset.labels is not None else UNLABELLED


def failing_batch(parent: Runtime, child: Runtime, data: Data) -> dict[str, np.ndarray]:
    """The inputs on which two artifacts that `verify` found to differ are furthest apart.

    A batch that is beyond the limit on its own goes before one that is not, then the larger error counts.
    """
    limit = limit_of(child.artifact.manifest.precision, data)._replace(min_agreement=0.0)
    worst: dict[str, np.ndarray] = {}
    furthest = (False, -1.0)
    for batch, wanted, found in _answers(parent, child, data, fuzz=limit.fuzz):
        if not found:
            continue
        distance = max(_distance(wanted[name], found[name], limit) for name in wanted)
        if distance > furthest:
            worst, furthest = batch, distance
    return worst


def _distance(wanted: np.ndarray, found: np.ndarray, limit: ParityLimit) -> tuple[bool, float]:
    """Whether an output is beyond the limit, and its mean squared error."""
    comparison = Comparison()
    comparison.add(wanted, found)
    error = comparison.noise / max(comparison.num_values, 1) if comparison.finite else math.inf
    return not comparison.parity("", limit).passed, error


def compare(name: str, wanted: np.ndarray, found: np.ndarray, limit: ParityLimit) -> Parity:
    """Compare one output of shape [samples, ...] with the parent's, in float64."""
    comparison = Comparison()
    comparison.add(wanted, found)
    return comparison.parity(name, limit)


@dataclass
class Comparison:
    """Sums over the samples seen so far of one output, from which all figures follow."""

    signal: float = 0.0
    """Sum of squares of the parent's values."""
    power: float = 0.0
    """Sum of squares of the child's values."""
    noise: float = 0.0
    """Sum of squared errors."""
    product: float = 0.0
    """Sum of the products of both."""
    absolute: float = 0.0
    """Sum of absolute errors."""
    largest: float = 0.0
    """Largest absolute error."""
    scale: float = 0.0
    """Largest absolute value of the parent."""
    magnitude: float = 0.0
    """Sum of absolute values of the parent."""
    num_values: int = 0
    num_agreeing: int = 0
    num_rows: int = 0
    finite: bool = True
    """False once a value was no number, or the shapes differed."""
    nonfinite: int = 0
    """Values that are NaN or infinite in one output alone."""

    def add(self, wanted: np.ndarray, found: np.ndarray) -> None:
        """Count a batch of shape [samples, ...], a few samples at a time: float64 copies are large."""
        if wanted.shape != found.shape:
            self.finite = False
            self.num_rows += max(1, len(wanted))
            return
        if wanted.dtype == bool:
            wanted, found = wanted.astype(np.int8), found.astype(np.int8)
        step = max(1, _VALUES_AT_ONCE // max(1, wanted[:1].size))
        for start in range(0, len(wanted), step):
            self._add(wanted[start : start + step], found[start : start + step])

    def _add(self, wanted: np.ndarray, found: np.ndarray) -> None:
        agreeing = _agreeing(wanted, found)
        self.num_agreeing += int(agreeing.sum())
        self.num_rows += len(agreeing)
        if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
            self.nonfinite += int(unlike(wanted, found).sum())
            numbers = ~_masked(wanted, found)
            wanted, found = wanted[numbers], found[numbers]
            self.finite = self.finite and bool(np.isfinite(found).all() and np.isfinite(wanted).all())
        if not self.finite:  # no further figure will be given
            return
        reference, other = (array.astype(np.float64).ravel() for array in (wanted, found))
        self.signal += float(reference @ reference)
        self.power += float(other @ other)
        self.product += float(reference @ other)
        other -= reference
        magnitude = np.abs(reference, out=reference)
        self.scale = max(self.scale, float(magnitude.max(initial=0.0)))
        self.magnitude += float(magnitude.sum())
        self.noise += float(other @ other)
        error = np.abs(other, out=other)
        self.absolute += float(error.sum())
        self.largest = max(self.largest, float(error.max(initial=0.0)))
        self.num_values += error.size

    def parity(self, name: str, limit: ParityLimit) -> Parity:
        """The figures, held to the limits of a precision."""
        agreement = self.num_agreeing / self.num_rows if self.num_rows else 1.0
        if not self.finite:
            return Parity(name, None, None, None, None, agreement, False, str(limit), self.nonfinite)
        norms = math.sqrt(self.signal) * math.sqrt(self.power)
        cosine = self.product / norms if norms else float(self.signal == self.noise)
        sqnr = None
        if self.noise:
            sqnr = 10 * math.log10(self.signal / self.noise) if self.signal else 0.0
        number = max(self.num_values, 1)
        mean = self.absolute / number
        max_relative, mean_relative = (
            self.largest / (self.scale or 1.0),
            mean / (self.magnitude / number or 1.0),
        )
        within = limit.max_relative_error is None or max_relative <= limit.max_relative_error
        passed = (
            within
            and cosine >= limit.min_cosine
            and (sqnr is None or sqnr >= limit.min_sqnr_db)
            and agreement >= limit.min_agreement
        )
        return Parity(
            name,
            self.largest,
            mean,
            cosine,
            sqnr,
            agreement,
            passed,
            str(limit),
            max_relative_error=max_relative,
            mean_relative_error=mean_relative,
        )


def fuzz_inputs(
    signature: Signature, like: Mapping[str, np.ndarray], *, sizes: Sequence[int] = (1, 3), seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Zeros, both extremes of the data, and noise over their range, in batches of every size.

    Of data that hold infinity, as a mask does, the extremes are those of their finite values.
    Every other axis that may vary has its size in the data, and then each of the smaller ones of `sizes`,
    one axis at a time. Whole numbers, such as tokens and masks, stay between the extremes of the data.
    """
    generator = np.random.default_rng(seed)
    specs = [spec for spec in sample_specs(signature) if spec.name in like]  # a state may be left out
    return [
        {spec.name: _filled(kind, spec, like[spec.name], dims, generator) for spec in specs}
        for dims in _dimensions(specs, like, sizes)
        for kind in ("zeros", "low", "high", "noise")
    ]


def _dimensions(
    specs: Sequence[TensorSpec], like: Mapping[str, np.ndarray], sizes: Sequence[int]
) -> Iterator[dict[str, int]]:
    """A size for each named dimension: first every size of the batch, then of each other dimension."""
    seen = {
        dim: size
        for spec in specs
        for dim, size in zip(spec.shape, like[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
    batch = {dim for spec in specs for dim in spec.shape[:1] if isinstance(dim, str)}
    for size in sizes:
        yield seen | dict.fromkeys(batch, size)
    for dim in [dim for dim in seen if dim not in batch]:
        for size in sizes:
            if size < seen[dim]:
                yield seen | dict.fromkeys(batch, sizes[0]) | {dim: size}


def _filled(
    kind: str, spec: TensorSpec, like: np.ndarray, dims: Mapping[str, int], generator: np.random.Generator
) -> np.ndarray:
    shape = [dims[dim] if isinstance(dim, str) else dim for dim in spec.shape]
    known = like[np.isfinite(like)] if like.dtype.kind == "f" else like
    low, high = (known.min(), known.max()) if known.size else (like.dtype.type(0), like.dtype.type(0))
    if kind == "noise" and like.dtype.kind in "iub":
        return generator.integers(int(low), int(high), shape, endpoint=True).astype(spec.dtype)
    if kind == "noise":
        return generator.uniform(low, high, shape).astype(spec.dtype)
    zero = np.clip(0, low, high) if like.dtype.kind in "iub" else 0
    return np.full(shape, {"zeros": zero, "low": low, "high": high}[kind], dtype=spec.dtype)


def _answers(
    parent: Runtime, child: Runtime, data: Data, *, fuzz: bool
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Inputs batch by batch, and what the parent and the child answer.

    The child has no answer where it refuses made-up inputs that the parent takes.
    """
    size = min(parent.max_batch or _MOST_AT_ONCE, child.max_batch or _MOST_AT_ONCE, _MOST_AT_ONCE)
    if parent.layout.one_by_one or child.layout.one_by_one:
        size = 1
    names = ("select", "calibrate", "report", "train")
    tensors = data.tensors(next(name for name in names if len(data.indices[name])))
    num_samples = len(next(iter(tensors.values())))
    for start in range(0, num_samples, size):
        batch = {name: array[start : start + size] for name, array in tensors.items()}
        yield batch, parent.infer_batch(batch), child.infer_batch(batch)
    if fuzz:
        sizes = [number for number in (1, 3) if number <= size]
        for batch in fuzz_inputs(parent.signature, tensors, sizes=sizes):
            if (wanted := _defined(parent, batch)) is not None:
                yield batch, wanted, _answered(child, batch)


def _answered(child: Runtime, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        return child.infer_batch(batch)
    except (RequestError, RuntimeError) as exc:
        log.warning("%s refuses made-up inputs that its parent takes: %s", child.artifact.name, exc)
        return {}


def _defined(parent: Runtime, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """What the parent answers to made-up inputs; None where it has no answer, which is no test of a child.

    A kernel may be larger than an axis of size one; a mask that hides everything makes attention NaN.
    """
    try:
        wanted = parent.infer_batch(batch)
    except (RequestError, RuntimeError):  # a runtime of somebody else raises what its engine does
        return None
    return wanted if all(np.isfinite(array).all() for array in wanted.values()) else None


def _agreeing(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """For each row, whether its highest output is the same; ties within rounding count as the same.

    Empty where an output has nothing to choose from.
    """
    if wanted.ndim < 2 or wanted.shape[-1] < 2:
        return np.zeros(0, dtype=bool)
    rows, other = wanted.reshape(-1, wanted.shape[-1]), found.reshape(-1, wanted.shape[-1])
    chosen = rows[np.arange(len(rows)), other.argmax(axis=1)]
    highest = rows.max(axis=1)
    with np.errstate(invalid="ignore"):  # infinity less infinity is no tie
        tied = highest - chosen <= _ROUNDING * np.abs(highest)
    agreeing: np.ndarray = tied & (np.isfinite(other) | _masked(rows, other)).all(axis=1)
    return agreeing


def _masked(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Where both have -inf, as scores that a mask hides."""
    masked: np.ndarray = (wanted == -np.inf) & (found == -np.inf)
    return masked


def _shown(signature: Signature) -> str:
    inputs = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in signature.inputs)
    outputs = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in signature.outputs)
    return f"({inputs}) -> ({outputs})"
