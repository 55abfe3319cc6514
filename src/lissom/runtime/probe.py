"""The probe: a few inputs and the outputs that a model gave when it was made, to be reproduced later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from lissom.artifact import Artifact
from lissom.runtime.arrays import safetensors_bytes
from lissom.runtime.base import Runtime

PROBE_FILE = "probe.safetensors"


class ProbeError(NamedTuple):
    """How far a freshly opened model is from its probe; the error is that of finite numbers."""

    max_abs_error: float
    passed: bool
    absolute: float
    relative: float


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
    with np.errstate(invalid="ignore"):
        differences = [
            np.abs(found[name].astype(np.float64) - array.astype(np.float64))
            for name, array in wanted.items()
        ]
    largest = max(float(one[np.isfinite(one)].max(initial=0.0)) for one in differences)
    passed = all(
        np.allclose(found[name], array, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)
        for name, array in wanted.items()
    )
    return ProbeError(largest, passed, tolerance.absolute, tolerance.relative)
