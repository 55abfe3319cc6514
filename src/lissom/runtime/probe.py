"""The probe: a few inputs and the outputs that a model gave when it was made, to be reproduced later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from lissom.artifact import Artifact
from lissom.runtime.arrays import safetensors_bytes
from lissom.runtime.base import Runtime
from lissom.runtime.differences import difference, worst

PROBE_FILE = "probe.safetensors"


class ProbeError(NamedTuple):
    """How far a freshly opened model is from its probe.

    Attributes:
        max_abs_error: Where both have numbers.
        passed: It is within the tolerance everywhere, and no value is NaN or infinite on one side alone.
        absolute: Of the tolerance.
        relative: Of the tolerance.
        nonfinite: Values that are NaN or infinite on one side alone.
        told: What differs, in words.
    """

    max_abs_error: float
    passed: bool
    absolute: float
    relative: float
    nonfinite: int = 0
    told: str = ""


def probe_bytes(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> bytes:
    """Inputs and outputs of one call as the bytes of a safetensors file."""
    tensors = {f"input.{name}": array for name, array in inputs.items()}
    tensors |= {f"output.{name}": array for name, array in outputs.items()}
    return safetensors_bytes(tensors)


def load_probe(artifact: Artifact) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and outputs of the stored probe."""
    tensors = safetensors.numpy.load(artifact.file(PROBE_FILE).read_bytes())
    inputs, outputs = (
        {name.removeprefix(kind): array for name, array in tensors.items() if name.startswith(kind)}
        for kind in ("input.", "output.")
    )
    return inputs, outputs


def probe_error(runtime: Runtime) -> ProbeError:
    """Call a runtime with the stored probe; it passes within the tolerance of the manifest."""
    inputs, wanted = load_probe(runtime.artifact)
    tolerance = runtime.artifact.manifest.tolerance
    found = runtime.infer_batch(inputs)
    apart = worst([difference(array, found[name]) for name, array in wanted.items()])
    passed = apart.shapes is None and all(
        np.allclose(found[name], array, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)
        for name, array in wanted.items()
    )
    error = 0.0 if apart.shapes else apart.max_abs_error
    return ProbeError(error, passed, tolerance.absolute, tolerance.relative, apart.nonfinite, str(apart))
